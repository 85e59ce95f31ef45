"""A profile: preliminary episodes on tasks of their own, a teacher's summary of them, and a model card.

The tasks of profiling are the end of every task type of the split `train`. `masa evolve` leaves them out of what its
teacher sees, so that profile, train, val and test share no task; a search watches a type's first tasks.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from masa.backbones import resolve_backbone
from masa.cards import ModelCard, dump_card, merge
from masa.errors import CardError, MasaError
from masa.facts import Facts
from masa.files import write_atomic
from masa.skills import SkillBank
from masa_training.agents import AgentConfig, check_shown
from masa_training.append_only import writing
from masa_training.environments import Task, open_environment
from masa_training.errors import TrainingError
from masa_training.evaluate.banks.report import figures_of
from masa_training.models import Model, check_model
from masa_training.models.keys import check_keyless, with_key
from masa_training.rollouts import Arm, Episode, Job, Record, WorkerSpec
from masa_training.rollouts.executors import Executor, InProcess
from masa_training.teacher import Seen, Summary, Watched, attribute, check_teacher, opened_summarizer
from masa_training.teacher.card_claims import claims
from masa_training.teacher.config import TeacherConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """Rollouts of one backbone in one environment.

    Attributes:
        backbone, model_options: of `open_model`, without keys.
        card: where the card comes from where the backbone does not tell: a card file or the name of a shipped card.
        bank: what the agent is shown; None for no skills, which is how a backbone is by itself.
        bank_sha256: of its file.
        tasks: most tasks, in equal numbers by type; 0 takes all that are for profiling.
        seeds: episodes of each.
    """

    environment: str
    backbone: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""
    bank: SkillBank | None = None
    bank_sha256: str = ""
    tasks: int = 40
    seeds: int = 1
    agent: AgentConfig = field(default_factory=AgentConfig)
    isolated: bool = False
    slots: int = 0
    teacher: TeacherConfig = field(default_factory=TeacherConfig)

    def __post_init__(self) -> None:
        if not self.backbone.strip():
            raise TrainingError("there is no backbone to profile; name one with --backbone")
        check_keyless(self.backbone, self.model_options, f"backbone {self.backbone.rpartition('@')[2]}")
        if self.tasks < 0 or self.seeds < 1:
            raise TrainingError(f"{self.tasks} tasks and {self.seeds} seeds leave nothing to play")

    def settings(self) -> dict[str, Any]:
        """What the episodes depend on, as JSON values: another teacher may sum up the same episodes."""
        return {
            "profile": self.environment,
            "options": dict(self.options),
            "backbone": self.backbone,
            "model_options": {key: value for key, value in self.model_options.items() if key != "api_key_env"},
            "agent": asdict(self.agent),
            "bank": self.bank_sha256 or None,
        }


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


def check_profile(config: ProfileConfig) -> None:
    """Refuse what `profile` would before it plays, as far as it shows without loading weights or asking a server.

    Raises:
        MasaError: if there is no such backbone, teacher or card, or the card may not be written.
    """
    check_model(config.backbone, config.model_options)
    check_teacher(config.teacher, sums_up=True)
    if not config.backbone.startswith(("openai:", "http://", "https://")):
        check_card(card_of_backbone(config.backbone, config.card))
    elif config.card:
        resolve_backbone(config.card)


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
    tasks = tasks[: config.tasks or None]
    check_shown(config.bank, tasks, config.agent)
    return tasks, facts


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


SHARE = 4
"""One in so many tasks of a type, rounded down, is for profiling; a type with fewer tasks keeps them all."""


def profile_tasks(train: Sequence[Task]) -> list[Task]:
    """The tasks of `train` that are for profiling, types in turn, so that any number from the front has all types."""
    by_type: dict[str, list[Task]] = defaultdict(list)
    for task in train:
        by_type[task.type].append(task)
    kept = [some[len(some) - len(some) // SHARE :] for some in by_type.values()]
    deepest = max(map(len, kept), default=0)
    return [some[place] for place in range(deepest) for some in kept if place < len(some)]


def without_profile_tasks(train: Sequence[Task]) -> list[Task]:
    """The other tasks of `train`, in their order."""
    reserved = {task.id for task in profile_tasks(train)}
    return [task for task in train if task.id not in reserved]


PROFILE = "profile"
"""Origin of what a profile found."""
_CHECKED = ("strengths", "weaknesses")


def card_of_backbone(spec: str, card: str = "", *, api_key: str | None = None) -> ModelCard:
    """The card of what `open_model` calls a backbone: architecture from the model itself, the rest as shipped.

    Args:
        card: a card file, whose values win, or the name of a shipped card, which fills what is not known.

    Raises:
        TrainingError: if nothing can be read from the backbone and no card is given.
        CardError: if there is no such card.
    """
    given = resolve_backbone(card) if card else None
    user = given if card and Path(card).expanduser().exists() else None
    try:
        found = resolve_backbone(_where(spec), user=user, api_key=api_key)
    except CardError as error:
        if given is None:
            raise TrainingError(f"{error}; or say with --card which card it has") from None
        return given
    return merge(found, given)


def with_weaknesses(card: ModelCard, weaknesses: str | None, source: str) -> ModelCard:
    """The card with the weaknesses that were observed, in place of any others.

    Raises:
        TrainingError: if a card that we make may not say what this one says (`masa_training.teacher.card_claims`).
    """
    origins = {name: value for name, value in card.origins.items() if name != "weaknesses"}
    sources = {name: value for name, value in card.sources.items() if name != "weaknesses"}
    if weaknesses:
        origins["weaknesses"], sources["weaknesses"] = PROFILE, source
    found = replace(card, weaknesses=weaknesses, origins=origins, sources=sources)
    check_card(found)
    return found


def check_card(card: ModelCard) -> None:
    """Refuse success rates and preferences in a card that we make.

    Raises:
        TrainingError: naming the field and what it says.
    """
    for name in _CHECKED:
        text = getattr(card, name)
        found = claims(text, ours=card.origins.get(name) == PROFILE) if text else ()
        if found:
            raise TrainingError(f"the card is not written: its {name} may not say this: {found[0]}")


def _where(spec: str) -> str:
    """What `resolve_backbone` reads for a model that `open_model` opens."""
    kind, behind, rest = spec.partition(":")
    if spec.startswith(("http://", "https://")):
        return spec
    if behind and kind == "openai":
        return rest
    if behind and kind == "replay":
        raise CardError(f"{spec}: a recording tells nothing of its model")
    path = Path(rest if behind and kind in ("llama", "transformers", "checkpoint") else spec).expanduser()
    if (path / "masa.json").is_file():
        from masa_training.checkpoint import read_checkpoint

        return read_checkpoint(path).base.path
    if path.exists():
        return str(path)
    from masa.weights import find_weights

    try:
        return str(find_weights(str(path)))
    except MasaError as error:
        raise CardError(f"{spec}: nothing to read a card from ({error})") from None
