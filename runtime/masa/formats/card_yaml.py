"""Model card YAML: flat keys and one optional nested key `sources`, read strictly.

The file is interpreted from YAML's node graph, not from constructed Python values. So a repeated key is
an error, `variant: 3.10` stays "3.10", a date stays text, and quotes around a text change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from masa.errors import CardError, near_misses
from masa.files import yaml_problem

SOURCES = "sources"

_TAG = "tag:yaml.org,2002:"
_WORDS = ("str", "int", "float", "timestamp", "value", "merge")  # the tags of what a plain text may look like
_LONGEST = 1 << 20
_DEEPEST = 20
_EXPECTED = {str: "a text", int: "a whole number", bool: "true, false"}

Value = str | int | bool | None


def parse(text: str, where: str, fields: Mapping[str, type]) -> tuple[dict[str, Value], dict[str, str]]:
    """The values of a card file and the pages they were read from.

    Args:
        text: the file's content.
        where: its name, for errors.
        fields: the known keys and the type of each: str, int or bool.

    Raises:
        CardError: with file and line, for broken YAML, an unknown or repeated key, or a wrong type.
    """
    if len(text) > _LONGEST:
        raise CardError(f"{where}: {len(text):,} characters are too many for a model card; give a card file")
    root = _compose(text, where)
    values: dict[str, Value] = {}
    sources: dict[str, str] = {}
    for key, node, line in _pairs(root, where, "a model card"):
        if key == SOURCES:
            sources = dict(_sources(node, where, fields))
        elif key in fields:
            values[key] = _scalar(node, f"{where}, line {line}", key, fields[key])
        else:
            raise CardError(f"{where}, line {line}: unknown key {key!r}; {suggest(key, (*fields, SOURCES))}")
    return values, sources


def dump(values: Mapping[str, Value], sources: Mapping[str, str]) -> str:
    """YAML text with the keys in the given order; `parse` reads the same values and sources back."""
    import yaml

    content: dict[str, Any] = dict(values)
    if sources:
        content[SOURCES] = dict(sources)
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1 << 20))


def suggest(word: str, known: tuple[str, ...]) -> str:
    """`did you mean "x"?` if something known is near, else the list of what is known."""
    near = near_misses(word.strip().lower().replace("-", "_").replace(" ", "_"), known)
    return f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"


def _compose(text: str, where: str) -> Any:
    import yaml

    try:
        text = text.removeprefix("\ufeff")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # five times faster where it was built
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:  # composing recurses, in C without a limit
                raise CardError(f"{where}: nested too deeply for a model card; its keys are flat")
        root = yaml.compose(text, Loader=loader)
    except UnicodeEncodeError:
        raise CardError(f"{where}: holds half of a surrogate pair, which is no text; correct the file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = yaml_problem(error)
        mark = getattr(error, "context_mark" if "not closed" in problem else "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise CardError(f"{where}{line}: not valid YAML ({problem}); correct the file") from None
    if root is None:
        raise CardError(f"{where}: empty; a model card has keys such as family, variant, num_layers")
    return root


def _pairs(node: Any, where: str, what: str) -> Iterator[tuple[str, Any, int]]:
    """Keys, value nodes and 1-based lines of a mapping node."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1
        raise CardError(f"{where}, line {line}: {what} must be keys with values, found {_found(node)}")
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise CardError(f"{where}, line {line}: a key must be a word, found {_found(key_node)}")
        key = key_node.value
        if key in seen:
            raise CardError(f"{where}, line {line}: the key {key!r} is already on line {seen[key]}; delete one of them")
        seen[key] = line
        yield key, value_node, line


def _sources(node: Any, where: str, fields: Mapping[str, type]) -> Iterator[tuple[str, str]]:
    if node.tag == f"{_TAG}null":
        return
    for key, value, line in _pairs(node, where, SOURCES):
        if key not in fields:
            raise CardError(
                f"{where}, line {line}: {SOURCES} has the unknown key {key!r}; {suggest(key, tuple(fields))}"
            )
        page = _scalar(value, f"{where}, line {line}", f"{SOURCES}.{key}", str)
        if page:
            yield key, str(page)


def _scalar(node: Any, where: str, key: str, kind: type) -> Value:
    import yaml

    wrong = CardError(f"{where}: {key} must be {_EXPECTED[kind]} or null, found {_found(node)}")
    if not isinstance(node, yaml.ScalarNode) or not node.tag.startswith(_TAG):
        raise wrong
    tag = node.tag.removeprefix(_TAG)
    if tag == "null":
        return None
    text = str(node.value)
    if kind is str:
        if tag not in _WORDS:
            raise wrong
        return text
    if kind is bool and tag == "bool":
        return text.lower() in ("true", "yes", "on")
    digits = text.replace("_", "")
    if kind is int and tag == "int" and digits.isascii() and digits.isdigit() and str(int(digits)) == digits:
        return int(digits)
    raise wrong


def _found(node: Any) -> str:
    """What a node is, in a few words."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        return "nested keys"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    text = node.value if len(node.value) <= 40 else node.value[:40] + "…"
    quoted = "the quoted text " if node.style in ("'", '"') else ""
    return f"{quoted}{text!r}"
