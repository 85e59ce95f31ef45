"""Agent Skills folders as specified at agentskills.io: `<name>/SKILL.md`, scripts and references beside it.

A skill folder becomes one group: its task type is the front matter's `name`, its skills are the sections of
the Markdown body. The body is split at every ATX or setext heading that stands at the top level of the
Markdown (not in a list, quote or code), whatever its level; the level is kept in `Skill.extra`. Titles and
principles are Markdown source. `when_to_apply` starts empty: the condition of a skill folder is its
description, which is front matter and never rewritten; `Skill.extra["skill_md"]["description"]` carries it
for whoever searches.

Loading opens no file outside the folder; saving writes a copy and never touches the original.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.errors import FormatError
from masa.formats.skill_md_document import Document, parse_document
from masa.formats.skill_md_render import render_document
from masa.formats.skill_md_tree import copy_tree, is_inside, walk
from masa.skills import SkillBank

_FILE_NAMES = ("SKILL.md", "skill.md")  # the reference implementation accepts the second, too
_FIELDS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
_LONGEST = {"name": 64, "description": 1024, "compatibility": 500}


@dataclass(frozen=True, slots=True)
class SkillFolders:
    """`SkillBank.source` of a bank that came from skill folders.

    Attributes:
        documents: per skill name, its document.
        files: per skill name, the path of its SKILL.md relative to the loaded folder.
        raw: per skill name, the bytes of that file.
    """

    documents: Mapping[str, Document]
    files: Mapping[str, Path]
    raw: Mapping[str, bytes]


def is_skill_folder(path: Path) -> bool:
    """Whether `path` is a SKILL.md, a skill folder, or a folder with skill folders directly in it."""
    try:
        return bool(_listed(_root(path)))
    except FormatError:
        return False


def load_skill_folder(path: Path) -> SkillBank:
    """Load a skill folder, a folder of skill folders (ordered by folder name), or the folder of a SKILL.md.

    Hidden folders and folders without a SKILL.md are passed over. The general group is empty.

    Raises:
        FormatError: if there is no SKILL.md, one is broken, two share a name, or one cannot be read.
    """
    root = _root(path)
    documents: dict[str, Document] = {}
    files: dict[str, Path] = {}
    raw: dict[str, bytes] = {}
    for file in _listed(root):
        content = _read(file, root)
        document = parse_document(content, str(file))
        if document.name in documents:
            raise FormatError(f"{file}: {root / files[document.name]} is also called {document.name!r}; rename one")
        documents[document.name] = document
        files[document.name] = file.relative_to(root)
        raw[document.name] = content
    if not documents:
        raise FormatError(f"{root}: no SKILL.md here or in the folders directly below; is this a skill folder?")
    groups = {name: document.skills() for name, document in documents.items()}
    return SkillBank(general=(), task_specific=groups, source=SkillFolders(documents, files, raw))


def save_skill_folder(bank: SkillBank, original_path: Path, out_path: Path) -> None:
    """Write a copy of the folder `original_path` to `out_path`, its SKILL.md bodies taken from `bank`.

    `bank` is what `load_skill_folder(original_path)` gave, with groups replaced. Front matter, unchanged
    sections and every other file keep their bytes; an unmodified bank gives a byte-identical SKILL.md. The
    copy appears complete or not at all. `.masa` and `.git` folders and links that lead out of the folder are
    not copied.

    Raises:
        FormatError: if the bank is not from skill folders, a group cannot be written, the original has
            changed since it was loaded, or `out_path` exists (other than as an empty folder) or lies in
            or around the original.
        OSError: if the copy cannot be written.
    """
    root = _root(original_path)
    source = bank.source
    if not isinstance(source, SkillFolders) or source.documents.keys() != bank.task_specific.keys():
        raise FormatError(f"{root}: this bank was not loaded from these skill folders; save it as bank JSON")
    if bank.general:
        raise FormatError(f"{root}: a skill folder has no place for general skills; save the bank as bank JSON")
    out = Path(out_path).absolute()
    if out.resolve().is_relative_to(root.resolve()) or root.resolve().is_relative_to(out.resolve()):
        raise FormatError(f"{out}: lies in the original skill folder or around it; originals are never overwritten")
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise FormatError(f"{out}: already exists; choose a new folder or remove it first")
    replaced: dict[Path, bytes] = {}
    for name, document in source.documents.items():
        file = source.files[name]
        if _read(root / file, root) != source.raw[name]:
            raise FormatError(f"{root / file}: changed since it was loaded; load it again")
        replaced[file] = render_document(document, bank.task_specific[name], str(root / file))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        copy_tree(root, temporary, replaced)
        if out.is_dir():
            out.rmdir()  # empty, see above; Windows renames onto nothing only
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def validate_skill_folder(path: Path) -> list[str]:
    """What is wrong with the skill folder(s) at `path`, one sentence each; empty if nothing is.

    Checked are the front matter's fields and their limits, that the folder is called like the skill, that the
    body has text, and that no link leads out of the folder.
    """
    try:
        root = _root(path)
        files = _listed(root)
        messages = [
            f"{entry.path}: leads out of the skill folder; put the file itself into the folder"
            for entry in walk(root)
            if entry.kind == "outside"
        ]
    except (FormatError, OSError) as error:
        return [str(error)]
    if not files:
        return [f"{root}: no SKILL.md here or in the folders directly below"]
    names: dict[str, Path] = {}
    for file in files:
        try:
            document = parse_document(_read(file, root), str(file))
        except FormatError as error:
            messages.append(str(error))
            continue
        folder = file.parent.resolve().name
        messages += [f"{file}: {problem}" for problem in _field_problems(document.fields, folder)]
        if file.name != _FILE_NAMES[0]:
            messages.append(f"{file}: must be called {_FILE_NAMES[0]}")
        if names.setdefault(document.name, file) != file:
            messages.append(f"{file}: the name {document.name!r} is also used by {names[document.name]}")
    return messages


def _field_problems(fields: Mapping[str, Any], folder: str) -> Iterator[str]:
    for key in ("name", "description"):
        if key not in fields:
            yield f"the front matter has no {key}"
    for key, value in fields.items():
        if key not in _FIELDS:
            yield f"unknown field {key!r} in the front matter; the specification has {', '.join(_FIELDS)}"
        elif key == "metadata":
            if not isinstance(value, dict) or not all(isinstance(s, str) for pair in value.items() for s in pair):
                yield "metadata must map texts to texts; put numbers and dates in quotes"
        elif key == "allowed-tools" and isinstance(value, list):
            if not all(isinstance(tool, str) for tool in value):
                yield "allowed-tools must be one text or a list of texts"
        elif not isinstance(value, str) or not value.strip():
            yield f"{key} must be a text that is not empty"
        elif len(value) > (longest := _LONGEST.get(key, len(value))):
            yield f"{key} has {len(value)} characters, the limit is {longest}"
    name = fields.get("name")
    if isinstance(name, str) and name.strip():
        yield from _name_problems(unicodedata.normalize("NFKC", name.strip()), folder)


def _name_problems(name: str, folder: str) -> Iterator[str]:
    if name != name.lower() or not all(char.isalnum() or char == "-" for char in name):
        yield f"the name {name!r} may hold only lower-case letters, digits and hyphens"
    if name.startswith("-") or name.endswith("-") or "--" in name:
        yield f"the name {name!r} must not start or end with a hyphen or have two in a row"
    if name != unicodedata.normalize("NFKC", folder):
        yield f"the name {name!r} differs from its folder {folder!r}; rename one"


def _root(path: Path) -> Path:
    """The folder meant by `path`, which may also be a SKILL.md."""
    path = Path(path)
    return path.parent if path.name in _FILE_NAMES and path.is_file() else path


def _listed(root: Path) -> list[Path]:
    if not root.exists():
        raise FormatError(f"{root}: does not exist; give a skill folder")
    if not root.is_dir():
        raise FormatError(f"{root}: is no folder; give a skill folder or its SKILL.md")
    try:
        return list(_skill_files(root))
    except OSError as error:
        raise FormatError(f"{root}: cannot be read ({error.strerror}); check its permissions") from error


def _skill_files(root: Path) -> Iterator[Path]:
    own = _skill_file(root)
    if own is not None:
        yield own
        return
    for child in sorted(root.iterdir(), key=lambda child: os.fsencode(child.name)):
        # A linked folder would be copied as a link, so its rewrite would have no place of its own.
        if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
            file = _skill_file(child)
            if file is not None:
                yield file


def _skill_file(folder: Path) -> Path | None:
    names = {child.name for child in folder.iterdir()}
    return next((folder / name for name in _FILE_NAMES if name in names), None)


def _read(file: Path, root: Path) -> bytes:
    if file.is_symlink() and not is_inside(file, root.resolve()):
        raise FormatError(f"{file}: is a link out of the skill folder; put the file itself there")
    try:
        return file.read_bytes()
    except OSError as error:
        raise FormatError(f"{file}: cannot be read ({error.strerror}); check that it is a readable file") from error
