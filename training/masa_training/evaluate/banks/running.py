"""Running a trial: every job that is not recorded yet, backbone after backbone, with progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from masa.files import make_folder
from masa_training.agents import check_shown
from masa_training.append_only import is_empty, writing
from masa_training.environments import SPLITS, Split, Task, open_environment
from masa_training.errors import TrainingError
from masa_training.evaluate.banks.config import Trial, choose_tasks, jobs_of
from masa_training.models import open_model
from masa_training.rollouts import Episode, Record, WorkerSpec
from masa_training.rollouts.executors import Cancel, Executor, InProcess


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a trial stands.

    Attributes:
        done, total: episodes, with those of earlier runs.
        rate: episodes a second of this run.
        success: SR of this backbone's episodes so far; None before the first.
        left: seconds to go at this rate; None before the first.
    """

    backbone: str
    done: int
    total: int
    rate: float
    success: float | None
    left: float | None
    missing: int


def tasks_of(trial: Trial) -> list[Task]:
    """The tasks that a trial plays.

    Raises:
        TrainingError: if the split is empty, its data are missing, or nothing of an arm's bank is shown for a task.
    """
    world = open_environment(trial.environment, **trial.options)
    try:
        tasks = choose_tasks(world.tasks(trial.split), trial.tasks)
    finally:
        world.close()
    if not tasks:
        raise TrainingError(f"{trial.environment}: its {trial.split} split has no tasks; choose another split")
    for arm in trial.arms:
        check_shown(arm.bank, tasks, trial.agent)
    return tasks


def offers_actions(environment: str, options: Mapping[str, Any], split: Split) -> bool:
    """Whether the environment lists what can be done, so that an agent can choose and a random policy can play.

    Raises:
        TrainingError: as `tasks_of`.
    """
    if split not in SPLITS:
        return True  # which the trial refuses
    world = open_environment(environment, **options)
    try:
        tasks = world.tasks(split)
        return not tasks or world.reset(tasks[0], 0).admissible is not None
    finally:
        world.close()


def run(
    trial: Trial,
    executor: Executor,
    folder: str | PathLike[str] | None,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancel: Cancel = lambda: False,
) -> dict[str, list[Episode]]:
    """The episodes of every backbone; those of the random policy under the name "".

    A folder keeps one record a backbone, so a run that was killed goes on with `resume` and plays nothing twice.

    Raises:
        TrainingError: if something cannot be played at all, the folder holds another trial, or somebody works in it.
    """
    root = make_folder(folder) if folder is not None else None
    with nullcontext() if root is None else writing(root):
        return _run(trial, executor, root, resume=resume, progress=progress, cancel=cancel)


def _run(
    trial: Trial,
    executor: Executor,
    root: Path | None,
    *,
    resume: bool,
    progress: Callable[[Progress], None],
    cancel: Cancel,
) -> dict[str, list[Episode]]:
    tasks = tasks_of(trial)
    types = {task.id: task.type for task in tasks}
    parts = trial.parts()
    total = sum(len(jobs_of(trial, list(spec.arms), tasks)) for _, spec in parts)
    if root is not None and not resume and not is_empty(root):
        raise TrainingError(f"{root}: is not empty; add --resume to continue, or give another folder")
    records = {name: _record(trial, root, name) for name, _ in parts}
    wanted = {name: jobs_of(trial, list(spec.arms), tasks) for name, spec in parts}
    done = sum(records[name].finished(job) for name, jobs in wanted.items() for job in jobs)
    _check_models(executor, [spec for name, spec in parts if not all(map(records[name].finished, wanted[name]))])
    began, before = time.monotonic(), done
    for name, spec in parts:
        record = records[name]
        left = [job for job in wanted[name] if not record.finished(job)]
        if not left or cancel():
            continue
        for episode in _typed(executor.run(spec, left, cancel=cancel), types):
            record.add(episode)
            done += 1
            rate = (done - before) / max(time.monotonic() - began, 1e-9)
            some = [e for e in record.episodes.values() if e.outcome == "finished"]
            progress(
                Progress(
                    backbone=name,
                    done=done,
                    total=total,
                    rate=rate,
                    success=sum(e.success for e in some) / len(some) if some else None,
                    left=(total - done) / rate if rate else None,
                    missing=len(record.episodes) - len(some),
                )
            )
    return {
        name: [records[name].episodes[job] for job in jobs if job in records[name].episodes]
        for name, jobs in wanted.items()
    }


def _check_models(executor: Executor, specs: Sequence[WorkerSpec]) -> None:
    """Open every model once that is not opened first of all, so that a wrong one is told before anything is played."""
    if isinstance(executor, InProcess) and executor.model is None:
        for spec in specs[1:]:
            if spec.model:
                open_model(spec.model, **spec.model_options).close()


def _record(trial: Trial, root: Path | None, backbone: str) -> Record:
    """The record of one backbone: adding another backbone to a trial leaves those that were played alone."""
    settings: dict[str, Any] = trial.settings()
    backbones = settings.pop("backbones")
    drawn = {name for name, arm in settings["arms"].items() if arm["random"]}
    mine = {name: arm for name, arm in settings["arms"].items() if (name in drawn) == (not backbone)}
    settings |= {"arms": mine, "backbone": backbones.get(backbone)}
    where = None if root is None else root / (file_name(backbone) or "random-policy")
    return Record(where, settings, resume=where is not None and where.exists() and any(where.iterdir()))


def file_name(text: str) -> str:
    """A name as one of a file or folder; empty where nothing of it can stay."""
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in text).strip(".")


def _typed(episodes: Iterator[Episode], types: dict[str, str]) -> Iterator[Episode]:
    """With the task type also where a worker died before it could tell."""
    for episode in episodes:
        yield episode if episode.task_type else replace(episode, task_type=types[episode.job.task])


def completed(trial: Trial, episodes: dict[str, list[Episode]], tasks: Sequence[Task]) -> bool:
    """Whether every job was played to its end."""
    played = sum(e.outcome == "finished" for some in episodes.values() for e in some)
    return played == sum(len(jobs_of(trial, list(spec.arms), tasks)) for _, spec in trial.parts())
