"""Markdown tables and estimates with their intervals, as every report of this package writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "–"
"""What stands where there is no number."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int | None = None) -> list[str]:
    """The lines of a table; columns from number `left` on (0-based) are aligned to the right, none if None."""
    first = len(head) if left is None else left
    marks = ["---"] * first + ["---:"] * (len(head) - first)
    return ["| " + " | ".join(map(cell, line)) + " |" for line in (head, marks, *rows)]


def cell(text: str) -> str:
    """Any text on one line of a table."""
    return " ".join(text.split()).replace("\\|", "|").replace("|", "\\|")


def bracketed(found: Mapping[str, Any] | None, form: str) -> str:
    """`estimate [low, high]` in the format `form`; the estimate alone without bounds."""
    if not found or found["estimate"] is None:
        return NOTHING
    text = format(found["estimate"], form)
    return text if found["low"] is None else f"{text} [{found['low']:{form}}, {found['high']:{form}}]"
