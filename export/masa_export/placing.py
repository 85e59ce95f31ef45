"""A finished folder is given its place in one step."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def put_in_place(folder: Path, target: Path) -> None:
    """Move the finished `folder` to `target`, on the same disk; what was there is moved aside, then removed.

    Raises:
        OSError: if it cannot be moved; what was there is then there again.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
    former = folder.with_name(folder.name + ".former")
    if target.exists():
        target.rename(former)
    try:
        folder.rename(target)
    except OSError:
        if former.exists():
            former.rename(target)
        raise
    shutil.rmtree(former, ignore_errors=True)
