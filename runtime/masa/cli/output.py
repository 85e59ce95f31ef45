"""Words on a terminal: text made safe to show, tables, numbers."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from masa.errors import FormatError, MasaError

_STEERS = (*range(9), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROL = dict.fromkeys(_STEERS, "�")
_WIDEST = 110


def clean(text: str) -> str:
    """`text` without what could steer a terminal: banks and cards are written by others."""
    return text.replace("\r\n", "\n").translate(_CONTROL)


def width() -> int:
    """Columns to fill."""
    return min(shutil.get_terminal_size((96, 24)).columns, _WIDEST)


def wrap(text: str, first: str, rest: str) -> str:
    """`text` (its own line breaks kept) wrapped to the terminal, lines led by `first`, then `rest`."""
    lines: list[str] = []
    for number, line in enumerate(clean(text).split("\n") or [""]):
        lead = first if number == 0 else rest
        inner = len(line) - len(line.lstrip())
        wrapped = textwrap.wrap(
            line,
            max(width(), 40),
            initial_indent=lead,
            subsequent_indent=rest + " " * inner,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += wrapped or [lead.rstrip()]
    return "\n".join(lines)


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = (), *, right: Sequence[int] = ()) -> str:
    """Columns in line; those with numbers in `right` are flushed right. The last column is not padded."""
    body = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
    both = [list(head), *body] if head else body
    if not both:
        return ""
    widths = [max(len(row[column]) for row in both) for column in range(len(both[0]))]
    lines = []
    for number, row in enumerate(both):
        cells = [
            cell.rjust(size) if column in right else cell.ljust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        lines.append(click.style(line, bold=True) if head and number == 0 else line)
    return "\n".join(lines)


def write_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """One JSON value on stdout, pure ASCII where the text is no valid Unicode."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    click.echo(text)


def count(number: int, noun: str) -> str:
    """`1 skill`, `2 skills`, `3 entries`."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def size(number: int) -> str:
    """Bytes for people: `812 bytes`, `3.1 KB`, `98.4 MB`."""
    if number < 1000:
        return count(number, "byte")
    value, unit = number / 1000, "KB"
    for larger in ("MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}"


def check_page(html: str | None) -> None:
    """Refuse a place for the HTML page that could only fail after the work."""
    if html is None:
        return
    target = Path(html)
    if not html or target.is_dir():
        raise FormatError(f"{html!r}: is no file; give --html the path of a file")
    if not target.absolute().parent.is_dir():
        raise MasaError(f"{target}: the folder {target.absolute().parent} does not exist; create it first")
    if target.is_file() and not _is_page(target):
        raise MasaError(f"{target}: is no HTML page, and is not overwritten with one; give --html another file")


def _is_page(path: Path) -> bool:
    """Whether a file is one that a page may replace: another page, or nothing yet."""
    with path.open("rb") as file:
        head = file.read(64).lstrip().lower()
    return not head or head.startswith(b"<!doctype html")
