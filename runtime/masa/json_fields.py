"""A JSON object that others wrote, read key by key: every wrong value is told by its place and what it must be."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from masa.errors import MasaError, near_misses, one_line

Segments = tuple[tuple[str, bool], ...]
"""Pieces of a prompt: (text, is_control). Only control text is tokenized with special tokens parsed."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for a near miss, else the empty string."""
    close = near_misses(word, known)
    return f'; did you mean "{close[0]}"?' if close else ""


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


@dataclass(frozen=True, slots=True)
class Fields:
    """One object of a file.

    Attributes:
        where: names the file in errors, which are of the class `error`.
        advice: what to do about a wrong value, at the end of its error.
        inside: the place of this object in the file, as "training_data.".
    """

    content: Mapping[str, Any]
    where: str
    error: type[MasaError]
    advice: str = ""
    inside: str = ""

    def fail(self, problem: str) -> None:
        raise self.error(f"{self.where}: {one_line(problem)}")

    def only(self, known: str) -> None:
        """Refuse keys that are not among `known`, names between blanks."""
        names = known.split()
        for key in self.content:
            if key not in names:
                hint = did_you_mean(key, names) or f"; known: {', '.join(names)}"
                self.fail(f'unknown key "{self.inside}{key}"{hint}')

    def get(self, key: str, accepts: Callable[[Any], bool], wanted: str) -> Any:
        advice = f"; {self.advice}" if self.advice else ""
        if key not in self.content:
            self.fail(f'"{self.inside}{key}" is missing; it must be {wanted}{advice}')
        value = self.content[key]
        if not accepts(value):
            shown = json.dumps(value) if isinstance(value, str | int | float) else kind_of(value)
            self.fail(f'"{self.inside}{key}" is {shown[:60]}; it must be {wanted}{advice}')
        return value

    def string(self, key: str) -> str:
        return str(self.get(key, lambda v: isinstance(v, str) and bool(v.strip()), "a non-empty string"))

    def optional_string(self, key: str) -> str | None:
        return None if self.content.get(key) is None else self.string(key)

    def integer(self, key: str) -> int:
        return int(self.get(key, lambda v: type(v) is int and v > 0, "a whole number above 0"))

    def number(self, key: str) -> float:
        def accepts(v: Any) -> bool:
            return type(v) in (int, float) and math.isfinite(v) and v > 0

        return float(self.get(key, accepts, "a number above 0"))

    def boolean(self, key: str) -> bool:
        return bool(self.get(key, lambda v: isinstance(v, bool), "true or false"))

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        return str(self.get(key, lambda v: v in known, " or ".join(f'"{k}"' for k in known)))

    def matching(self, key: str, pattern: re.Pattern[str], wanted: str) -> str:
        return str(self.get(key, lambda v: isinstance(v, str) and pattern.fullmatch(v) is not None, wanted))

    def sha256(self, key: str = "sha256") -> str:
        return self.matching(key, _SHA256, "64 lower-case hexadecimal digits")

    def strings(self, key: str) -> tuple[str, ...]:
        def accepts(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(v, str) and v for v in value)

        return tuple(self.get(key, accepts, "a list of non-empty strings"))

    def segments(self, key: str) -> Segments:
        def accepts(value: Any) -> bool:
            return isinstance(value, list) and all(
                isinstance(v, list) and len(v) == 2 and isinstance(v[0], str) and isinstance(v[1], bool) for v in value
            )

        pairs = self.get(key, accepts, 'a list of pairs ["text", is control: true or false]')
        return tuple((text, control) for text, control in pairs)

    def nested(self, key: str, known: str | None = None) -> Fields:
        """The object under `key`, which has no other keys than `known` if that is given."""
        value = self.get(key, lambda v: isinstance(v, dict), "an object")
        result = Fields(value, self.where, self.error, self.advice, f"{self.inside}{key}.")
        if known is not None:
            result.only(known)
        return result
