"""The environment `alfworld`: ALFWorld's own games, on TextWorld's engine."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from masa.facts import Facts
from masa.folders import cache_dir
from masa_training.environments.alfworld_data import GameFile, Games, Listed, find_games
from masa_training.environments.alfworld_interface import BESIDE, TASK_TYPES, interface_facts, name_entities
from masa_training.environments.protocol import Split, Step, Task
from masa_training.environments.textworld_compile import compiled
from masa_training.environments.textworld_engine import Engine, Game, GameEpisodes, game
from masa_training.errors import TrainingError

TEST_SPLITS = ("valid_seen", "valid_unseen")
_TRAIN, _VAL = "train", "valid_train"
_LOADED = 32


class AlfWorld:
    """ALFWorld's six task types in its own rooms.

    Splits: train is ALFWorld's train, val its valid_train, test its valid_seen or valid_unseen as `test` says, by
    default valid_seen, or valid_unseen where the data have that alone. Where there is no valid_train, val is the tenth
    of train whose ids have a SHA-256 divisible by ten, and train is the rest.

    Threads: as `Household`.
    """

    name = "alfworld"
    description = "a household of receptacles and objects, some of them closed"
    task_types = tuple(TASK_TYPES.values())

    def __init__(
        self,
        *,
        data_dir: str | None = None,
        test: str | None = None,
        max_steps: int = 50,
        cache: str | None = None,
    ) -> None:
        """Games are looked for when needed: in `data_dir`, else in MASA_DATA, ALFWORLD_DATA, ~/.cache/alfworld.

        `cache` is the folder of unpacked and of translated games, in masa's cache unless given.

        Raises:
            TrainingError: for an option out of its range.
        """
        if test is not None and test not in TEST_SPLITS:
            raise TrainingError(f"alfworld: test is {test!r}; there are {', '.join(TEST_SPLITS)}")
        if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
            raise TrainingError(f"alfworld: max_steps is {max_steps!r}; give a whole number of at least 1")
        self.max_steps = max_steps
        self._test = test
        self._data_dir = data_dir
        self._cache = Path(cache) if cache else cache_dir() / "environments"
        self._games: Games | None = None
        self._load = functools.lru_cache(maxsize=_LOADED)(self._loaded)
        self._episodes = GameEpisodes()

    def tasks(self, split: Split) -> Sequence[Task]:
        """By rising id; the ids are ALFWorld's, a task and a trial."""
        source = {"train": _TRAIN, "val": _VAL, "test": self._test or self._usual_test()}[split]
        found = self._source().list(source)
        if split != "test" and not (found if split == "val" else self._source().list(_VAL)):
            source = _TRAIN
            found = tuple(its for its in self._source().list(_TRAIN) if _in_val(its) == (split == "val"))
        if not found:
            raise TrainingError(f"alfworld: {self._source().lacking(source)}")
        return [Task(its.id, TASK_TYPES[its.type], its.goal, split, {"split": source}) for its in found]

    def facts(self) -> Facts:
        """As the installed ALFWorld lists them."""
        return interface_facts(self.name, BESIDE)

    def reset(self, task: Task, seed: int) -> Step:
        """The seed changes nothing: a game has no chance in it."""
        return self._episodes.begin(self._load(str(task.payload.get("split")), task.id, False))

    def step(self, action: str) -> Step:
        """One command."""
        return self._episodes.act(action)

    def solution(self, task: Task, seed: int) -> Sequence[str]:
        """ALFWorld's walkthrough; the planner's plan for a game without one."""
        split = str(task.payload.get("split"))
        return self._file(split, task.id).walkthrough or Engine().plan(self._load(split, task.id, True))

    def close(self) -> None:
        """Give the planner's library back."""
        self._episodes.close()

    def _usual_test(self) -> str:
        there = self._source().splits()
        return next((its for its in TEST_SPLITS if its in there), TEST_SPLITS[0])

    def _source(self) -> Games:
        if self._games is None:
            self._games = find_games(self._data_dir, self._cache / "alfworld")
        return self._games

    def _file(self, split: str, id_: str) -> GameFile:
        if split not in (_TRAIN, _VAL, *TEST_SPLITS):
            raise TrainingError(f"task {id_}: is not one of alfworld; take tasks from the environment itself")
        return self._source().read(split, id_)

    def _loaded(self, split: str, id_: str, plan: bool) -> Game:
        file = self._file(split, id_)
        translated = compiled(file.domain, file.problem, where=f"game {id_}", cache=self._cache / "games", plan=plan)
        return game(translated, file.grammar, name_entities)


def _in_val(listed: Listed) -> bool:
    return int.from_bytes(hashlib.sha256(listed.id.encode()).digest(), "big") % 10 == 0
