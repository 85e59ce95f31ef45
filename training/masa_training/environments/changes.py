"""Changes that an agent made against those that were asked for: how far the one is the other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

Record = tuple[str, Mapping[str, Any]]
"""A change: what makes it and its values. As something asked for, a list of beginnings of words stands for a text."""

_WORD = re.compile(r"\d+:\d+|[^\W_]+")


def share_right(asked: Sequence[Record], made: Sequence[Record]) -> float:
    """Values that are right, of those that were asked for and of those of changes that nobody asked for, 0 to 1.

    Every change made counts for at most one that was asked for, of the same kind, so that the share is greatest.
    """
    total = sum(len(fields) for _, fields in asked)
    best = 0.0
    for order in permutations(range(max(len(asked), len(made))), len(asked)):
        right, met = 0, set()
        for record, number in zip(asked, order, strict=True):
            if number < len(made) and made[number][0] == record[0]:
                right += _right(record[1], made[number][1])
                met.add(number)
        extra = sum(len(fields) for number, (_, fields) in enumerate(made) if number not in met)
        best = max(best, right / (total + extra))
    return best


def compared(text: str) -> list[str]:
    """The words by which a text is compared: small letters, without the s of a plural, times whole."""
    return [word if len(word) < 4 or not word.endswith("s") else word[:-1] for word in _WORD.findall(text.casefold())]


def _right(asked: Mapping[str, Any], made: Mapping[str, Any]) -> int:
    return sum(_equal(value, made.get(name)) for name, value in asked.items())


def _equal(asked: object, made: object) -> bool:
    if isinstance(asked, list):
        words = compared(str(made))
        return all(any(word.startswith(wanted) for word in words) for wanted in asked)
    if isinstance(asked, int):
        return asked == made
    return str(asked).casefold() == str(made).strip().casefold()
