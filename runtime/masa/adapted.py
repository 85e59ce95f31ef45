"""Skills adapted in place: what stands in a client's folder, and the store that has their originals.

For a project (a home, or the folder around a named one) the store is its `.masa`: `adapt.lock.json` says which skills
were adapted, for which models, and made from what; `adapt-objects/<sha256>` are the texts. Both may be committed.

What is in effect is never recorded but seen: a SKILL.md whose bytes are those of an adapted text is adapted, one with
the bytes of its original is not, any other was edited by somebody and is not written. So there is one step per skill
that counts, the renaming of its SKILL.md, and whoever is killed before or behind it leaves the old skill or the new
one. Texts and lock are written before it, files that the new text refers to as well; they are cleaned up by the next
run if it did not come to the step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from masa.errors import FormatError, MasaError
from masa.file_diff import text_diff
from masa.files import TEMPORARY_PREFIX, WriteError, make_folder, parse_json, read_bytes, reason, write_atomic

FORMAT = 1
FOLDER = ".masa"
LOCK = "adapt.lock.json"
OBJECTS = "adapt-objects"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]+\.tmp")
_PATIENCE = 60.0  # seconds that another masa may take for its writing

State = Literal["original", "adapted", "edited", "missing"]


@dataclass(frozen=True, slots=True)
class Version:
    """An adapted text of a skill and what it was made from.

    Attributes:
        sha256: of the SKILL.md; that of the original where there was nothing to change.
        added: files that the text refers to, by their path in the skill's folder, with their sha256.
        folders: folders that were made for them.
        backbone: what the user named as the backbone, `card` the fields of its card.
        rewriter: name and fingerprint of the artifact.
        settings: what else decides the text: the budget, edits that were switched off.
        edits: how many sections each edit changed.
    """

    sha256: str
    added: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    backbone: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    card_fingerprint: str = ""
    rewriter: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    edits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A skill in the lock: its SKILL.md relative to the base, the sha256 of its original, and its versions by model.

    `applied` is the model whose version was put into effect last; the base of a three-way difference.
    """

    file: str
    original: str
    versions: Mapping[str, Version]
    applied: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A skill to be changed: `original` are the bytes it had before any adaptation, `added` files by their path."""

    file: Path
    original: bytes
    adapted: bytes
    added: Mapping[str, bytes]
    model: str
    version: Version


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a skill: `done` (it is as asked for now), or why not; `diff` where somebody edited it."""

    file: Path
    done: bool
    message: str
    diff: str = ""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Store:
    """The store of one base folder. Reading needs no lock; `apply`, `undo` and `adopt` wait for other processes."""

    def __init__(self, base: Path) -> None:
        self.base = base.resolve()
        self.folder = self.base / FOLDER

    # --- reading -----------------------------------------------------------------------------------

    def entries(self) -> dict[str, Entry]:
        """The skills of the lock by the path of their SKILL.md; none if there is no lock.

        Raises:
            FormatError: if the lock is damaged.
        """
        path = self.folder / LOCK
        if not os.path.lexists(path):
            return {}
        try:
            content = parse_json(read_bytes(path))
            if type(content["format"]) is not int:
                raise TypeError("format")
            if content["format"] > FORMAT:
                raise FormatError(f"{path}: format {content['format']}, this masa reads {FORMAT}; upgrade masa")
            return {file: _entry(file, value) for file, value in content["skills"].items()}
        except FormatError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(
                f"{path}: is damaged ({reason(error)}), so that no skill below {self.base} is changed; restore it from "
                f"version control, or take the texts in {OBJECTS} beside it and remove it"
            ) from error

    def path(self, entry: Entry) -> Path:
        return self.base / entry.file

    def state(self, entry: Entry) -> tuple[State, str]:
        """What stands in the skill's place, and the model it is for if it is adapted."""
        try:
            current = sha256(self._inside(self.path(entry)).read_bytes())
        except (OSError, MasaError):
            return "missing", ""
        if current == entry.original:
            applied = entry.versions.get(entry.applied)
            return ("adapted", entry.applied) if applied and applied.sha256 == current else ("original", "")
        names = [name for name, version in entry.versions.items() if version.sha256 == current]
        if not names:
            return "edited", ""
        return "adapted", entry.applied if entry.applied in names else names[0]

    def leftovers(self) -> int:
        """How many texts no skill of the lock needs: of a process that was killed, or that is at work now."""
        with contextlib.suppress(OSError):
            return len(self._unneeded(self.entries()))
        return 0

    def text(self, digest: str) -> bytes:
        """A text of the store.

        Raises:
            FormatError: if it is missing or somebody changed it.
        """
        path = self.folder / OBJECTS / digest
        data = read_bytes(path)
        if sha256(data) != digest:
            raise FormatError(f"{path}: was changed after it was stored; restore it from version control")
        return data

    def three_way(self, entry: Entry, theirs: bytes | None = None) -> str:
        """What masa had made of the original, and what somebody made of that; then what masa would write now."""
        name = Path(entry.file).parent.name + "/" + Path(entry.file).name
        yours = self._inside(self.path(entry)).read_bytes()
        base = entry.versions.get(entry.applied)
        original = self.text(entry.original)
        adapted = self.text(base.sha256) if base else original
        parts = [
            text_diff(original, adapted, f"original/{name}", f"adapted/{name}"),
            text_diff(adapted, yours, f"adapted/{name}", f"yours/{name}"),
        ]
        if theirs is not None and theirs not in (adapted, original):
            parts.append(text_diff(adapted, theirs, f"adapted/{name}", f"new/{name}"))
        return "".join(parts)

    # --- writing -----------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change]) -> list[Outcome]:
        """Put adapted texts into effect. A skill that cannot be changed stays, and the others go on.

        Raises:
            MasaError: if the lock is damaged or cannot be written; nothing is changed then.
        """
        outcomes: list[Outcome] = []
        ready: list[tuple[Change, Entry]] = []
        with self._locked():
            entries = self.entries()
            self._tidy(entries.values())
            for change in changes:
                try:
                    entry = self._prepare(change, entries.get(self._key(change.file)))
                except (MasaError, OSError) as error:
                    outcomes.append(Outcome(change.file, False, _told(change.file, error)))
                    continue
                if isinstance(entry, Outcome):
                    outcomes.append(entry)
                else:
                    ready.append((change, entry))
            entries |= {entry.file: entry for _, entry in ready}
            if ready:
                self._save(entries)
            for change, entry in ready:
                try:
                    self._put(entry, entry.versions[change.model])
                except (MasaError, OSError) as error:
                    outcomes.append(Outcome(change.file, False, _told(change.file, error)))
                    continue
                same = change.adapted == change.original
                what = f"unchanged: nothing to change for {change.model}" if same else f"adapted for {change.model}"
                outcomes.append(Outcome(change.file, True, what))
            self._collect(entries)
        return outcomes

    def switch(self, model: str) -> list[Outcome]:
        """Put into effect the versions for `model` that are in the store; see `find_model`."""
        outcomes: list[Outcome] = []
        with self._locked():
            entries = self.entries()
            self._tidy(entries.values())
            for file, entry in list(entries.items()):
                version = entry.versions.get(model)
                if version is None:
                    message = f"is not adapted for {model}: masa adapt --backbone … --apply does that"
                    outcomes.append(Outcome(self.path(entry), False, f"{self.path(entry)}: {message}"))
                    continue
                refused = self._refused(entry)
                if refused:
                    outcomes.append(refused)
                    continue
                entries[file] = replace(entry, applied=model)
            self._save(entries)
            for entry in entries.values():
                if entry.applied == model and not any(o.file == self.path(entry) for o in outcomes):
                    try:
                        self._put(entry, entry.versions[model])
                    except (MasaError, OSError) as error:
                        outcomes.append(Outcome(self.path(entry), False, _told(self.path(entry), error)))
                        continue
                    outcomes.append(Outcome(self.path(entry), True, f"switched to the version for {model}"))
        return outcomes

    def undo(self, within: Sequence[Path] = ()) -> list[Outcome]:
        """Put the originals back, of the skills in these folders or of all; what is undone leaves the store."""
        outcomes: list[Outcome] = []
        if not self.folder.is_dir():
            return outcomes
        with self._locked():
            entries = self.entries()
            self._tidy(entries.values())
            for file, entry in list(entries.items()):
                path = self.path(entry)
                if within and not any(path.resolve().is_relative_to(folder.resolve()) for folder in within):
                    continue
                if refused := self._refused(entry):
                    outcomes.append(refused)
                    continue
                try:
                    self._put(entry, None)
                except (MasaError, OSError) as error:
                    outcomes.append(Outcome(path, False, _told(path, error)))
                    continue
                del entries[file]
                outcomes.append(Outcome(path, True, "back to the original"))
            self._save(entries)
            self._collect(entries)
        return outcomes

    def adopt(self, within: Sequence[Path] = ()) -> list[Outcome]:
        """Take edited skills as they are for new originals, and forget skills that are gone."""
        outcomes: list[Outcome] = []
        if not self.folder.is_dir():
            return outcomes
        with self._locked():
            entries = self.entries()
            for file, entry in list(entries.items()):
                path = self.path(entry)
                if within and not any(path.resolve().is_relative_to(folder.resolve()) for folder in within):
                    continue
                state = self.state(entry)[0]
                if state not in ("edited", "missing"):
                    continue
                del entries[file]
                kept = "taken for a new original" if state == "edited" else "gone, forgotten"
                outcomes.append(Outcome(path, True, kept))
            self._save(entries)
            self._collect(entries)
        return outcomes

    # --- inside ------------------------------------------------------------------------------------

    def _key(self, file: Path) -> str:
        return file.relative_to(self.base).as_posix()

    def _inside(self, path: Path) -> Path:
        """The file itself.

        Raises:
            MasaError: if a link leads out of the base: a lock may come from others.
        """
        real = path.resolve()
        if not real.is_relative_to(self.base):
            raise MasaError(f"{path}: leads out of {self.base}, so it is not changed")
        return real

    def _prepare(self, change: Change, entry: Entry | None) -> Entry | Outcome:
        """Check that a change can be made, and store its texts."""
        current = self._inside(change.file).read_bytes()
        digest = sha256(change.original)
        versions: Mapping[str, Version] = {}
        if entry is not None and (refused := self._refused(entry, change.adapted)):
            return refused
        if entry is not None and digest == entry.original:
            versions = entry.versions
        elif sha256(current) != digest:
            return Outcome(change.file, False, f"{change.file}: changed while it was adapted; run masa adapt again")
        if not os.access(change.file, os.W_OK):
            raise PermissionError(13, "the file is read-only")
        folder, old = change.file.parent, versions.get(entry.applied) if entry is not None else None
        made: list[str] = []
        for name, data in change.added.items():
            target = self._inside(folder / name)
            present = target.read_bytes() if target.is_file() else None
            ours = present is not None and old is not None and old.added.get(name) == sha256(present)
            if os.path.lexists(target) and present != data and not ours:
                raise MasaError(f"{target}: exists already, so that {change.file} stays as it is")
            made += [
                parent.as_posix()
                for parent in PurePosixPath(name).parents
                if parent.parts and (not (folder / parent).is_dir() or (old and parent.as_posix() in old.folders))
            ]
        for data in (change.original, change.adapted, *change.added.values()):
            self._keep(data)
        added = {name: sha256(data) for name, data in change.added.items()}
        folders = tuple(sorted(set(made), reverse=True))
        version = replace(change.version, sha256=sha256(change.adapted), added=added, folders=folders)
        return Entry(self._key(change.file), digest, {**versions, change.model: version}, change.model)

    def _refused(self, entry: Entry, theirs: bytes | None = None) -> Outcome | None:
        """Why a skill of the lock is not written: somebody edited or removed it."""
        path = self.path(entry)
        state = self.state(entry)[0]
        if state == "missing":
            return Outcome(path, False, f"{path}: is not there; masa adapt --adopt forgets it")
        if state != "edited":
            return None
        try:
            diff = self.three_way(entry, theirs)
        except MasaError as error:
            diff = f"({error})\n"
        message = (
            "was edited after it was adapted, so it stays as it is; masa adapt --adopt takes it for a new original"
        )
        return Outcome(path, False, f"{path}: {message}", diff)

    def _put(self, entry: Entry, version: Version | None) -> None:
        """The step itself, for a skill that `_refused` had nothing against; `version` None is the original."""
        path = self._inside(self.path(entry))
        digest = entry.original if version is None else version.sha256
        current = path.read_bytes()
        wanted = current if sha256(current) == digest else self.text(digest)
        added = {} if version is None else version.added
        texts = {name: self.text(one) for name, one in added.items()}
        for name, data in texts.items():
            target = self._inside(path.parent / name)
            make_folder(target.parent)
            if not target.is_file() or target.read_bytes() != data:
                write_atomic(target, data)
        if wanted != current:
            write_atomic(path, wanted)
        self._drop_added(entry, keep=added)

    def _drop_added(self, entry: Entry, keep: Mapping[str, str]) -> None:
        """Remove the files that versions added, but for those in `keep` and what somebody changed."""
        folder = self.path(entry).parent
        for version in entry.versions.values():
            for name, digest in version.added.items():
                target = folder / name
                if name in keep or target.is_symlink() or not target.is_file():
                    continue
                if sha256(target.read_bytes()) == digest:
                    target.unlink()
            for name in version.folders:
                if not any(PurePosixPath(kept).is_relative_to(name) for kept in keep):
                    with contextlib.suppress(OSError):
                        (folder / name).rmdir()

    def _tidy(self, entries: Iterator[Entry] | Any) -> None:
        """Clean up what a killed process left: its temporary files, and files of a text that is not in effect."""
        for entry in entries:
            state, model = self.state(entry)
            if state in ("missing", "edited"):
                continue
            with contextlib.suppress(OSError, MasaError):
                folder = self._inside(self.path(entry)).parent
                kept = entry.versions[model].added if state == "adapted" else {}
                for place in {folder, *((folder / name).parent for v in entry.versions.values() for name in v.added)}:
                    _sweep(place)
                self._drop_added(entry, kept)
        _sweep(self.folder)
        _sweep(self.folder / OBJECTS)

    def _keep(self, data: bytes) -> None:
        path = self.folder / OBJECTS / sha256(data)
        if path.is_file() and path.read_bytes() == data:
            return
        make_folder(path.parent)
        write_atomic(path, data)

    def _save(self, entries: Mapping[str, Entry]) -> None:
        """Write the lock, or remove it where there is nothing to say."""
        path = self.folder / LOCK
        if not entries:
            path.unlink(missing_ok=True)
            return
        skills = {file: asdict(entry) for file, entry in sorted(entries.items())}
        for value in skills.values():
            del value["file"]
        text = json.dumps({"format": FORMAT, "skills": skills}, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
        data = text.encode("utf-8", "surrogateescape")
        if not path.is_file() or path.read_bytes() != data:
            make_folder(path.parent)
            write_atomic(path, data)

    def _unneeded(self, entries: Mapping[str, Entry]) -> list[Path]:
        needed = {entry.original for entry in entries.values()}
        for entry in entries.values():
            for version in entry.versions.values():
                needed |= {version.sha256, *version.added.values()}
        return [
            path
            for path in (self.folder / OBJECTS).iterdir()
            if path.name not in needed and (_SHA256.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name))
        ]

    def _collect(self, entries: Mapping[str, Entry]) -> None:
        """Remove texts that no skill of the lock needs, and folders of the store that are empty."""
        with contextlib.suppress(OSError):
            for path in self._unneeded(entries):
                path.unlink()
        for folder in (self.folder / OBJECTS, self.folder):
            with contextlib.suppress(OSError):
                folder.rmdir()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time. The lock is on the folder itself and goes with the process, however that ends."""
        make_folder(self.folder)
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        deadline = time.monotonic() + _PATIENCE
        while True:
            make_folder(self.folder)
            try:
                descriptor = os.open(self.folder, os.O_RDONLY)
            except FileNotFoundError:  # its last user removed it in between
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(descriptor, self.folder):
                    break
            except BlockingIOError:
                pass
            except OSError:  # a file system without locks
                break
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise MasaError(f"{self.folder}: another masa has been writing there for {_PATIENCE:.0f} s; try again")
            time.sleep(0.02)
        try:
            yield
        finally:
            if _is_at(descriptor, self.folder):  # else it is removed, and what is there is the next writer's lock
                with contextlib.suppress(OSError):
                    self.folder.rmdir()  # where nothing was stored
            os.close(descriptor)


def find_model(stores: Sequence[Store], wanted: str) -> str:
    """The model of the stores that a person names: as it is called there, or as the backbone was named.

    Raises:
        MasaError: if there is none.
    """
    names: dict[str, set[str]] = {}
    for store in stores:
        for entry in store.entries().values():
            for name, version in entry.versions.items():
                names.setdefault(name, set()).add(version.backbone)
    for name, backbones in names.items():
        if wanted.casefold() in {name.casefold(), *(backbone.casefold() for backbone in backbones)}:
            return name
    known = f"there are: {', '.join(sorted(names))}" if names else "none is: masa adapt --backbone MODEL --apply"
    raise MasaError(f"no skill here is adapted for {wanted!r}; {known}")


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _sweep(folder: Path) -> None:
    """Remove temporary files of ours; nobody else writes while the lock is held."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                path.unlink()


def _told(file: Path, error: Exception) -> str:
    if isinstance(error, (MasaError, WriteError)):
        return str(error)
    return f"{file}: cannot be changed ({reason(error)}), so it stays as it is; check its permissions"


def _entry(file: str, value: Mapping[str, Any]) -> Entry:
    """An entry of the lock, every name and sum in it checked."""
    versions = {}
    for name, told in value["versions"].items():
        version = Version(**{**told, "folders": tuple(told.get("folders", ()))})
        if not all(isinstance(one, Mapping) for one in (version.added, version.card, version.settings, version.edits)):
            raise TypeError(f"the version for {name} of {file}")
        versions[_text(name)] = version
    entry = Entry(_relative(file), value["original"], versions, _text(value.get("applied", "")))
    sums = [
        entry.original,
        *(v.sha256 for v in versions.values()),
        *(s for v in versions.values() for s in v.added.values()),
    ]
    if not all(isinstance(one, str) and _SHA256.fullmatch(one) for one in sums):
        raise ValueError(f"a sha256 of {file} is none")
    for version in versions.values():
        for name in (*version.added, *version.folders):
            _relative(name)
    return entry


def _relative(name: str) -> str:
    path = PurePosixPath(_text(name))
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or "\\" in name:
        raise ValueError(f"{name!r} is no path below the folder")
    return name


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
