"""A whole run: hill climbing for the general skills, then, these frozen, one tree a task type, then the test."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from masa.files import write_atomic
from masa.formats.bank_json import dump_bank, load_bank
from masa.skills import GENERAL, SkillBank
from masa_training.environments import Environment, Task, open_environment
from masa_training.errors import TrainingError
from masa_training.evolution.config import BANKS, EvolveConfig
from masa_training.evolution.playing import Arena
from masa_training.evolution.run_folder import RunFolder
from masa_training.evolution.searching import GroupSearch, Told, nodes_of
from masa_training.evolution.testing import final_test
from masa_training.models import Model, open_model
from masa_training.rollouts import Episode
from masa_training.rollouts.executors import Executor
from masa_training.search import SearchStopped
from masa_training.teacher import OperatorTeacher, Teacher
from masa_training.trials.config import choose_tasks


@dataclass(frozen=True, slots=True)
class Evolved:
    """What a run came to.

    Attributes:
        bank: the evolved bank as far as the run got.
        ended: why it ended before its time; empty if it is complete.
        searches: for each group its search in numbers.
        test: the final comparison; empty until the run is complete.
    """

    bank: SkillBank
    path: Path
    ended: str
    episodes: int
    searches: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "bank": str(self.path),
            "ended": self.ended,
            "episodes": self.episodes,
            "searches": {key: dict(its) for key, its in self.searches.items()},
            "test": dict(self.test),
        }


class Meter:
    """What a run has spent, over all its sessions, against its budget."""

    def __init__(self, config: EvolveConfig, folder: RunFolder, cancelled: Callable[[], bool]) -> None:
        self._limits = config.budget
        self._folder = folder
        self._cancelled = cancelled
        self._began = time.monotonic()
        self._before = folder.seconds

    def over(self) -> str | None:
        """A reason to stop, or None."""
        if self._cancelled():
            return "cancelled"
        limits = self._limits
        episodes = [e for key, e in self._folder.episodes.items() if key.split != "test"]
        said = [values for its in self._folder.rewrites.values() for values in its]
        spent: tuple[tuple[str, float, float], ...] = (
            ("episodes", len(episodes), limits.episodes),
            ("tokens", sum(e.prompt_tokens + e.completion_tokens for e in episodes), limits.tokens),
            ("teacher_tokens", sum(values["tokens"] for values in said), limits.teacher_tokens),
            ("dollars", math.fsum(values["dollars"] for values in said), limits.dollars),
            ("minutes", (self._before + time.monotonic() - self._began) / 60, limits.minutes),
        )
        for name, used, most in spent:
            if most and used >= most:
                return f"the budget of {most:g} {name} is spent"
        return None


def evolve(
    config: EvolveConfig,
    folder: Path,
    *,
    resume: bool = False,
    model: Model | None = None,
    teacher: Teacher | None = None,
    executor: Executor | None = None,
    told: Callable[[Told], None] = lambda told: None,
    progress: Callable[[Episode], None] = lambda episode: None,
    cancel: Callable[[], bool] = lambda: False,
) -> Evolved:
    """Evolve in `folder`, or go on there. A run that was stopped, killed or out of budget goes on with `resume`.

    Raises:
        TrainingError: if something cannot be played at all, or the folder holds another run.
    """
    bank = start_bank(config)
    ours = RunFolder(folder, config, resume=resume)
    world = open_environment(config.environment, **config.options)
    owned = None
    try:
        keys = group_keys(config, bank, world)
        tasks = {split: list(world.tasks(split)) for split in ("train", "val", "test")}
        facts = world.facts()
        ours.run(_about(config, world))
        meter = Meter(config, ours, cancel)
        if model is None and executor is None:
            model = owned = open_model(config.backbone.spec, **config.backbone.options)
        arena = Arena(config, ours, model=model, executor=executor, stop=meter.over, progress=progress)
        searches: dict[str, Mapping[str, Any]] = {}
        ended = ""
        for key in keys:
            if key in ours.best:
                bank = bank.with_groups({key: ours.best[key]})
                continue
            search = GroupSearch(
                config=config,
                folder=ours,
                arena=arena,
                teacher=teacher or OperatorTeacher(),
                bank=bank,
                key=key,
                train=_of(tasks["train"], key),
                val=_of(tasks["val"], key),
                facts=facts,
                card=config.backbone.card if isinstance(config.backbone.card, Mapping) else {},
                stop=meter.over,
                told=told,
            )
            trace = search.run()
            bank = bank.with_groups({key: trace.winner})
            reason = meter.over()
            if reason:
                ended = reason
                break
            ours.found(key, nodes_of(key, trace, ours.rewrites[key]), f"{key}-{trace.best}", trace.winner)
        searches = {key: _in_numbers(ours, key) for key in keys if ours.searches.get(key)}
        path = ours.path / "banks" / "evolved.json"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, dump_bank(bank))
        test: Mapping[str, Any] = {}
        if not ended:
            try:
                arena = Arena(config, ours, model=model, executor=executor, progress=progress, stop=_asked(cancel))
                test = final_test(config, arena, start_bank(config), bank, tasks["test"])
                ours.test(test)
            except SearchStopped as stopped:
                ended = str(stopped)
        return Evolved(bank, path, ended, len(ours.episodes), searches, test)
    finally:
        world.close()
        if owned is not None:
            owned.close()


def estimate(config: EvolveConfig) -> dict[str, Any]:
    """The most that a run can play, by group: what the rule allows if every comparison goes to its last look."""
    world = open_environment(config.environment, **config.options)
    try:
        keys = group_keys(config, start_bank(config), world)
        tests = len(choose_tasks(world.tasks("test"), config.test_tasks)) * config.test_seeds
        tasks = {key: {split: len(_of(list(world.tasks(split)), key)) for split in ("train", "val")} for key in keys}
    finally:
        world.close()
    pairs = config.accept.acceptance().looks[-1]
    groups = {}
    for key in keys:
        times = config.rounds if key == GENERAL else config.iterations
        groups[key] = {"candidates": times, "episodes": pairs + times * (pairs + config.watched), **tasks[key]}
    searching = sum(its["episodes"] for its in groups.values())
    return {"groups": groups, "episodes": searching, "test_episodes": 3 * tests, "budget": asdict(config.budget)}


def start_bank(config: EvolveConfig) -> SkillBank:
    """The bank that a run begins with.

    Raises:
        TrainingError, FormatError: if there is none, or it is no bank.
    """
    shipped = BANKS / f"{config.bank}.json"
    path = shipped if shipped.is_file() else Path(config.bank)
    if not path.is_file():
        raise TrainingError(f"bank {config.bank!r}: neither a file nor one that ships with masa")
    return load_bank(path)


def group_keys(config: EvolveConfig, bank: SkillBank, world: Environment) -> list[str]:
    """The groups to search for: the general skills first.

    Raises:
        TrainingError: if a task type is asked for that bank or environment do not have, or nothing is left to search.
    """
    known = [kind for kind in world.task_types if bank.task_specific.get(kind)]
    for kind in config.task_types:
        if kind not in known:
            raise TrainingError(
                f"task type {kind!r}: the bank or {config.environment} has none; there are {', '.join(known)}"
            )
    kinds = list(config.task_types) or known
    keys = [GENERAL] if config.rounds and bank.general else []
    keys += kinds if config.iterations else []
    if not keys:
        raise TrainingError("rounds and iterations leave nothing to search for; raise one of them")
    return keys


def _of(tasks: list[Task], key: str) -> list[Task]:
    return tasks if key == GENERAL else [task for task in tasks if task.type == key]


def _about(config: EvolveConfig, world: Environment) -> dict[str, Any]:
    card = config.backbone.card if isinstance(config.backbone.card, Mapping) else {}
    return {
        "environment": config.environment,
        "backbone": config.backbone.name,
        "card": dict(card),
        "description": world.description,
        "licence": config.licence,
    }


def _in_numbers(folder: RunFolder, key: str) -> dict[str, Any]:
    from masa_training.search import Evaluation, Proposal, Verdict

    events = folder.searches[key]
    verdicts = [event.decision.verdict for event in events if isinstance(event, Verdict)]
    return {
        "proposals": sum(isinstance(event, Proposal) and event.round > 0 for event in events),
        "failed": sum(isinstance(event, Proposal) and event.node is None for event in events),
        "accepted": verdicts.count(True),
        "rejected": verdicts.count(False),
        "indecisive": verdicts.count(None),
        "episodes": sum(len(event.rewards) for event in events if isinstance(event, Evaluation)),
        "finished": key in folder.best,
    }


def _asked(cancel: Callable[[], bool]) -> Callable[[], str | None]:
    return lambda: "cancelled" if cancel() else None
