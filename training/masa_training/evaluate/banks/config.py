"""What a trial plays: a typed object that says every job beforehand."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from masa.files import parse_json
from masa.json_fields import did_you_mean
from masa.skills import SkillBank
from masa_training.agents import AgentConfig
from masa_training.environments import SPLITS, Split, Task
from masa_training.errors import TrainingError
from masa_training.models.keys import check_keyless
from masa_training.rollouts import Arm, Job, WorkerSpec
from masa_training.rollouts.episodes import Score, check_score
from masa_training.settings import CONFIGS

BANKS = CONFIGS / "banks"
"""The banks that ship, by environment and name."""

_log = logging.getLogger(__name__)

NO_SKILL, FACTS_ONLY, RANDOM = "no-skill", "facts-only", "random"


@dataclass(frozen=True, slots=True)
class Backbone:
    """A model that plays; `spec` and `options` are those of `masa_training.models.open_model`, without keys."""

    name: str
    spec: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_keyless(self.spec, self.options, f"backbone {self.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Arms × backbones × tasks × seeds.

    Attributes:
        tasks: how many tasks of the split, in equal numbers by type as far as there are; 0 takes all.
        seeds: episodes of every task, with the seeds `first_seed`, `first_seed + 1`, ….
        penalty: λ of the reward `R = S − λ·NHR`.
        score: what S is, success or the environment's reward.
    """

    environment: str
    arms: tuple[Arm, ...]
    backbones: tuple[Backbone, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    split: Split = "val"
    tasks: int = 50
    seeds: int = 1
    first_seed: int = 0
    penalty: float = 0.0
    score: Score = "success"
    agent: AgentConfig = field(default_factory=AgentConfig)
    isolated: bool = False
    slots: int = 0
    banks: Mapping[str, str] = field(default_factory=dict)
    """By arm the sha256 of its bank file."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise TrainingError(f"no split is called {self.split!r}; there are {', '.join(SPLITS)}")
        check_score(self.score)
        if not 0 <= self.penalty <= 1:
            raise TrainingError(f"λ is {self.penalty}; it must lie between 0 and 1")
        if self.seeds < 1 or self.tasks < 0:
            raise TrainingError(f"{self.tasks} tasks and {self.seeds} seeds leave nothing to play")
        for what, names in (("arm", [a.name for a in self.arms]), ("backbone", [b.name for b in self.backbones])):
            if doubled := {name for name in names if names.count(name) > 1}:
                raise TrainingError(f"two of the {what}s are called {min(doubled)!r}; give them different names")
        if not self.arms:
            raise TrainingError("there is no arm to play; give a bank, or leave the policies on")
        if not self.backbones and not all(arm.random for arm in self.arms):
            raise TrainingError("there is no backbone; name one with --backbone")

    def parts(self) -> list[tuple[str, WorkerSpec]]:
        """What is played by each backbone; the random policy is played once, by none."""
        common: dict[str, Any] = {
            "environment": self.environment,
            "options": self.options,
            "split": self.split,
            "agent": self.agent,
            "isolated": self.isolated,
            "slots": self.slots,
        }
        played = {arm.name: arm for arm in self.arms if not arm.random}
        parts = [
            (b.name, WorkerSpec(model=b.spec, model_options=b.options, arms=played, **common))
            for b in self.backbones
            if played
        ]
        if drawn := {arm.name: arm for arm in self.arms if arm.random}:
            parts.insert(0, ("", WorkerSpec(model="", arms=drawn, **common)))
        return parts

    def settings(self) -> dict[str, Any]:
        """What the episodes depend on, as JSON values, to tell runs apart."""
        return {
            "environment": self.environment,
            "options": dict(self.options),
            "split": self.split,
            "tasks": self.tasks,
            "seeds": self.seeds,
            "first_seed": self.first_seed,
            # Left out where it is off, so that runs begun without the option go on.
            "agent": {key: value for key, value in asdict(self.agent).items() if key != "drop_idle" or value},
            "arms": {
                arm.name: {"bank": self.banks.get(arm.name), "facts": arm.facts, "random": arm.random}
                for arm in self.arms
            },
            "backbones": {
                b.name: [b.spec, {key: value for key, value in b.options.items() if key != "api_key_env"}]
                for b in self.backbones
            },
        }


def choose_tasks(tasks: Sequence[Task], count: int) -> list[Task]:
    """`count` tasks, in equal numbers by type as far as there are, the same ones every time; 0 takes all."""
    if not count or count >= len(tasks):
        return list(tasks)
    by_type: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_type[task.type].append(task)
    for name, some in by_type.items():
        random.Random(f"tasks/{name}").shuffle(some)
    chosen: list[Task] = []
    depth = 0
    while len(chosen) < count:
        chosen += [some[depth] for _, some in sorted(by_type.items()) if depth < len(some)]
        depth += 1
    return chosen[:count]


def jobs_of(trial: Trial, arms: Sequence[str], tasks: Sequence[Task]) -> list[Job]:
    """Every job of these arms, by arm, seed and type, so that episodes with the same skills are played together."""
    seeds = range(trial.first_seed, trial.first_seed + trial.seeds)
    ordered = sorted(tasks, key=lambda task: task.type)
    return [Job(arm, task.id, seed) for arm in arms for seed in seeds for task in ordered]


def bank_arm(name: str, path: Path) -> tuple[Arm, str]:
    """An arm of a bank file, a folder of skills, or a shipped bank as `ENVIRONMENT/NAME`; and its fingerprint.

    That is the sha256 of a file. What was passed over or is not as it should be is named in the log.

    Raises:
        TrainingError: if its name is near that of a bank that ships.
        FormatError: if it is no skill bank.
    """
    from masa.formats import load_bank
    from masa.formats.skill_md_tree import fingerprint

    shipped = BANKS / f"{path}.json"
    if not path.exists():
        known = [f"{its.parent.name}/{its.stem}" for its in BANKS.glob("*/*.json")]
        if hint := "" if shipped.is_file() else did_you_mean(str(path), known):
            raise TrainingError(f"{path}: no such file, and no bank that ships{hint}")
        path = shipped if shipped.is_file() else path
    bank: SkillBank = load_bank(path)
    for problem in bank.problems:
        if problem.severity != "note":
            _log.warning("%s", problem)
    return Arm(name=name, bank=bank), fingerprint(path)


def option(text: str) -> tuple[str, Any]:
    """`key=value` with a JSON value, or a plain text.

    Raises:
        TrainingError: if there is no `=`.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise TrainingError(f"{text!r}: write it as key=value")
    try:
        return key.strip(), parse_json(value)
    except ValueError:
        return key.strip(), value
