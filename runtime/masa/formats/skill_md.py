"""Agent Skills folders as specified at agentskills.io: `<name>/SKILL.md`, scripts and references beside it.

Each SKILL.md becomes one group: its task type is the front matter's `name`, its skills are the sections of
the Markdown body. The body is split at every ATX or setext heading that stands at the top level of the
Markdown (not in a list, quote or code), whatever its level; the level is kept in `Skill.extra`. Titles and
principles are Markdown source. `when_to_apply` starts empty: the condition of a skill folder is its
description, which is front matter and never rewritten; `Skill.extra["skill_md"]["description"]` carries it
for whoever searches.

Which files are skills, and which links are followed, `skill_md_tree` decides. Saving writes a copy and never touches
the original nor anything outside the copy.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from masa.errors import FormatError, near_misses
from masa.files import reason
from masa.formats.skill_md_document import LINE_BREAK, BrokenFileError, Document, parse_document
from masa.formats.skill_md_render import render_document
from masa.formats.skill_md_tree import SkillFile, copy_tree, find_skills, is_skill_file, walk
from masa.skills import GENERAL, Problem, SkillBank

_FIELDS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
_LONGEST = {"name": 64, "description": 1024, "compatibility": 500}
CLIENT_FIELDS = frozenset({
    "when_to_use", "argument-hint", "arguments", "disable-model-invocation", "user-invocable", "model", "effort",
    "context", "agent", "hooks", "paths", "shell",
})  # fmt: skip
"""Fields beyond the specification that clients read (code.claude.com/docs/en/skills); several clients share some."""


@dataclass(frozen=True, slots=True)
class SkillFolders:
    """`SkillBank.source` of a bank that came from skill folders.

    Attributes:
        root: the loaded folder.
        documents: per group, its document.
        files: per group, its SKILL.md.
        raw: per group, the bytes of that file.
    """

    root: Path
    documents: Mapping[str, Document]
    files: Mapping[str, SkillFile]
    raw: Mapping[str, bytes]


def is_skill_folder(path: Path) -> bool:
    """Whether `path` is a SKILL.md, or a folder with one in it at any depth."""
    root = _root(path)
    try:
        return root.is_dir() and any(is_skill_file(entry.relative.name) for entry in walk(root))
    except OSError:
        return False


def load_skill_folder(path: Path) -> SkillBank:
    """Load every SKILL.md in a folder, or in the folder of a SKILL.md, ordered by folder. The general group is empty.

    A SKILL.md that cannot be read stops nothing: it is among the bank's `problems`, as is everything that was passed
    over or read only by being lenient. Where two skills share a name, the later one's group is called by its place.

    Raises:
        FormatError: if there is no SKILL.md, or none can be read.
    """
    source, problems = read_skill_folder(path)
    if not source.documents:
        if len(problems) == 1 and is_skill_file(Path(problems[0].file).name):
            raise FormatError(str(problems[0]))
        told = "".join(f"\n  {problem}" for problem in problems)
        raise FormatError(f"{source.root}: no SKILL.md that can be rewritten here or in the folders below{told}")
    groups = {key: document.skills() for key, document in source.documents.items()}
    return SkillBank(general=(), task_specific=groups, source=source, problems=tuple(problems))


def save_skill_folder(bank: SkillBank, out_path: Path) -> None:
    """Write a copy of the folder that `bank` was loaded from to `out_path`, its SKILL.md bodies taken from `bank`.

    `bank` is what `load_skill_folder` gave, with groups replaced. Front matter, unchanged sections and every other
    file keep their bytes; an unmodified bank gives a byte-identical SKILL.md. The copy appears complete or not at
    all. Skills that were reached by a link out of the folder become folders of the copy. Left out are `.masa` and
    `.git` folders and what the bank's `problems` say is not copied.

    Raises:
        FormatError: if the bank is not from skill folders, a group cannot be written, the original has
            changed since it was loaded, or `out_path` exists (other than as an empty folder) or lies in
            or around the original.
        OSError: if the copy cannot be written.
    """
    source = bank.source
    if not isinstance(source, SkillFolders) or source.documents.keys() != bank.task_specific.keys():
        raise FormatError(f"{out_path}: this bank was not loaded from skill folders; save it as bank JSON")
    root = source.root
    if bank.general:
        raise FormatError(f"{root}: a skill folder has no place for general skills; save the bank as bank JSON")
    out = Path(out_path).absolute()
    originals = {root.resolve(), *(file.path.parent.resolve() for file in source.files.values())}
    if any(out.resolve().is_relative_to(its) or its.is_relative_to(out.resolve()) for its in originals):
        raise FormatError(f"{out}: lies in the original skill folder or around it; originals are never overwritten")
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise FormatError(f"{out}: already exists; choose a new folder or remove it first")
    replaced: dict[Path, bytes] = {}
    for key, document in source.documents.items():
        file = source.files[key]
        if _read(file.path) != source.raw[key]:
            raise FormatError(f"{file.path}: changed since it was loaded; load it again")
        replaced[file.real] = render_document(document, bank.task_specific[key], str(file.path))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        copy_tree(root, temporary, replaced)
        if out.is_dir():
            out.rmdir()  # empty, see above; Windows renames onto nothing only
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def validate_skill_folder(path: Path) -> list[Problem]:
    """What is wrong with the skill folder(s) at `path`; empty if nothing is.

    Everything that `load_skill_folder` tells, and of each SKILL.md where it departs from the specification: fields,
    their limits, and the name, which must be the folder's. As lenient as the reference implementation, skills-ref
    0.1.1, about what it does not check (an empty license, values of `metadata`), and stricter where that misreads a
    file (`---` inside the front matter) or does not look (`metadata` that is no map, a link out of the folder).
    """
    try:
        source, problems = read_skill_folder(path)
    except FormatError as error:
        return [Problem(str(path), None, str(error).removeprefix(f"{path}: "))]
    for key, document in source.documents.items():
        problems += departures(document, source.files[key].path)
    return problems


def departures(document: Document, where: Path) -> list[Problem]:
    """Where the SKILL.md at `where` departs from the specification, though it can be read."""
    folder = Path(os.path.abspath(where)).parent.name  # noqa: PTH100  (resolve() would follow links)
    found = [*_field_problems(document, folder), *_front_problems(document.head)]
    return [Problem(str(where), line, message, "warning") for line, message in found]


def client_fields(bank: SkillBank) -> dict[str, tuple[str, ...]]:
    """For each group that came from a SKILL.md, the fields of its front matter that are for clients."""
    documents = bank.source.documents if isinstance(bank.source, SkillFolders) else {}
    return {key: tuple(name for name in its.fields if name in CLIENT_FIELDS) for key, its in documents.items()}


def read_skill_folder(path: Path) -> tuple[SkillFolders, list[Problem]]:
    """Every SKILL.md that can be read, and what is to be said about these and the others.

    Raises:
        FormatError: if there is no SKILL.md at all, or the folder cannot be listed.
    """
    root = _root(path)
    if not root.exists():
        raise FormatError(f"{root}: does not exist; give a skill folder")
    if not root.is_dir():
        raise FormatError(f"{root}: is no folder; give a skill folder or its SKILL.md")
    try:
        found, problems = find_skills(root)
    except OSError as error:
        raise FormatError(f"{root}: cannot be read ({reason(error)}); check its permissions") from error
    if not found and not problems:
        raise FormatError(f"{root}: no SKILL.md here or in the folders below; is this a skill folder?")
    documents: dict[str, Document] = {}
    files: dict[str, SkillFile] = {}
    raw: dict[str, bytes] = {}
    for file in found:
        where = str(file.path)
        folder = Path(os.path.abspath(file.path)).parent.name  # noqa: PTH100  (resolve() would follow links)
        try:
            content = _read(file.path)
            document = parse_document(content, where, folder=folder)
        except BrokenFileError as error:
            problems.append(error.problem)
            continue
        problems += document.problems
        key = document.name
        if key in documents or key == GENERAL:
            key = file.relative.parent.as_posix()
            while key in documents or key == GENERAL:
                key = f"./{key}"
            message = f"the name {document.name!r} is taken, so this group is called {key!r}; rename the skill"
            problems.append(Problem(where, document.lines.get("name", 1), message, "warning"))
        documents[key], files[key], raw[key] = replace(document, name=key), file, content
    return SkillFolders(root, documents, files, raw), problems


def _front_problems(head: str) -> Iterator[tuple[int, str]]:
    """What other readers make of the top of a file."""
    first, *lines = LINE_BREAK.split(head)
    if first.startswith("\ufeff"):
        yield 1, "begins with a byte order mark, so many clients see no front matter; save it as UTF-8 without one"
    for number, line in enumerate(lines, start=2):
        if line.rstrip() == "---":
            return
        if "---" in line:
            yield number, "has `---` within the front matter, where skills-ref and others end it; write it otherwise"


def _field_problems(document: Document, folder: str) -> Iterator[tuple[int, str]]:
    for key, value in document.fields.items():
        line = document.lines.get(key, 1)
        if key in CLIENT_FIELDS:
            continue
        if key not in _FIELDS:
            near = near_misses(key, (*_FIELDS, *CLIENT_FIELDS))
            hint = f"did you mean {near[0]!r}?" if near else f"the specification has {', '.join(_FIELDS)}"
            yield line, f"unknown field {key!r} in the front matter; {hint}"
        elif key == "metadata":
            if value and not isinstance(value, dict):
                yield line, "metadata must be a map; write it as `key: value` lines"
        elif key == "allowed-tools":
            if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(t, str) for t in value)):
                yield line, "allowed-tools must be one text or a list of texts; write it so"
        elif not isinstance(value, str):
            yield line, f"{key} must be a text; put it in quotes"
        elif len(value) > (longest := _LONGEST.get(key, len(value))):
            yield line, f"{key} has {len(value)} characters, the limit is {longest}; shorten it"
    name = document.fields.get("name")
    if isinstance(name, str) and name.strip():
        line = document.lines.get("name", 1)
        for message in _name_problems(unicodedata.normalize("NFKC", name.strip()), folder):
            yield line, message


def _name_problems(name: str, folder: str) -> Iterator[str]:
    if name != name.lower() or not all(char.isalnum() or char == "-" for char in name):
        yield f"the name {name!r} may hold only lower-case letters, digits and hyphens; rename it"
    if name.startswith("-") or name.endswith("-") or "--" in name:
        yield f"the name {name!r} must not start or end with a hyphen or have two in a row; rename it"
    if name != unicodedata.normalize("NFKC", folder):
        yield f"the name {name!r} differs from its folder {folder!r}; rename one"


def _root(path: Path) -> Path:
    """The folder meant by `path`, which may also be a SKILL.md."""
    path = Path(path)
    return path.parent if is_skill_file(path.name) and path.is_file() else path


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BrokenFileError(
            Problem(str(file), None, f"cannot be read ({reason(error)}); check its permissions")
        ) from error
