"""Where agents look for skills, and which skills they find there.

The folders of a project come before those of its user. A folder, or a SKILL.md, that is reached in several ways
(clients that share one by a link) is found once. Nothing here writes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from masa.errors import FormatError
from masa.files import reason
from masa.formats.skill_md import departures, read_skill_folder
from masa.formats.skill_md_document import Document
from masa.formats.skill_md_tree import SKIPPED, is_skill_file
from masa.skills import Problem

CLIENTS = (".claude", ".agents", ".github", ".cursor", ".gemini", ".opencode", ".goose", ".codex")
"""Folders with `skills` in them that clients read in a project and in a home (agentskills.io, the clients' pages)."""
USER_CLIENTS = (".config/opencode", ".config/goose", ".config/agents")
"""The same, in a home only."""

Scope = Literal["project", "user", "named"]


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of skills; what lies outside `base` (the project, the home, the folder around it) is not its own."""

    path: Path
    scope: Scope
    base: Path


@dataclass(frozen=True, slots=True)
class FoundSkill:
    """A SKILL.md that an agent reads.

    Attributes:
        key: its name, or name and place where another one has the same name.
        file: its path as a client sees it; `real` with all links resolved.
        document, raw: what it says, and its bytes.
        problems: where it departs from the specification, and what was mended to read it.
        left: why it is not to be changed, if so: a link out of its base, or one of the same name that wins over it.
    """

    key: str
    place: Place
    file: Path
    real: Path
    document: Document
    raw: bytes
    problems: tuple[Problem, ...] = ()
    left: str = ""

    @property
    def folder(self) -> Path:
        """The skill's folder, with all links resolved."""
        return self.real.parent


@dataclass(frozen=True, slots=True)
class Found:
    """Places that exist, the skills in them, and what is to be said about what was passed over."""

    places: tuple[Place, ...]
    skills: tuple[FoundSkill, ...]
    problems: tuple[Problem, ...]


def agent_places(project: Path, home: Path) -> list[Place]:
    """Every folder in which a client may look, project before user, whether or not it exists."""
    project, home = project.resolve(), home.resolve()
    places = [Place(project / client / "skills", "project", project) for client in CLIENTS]
    if project != home:
        places += [Place(home / client / "skills", "user", home) for client in CLIENTS]
    return places + [Place(home / client / "skills", "user", home) for client in USER_CLIENTS]


def named_place(path: Path) -> Place:
    """A folder (or SKILL.md) that a person names. Its base is that of the store which knows skills there, else the
    project or home whose client's folder it is or is in, else the folder around it."""
    folder = path.parent if is_skill_file(path.name) and path.is_file() else path
    real = folder.resolve()
    around = (real, *real.parents)
    base = next((up for up in around[1:] if (up / ".masa" / "adapt.lock.json").is_file()), None)
    if base is None:
        clients = (up for up in around if up.name == "skills" and up.parent.name in CLIENTS)
        client = next(clients, None)
        base = client.parent.parent if client else real.parent
    return Place(folder, "named", base)


def find_project(start: Path) -> Path:
    """The nearest folder, from `start` up to the root of its repository, in which a client has a folder of skills."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if any(_is_folder(folder / client / "skills") for client in CLIENTS):
            return folder
        if os.path.lexists(folder / ".git"):
            break
    return start


def _is_folder(path: Path) -> bool:
    """False, too, where a folder above cannot be read; `Path.is_dir` raises there."""
    try:
        return path.is_dir()
    except OSError:
        return False


def find(places: Sequence[Place]) -> Found:
    """The skills in these places, in their order."""
    existing: list[Place] = []
    found: list[FoundSkill] = []
    problems: list[Problem] = []
    roots: dict[Path, Place] = {}
    files: dict[Path, FoundSkill] = {}
    for place in places:
        if not os.path.lexists(place.path):
            if _is_folder(place.path.parent) and not os.access(place.path.parent, os.X_OK):
                message = "cannot be read (Permission denied); check its permissions"
                problems.append(Problem(str(place.path.parent), None, message))
            continue
        if not place.path.is_dir():
            what = "is a link to nothing" if place.path.is_symlink() else "is no folder"
            problems.append(Problem(str(place.path), None, f"{what}, so no client finds skills there; remove it"))
            continue
        real = place.path.resolve()
        if real in roots:
            message = f"is the same folder as {roots[real].path}, which is read once"
            problems.append(Problem(str(place.path), None, message, "note"))
            continue
        roots[real] = place
        existing.append(place)
        try:
            if not any(child.name not in SKIPPED for child in real.iterdir()):
                continue
            source, told = read_skill_folder(place.path)
        except OSError as error:
            problems.append(Problem(str(place.path), None, f"cannot be read ({reason(error)}); check its permissions"))
            continue
        except FormatError as error:
            problems.append(Problem(str(place.path), None, str(error).removeprefix(f"{place.path}: ")))
            continue
        by_file: dict[str, list[Problem]] = {}
        for problem in told:
            by_file.setdefault(problem.file, []).append(problem)
        for key, document in source.documents.items():
            file = source.files[key]
            own = (*by_file.pop(str(file.path), ()), *departures(document, file.path))
            if (known := files.get(file.real)) is not None:
                message = f"is the same file as {known.file}, which is read once"
                problems.append(Problem(str(file.path), None, message, "note"))
                continue
            skill = FoundSkill(document.name, place, file.path, file.real, document, source.raw[key], own)
            if not file.real.is_relative_to(place.base):
                skill = replace(skill, left=f"a link out of {place.base}, to {file.real.parent}")
            else:
                files[file.real] = skill
            found.append(skill)
        problems += [problem for told_of in by_file.values() for problem in told_of]
    return Found(tuple(existing), tuple(_shadowed(found)), tuple(problems))


def _shadowed(found: Sequence[FoundSkill]) -> list[FoundSkill]:
    """The same skills with keys that differ, and a word on those that share a name."""
    first: dict[str, FoundSkill] = {}
    result: list[FoundSkill] = []
    for skill in found:
        name = skill.document.fields.get("name")
        name = " ".join(name.split()) if isinstance(name, str) and name.strip() else skill.file.parent.name
        winner = first.setdefault(name, skill)
        if winner.real != skill.real:
            message = f"has the name of {winner.file.parent}"
            if winner.place.scope != "user" and skill.place.scope == "user":
                skill = replace(skill, left=skill.left or f"shadowed by {winner.file.parent}, of the same name")
                message += ", which wins over it: clients take the project's before the user's"
            else:
                message += "; a client that reads both offers one of them"
            skill = replace(skill, problems=(*skill.problems, Problem(str(skill.file), None, message, "warning")))
        taken = {other.key for other in result}
        key = name if name not in taken else f"{name} ({skill.file.parent})"
        result.append(replace(skill, key=key))
    return result
