"""The skills that `masa mcp` serves: their URIs, their files, and each one adapted to the backbone that is meant.

The form is the skills extension of MCP (`io.modelcontextprotocol/skills`, SEP-2640): a skill is addressed by the URI of
its SKILL.md, `skill://PATH/SKILL.md`, where the last part of PATH is the skill's name; its entry has the front matter
and the SHA-256 and size of every file. `skill://model=NAME/PATH/SKILL.md` is the same skill for the backbone NAME.

Nothing is written here. A SKILL.md that changes on disk is read anew; so is what was adapted from it.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from masa.cards import ModelCard, find_shipped
from masa.errors import FormatError, MasaError, UnknownNameError
from masa.files import ParseError, parse_yaml
from masa.formats.skill_md import SkillFolders, load_skill_folder
from masa.formats.skill_md_document import Document
from masa.formats.skill_md_render import render_document
from masa.formats.skill_md_tree import FILE_NAME, SkillFile, is_skill_file, walk
from masa.json_fields import did_you_mean
from masa.skills import Group, Problem, SkillBank

if TYPE_CHECKING:
    from masa.facts import Facts
    from masa.progress import Progress
    from masa.provenance import GroupResult
    from masa.rewriter import Rewriter

SCHEME = "skill://"
MOST_FILES, MOST_BYTES = 512, 16 << 20
"""Per skill; every host of the extension takes as much and none need take more."""

_MODEL = "model="
"""Begins the first part of a URI that names a backbone; in the name of a folder the `=` is escaped."""
_NAME = re.compile(r"(?!-)(?!.*--)[^\W_]+(?:-[^\W_]+)*\Z")


@dataclass(frozen=True, slots=True)
class ServedSkill:
    """A skill of a folder.

    Attributes:
        path: its place among the skills served, as in a URI; the last part is its name.
        frontmatter: of its SKILL.md, as JSON values.
        bank, key: where its sections are.
        files: by place in the skill, as in a URI, the file; its SKILL.md comes first.
    """

    path: str
    frontmatter: Mapping[str, Any]
    bank: SkillBank = field(repr=False)
    key: str
    files: Mapping[str, Path]

    @property
    def name(self) -> str:
        return str(self.frontmatter["name"])

    @property
    def group(self) -> Group:
        return self.bank.group(self.key)

    @property
    def document(self) -> Document:
        return _source(self.bank).documents[self.key]

    @property
    def raw(self) -> bytes:
        """Its SKILL.md as it is on disk."""
        return _source(self.bank).raw[self.key]

    def uri(self, model: str | None = None, file: str = FILE_NAME) -> str:
        """The URI of one of its files, for the backbone of that name or for the server's own."""
        return _prefix(model) + f"{self.path}/{file}"


@dataclass(frozen=True, slots=True)
class Adapted:
    """A SKILL.md for a backbone. `result` is None, and the text as it was, where there is no backbone."""

    skill: ServedSkill
    data: bytes
    result: GroupResult | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Shelf:
    """What is in the folders at one moment: skills by their path, and what cannot be served."""

    skills: Mapping[str, ServedSkill]
    problems: tuple[Problem, ...]

    def find(self, name: str) -> ServedSkill:
        """The skill of that path or name.

        Raises:
            UnknownNameError: if there is none, or more than one of that name.
        """
        if name in self.skills:
            return self.skills[name]
        found = [skill for skill in self.skills.values() if skill.name == name]
        if len(found) > 1:
            paths = ", ".join(skill.path for skill in found)
            raise UnknownNameError(f"{len(found)} skills are called {name!r}; name one by its path: {paths}")
        if not found:
            known = [skill.path for skill in self.skills.values()]
            near = did_you_mean(name, [*known, *(skill.name for skill in self.skills.values())])
            hint = near or f"; there are: {', '.join(known) or 'none'}"
            raise UnknownNameError(f"no skill {name!r} is served{hint}")
        return found[0]


class Library:
    """The folders of a server, and what has been adapted from them so far. Threads may share one.

    Args:
        folders: skill folders, or folders of them.
        cards: the backbones that the server was started for; the first one is meant where a client names none.
        rewriter: what adapts; None where the server was started for no backbone and has no rewriter.
        facts: what is known of the world that the skills are for.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        cards: Mapping[str, ModelCard],
        rewriter: Rewriter | None,
        facts: Facts | None = None,
    ) -> None:
        self.folders = tuple(folders)
        self.cards = dict(cards)
        self.rewriter = rewriter
        self.facts = facts
        self._adapted: dict[tuple[str, str, str], Adapted] = {}

    def card(self, model: str | None) -> ModelCard | None:
        """The card of the backbone that a client names: one that the server was started for, or a shipped card.

        A client reaches no file and no server by a name.

        Raises:
            CardError: if there is no such card.
        """
        if model is None:
            return next(iter(self.cards.values()), None)
        for name, card in self.cards.items():
            if model.lower() in (name.lower(), card.name.lower()):
                return card
        from masa.weights import list_weights, named_weights

        return find_shipped(named_weights(model).card if model in list_weights() else model)

    def shelf(self) -> Shelf:
        """Read the folders.

        Raises:
            FormatError: if one of them has no skill at all any more.
        """
        skills: dict[str, ServedSkill] = {}
        problems: list[Problem] = []
        for folder in self.folders:
            bank = load_skill_folder(folder)
            problems += bank.problems
            paths: dict[PurePosixPath, str] = {}
            for key, file in _source(bank).files.items():  # a folder comes before those in it
                try:
                    skill = _served(bank, key, file, paths)
                except _NotServedError as error:
                    problems.append(Problem(str(file.path), None, f"not served over MCP: {error}", "warning"))
                    continue
                paths[PurePosixPath(file.relative.parent.as_posix())] = skill.path
                if skill.path in skills:
                    message = f"not served over MCP: {skills[skill.path].uri()} is another skill; rename one"
                    problems.append(Problem(str(file.path), None, message, "warning"))
                    continue
                skills[skill.path] = skill
        return Shelf(skills, tuple(problems))

    def adapt(
        self,
        skills: Sequence[ServedSkill],
        card: ModelCard | None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] = lambda: False,
    ) -> dict[str, Adapted]:
        """The SKILL.md of each skill for a backbone, by path; what was adapted before is not adapted again.

        Raises:
            CancelledError: if `cancel` said so before all were done.
            MasaError: as `Rewriter.rewrite`; also where the server has no rewriter.
        """
        if card is None:
            return {skill.path: Adapted(skill, skill.raw) for skill in skills}
        if self.rewriter is None:
            raise MasaError("this server has no rewriter, so it cannot adapt; start it with --backbone")
        banks = {id(skill.bank): skill.bank for skill in skills}
        for bank in banks.values():
            open_ = [s for s in skills if s.bank is bank and self._key(s, card) not in self._adapted]
            if not open_:
                continue
            result = self.rewriter.rewrite(
                bank,
                card,
                facts=self.facts,
                only=[skill.key for skill in open_],
                on_progress=on_progress,
                cancel=cancel,
            )
            groups = {group.key: group for group in result.groups}
            for skill in open_:
                if groups[skill.key].status != "cancelled":
                    self._adapted[self._key(skill, card)] = _rendered(skill, groups[skill.key])
            if result.cancelled:
                raise CancelledError(f"cancelled; {len(groups)} skills were asked for, the finished ones are kept")
        return {skill.path: self._adapted[self._key(skill, card)] for skill in skills}

    def entry(self, skill: ServedSkill, model: str | None, shelf: Shelf, **options: Any) -> dict[str, Any]:
        """The extension's entry of a skill. Its whole folder is read and, where it holds skills, they are adapted."""
        card = self.card(model)
        resources = []
        for file in skill.files:
            data = self.read(skill, file, card, shelf, **options)
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            resources.append({"uri": skill.uri(model, file), "digest": digest, "size": len(data)})
        return {"uri": skill.uri(model), "frontmatter": dict(skill.frontmatter), "resources": resources}

    def read(self, skill: ServedSkill, file: str, card: ModelCard | None, shelf: Shelf, **options: Any) -> bytes:
        """The bytes of a file of a skill; of a SKILL.md, its own or that of a skill inside, as adapted.

        Raises:
            FormatError: if it cannot be read.
        """
        from masa.files import read_bytes

        path = skill.files[file]
        if is_skill_file(path.name):
            real = path.resolve()
            for inner in shelf.skills.values():
                if inner.files[FILE_NAME].resolve() == real:
                    return self.adapt([inner], card, **options)[inner.path].data
        return read_bytes(path)

    def locate(self, uri: str, shelf: Shelf) -> tuple[ServedSkill, str, str | None]:
        """The skill, the place in it and the backbone's name that a URI stands for; a skill's own folder is "".

        Raises:
            UnknownNameError: if no skill has that place.
        """
        unknown = UnknownNameError(f"nothing is served at {uri}; skills/list and resources/list tell what is")
        if not uri.startswith(SCHEME):
            raise unknown
        path, model = uri.removeprefix(SCHEME), None
        if path.startswith(_MODEL):
            first, _, path = path.partition("/")
            model = unquote(first.removeprefix(_MODEL))
        parts = path.split("/")
        for length in range(len(parts) - 1, 0, -1):  # the innermost skill that has the file
            skill = shelf.skills.get("/".join(parts[:length]))
            place = "/".join(parts[length:])
            if skill is not None and (place in skill.files or any(f.startswith(f"{place}/") for f in skill.files)):
                return skill, place, model
        if path in shelf.skills:
            return shelf.skills[path], "", model
        raise unknown

    def _key(self, skill: ServedSkill, card: ModelCard) -> tuple[str, str, str]:
        return skill.path, hashlib.sha256(skill.raw).hexdigest(), card.fingerprint


class CancelledError(MasaError):
    """Whoever asked does not wait any more."""


class _NotServedError(Exception):
    """Why a skill cannot be served; half a sentence."""


def _source(bank: SkillBank) -> SkillFolders:
    source = bank.source
    assert isinstance(source, SkillFolders)
    return source


def _prefix(model: str | None) -> str:
    return SCHEME if model is None else f"{SCHEME}{_MODEL}{quote(model, safe='')}/"


def _served(bank: SkillBank, key: str, file: SkillFile, paths: Mapping[PurePosixPath, str]) -> ServedSkill:
    """A skill by the extension's rules.

    Raises:
        _NotServedError: if they do not allow it.
    """
    frontmatter = _frontmatter(_source(bank).documents[key])
    name = frontmatter["name"]
    own = PurePosixPath(file.relative.parent.as_posix())
    around = next((folder for folder in own.parents if folder in paths and folder != own), None)
    above = own.parent.parts if around is None else own.parent.relative_to(around).parts
    parts = [*([] if around is None else [paths[around]]), *(quote(part, safe="") for part in above), quote(name)]
    files, size = {FILE_NAME: file.path}, 0
    for entry in walk(file.path.parent):
        if entry.kind in ("file", "link") and entry.path.is_file():
            place = "/".join(quote(part, safe="") for part in entry.relative.parts)
            if len(entry.relative.parts) > 1 or not is_skill_file(entry.relative.name):
                files[place] = entry.path
            size += entry.path.stat().st_size
    if len(files) > MOST_FILES or size > MOST_BYTES:
        raise _NotServedError(
            f"it has {len(files)} files and {size:,} bytes, the limits are {MOST_FILES} and {MOST_BYTES:,}"
        )
    return ServedSkill("/".join(parts), frontmatter, bank, key, files)


def _frontmatter(document: Document) -> dict[str, Any]:
    """The front matter as a host reads it, whose own reading must equal the entry's."""
    lines = document.head.removeprefix("\ufeff").splitlines()
    end = next((number for number, line in enumerate(lines) if number and line.rstrip() == "---"), len(lines))
    try:
        found = parse_yaml("\n".join(lines[1:end]))
    except ParseError as error:
        raise _NotServedError(f"its front matter is no valid YAML ({error})") from None
    if not isinstance(found, dict):
        raise _NotServedError("its front matter is no map")
    fields = {str(key): _json(value, document.fields.get(str(key))) for key, value in found.items()}
    for key in ("name", "description"):
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            raise _NotServedError(f"it has no {key} that is a text, and the extension asks for one")
    name = unicodedata.normalize("NFKC", fields["name"])
    if name != name.lower() or not _NAME.match(name) or len(name) > 64:
        raise _NotServedError(f"the name {fields['name']!r} may hold only lower-case letters, digits and hyphens")
    return fields


def _json(value: Any, spelled: Any) -> Any:
    """A YAML value as JSON has it; a date, which JSON has not, as it is spelled in the file."""
    if isinstance(value, dict):
        inner = spelled if isinstance(spelled, dict) else {}
        return {str(key): _json(item, inner.get(str(key))) for key, item in value.items()}
    if isinstance(value, list):
        items = spelled if isinstance(spelled, list) and len(spelled) == len(value) else [None] * len(value)
        return [_json(item, text) for item, text in zip(value, items, strict=True)]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return spelled if isinstance(spelled, str) else str(value)


def _rendered(skill: ServedSkill, result: GroupResult) -> Adapted:
    try:
        data = render_document(skill.document, result.output.skills, str(skill.files[FILE_NAME]))
    except FormatError as error:
        return Adapted(skill, skill.raw, result, f"kept as it was: {error}")
    return Adapted(skill, data, result, result.reason)
