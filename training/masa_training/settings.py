"""Settings: typed objects read from YAML, the same way for every command.

A configuration is a class decorated with `settings`; its fields carry types, bounds and defaults, its `__post_init__`
what two fields ask of each other. Every mistake becomes one sentence that says where it is and what would do.
"""

from __future__ import annotations

import functools
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from masa.errors import FormatError, near_misses
from masa.files import ParseError, parse_yaml, read_text
from masa_training.errors import TrainingError

T = TypeVar("T")

CONFIGS = Path(__file__).resolve().parent / "configs"
"""Presets and banks that ship."""

_SCIENTIFIC = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d+")


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and _SCIENTIFIC.fullmatch(value) else value


Number = Annotated[float, BeforeValidator(_number)]
"""Also 1e-5, which YAML 1.1 reads as a text."""
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def settings(kind: type[T]) -> type[T]:
    """Make a frozen dataclass with keyword arguments, checked when it is made: TrainingError for what does not fit."""
    made = dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))(kind)
    checked = made.__init__

    @functools.wraps(checked)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            checked(self, *args, **values)
        except ValidationError as error:
            raise TrainingError(_told(error, made, "")) from None

    made.__init__ = init  # type: ignore[method-assign]
    return made  # type: ignore[return-value]


def make(kind: type[T], values: Any, where: str) -> T:
    """Settings of the class `kind` from values as YAML gives them; `where` names their source in errors.

    Raises:
        TrainingError: naming every setting that is unknown, missing or does not fit.
    """
    try:
        text = json.dumps(values, default=str)
        # JSON has lists for tuples and objects for settings, so that all else can be strict: no "5" for 5.
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise TrainingError(_told(error, kind, where)) from None
    except TrainingError as error:
        raise TrainingError(f"{where}: {error}") from None
    except (TypeError, ValueError, RecursionError):
        raise TrainingError(f"{where}: holds itself, or a key that is no text; correct it") from None


def find_config(name_or_path: str, shipped: Path, what: str) -> Path:
    """The shipped configuration of that name, or else the file.

    Raises:
        TrainingError: if there is neither; the closest name is suggested.
    """
    path = shipped / f"{name_or_path}.yaml"
    if path.is_file():
        return path
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    raise TrainingError(f"{name_or_path}: no such {what}; {nearest(name_or_path, config_names(shipped), 'shipped')}")


def config_names(shipped: Path) -> tuple[str, ...]:
    """Names of the configurations in a folder."""
    return tuple(sorted(path.stem for path in shipped.glob("*.yaml")))


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings (key: value) of a YAML file; none in an empty one.

    Raises:
        TrainingError: if it cannot be read, or holds something else.
    """
    try:
        values = parse_yaml(read_text(path))
    except ParseError as error:
        raise TrainingError(f"{path}: not YAML ({error}); correct it") from None
    except FormatError as error:
        raise TrainingError(str(error)) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise TrainingError(f"{path}: found {type(values).__name__} where settings (key: value) belong")
    return values


def overridden(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Nested settings with `a.b=value` overrides, values in YAML.

    Raises:
        TrainingError: if one is not `key=value`, is not YAML, or leads into something that holds no settings.
    """

    result: dict[str, Any] = {**values}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise TrainingError(f"--set {override}: write it as key=value")
        *path, last = key.strip().split(".")
        at = result
        for name in path:
            inner = at.get(name) or {}
            if not isinstance(inner, dict):
                raise TrainingError(f"--set {override}: {name} holds no settings")
            at[name] = {**inner}
            at = at[name]
        try:
            at[last] = parse_yaml(text)
        except ParseError:
            raise TrainingError(f"--set {override}: {text} is not YAML; quote it or correct it") from None
    return result


def _told(error: ValidationError, kind: Any, where: str) -> str:
    """What is wrong, one sentence a mistake."""
    mistakes = error.errors(include_url=False)
    # Of a value that may be a text or settings, settings are meant to be settings.
    meant = [one for one in mistakes if not (one["loc"][-1:] == ("str",) and isinstance(one["input"], dict))]
    # A list whose only item is wrong is not short besides.
    inner = {one["loc"][:-1] for one in meant}
    told = [
        one
        for one in meant or mistakes
        if one["type"] != "too_short" or not any(its[: len(one["loc"])] == one["loc"] for its in inner)
    ]
    sentences = dict.fromkeys(_sentence(one, kind) for one in told)
    return f"{where}: {'; '.join(sentences)}" if where else "; ".join(sentences)


def _sentence(one: Any, kind: Any) -> str:
    what, given, limits = one["type"], one["input"], one.get("ctx", {})
    place = _place(one["loc"])
    if what in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown setting {place!r}; {nearest(str(one['loc'][-1]), _siblings(kind, one['loc']), 'known')}"
    if what.startswith("missing"):
        return f"{place} is missing; add it"
    found = f"{place or 'the configuration'} is {json.dumps(given, ensure_ascii=False, default=str)[:100]}"
    if what == "literal_error":
        return f"{found}; it must be one of {limits['expected'].replace(' or ', ', ')}"
    for bound, words in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
        if bound in limits:
            return f"{found}; it must be {words} {limits[bound]:g}"
    if what == "too_short":
        return f"{found}; name at least {limits['min_length']}"
    return f"{found}; {next((fits for begin, fits in _FITS.items() if what.startswith(begin)), one['msg'])}"


_FITS = {
    "int": "a whole number belongs there",
    "float": "a number belongs there",
    "finite": "a finite number belongs there",
    "bool": "true or false belongs there",
    "string": "a text belongs there",
    **dict.fromkeys(("tuple", "list", "sequence"), "a list (in brackets) belongs there"),
    **dict.fromkeys(("dict", "mapping", "dataclass"), "settings (key: value) belong there"),
}
"""What would fit, by how pydantic's types of errors begin."""


def _place(loc: Sequence[Any]) -> str:
    """`rows[1].name`, without the names of the types that pydantic tried."""
    named = [part for part in loc if isinstance(part, int) or not _TYPE.match(part)]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in named).lstrip(".")


_TYPE = re.compile(r"str$|\w+\[|[A-Z]\w*Config$")
"""How pydantic names the types of a union in the place of an error."""


def _siblings(kind: Any, loc: Sequence[Any]) -> list[str]:
    """Names of the settings beside the last part of a place in the class `kind`."""
    at = [kind]
    for part in loc[:-1]:
        below = []
        for one in at:
            if is_dataclass(one) and part in (hints := typing.get_type_hints(one)):
                below += _classes(hints[part])
            elif is_dataclass(one) and (isinstance(part, int) or getattr(one, "__name__", "") == part):
                below.append(one)
        at = below or at
    return [its.name for one in at if is_dataclass(one) for its in fields(one)]


def _classes(hint: Any) -> list[Any]:
    """The settings classes in a type."""
    if is_dataclass(hint):
        return [hint]
    return [found for part in typing.get_args(hint) for found in _classes(part)]


def nearest(name: str, names: Sequence[str], how: str) -> str:
    """What was meant by an unknown name, or all known ones: the second half of a sentence."""
    close = near_misses(name, names)
    return f"did you mean {close[0]!r}?" if close else f"{how} are {', '.join(names)}"
