"""ALFWorld's games on disk: the folder that `alfworld-download` fills, or the compressed form of a data folder.

Both are read once a split. What a game takes to list (id, type, goal) and, from the compressed form, the games
themselves are then kept in the cache folder, where a game is found in milliseconds.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import lzma
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from masa.files import WriteError, make_folder, parse_json, write_atomic
from masa_training.environments.alfworld_interface import TASK_TYPES
from masa_training.errors import TrainingError

SPLITS = ("train", "valid_train", "valid_seen", "valid_unseen")
"""ALFWorld's splits; any of them may be missing from a data folder."""

_FOLDER, _GAME, _TRAJECTORY = "json_2.1.1", "game.tw-pddl", "traj_data.json"
_COMMON = "common.json"
_DEFAULT = "~/.cache/alfworld"
_GOAL = re.compile(r"Your task is to: ([^\"]*)")
_INDEX = "index.json"
_LEFT_OUT = ("movable", "Sliced")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listed:
    """A game of a split: its folder (task and trial), its task type in ALFWorld's words, and its goal."""

    id: str
    type: str
    goal: str


@dataclass(frozen=True, slots=True)
class GameFile:
    """What a game.tw-pddl holds; `walkthrough` is empty where it has none."""

    domain: str
    grammar: str
    problem: str
    walkthrough: tuple[str, ...]


class Games(Protocol):
    """Where games come from."""

    def list(self, split: str) -> tuple[Listed, ...]:
        """The solvable games of one of ALFWorld's splits by rising id; empty where there is no such split.

        What cannot be read is named in the log and passed over.
        """
        ...

    def splits(self) -> tuple[str, ...]:
        """The splits that are there."""
        ...

    def lacking(self, split: str) -> str:
        """Why `list` finds no games of a split, in a few words, and what to do."""
        ...

    def read(self, split: str, game: str) -> GameFile:
        """One game.

        Raises:
            TrainingError: if it is missing or damaged.
        """
        ...


def find_games(data_dir: str | None, cache: Path) -> Games:
    """The games in `data_dir`, else in MASA_DATA, else where ALFWorld itself looks: ALFWORLD_DATA, ~/.cache/alfworld.

    Raises:
        TrainingError: if there are none.
    """
    places = [data_dir] if data_dir else [os.environ.get("MASA_DATA"), os.environ.get("ALFWORLD_DATA"), _DEFAULT]
    looked = [Path(place).expanduser() for place in places if place]
    for root in looked:
        for folder in (root / _FOLDER, root / "alfworld" / _FOLDER, root):
            if any((folder / split).is_dir() for split in SPLITS):
                return _Folder(folder, cache)
        for folder in (root / "alfworld", root):
            if (folder / _COMMON).is_file():
                return _Compressed(folder, cache)
    raise TrainingError(
        f"alfworld: no games in {' or '.join(str(its) for its in dict.fromkeys(looked))}; run alfworld-download, or "
        f"point data_dir (--data-dir, MASA_DATA) at a folder with {_FOLDER}/ or alfworld/{_COMMON}"
    )


class _Folder:
    """The layout of ALFWorld's download: SPLIT/TASK/TRIAL/game.tw-pddl and traj_data.json.

    A game without the second file is read, too: the name of its folder begins with its task type.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self._folder = folder
        self._cache = cache

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if (self._folder / split).is_dir())

    def lacking(self, split: str) -> str:
        where = self._folder / split
        if not where.is_dir():
            return f"{self._folder} has {', '.join(self.splits()) or 'no split'} and no {split}; run alfworld-download"
        raw = len(list(where.glob(f"*/*/{_TRAJECTORY}")))
        if raw and not any(where.glob(f"*/*/{_GAME}")):
            return f"{where} has {raw} {_TRAJECTORY} and no {_GAME}; run alfworld-download, which brings the games, too"
        return f"{where} has no game that can be played; run alfworld-download again"

    def list(self, split: str) -> tuple[Listed, ...]:
        files = sorted((self._folder / split).glob(f"*/*/{_GAME}"))
        stamps = [(str(its), its.stat().st_mtime_ns, its.stat().st_size) for its in files]
        kept = self._cache / f"folder-{_digest(repr(('2', stamps)).encode())}.json"
        try:
            index = parse_json(kept.read_bytes())
            found, problems = _listed(index["games"]), tuple(str(problem) for problem in index["problems"])
        except (OSError, ValueError, TypeError, KeyError):  # not listed yet, or damaged
            found, problems = self._read_all(files, split)
            if files:
                _keep(kept, json.dumps({"games": _rows(found), "problems": problems}).encode())
        for problem in problems:
            _log.warning("%s", problem)
        return found

    def _read_all(self, files: Sequence[Path], split: str) -> tuple[tuple[Listed, ...], tuple[str, ...]]:
        found, problems = [], []
        for path in files:
            inside = path.parent.relative_to(self._folder / split)
            try:
                if (listed := self._one(path, inside)) is not None:
                    found.append(listed)
            except TrainingError as error:
                problems.append(f"{error}; passed over")
        return tuple(found), tuple(problems)

    def _one(self, path: Path, inside: Path) -> Listed | None:
        """The game, or None if it is of a kind that ALFWorld leaves out, too."""
        if any(word in str(inside) for word in _LEFT_OUT):
            return None
        data = _json(path)
        beside = path.parent / _TRAJECTORY
        told = _json(beside) if beside.exists() else {"task_type": inside.parts[0].partition("-")[0]}
        type_ = str(told.get("task_type")) if isinstance(told, dict) else ""
        if type_ not in TASK_TYPES and not beside.exists():
            raise TrainingError(f"{path}: has no {_TRAJECTORY} beside it and no task type in its folder's name")
        if type_ not in TASK_TYPES or not (isinstance(data, dict) and data.get("solvable")):
            return None
        return Listed(inside.as_posix(), type_, _goal(str(data.get("grammar")), path))

    def read(self, split: str, game: str) -> GameFile:
        path = self._folder / split / game / _GAME
        return _game_file(_json(path), str(path))


class _Compressed:
    """common.json (domain, grammar) and SPLIT.jsonl.xz, one game a line."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self._folder = folder
        self._cache = cache
        self._packs: dict[str, Path] = {}

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if (self._folder / f"{split}.jsonl.xz").is_file())

    def lacking(self, split: str) -> str:
        name = f"{split}.jsonl.xz"
        if split in self.splits():
            return f"{self._folder / name} has no game that can be played; restore the file"
        return f"{self._folder} has {', '.join(self.splits()) or 'no split'} and no {split}; bring {name}"

    def list(self, split: str) -> tuple[Listed, ...]:
        if split not in self.splits():
            return ()
        with self._opened(split) as pack:
            return _listed(parse_json(pack.read(_INDEX)))

    def read(self, split: str, game: str) -> GameFile:
        where = f"{self._folder / split}.jsonl.xz: game {game}"
        common = _json(self._folder / _COMMON)
        with self._opened(split) as pack:
            try:
                line = parse_json(pack.read(game))
            except (KeyError, ValueError, zipfile.BadZipFile) as error:
                raise TrainingError(f"{where}: is missing or damaged; restore the file") from error
        try:
            grammar = common["grammar"].replace("@@TASK@@", line["task"])
            data = {"pddl_domain": common["pddl_domain"], "grammar": grammar, **line}
        except (KeyError, TypeError, AttributeError) as error:
            raise TrainingError(f"{where}: or {_COMMON} beside it lacks a field ({error}); restore it") from error
        return _game_file(data, where)

    def _opened(self, split: str) -> zipfile.ZipFile:
        archive = self._folder / f"{split}.jsonl.xz"
        if split not in self._packs:
            try:
                self._packs[split] = self._cache / f"{split}-{_digest(archive.read_bytes())}.zip"
            except OSError as error:
                raise TrainingError(f"{archive}: cannot be read ({error.strerror}); bring the file") from error
        path = self._packs[split]
        try:
            return zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile):
            packed = _packed(archive)
        _keep(path, packed)
        return zipfile.ZipFile(io.BytesIO(packed))


def _packed(archive: Path) -> bytes:
    """The games of a split as a ZIP archive, which unlike the original can be read at any place."""
    buffer, found = io.BytesIO(), []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as pack:
        for where, line in _lines(archive):
            try:
                game, type_, task = line["game"], line["task_type"], line["task"]
                kept = {name: line[name] for name in ("task", "pddl_problem", "walkthrough")}
            except (KeyError, TypeError) as error:
                raise TrainingError(f"{where}: lacks the field {error}; restore the file") from error
            if type_ in TASK_TYPES and not any(word in game for word in _LEFT_OUT):
                found.append(Listed(game, type_, _goal(task, archive)))
                # A fixed date, so that the archive is the same every time.
                pack.writestr(zipfile.ZipInfo(game), json.dumps(kept), zipfile.ZIP_DEFLATED)
        pack.writestr(
            zipfile.ZipInfo(_INDEX), json.dumps(_rows(sorted(found, key=lambda its: its.id))), zipfile.ZIP_DEFLATED
        )
    return buffer.getvalue()


def _lines(archive: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with lzma.open(archive, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield f"{archive}, line {number}", parse_json(line)
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise TrainingError(f"{archive}: is damaged after line {number} ({error}); restore the file") from error


def _game_file(data: Any, where: str) -> GameFile:
    texts: list[Any] = [None]
    if isinstance(data, Mapping):
        texts = [data.get(name) for name in ("pddl_domain", "grammar", "pddl_problem")]
    if not all(isinstance(text, str) for text in texts):
        raise TrainingError(f"{where}: holds no game (pddl_domain, grammar, pddl_problem); restore the file")
    return GameFile(texts[0], texts[1], texts[2], tuple(data.get("walkthrough") or ()))


def _goal(text: str, where: Path) -> str:
    found = _GOAL.search(text)
    if not found:
        raise TrainingError(f"{where}: a game without 'Your task is to: …'; restore the file")
    return found.group(1).strip()


def _json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read ({error.strerror}); run alfworld-download again") from error
    except ValueError as error:
        raise TrainingError(f"{path}: is damaged ({error}); run alfworld-download again") from error


def _rows(found: Iterable[Listed]) -> list[tuple[str, str, str]]:
    return [(its.id, its.type, its.goal) for its in found]


def _listed(index: Any) -> tuple[Listed, ...]:
    return tuple(Listed(*entry) for entry in index)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _keep(path: Path, data: bytes) -> None:
    try:
        make_folder(path.parent)
        write_atomic(path, data, durable=False)
    except WriteError as error:
        _log.warning("ALFWorld's games are not cached: %s", error)
