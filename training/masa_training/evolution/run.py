"""A whole run: hill climbing for the whole bank and the general skills, then one tree a task type, then the test."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from masa.files import write_atomic
from masa.formats import load_bank
from masa.formats.bank_json import dump_bank
from masa.skills import GENERAL, Group, SkillBank
from masa_training.agents import check_shown
from masa_training.append_only import writing
from masa_training.bank_groups import WHOLE, climbs, homes, with_part
from masa_training.environments import Environment, Task, open_environment
from masa_training.environments.solutions import facts_with_examples, first_of_each_type
from masa_training.errors import TrainingError
from masa_training.evaluate.banks.config import BANKS, choose_tasks
from masa_training.evolution.config import EvolveConfig, card_of, teacher_card
from masa_training.evolution.playing import Arena, final_test
from masa_training.evolution.run_log import CANCELLED, Meter, RunLog
from masa_training.evolution.searching import GroupSearch, Told
from masa_training.evolution.trees import (
    Elsewhere,
    TreeWork,
    fits_a_task,
    held,
    searched_as_task,
    shared,
    side_by_side,
    trees_at_a_time,
)
from masa_training.models import Model, check_model, open_model
from masa_training.profiling import without_profile_tasks
from masa_training.rollouts import Episode
from masa_training.rollouts.executors import Executor, Ray
from masa_training.search import SearchStopped, Trace
from masa_training.teacher import Teacher, check_teacher, opened_teacher


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


@dataclass(frozen=True, slots=True)
class Underway:
    """A run while it goes on, for those who watch it: to be read, not changed.

    Attributes:
        groups: what is searched for, in order.
    """

    config: EvolveConfig
    groups: tuple[str, ...]
    log: RunLog
    meter: Meter


def evolve(
    config: EvolveConfig,
    folder: Path,
    *,
    resume: bool = False,
    model: Model | None = None,
    teacher: Teacher | None = None,
    executor: Executor | None = None,
    trees: int = 0,
    told: Callable[[Told], None] = lambda told: None,
    progress: Callable[[Episode], None] = lambda episode: None,
    begun: Callable[[Underway], None] = lambda underway: None,
    cancel: Callable[[], bool] = lambda: False,
) -> Evolved:
    """Evolve in `folder`, or go on there. A run that was stopped, killed or out of budget goes on with `resume`.

    How it is executed is no setting of the run: it may go on with another executor and another number of trees.

    Args:
        trees: task types that are searched at the same time; 0 takes all where the backbone has no place in this
            process, else one. A `model` that is given is then asked by several threads.
        told, progress: never called by two threads at once.
        begun: called once, before anything is played.

    Raises:
        TrainingError: if something cannot be played at all, the folder holds another run, or another process works in
            it.
    """
    bank = start_bank(config)
    world = open_environment(config.environment, **config.options)
    owned = None
    halt = threading.Event()
    helpers = contextlib.ExitStack()
    try:
        keys = group_keys(config, bank, world)
        _check_shown(config, bank, world)
        types = [key for key in keys if not climbs(key)]
        many = trees_at_a_time(trees, len(types), config.backbone.spec, executor) if types else 1
        helpers.enter_context(writing(folder))
        log = RunLog(folder, config, resume=resume)
        tasks = {split: list(world.tasks(split)) for split in ("train", "val", "test")}
        # Of a task whose solution a skill may show, nothing is to be learned by watching.
        shown = {task.id for task in first_of_each_type(tasks["train"], config.examples)}
        tasks["train"] = [task for task in without_profile_tasks(tasks["train"]) if task.id not in shown]
        facts = facts_with_examples(world, config.examples)
        card = teacher_card(config)
        log.begin(_about(config, world, keys), homes(bank) if WHOLE in keys else {})
        searches = log.run.searches
        meter = Meter(config.budget, log, lambda: cancel() or halt.is_set())
        told, progress = _one_at_a_time(told, progress)
        begun(Underway(config, tuple(keys), log, meter))
        if model is None and executor is None:
            model = owned = open_model(config.backbone.spec, **config.backbone.options)
        helpers.enter_context(held(executor))
        as_tasks = isinstance(executor, Ray) and teacher is None and fits_a_task(config.teacher_config())
        # What is searched as a task has its teacher there.
        asking = helpers.enter_context(contextlib.ExitStack())
        if teacher is None and any(not searches[key].finished and (climbs(key) or not as_tasks) for key in keys):
            teacher = asking.enter_context(opened_teacher(config.teacher_config()))

        def search(key: str, bank: SkillBank, executor: Executor | None) -> Group | None:
            """The best group as far as the search came; None if it did not begin."""
            if searches[key].finished or meter.over():
                return searches[key].incumbent if searches[key].finished else None
            train, val = _of(tasks["train"], key), _of(tasks["val"], key)
            asked = teacher
            if as_tasks and not climbs(key) and isinstance(executor, Ray):
                asked = Elsewhere()
                known = {task.id for task in (*train, *val)}

                def work() -> TreeWork:
                    some = {played: e for played, e in list(log.episodes.items()) if played.task in known}
                    return TreeWork(config, bank, key, train, val, facts, card, tuple(log.recorded(key)), some)

                searched_as_task(executor, work, log, stop=meter.over, told=told, progress=progress)
                if meter.over():
                    return searches[key].incumbent
            assert asked is not None
            # A tree that was searched as a task is all in the record, by which this search is only led.
            trace: Trace[Group] = GroupSearch(
                config=config,
                log=log,
                arena=Arena(config, log, model=model, executor=executor, stop=meter.over, progress=progress),
                teacher=asked,
                bank=bank,
                key=key,
                train=train,
                val=val,
                facts=facts,
                card=card,
                stop=meter.over,
                told=told,
            ).run()
            if not meter.over():
                log.ended(key, trace.best)
            return trace.winner

        for key in filter(climbs, keys):
            if found := search(key, bank, executor):
                bank = with_part(bank, key, found)
        if as_tasks:
            asking.close()
        # Every tree has the same frozen bank around it, whichever ended before.
        calls = [functools.partial(search, key, bank, shared(executor, many)) for key in types]
        winners = zip(types, side_by_side(calls, many, halt), strict=True)
        bank = bank.with_groups({key: group for key, group in winners if group is not None})
        ended = "" if all(searches[key].finished for key in keys) else meter.over() or "stopped"
        numbers = {key: searches[key].in_numbers() for key in keys if searches[key].state.events}
        path = log.path / "banks" / "evolved.json"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, dump_bank(bank))
        test: Mapping[str, Any] = {}
        if not ended:
            try:
                arena = Arena(config, log, model=model, executor=executor, progress=progress, stop=_asked(cancel))
                test = final_test(config, arena, start_bank(config), bank, tasks["test"])
                log.test(test)
            except SearchStopped as stopped:
                ended = str(stopped)
        return Evolved(bank, path, ended, len(log.episodes), numbers, test)
    finally:
        helpers.close()
        world.close()
        if owned is not None:
            owned.close()


def check_evolve(config: EvolveConfig) -> None:
    """Refuse what `evolve` would before it plays, as far as it shows without loading weights or asking a server.

    Raises:
        MasaError: if there is no such backbone, teacher or card.
    """
    check_model(config.backbone.spec, config.backbone.options)
    check_teacher(config.teacher_config())
    teacher_card(config)


def estimate(config: EvolveConfig) -> dict[str, Any]:
    """The most that a run can play, by group: what the rule allows if every comparison goes to its last look."""
    world = open_environment(config.environment, **config.options)
    try:
        bank = start_bank(config)
        keys = group_keys(config, bank, world)
        _check_shown(config, bank, world)
        tests = len(choose_tasks(world.tasks("test"), config.test_tasks)) * config.test_seeds
        found = {"train": without_profile_tasks(world.tasks("train")), "val": list(world.tasks("val"))}
        tasks = {key: {split: len(_of(its, key)) for split, its in found.items()} for key in keys}
    finally:
        world.close()
    pairs = config.accept.acceptance().looks[-1]
    groups = {}
    for key in keys:
        times = config.most_rounds(key)
        groups[key] = {"candidates": times, "episodes": pairs + times * (pairs + config.watched), **tasks[key]}
    teacher = config.teacher_config()
    candidates = sum(its["candidates"] for its in groups.values())
    return {
        "groups": groups,
        "episodes": sum(its["episodes"] for its in groups.values()),
        "test_episodes": 3 * tests,
        "teacher_requests": 0 if teacher.local else 2 * teacher.attempts * candidates,
        "budget": asdict(config.budget),
    }


def _check_shown(config: EvolveConfig, bank: SkillBank, world: Environment) -> None:
    """Refuse a bank of which nothing is shown for a task, before hours go by until that task is played."""
    played = [task for task in world.tasks("val") if not config.task_types or task.type in config.task_types]
    check_shown(bank, [*played, *choose_tasks(world.tasks("test"), config.test_tasks)], config.agent_config())


def start_bank(config: EvolveConfig) -> SkillBank:
    """The bank that a run begins with.

    Raises:
        TrainingError, FormatError: if there is none, or it is no bank.
    """
    data = config.options.get("data_dir") or os.environ.get("MASA_DATA")
    places = [BANKS / f"{config.bank}.json", Path(config.bank), *([Path(data) / config.bank] if data else [])]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise TrainingError(_no_bank(config.bank, data))
    return load_bank(path)


def _no_bank(bank: str, data: str | None) -> str:
    """What to do about a bank that is nowhere; SkillRL publishes its own, which are no part of masa."""
    if bank.startswith("skillrl/"):
        remedy = (
            f"it is published in memory_data/{Path(bank).stem}/ of github.com/aiming-lab/SkillRL; save it as "
            f"{data or 'DATA'}/{bank}" + ("" if data else " and set MASA_DATA=DATA")
        )
    else:
        shipped = sorted(f"{path.parent.name}/{path.stem}" for path in BANKS.glob("*/*.json"))
        remedy = f"name a file{f', one in {data},' if data else ''} or one that ships: {', '.join(shipped)}"
    return f"bank {bank!r} is not here: {remedy}; --set bank=FILE chooses another"


def group_keys(config: EvolveConfig, bank: SkillBank, world: Environment) -> list[str]:
    """The groups to search for: the whole bank first, then the general skills.

    Raises:
        TrainingError: if a task type is asked for that bank or environment do not have, or nothing is left to search,
            or the skills of the whole bank cannot be told apart.
    """
    known = [kind for kind in world.task_types if bank.task_specific.get(kind)]
    for kind in config.task_types:
        if kind not in known:
            raise TrainingError(
                f"task type {kind!r}: the bank or {config.environment} has none; there are {', '.join(known)}"
            )
    kinds = list(config.task_types) or known
    keys = [WHOLE] if config.bank_rounds and homes(bank) else []
    keys += [GENERAL] if config.rounds and bank.general else []
    keys += kinds if config.iterations else []
    if not keys:
        raise TrainingError("bank_rounds, rounds and iterations leave nothing to search for; raise one of them")
    return keys


def _of(tasks: list[Task], key: str) -> list[Task]:
    return tasks if climbs(key) else [task for task in tasks if task.type == key]


def _about(config: EvolveConfig, world: Environment, keys: list[str]) -> dict[str, Any]:
    told = {} if config.teacher_card is None else {"teacher_card": teacher_card(config)}
    return {
        "environment": config.environment,
        "backbone": config.backbone.name,
        "card": card_of(config),
        **told,
        "description": world.description,
        "licence": config.licence,
        "groups": keys,
    }


def _asked(cancel: Callable[[], bool]) -> Callable[[], str | None]:
    return lambda: CANCELLED if cancel() else None


def _one_at_a_time(
    told: Callable[[Told], None], progress: Callable[[Episode], None]
) -> tuple[Callable[[Told], None], Callable[[Episode], None]]:
    lock = threading.Lock()

    def tell(what: Told) -> None:
        with lock:
            told(what)

    def played(episode: Episode) -> None:
        with lock:
            progress(episode)

    return tell, played
