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

_held: set[int] = set()


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

    However the process ends, the system lets go of its lock; what it started never has it. Where the system or the
    file system knows no locks, nothing is checked.

    Raises:
        TrainingError: if somebody works in it.
    """
    path = make_folder(folder) / LOCK
    descriptor = _lock(path)
    try:
        yield
    finally:
        # Not in a forked child that comes by here: the lock is its parent's.
        if descriptor in _held:
            _held.remove(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)


def is_empty(folder: Path) -> bool:
    """Whether nothing is in a folder, the lock aside."""
    return all(path.name == LOCK for path in folder.iterdir())


def _lock(path: Path) -> int:
    """A descriptor of the file, which is locked; -1 where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return -1
    while True:
        try:
            # Python's descriptors close on exec: workers and servers that outlive this process do not keep the lock.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # where nothing can be written, nobody does
            return -1
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = os.pread(descriptor, 20, 0).decode("ascii", "replace")
            os.close(descriptor)
            who = f" (process {number})" if number.isdigit() else ""
            raise TrainingError(
                f"{path.parent}: another masa works in it{who}; wait for it or stop it, or give another folder"
            ) from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return -1
        with contextlib.suppress(FileNotFoundError):
            # Its holder may have removed the file between the two calls: then this lock is on nothing.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)
    _held.add(descriptor)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def _after_fork() -> None:
    """A child that lives on without its parent must not keep the lock."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
