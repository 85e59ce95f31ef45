"""Calls of tools as texts: what a model writes, and what an environment of tools takes as an action.

A tool is described as OpenAI-compatible servers and chat templates take it: `{"type": "function", "function": {"name",
"description", "parameters"}}`, the parameters as a JSON schema.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masa.files import ParseError, parse_json

Tool = Mapping[str, Any]

_CALL = re.compile(r"[A-Za-z_]\w*\(")
_CLOSING = re.compile(r"\s*(?:</tool_call>|```)")


@dataclass(frozen=True, slots=True)
class Call:
    """A tool's name and its arguments, JSON values."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The call as one line of JSON, `{"name": …, "arguments": {…}}`."""
        return json.dumps({"name": self.name, "arguments": dict(self.arguments)}, ensure_ascii=False)


def read_call(text: str) -> tuple[Call, int] | None:
    """The first call in a text and where it ends, the tag or fence that closes it included; None if there is none.

    It may be a JSON object with `name` and `arguments` (or `parameters`), also as `function` of another object, or be
    written as in Python, `name(key="value")`; whatever stands around it is passed over.
    """
    decoder = json.JSONDecoder()
    place = 0
    while (place := _next(text, place)) >= 0:
        found: Call | None = None
        end = place + 1
        if text[place] == "{":
            try:
                value, end = decoder.raw_decode(text, place)
                found = _from_json(value)
            except (ValueError, RecursionError):
                end = place + 1
        else:
            found, end = _from_python(text, place)
        if found is not None:
            closing = _CLOSING.match(text, end)
            return found, closing.end() if closing else end
        place = end
    return None


def _next(text: str, start: int) -> int:
    """Where the next call may begin, −1 for nowhere."""
    brace = text.find("{", start)
    call = _CALL.search(text, start, len(text) if brace < 0 else brace)
    return call.start() if call else brace


def _from_json(value: object) -> Call | None:
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    function: dict[str, Any] = inner if isinstance(inner, dict) else value
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):  # as servers tell them
        try:
            arguments = parse_json(arguments)
        except ParseError:
            return None
    name = function.get("name")
    return Call(name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def _from_python(text: str, start: int) -> tuple[Call | None, int]:
    """The call that begins at `start`, and where to look on."""
    opened = text.index("(", start) + 1
    end = opened
    while (end := text.find(")", end)) >= 0:
        end += 1
        try:
            found = ast.parse(text[start:end], mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        if not isinstance(found, ast.Call) or not isinstance(found.func, ast.Name) or found.args:
            break
        values: dict[str, Any] = {}
        for keyword in found.keywords:
            if keyword.arg is None or not isinstance(keyword.value, ast.Constant):
                return None, opened
            values[keyword.arg] = keyword.value.value
        return Call(found.func.id, values), end
    return None, opened


def problem_of(call: Call, tools: Sequence[Tool]) -> str | None:
    """What keeps a call from being understood, as a sentence to its writer; None if nothing does.

    Values are looked at as far as types and enumerations say, numbers in quotation marks count as numbers.
    """
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    if call.name not in functions:
        return f"There is no tool {call.name[:40]}; there are {', '.join(functions)}."
    schema = functions[call.name]["parameters"]
    known = schema["properties"]
    if missing := [name for name in schema.get("required", ()) if name not in call.arguments]:
        return f"{call.name} also needs {', '.join(missing)}."
    for name, value in call.arguments.items():
        if name not in known:
            return f"{call.name} has no argument {name[:40]}; it has {', '.join(known)}."
        wanted = known[name]
        if wanted["type"] == "integer" and as_integer(value) is None:
            return f"{name} must be a whole number."
        if wanted["type"] == "string" and not (isinstance(value, str | int | float) and str(value).strip()):
            return f"{name} must be a text."
        if "enum" in wanted and as_name(value) not in wanted["enum"]:
            return f"{name} must be one of {', '.join(wanted['enum'])}."
    return None


def call_grammar(tools: Sequence[Tool]) -> str:
    """A grammar in llguidance's Lark dialect of one call of one of the tools, spelt as `Call.text` spells it."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": {**tool["function"]["parameters"], "additionalProperties": False},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    spelling = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return f"start: %json {json.dumps({'anyOf': calls, 'x-guidance': spelling})}"


def as_integer(value: object) -> int | None:
    """A whole number, also one that is written out, as in "20" or "20 %"; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int):
        return value
    found = re.fullmatch(r"\s*(\d{1,6})\s*%?\s*", value) if isinstance(value, str) else None
    return int(found[1]) if found else None


def as_name(value: object) -> str:
    """A word of an enumeration as it is spelt there: small letters, `_` for blanks and hyphens."""
    return re.sub(r"[\s-]+", "_", str(value).strip().lower())
