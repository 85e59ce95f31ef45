"""Append-only files of lines that survive a kill: a line is on the disk before its writer goes on."""

from __future__ import annotations

import os
from pathlib import Path

from masa.files import write_atomic


def append_lines(path: Path, text: str) -> None:
    """Append whole lines and wait until the disk has them.

    Raises:
        OSError: if they cannot be written; what was written before stays.
    """
    with path.open("ab") as stream:
        stream.write(text.encode("utf-8", "replace"))
        stream.flush()
        os.fsync(stream.fileno())


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, none if it is missing; a last one that a kill left torn is cut off the file."""
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        write_atomic(path, whole)
    # Not splitlines: a text may hold other characters that it takes for the end of a line.
    return [line for line in whole.decode("utf-8", "replace").split("\n") if line.strip()]
