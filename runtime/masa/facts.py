"""Interface facts: the action forms and rules of an environment, where they are known.

Facts are generated from an environment or written by the author of an agent; the rewriter and the edits
`syntax`, `example` and `warn` use them. They describe the interface, never a backbone's taste.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from masa.errors import FormatError, near_misses
from masa.files import ParseError, parse_json, parse_yaml


@dataclass(frozen=True, slots=True)
class ActionForm:
    """One form of command that the environment understands.

    Attributes:
        form: the command with its slots in braces, such as `go to {receptacle}`.
        meaning: what it does, half a sentence; may be empty.
        example: the form with its slots filled; may be empty.
    """

    form: str
    meaning: str = ""
    example: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about an environment's interface.

    Attributes:
        environment: its name, such as `household`.
        actions: the forms of command it understands, in the order to show them.
        rules: sentences that always hold, such as "You can carry one object at a time."
        examples: worked examples, each some lines of a successful trajectory.
    """

    environment: str
    actions: tuple[ActionForm, ...] = ()
    rules: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


def load_facts(path: str | PathLike[str]) -> Facts:
    """Read interface facts from a YAML or JSON file (JSON if the name ends in `.json`).

    Keys: `environment` (text), `actions` (each a form, or a mapping of form, meaning, example), `rules`,
    `examples` (texts). Only `environment` is required.

    Raises:
        FormatError: if the file cannot be read, has an unknown key or a value of the wrong type.
    """
    where = str(path)
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise FormatError(f"{where}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    return loads_facts(text, where, as_json=where.lower().endswith(".json"))


def loads_facts(text: str, where: str = "facts", *, as_json: bool = False) -> Facts:
    """Parse interface facts from text; `where` names the source in errors.

    Raises:
        FormatError: as `load_facts`.
    """
    return _facts(_parse(text, where, as_json), where)


def _parse(text: str, where: str, as_json: bool) -> Any:
    if as_json:
        try:
            return parse_json(text)
        except ParseError as error:
            raise FormatError(f"{where}: not JSON ({error}); correct it or save it as YAML") from None
    try:
        return parse_yaml(text)
    except ParseError as error:
        raise FormatError(f"{where}: not YAML ({error}); quote values that contain ': '") from None


def _facts(data: Any, where: str) -> Facts:
    fields = _mapping(data, ("environment", "actions", "rules", "examples"), where)
    if "environment" not in fields:
        raise FormatError(f"{where}: the key 'environment' is missing; name the environment")
    return Facts(
        environment=_text(fields["environment"], f"{where}: environment"),
        actions=tuple(
            _action(value, f"{where}: actions[{index}]")
            for index, value in enumerate(_items(fields.get("actions"), f"{where}: actions"))
        ),
        rules=_texts(fields.get("rules"), f"{where}: rules"),
        examples=_texts(fields.get("examples"), f"{where}: examples"),
    )


def _action(value: Any, where: str) -> ActionForm:
    if isinstance(value, str):
        return ActionForm(_text(value, where))
    fields = _mapping(value, ("form", "meaning", "example"), where)
    if "form" not in fields:
        raise FormatError(f"{where}: the key 'form' is missing; give the command, such as 'go to {{place}}'")
    return ActionForm(
        form=_text(fields["form"], f"{where}: form"),
        meaning=_text(fields.get("meaning") or "", f"{where}: meaning", empty=True),
        example=_text(fields.get("example") or "", f"{where}: example", empty=True),
    )


def _mapping(value: Any, known: tuple[str, ...], where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{where}: found {_kind(value)} where a mapping with the keys {', '.join(known)} belongs")
    for key in value:
        if key not in known:
            close = near_misses(str(key), known)
            advice = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(known)}"
            raise FormatError(f"{where}: unknown key {key!r}; {advice}")
    return value


def _items(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise FormatError(f"{where}: found {_kind(value)} where a list belongs; put each entry on a line with '- '")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    return tuple(_text(item, f"{where}[{index}]") for index, item in enumerate(_items(value, where)))


def _text(value: Any, where: str, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where}: found {_kind(value)} where a text belongs; put it in quotes")
    if not empty and not value.strip():
        raise FormatError(f"{where}: the text is empty; fill it in or remove the entry")
    return value.strip()


def _kind(value: Any) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    if value is None:
        return "nothing"
    return names.get(type(value), f"a {type(value).__name__}")
