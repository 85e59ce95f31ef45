"""Append-only files of lines that survive a kill, and the one process that may write into a run folder.

A line is on the disk before its writer goes on. Reading changes nothing, so that a folder can be looked at while
another process works in it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from masa.files import make_folder, reason
from masa_training.errors import TrainingError

LOCK = ".lock"
"""File in a run folder that the process at work there holds; what is left of it after a kill says nothing."""


def append_lines(path: Path, text: str) -> None:
    """Append whole lines and wait until the disk has them; a last line that a kill left torn is cut off before.

    Raises:
        OSError: if they cannot be written; what was written before stays.
    """
    with path.open("a+b") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write(text.encode("utf-8", "replace"))
        stream.flush()
        os.fsync(stream.fileno())


def append_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records, a line of JSON each, and wait until the disk has them.

    Raises:
        TrainingError: if they cannot be written; what was written before stays, and a run goes on from it.
    """
    try:
        append_lines(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    except OSError as error:
        todo = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the folder"
        raise TrainingError(
            f"{path}: cannot be written ({reason(error)}); {todo}, then continue with --resume"
        ) from None


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, none if it is missing, without a last one that is torn; the file stays as it is."""
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    # Not splitlines: a text may hold other characters that it takes for the end of a line.
    return [line for line in whole.decode("utf-8", "replace").split("\n") if line.strip()]


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only one that works in a run folder, which is made where it is missing.

    However the process ends, the system lets go of its lock; what it started never has it. Where the file system knows
    no locks or nothing can be written, nothing is checked.

    Raises:
        TrainingError: if somebody works in it.
    """
    from filelock import FileLock, Timeout

    path = make_folder(folder) / LOCK
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0.2)  # its holder may be removing it right now
    except Timeout:
        raise TrainingError(
            f"{folder}: another masa works in it{_holder(path)}; wait for it or stop it, or give another folder"
        ) from None
    except OSError:
        yield
        return
    with contextlib.suppress(OSError):  # Windows lets nobody write into a locked file
        path.write_text(str(os.getpid()), "ascii")
    try:
        yield
    finally:
        if lock.is_locked:  # not in a forked child that comes by here: the lock is its parent's
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()


def is_empty(folder: Path) -> bool:
    """Whether nothing is in a folder, the lock aside."""
    return all(path.name == LOCK for path in folder.iterdir())


def _holder(path: Path) -> str:
    """Which process has the lock, as far as it could say so."""
    with contextlib.suppress(OSError):
        number = path.read_text("ascii", "replace").strip()
        return f" (process {number})" if number.isdigit() else ""
    return ""
