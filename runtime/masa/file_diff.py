"""Unified diffs of files and of whole folders."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from masa.errors import FormatError
from masa.formats.skill_md_tree import walk

_LINE = re.compile(r"[^\n]*\n|[^\n]+")


def unified_diff(original: Path, variant: Path) -> str:
    """What changed from one file to another, or from one folder to another (every file that differs).

    Files that are not UTF-8 are only said to differ.

    Raises:
        FormatError: if one of them cannot be read.
    """
    old, new = _contents(original, original.name), _contents(variant, original.name)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return "".join(text_diff(old.get(n), new.get(n), f"original/{n}", f"variant/{n}") for n in names)


def _contents(path: Path, file_name: str) -> dict[str, bytes]:
    """Name → bytes of every file in a folder, or of one file, which goes by `file_name`."""
    try:
        if path.is_dir():
            return {e.relative.as_posix(): e.path.read_bytes() for e in walk(path) if e.kind == "file"}
        return {file_name: path.read_bytes()}
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); there is nothing to compare") from error


def text_diff(old: bytes | None, new: bytes | None, old_name: str, new_name: str) -> str:
    """A unified diff of two texts; None is a file that is not there. Empty if they are equal."""
    try:
        before, after = ((b"" if text is None else text).decode("utf-8") for text in (old, new))
    except UnicodeDecodeError:
        return f"Binary files {old_name} and {new_name} differ\n"
    lines = difflib.unified_diff(
        _LINE.findall(before),
        _LINE.findall(after),
        "/dev/null" if old is None else old_name,
        "/dev/null" if new is None else new_name,
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
