"""Walking, copying and fingerprinting the files of a skill folder without ever leaving it.

A symbolic link that stays inside the tree is part of it; one that leads out is not followed, read or copied.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

SKIPPED = frozenset({".masa", ".git"})
"""Folders that belong to masa or to version control, not to the skill, at any depth."""

Kind = Literal["folder", "file", "link", "outside", "special"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a tree: `link` is a link that stays inside, `outside` one that leads out or nowhere,
    `special` a pipe, socket or device."""

    path: Path
    relative: Path
    kind: Kind


def walk(root: Path) -> Iterator[Entry]:
    """Everything below `root` except `SKIPPED` folders; folders before their contents, names in byte order.

    Raises:
        OSError: if a folder cannot be listed.
    """
    real_root = root.resolve()

    def visit(folder: Path, relative: Path) -> Iterator[Entry]:
        with os.scandir(folder) as listing:
            children = sorted(listing, key=lambda child: os.fsencode(child.name))
        for child in children:
            if child.name in SKIPPED:
                continue
            path, below = folder / child.name, relative / child.name
            if child.is_symlink():
                yield Entry(path, below, "link" if is_inside(path, real_root) else "outside")
            elif child.is_dir(follow_symlinks=False):
                yield Entry(path, below, "folder")
                yield from visit(path, below)
            elif child.is_file(follow_symlinks=False):
                yield Entry(path, below, "file")
            else:
                yield Entry(path, below, "special")

    yield from visit(root, Path())


def is_inside(path: Path, real_root: Path) -> bool:
    """Whether `path` exists and, all links followed, lies below `real_root` (itself already resolved)."""
    try:
        return path.resolve(strict=True).is_relative_to(real_root)
    except (OSError, RuntimeError):  # dangling, or a loop of links (RuntimeError before Python 3.13)
        return False


def copy_tree(root: Path, out: Path, replaced: dict[Path, bytes]) -> None:
    """Copy the tree to the new folder `out`; the files in `replaced` (by relative path) get those bytes.

    Bytes, permission bits and times of every other file are kept. Links inside the tree become relative
    links; links that lead out and special files are left out, with a warning in the log.
    """
    real_root = root.resolve()
    out.mkdir(parents=True)
    for entry in walk(root):
        target = out / entry.relative
        if entry.relative in replaced:
            target.write_bytes(replaced[entry.relative])
            shutil.copymode(entry.path, target)
        elif entry.kind == "folder":
            target.mkdir()
        elif entry.kind == "file":
            shutil.copy2(entry.path, target)
        elif entry.kind == "link":
            # Rebuilt from where it leads: an absolute link into the original becomes one into the copy.
            inside = entry.path.resolve().relative_to(real_root)
            start = real_root / entry.relative.parent
            target.symlink_to(os.path.relpath(real_root / inside, start))
        else:
            logger.warning("%s leads out of the skill folder or is no file; it is not copied", entry.path)


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, or of a folder: each file's path and bytes, each link's path and text.

    For a file it equals `sha256sum`. Times, permissions and `SKIPPED` folders do not count.

    Raises:
        OSError: if something cannot be read.
    """
    if not path.is_dir():
        return _file_digest(path)
    whole = hashlib.sha256()
    for entry in walk(path):
        if entry.kind == "file":
            content = _file_digest(entry.path)
        elif entry.kind in ("link", "outside"):
            content = hashlib.sha256(os.fsencode(entry.path.readlink())).hexdigest()
        else:
            content = ""
        name = entry.relative.as_posix().encode("utf-8", "surrogateescape")
        whole.update(b"%d %s %s %s\n" % (len(name), name, entry.kind.encode(), content.encode()))
    return whole.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
