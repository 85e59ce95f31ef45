"""A profile: preliminary episodes on tasks of their own, a teacher's summary of them, and a model card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masa.cards import ModelCard, dump_card
from masa.facts import Facts
from masa.files import write_atomic
from masa_training.append_only import writing
from masa_training.environments import Task, open_environment
from masa_training.errors import TrainingError
from masa_training.evaluate.banks.report import figures_of
from masa_training.models import Model
from masa_training.models.keys import with_key
from masa_training.profiling.cards import card_of_backbone, check_card, with_weaknesses
from masa_training.profiling.config import ProfileConfig
from masa_training.profiling.tasks import profile_tasks
from masa_training.rollouts import Arm, Episode, Job, Record, WorkerSpec
from masa_training.rollouts.executors import Executor, InProcess
from masa_training.teacher import Seen, Summary, Watched, attribute, opened_summarizer

CARD, REPORT = "card.yaml", "profile.json"
_ARM = "profile"


@dataclass(frozen=True, slots=True)
class Profile:
    """What a profile came to.

    Attributes:
        card: None where the person stopped it before all was played.
        episodes, missing: played to their end, and given up because servers or environments failed.
        symptoms: share of the failed episodes that show each symptom; for people, never for the card, like the next.
        figures: SR, reward and NHR, each with a 95 % interval by cluster bootstrap over tasks.
    """

    card: ModelCard | None
    path: Path
    episodes: int
    missing: int
    symptoms: dict[str, float]
    summary: Summary | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "card": str(self.path) if self.card else None,
            "backbone": self.card.name if self.card else None,
            "weaknesses": self.summary.weaknesses if self.summary else None,
            "episodes": self.episodes,
            "missing": self.missing,
            "symptoms": self.symptoms,
            **self.figures,
            "teacher_tokens": self.summary.tokens if self.summary else 0,
            "teacher_dollars": self.summary.dollars if self.summary else 0.0,
        }


def profile(
    config: ProfileConfig,
    folder: Path,
    *,
    resume: bool = False,
    model: Model | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancel: Callable[[], bool] = lambda: False,
) -> Profile:
    """Play what is not recorded in `folder` yet, let the teacher sum it up, and write the card: all of it or nothing.

    Teacher and card are opened before anything is played, so that a wrong key or an unknown card costs no episode.

    Raises:
        TrainingError: if something cannot be played, the teacher has no summary that a card may hold, or the folder
            holds another run, or another process works in it.
    """
    tasks, facts = _world(config)
    card = card_of_backbone(config.backbone, config.card, api_key=with_key(config.model_options).get("api_key"))
    check_card(card)
    with opened_summarizer(config.teacher) as teacher, writing(folder):
        record = Record(folder, config.settings(), resume=resume)
        jobs = [Job(_ARM, task.id, seed) for seed in range(config.seeds) for task in tasks]
        _play(config, record, jobs, executor or InProcess(model), progress, cancel)
        played = [record.episodes[job] for job in jobs if job in record.episodes]
        finished = [episode for episode in played if episode.outcome == "finished"]
        by_id = {task.id: task for task in tasks}
        seen = tuple(Seen(by_id[episode.job.task], episode) for episode in finished)
        path, missing, symptoms = folder / CARD, len(played) - len(finished), attribute(seen)
        if cancel() and len(played) < len(jobs):
            return Profile(None, path, len(finished), missing, symptoms, figures=figures_of(finished))
        if not finished:
            raise TrainingError(
                f"{folder}: no episode could be played ({played[0].reason}); mend it, then add --resume"
            )
        known = {name: value for name, value in card.fields().items() if name != "weaknesses"}
        summary = teacher.summarize(Watched(environment=config.environment, seen=seen, card=known, facts=facts))
    written = with_weaknesses(card, summary.weaknesses, _source(config))
    found = Profile(written, path, len(finished), missing, symptoms, summary, figures_of(finished))
    told = {"teacher": config.teacher.model, "types": dict(Counter(task.type for task in tasks)), **found.to_json()}
    write_atomic(folder / REPORT, (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomic(path, dump_card(written).encode())
    return found


def plan(config: ProfileConfig) -> dict[str, Any]:
    """What would be played and asked; nothing is."""
    tasks, _ = _world(config)
    teacher = config.teacher
    return {
        "environment": config.environment,
        "tasks": dict(Counter(task.type for task in tasks)),
        "episodes": len(tasks) * config.seeds,
        "teacher": teacher.model,
        "teacher_requests": 0 if teacher.local else teacher.attempts,
    }


def _world(config: ProfileConfig) -> tuple[list[Task], Facts]:
    world = open_environment(config.environment, **config.options)
    try:
        tasks = profile_tasks(world.tasks("train"))
        facts = world.facts()
    finally:
        world.close()
    if not tasks:
        raise TrainingError(
            f"{config.environment}: its split train has too few tasks to keep some for profiling; give it more"
        )
    return tasks[: config.tasks or None], facts


def _play(
    config: ProfileConfig,
    record: Record,
    jobs: list[Job],
    executor: Executor,
    progress: Callable[[int, int], None],
    cancel: Callable[[], bool],
) -> None:
    left = [job for job in jobs if not record.finished(job)]
    if not left:
        return
    spec = WorkerSpec(
        environment=config.environment,
        options=config.options,
        split="train",
        model=config.backbone,
        model_options=config.model_options,
        arms={_ARM: Arm(name=_ARM, bank=config.bank)},
        agent=config.agent,
        isolated=config.isolated,
        slots=config.slots,
    )
    done = len(jobs) - len(left)
    episode: Episode
    for episode in executor.run(spec, left, cancel=cancel):
        record.add(episode)
        done += 1
        progress(done, len(jobs))


def _source(config: ProfileConfig) -> str:
    shown = "a skill bank" if config.bank is not None else "no skills"
    return f"masa profile {config.environment}: episodes with {shown}, summed up by the teacher {_teacher(config)}"


def _teacher(config: ProfileConfig) -> str:
    """A model's name, without the address of its server, which is nobody else's business."""
    return config.teacher.model.rpartition("#")[2].rpartition("/")[2]
