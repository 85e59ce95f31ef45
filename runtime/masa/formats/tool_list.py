"""Tool lists as chat APIs and MCP have them: of every tool the description is a skill, and all else is left alone.

Read are a list of tools, `{"tools": […]}`, and MCP's whole answer `{"result": {"tools": […]}}`; a tool is OpenAI's
`{"type": "function", "function": {"name", "description", "parameters"}}`, the flat form of its Responses API, or MCP's
`{"name", "description", "inputSchema"}`. A description's place in the file is replaced and nothing else: names,
parameters and schemas keep their bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from masa.errors import FormatError
from masa.files import ParseError, parse_json
from masa.skills import COUNTED, GENERAL, Problem, Skill, SkillBank

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_SCHEMAS = ("parameters", "inputSchema", "input_schema")

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class ToolList:
    """`SkillBank.source` of a bank from a tool list.

    Attributes:
        where, text: the file.
        spans: per group, where the description's JSON string stands in it.
    """

    where: str
    text: str
    spans: Mapping[str, tuple[int, int]]


def is_tool_list(content: Any) -> bool:
    """Whether a JSON value has the form of a tool list."""
    tools = _tools(content)[1]
    return isinstance(tools, list) and bool(tools) and all(_named(tool) is not None for tool in tools)


def loads_tool_list(text: str, where: str) -> SkillBank:
    """The bank of a tool list: a group per tool, with one skill, its description.

    Raises:
        FormatError: if it is none, or no tool has a description.
    """
    try:
        content = parse_json(text.removeprefix("\ufeff"))
    except ParseError as error:
        raise FormatError(f"{where}: not JSON ({error})") from None
    prefix, tools = _tools(content)
    if not is_tool_list(content):
        raise FormatError(f"{where}: no tool list; every tool needs a name and a schema of its parameters")
    places = dict(_strings(text))
    groups: dict[str, tuple[Skill, ...]] = {}
    spans: dict[str, tuple[int, int]] = {}
    problems: list[Problem] = []
    for number, tool in enumerate(tools):
        path, inner = _named(tool) or ((), {})
        name, description = inner["name"], inner.get("description")
        span = places.get((*prefix, number, *path, "description"))
        if not isinstance(description, str) or not description.strip() or span is None:
            problems.append(Problem(where, None, f"the tool {name!r} has no description; it stays as it is", "note"))
        elif name in groups or name == GENERAL:
            message = f"the tool {name!r} is there twice; the later one stays as it is"
            problems.append(Problem(where, None, message, "warning"))
        else:
            groups[name] = (Skill(name, name, description, extra={COUNTED: True}),)
            spans[name] = span
    if not groups:
        raise FormatError(f"{where}: no tool has a description that can be rewritten")
    return SkillBank((), groups, source=ToolList(where, text, spans), problems=tuple(problems))


def dump_tool_list(bank: SkillBank) -> bytes:
    """The file with the bank's descriptions; a tool whose skill was dropped or merged keeps its own."""
    source = bank.source
    assert isinstance(source, ToolList)
    original = loads_tool_list(source.text, source.where).task_specific
    text = source.text
    for name, (start, end) in sorted(source.spans.items(), key=lambda item: -item[1][0]):
        (before,) = original[name]
        kept = [skill for skill in bank.task_specific.get(name, ()) if skill.skill_id == name]
        if len(kept) == 1 and kept[0].principle.strip() and kept[0].principle != before.principle:
            ascii_only = text[start:end].isascii()
            text = text[:start] + json.dumps(kept[0].principle, ensure_ascii=ascii_only) + text[end:]
    return text.encode("utf-8")


def _tools(content: Any) -> tuple[Path, Any]:
    """Where the list of tools is, and the list."""
    path: Path = ()
    for key in ("result", "tools"):
        if isinstance(content, dict) and key in content:
            path, content = (*path, key), content[key]
    return path, content


def _named(tool: Any) -> tuple[Path, Mapping[str, Any]] | None:
    """Where in a tool its name and description are; None if it is no tool."""
    if not isinstance(tool, dict):
        return None
    if isinstance(tool.get("function"), dict):
        function = tool["function"]
        return (("function",), function) if isinstance(function.get("name"), str) else None
    described = tool.get("type") == "function" or any(isinstance(tool.get(key), dict) for key in _SCHEMAS)
    return ((), tool) if isinstance(tool.get("name"), str) and described else None


def _strings(text: str) -> Iterator[tuple[Path, tuple[int, int]]]:
    """The path and place of every value of a JSON text that is a string; the text is valid."""
    stack: list[list[Any]] = []  # [is an object, current key or index, whether a key comes next]
    for match in _TOKEN.finditer(text):
        token = match.group()
        top = stack[-1] if stack else None
        if token in "{[":
            stack.append([token == "{", None if token == "{" else 0, token == "{"])
        elif token in "}]":
            stack.pop()
        elif token == ",":
            assert top is not None
            top[1], top[2] = (None, True) if top[0] else (top[1] + 1, False)
        elif token == ":":
            assert top is not None
            top[2] = False
        elif top is not None and top[0] and top[2]:
            top[1] = parse_json(token)
        elif token.startswith('"'):
            yield tuple(level[1] for level in stack), match.span()
