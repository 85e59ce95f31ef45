"""Finding, copying and fingerprinting the files of a folder of skills.

A symbolic link that stays inside the folder is part of it. A link that leads out is followed where it leads to
skills, since that is how installers place them: to a skill folder, to a folder that has skill folders directly in
it, or to a SKILL.md. What it leads to then counts as being in the folder, at the place of the link. Every other link
that leads out is not followed, read or copied. No folder is visited twice by way of links, so loops end.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from masa.skills import Problem

FILE_NAME = "SKILL.md"
SKIPPED = frozenset({".masa", ".git"})
"""Folders that belong to masa or to version control, not to the skills, at any depth."""

_INSTALLED = frozenset({"node_modules", "__pycache__"})
_RESOURCES = frozenset({"scripts", "references", "assets"})
"""Folders that the specification gives a skill for its own files: a SKILL.md in there is material, not a skill."""

Kind = Literal["folder", "file", "link", "outside", "lost", "special", "unreadable"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a folder.

    Attributes:
        path: where it is, links not resolved.
        relative: its place in the folder.
        kind: `folder` and `file` also where a link was followed; `link` stays inside; `outside` leads out and is not
            followed; `lost` is a link to nothing or a loop of links; `special` is a pipe, socket or device.
        target: of a `link`, the place in the folder that it leads to.
    """

    path: Path
    relative: Path
    kind: Kind
    target: Path | None = None


@dataclass(frozen=True, slots=True)
class SkillFile:
    """A SKILL.md that was found: its path, its place in the folder, and the file itself with all links resolved."""

    path: Path
    relative: Path
    real: Path


def is_skill_file(name: str) -> bool:
    """Whether a file of this name is a SKILL.md, in whatever spelling."""
    return name.lower() == FILE_NAME.lower()


def find_skills(root: Path) -> tuple[list[SkillFile], list[Problem]]:
    """Every SKILL.md in the folder `root`, at any depth, and what was passed over or cannot be read.

    Ordered by folder, a folder before those in it, names in byte order. One file reached in several ways is found
    once. `Skill.md` and other spellings are found, with a warning. Named as passed over: a second spelling in one
    folder, a SKILL.md among the resources of a skill (`scripts`, `references`, `assets`) or among installed packages
    that no link leads to, and whatever `walk` does not follow.

    Raises:
        OSError: if `root` cannot be listed.
    """
    problems: list[Problem] = []
    candidates: dict[Path, list[Entry]] = {}
    links: list[Entry] = []
    for entry in walk(root):
        if is_skill_file(entry.relative.name):
            candidates.setdefault(entry.relative.parent, []).append(entry)
        elif problem := _not_copied(entry):
            problems.append(problem)
        elif entry.kind == "link" and entry.path.is_dir():
            links.append(entry)
            if not _INSTALLED.isdisjoint(entry.target.parts if entry.target else ()):
                inside = [_plain(path, place) for path, place, _ in _children(entry.path, entry.relative)]
                candidates[entry.relative] = [one for one in inside if is_skill_file(one.relative.name)]

    found: list[SkillFile] = []
    seen: dict[Path, Path] = {}
    for folder in sorted(candidates, key=lambda folder: [os.fsencode(part) for part in folder.parts]):
        entries = sorted(candidates[folder], key=lambda entry: (entry.relative.name != FILE_NAME, entry.relative.name))
        usable = [entry for entry in entries if entry.kind in ("file", "link") and entry.path.is_file()]
        for entry in entries:
            if problem := _passed_over(entry, usable, candidates, seen):
                problems.append(problem)
                continue
            real = entry.path.resolve()
            seen[real] = entry.path
            found.append(SkillFile(entry.path, entry.relative, real))
            if entry.relative.name != FILE_NAME:
                message = f"clients look for {FILE_NAME}; rename it"
                problems.append(Problem(str(entry.path), None, message, "warning"))
    for link in links:
        if link.target is None or not any(skill.relative.is_relative_to(link.target) for skill in found):
            continue
        loop = link.relative.is_relative_to(link.target)
        message = (
            "a loop: a link to a folder around it, not followed" if loop else f"a link to {link.target}, read there"
        )
        problems.append(Problem(str(link.path), None, message, "note"))
    return found, problems


def _passed_over(
    entry: Entry, usable: list[Entry], candidates: Mapping[Path, object], seen: Mapping[Path, Path]
) -> Problem | None:
    """Why a SKILL.md is not taken for a skill, if so."""
    where = str(entry.path)
    if entry not in usable:
        if problem := _not_copied(entry):
            return replace(problem, severity="error")
        what = "is a folder" if entry.path.is_dir() else "is no file"
        return Problem(where, None, f"{what}; put the skill's text into a file of this name")
    parts = entry.relative.parent.parts
    for depth, part in enumerate(parts):
        if part in _INSTALLED:
            return Problem(where, None, f"passed over, since it is in {part}; link to it from outside", "note")
        if part in _RESOURCES and Path(*parts[:depth]) in candidates:
            return Problem(where, None, f"passed over, since {part} holds the resources of the skill above", "note")
    if entry is not usable[0]:
        message = f"passed over, since {usable[0].relative.name} is beside it; keep one of them"
        return Problem(where, None, message, "warning")
    if (known := seen.get(entry.path.resolve())) is not None:
        return Problem(where, None, f"is the same file as {known}, which is read once", "note")
    return None


_LEFT_OUT: Mapping[Kind, str] = {
    "lost": "is a link to nothing or a loop of links, left out; remove or mend it",
    "outside": "leads out of the skill folder, neither read nor copied; put the file itself into the folder",
    "unreadable": "cannot be read, left out; check its permissions",
    "special": "is a pipe, socket or device, left out; remove it",
}


def _not_copied(entry: Entry) -> Problem | None:
    """Why a copy of the folder lacks this, if so."""
    message = _LEFT_OUT.get(entry.kind)
    return Problem(str(entry.path), None, message, "warning") if message else None


def walk(root: Path) -> Iterator[Entry]:
    """Everything below `root` except `SKIPPED` folders; folders before their contents, names in byte order.

    Raises:
        OSError: if `root` cannot be listed. A folder below it that cannot be is `unreadable`.
    """
    # Where in the tree each real folder is that has been entered at its top: the root, then links followed.
    places = {root.resolve(): Path()}
    levels = [iter(_children(root, Path()))]
    while levels:
        child = next(levels[-1], None)
        if child is None:
            levels.pop()
            continue
        path, relative, linked = child
        entry = _linked(path, relative, places) if linked or path.is_symlink() else _plain(path, relative)
        below: list[_Child] = []
        if entry.kind == "folder":
            try:
                below = _children(path, relative)
            except OSError:
                entry = Entry(path, relative, "unreadable")
            if path.is_symlink() and path.resolve() not in places:  # a folder of skills: nothing else in it counts
                below = [(p, r, True) for p, r, _ in below if p.is_dir() and _skill_file_in(p)]
        yield entry
        levels.append(iter(below))


_Child = tuple[Path, Path, bool]
"""Path, place in the tree, and whether it is treated as a link though it is none."""


def _children(folder: Path, relative: Path) -> list[_Child]:
    with os.scandir(folder) as listing:
        names = sorted((child.name for child in listing if child.name not in SKIPPED), key=os.fsencode)
    return [(folder / name, relative / name, False) for name in names]


def _plain(path: Path, relative: Path) -> Entry:
    if path.is_dir():
        return Entry(path, relative, "folder")
    if not path.is_file():
        return Entry(path, relative, "special")
    return Entry(path, relative, "file" if _readable(path) else "unreadable")


def _linked(path: Path, relative: Path, places: dict[Path, Path]) -> Entry:
    """What a link is; one to a skill folder outside is followed and remembered in `places`."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return Entry(path, relative, "lost")
    for entered, place in places.items():
        if real.is_relative_to(entered) and SKIPPED.isdisjoint(real.relative_to(entered).parts):
            return Entry(path, relative, "link", place / real.relative_to(entered))
    if real.is_file():
        followed = is_skill_file(path.name) and _readable(real)
        return Entry(path, relative, "file" if followed else "outside")
    around = (path.parent.resolve(), next(iter(places)))  # where the link is, and the root
    if not real.is_dir() or any(folder.is_relative_to(real) for folder in around):
        return Entry(path, relative, "outside")
    if _skill_file_in(real):
        places[real] = relative
        return Entry(path, relative, "folder")
    try:
        collection = any(child.is_dir() and _skill_file_in(child) for child in real.iterdir())
    except OSError:
        collection = False
    return Entry(path, relative, "folder" if collection else "outside")


def _skill_file_in(folder: Path) -> bool:
    try:
        return any(is_skill_file(child.name) and child.is_file() for child in folder.iterdir())
    except OSError:
        return False


def _readable(path: Path) -> bool:
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


def copy_tree(root: Path, out: Path, replaced: Mapping[Path, bytes]) -> None:
    """Copy the tree to the new folder `out`; the files in `replaced` (by real path) get those bytes.

    Bytes, permission bits and times of every other file are kept. Links inside the tree become relative links, and
    skills that were reached by a link become folders and files of the copy. What cannot be read, leads out or is no
    file is left out (`find_skills` names it).
    """
    names = {path.name for path in replaced}
    out.mkdir(parents=True)
    for entry in walk(root):
        target = out / entry.relative
        if entry.kind == "folder":
            target.mkdir()
        elif entry.kind == "file":
            real = entry.path.resolve()
            if real.name in names and real in replaced:
                target.write_bytes(replaced[real])
                shutil.copymode(real, target)
            else:
                shutil.copy2(real, target)
        elif entry.kind == "link" and entry.target is not None:
            # Rebuilt from where it leads: an absolute link into the original becomes one into the copy.
            target.symlink_to(os.path.relpath(entry.target, entry.relative.parent))


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, or of a folder: each file's path and bytes, each link's path and text.

    For a file it equals `sha256sum`. Skills that a link leads to count as files of the folder. Times, permissions and
    `SKIPPED` folders do not count.

    Raises:
        OSError: if the file or the folder itself cannot be read.
    """
    if not path.is_dir():
        return _file_digest(path)
    whole = hashlib.sha256()
    for entry in walk(path):
        content = ""
        if entry.kind == "file":
            content = _file_digest(entry.path)
        elif entry.path.is_symlink() and entry.kind != "folder":
            content = hashlib.sha256(os.fsencode(entry.path.readlink())).hexdigest()
        name = entry.relative.as_posix().encode("utf-8", "surrogateescape")
        whole.update(b"%d %s %s %s\n" % (len(name), name, entry.kind.encode(), content.encode()))
    return whole.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
