"""The granularity study: the same skills in several wordings, for several backbones (arXiv 2605.30723, first table).

What it says is computed from the episodes alone. A difference is one of SR (of the reward where the trial's score says
so) over the tasks and seeds that both sides played; a task counts once, with the mean of its seeds. Its interval is a
cluster bootstrap over tasks, wide enough that all comparisons of a backbone hold together with 95 %, so that the best
wording may be picked after looking.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from masa.skills import SkillBank
from masa_training.errors import TrainingError
from masa_training.evaluate.banks.config import BANKS, RANDOM, Trial, bank_arm
from masa_training.evaluate.banks.report import Episodes, report
from masa_training.rollouts import Arm, Episode
from masa_training.rollouts.episodes import Score, reward_of
from masa_training.statistics import Value, cluster_bootstrap, mean

NONE = "none"
GRANULARITIES = ("concise", "moderate", "detailed")
STEPWISE, EXAMPLES = "stepwise", "examples"
ALPHA = 0.05
_NOISE = 1e-9
"""What a difference of rates is off by rounding at most: (0.2 + 0.2 + 0.2) / 3 is not 0.2."""

_SAME_WORLD: Mapping[str, str] = {"alfworld": "household"}
"""Environments with the task types and actions of another one, whose banks they can use."""


@dataclass(frozen=True, slots=True)
class Arms:
    """What is compared: no skill, the banks, the random policy.

    Attributes:
        checksums: by arm the sha256 of its bank file.
    """

    arms: tuple[Arm, ...]
    checksums: Mapping[str, str]


def shipped_banks(environment: str, *, stepwise: bool = False) -> dict[str, Path]:
    """The banks that ship for an environment, by granularity; `stepwise` adds those of another form.

    Raises:
        TrainingError: if there are none.
    """
    folder = BANKS / _SAME_WORLD.get(environment, environment)
    if not folder.is_dir():
        known = sorted([*_SAME_WORLD, *(path.name for path in BANKS.iterdir() if path.is_dir())])
        raise TrainingError(
            f"no banks ship for {environment!r}, only for {', '.join(known)}; give your own with --bank NAME=FILE"
        )
    wanted = (*GRANULARITIES, STEPWISE, EXAMPLES) if stepwise else GRANULARITIES
    return {name: path for name in wanted if (path := folder / f"{name}.json").is_file()}


def make_arms(banks: Mapping[str, Path], *, random: bool = True) -> Arms:
    """The arms of a study of these banks; `random` says whether the random policy can play.

    Raises:
        FormatError: if a file is no skill bank, or one without skills.
        TrainingError: if a bank has the name of another arm.
    """
    arms, checksums = [Arm(name=NONE)], {}
    for name, path in banks.items():
        if name in (NONE, RANDOM):
            raise TrainingError(f"--bank {name}={path}: {name!r} is an arm without a bank; give this bank another name")
        arm, checksums[name] = bank_arm(name, path)
        arms.append(arm)
    return Arms((*arms, *([Arm(name=RANDOM, random=True)] if random else [])), checksums)


def study(trial: Trial, episodes: Episodes, *, complete: bool, resamples: int = 2000) -> dict[str, Any]:
    """Everything as JSON values: the rows of `trials.report`, the banks, and per backbone what its wordings do.

    A verdict is True or False only where the interval leaves 0 out and so many tasks differ that a sign test could have
    rejected at that level too; else None.
    """
    told = report(trial, episodes, complete=complete, resamples=resamples)
    del told["differences"]
    wordings = [arm.name for arm in trial.arms if arm.bank is not None]
    played = {backbone: _scores(some, trial.score) for backbone, some in episodes.items()}
    level = 1 - ALPHA / (len(wordings) + 1)
    found = []
    for backbone in (one.name for one in trial.backbones):
        mine = played.get(backbone, {})
        over_none = {
            name: comparison(_differences(mine, name, mine, NONE), level=level, resamples=resamples)
            for name in wordings
        }
        best = _best({name: over_none[name]["estimate"] for name in wordings})
        found.append(
            {
                "backbone": backbone,
                "over_none": over_none,
                "none_over_random": comparison(
                    _differences(mine, NONE, played.get("", {}), RANDOM), level=level, resamples=resamples
                ),
                "best": best,
                "beats_none": over_none[best]["verdict"] if best else None,
            }
        )
    return {
        **told,
        "level": level,
        "banks": [_bank(arm.name, arm.bank) for arm in trial.arms if arm.bank is not None],
        "same_skills": _same_skills([arm.bank for arm in trial.arms if arm.bank is not None]),
        "backbones": found,
        "pairs": _pairs([str(one["backbone"]) for one in found], wordings, played, resamples),
        "preferences": _preferences(found, played, resamples),
    }


Scores = Mapping[str, Mapping[tuple[str, int], float]]
"""By arm, what each task and seed scored: success as 0 or 1, or the environment's reward."""


def _scores(episodes: Iterable[Episode], score: Score) -> Scores:
    found: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    for episode in episodes:
        value = reward_of(episode, 0.0, score)
        if value is not None:
            found[episode.job.arm][episode.job.task, episode.job.seed] = value
    return found


def _differences(first: Scores, arm: str, second: Scores, other: str) -> dict[str, float]:
    """By task, the mean difference of the score over the seeds that both arms played."""
    one, two = first.get(arm, {}), second.get(other, {})
    by_task: dict[str, list[float]] = defaultdict(list)
    for (task, seed), success in one.items():
        if (task, seed) in two:
            by_task[task].append(success - two[task, seed])
    return {task: sum(some) / len(some) for task, some in by_task.items()}


def comparison(by_task: Mapping[str, float], *, level: float, resamples: int = 2000) -> dict[str, Any]:
    """A mean difference over tasks: estimate, bounds at `level`, and the verdict (see `study`), as JSON values.

    What is off 0 by rounding only is 0: no task differs by it, and no interval leaves 0 out by it.
    """
    by_task = {task: 0.0 if abs(value) < _NOISE else value for task, value in by_task.items()}
    clusters: dict[Hashable, Sequence[Value]] = {task: [value] for task, value in by_task.items()}
    found = cluster_bootstrap(clusters, mean, resamples=resamples, seed=0, level=level)
    estimate = sum(by_task.values()) / len(by_task) if by_task else None
    differing = sum(value != 0 for value in by_task.values())
    verdict = None
    if found is not None and 2.0 ** (1 - differing) <= 1 - level and (found.low > _NOISE or found.high < -_NOISE):
        verdict = found.low > 0
    return {
        "estimate": estimate,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "tasks": len(by_task),
        "tasks_differing": differing,
        "verdict": verdict,
    }


def _pairs(
    backbones: Sequence[str], wordings: Sequence[str], played: Mapping[str, Scores], resamples: int
) -> dict[str, Any]:
    """Every two wordings: what the second is worth over the first to each backbone, and by how much that differs.

    The level of each column makes up for the number of its pairs.
    """
    pairs = list(combinations(wordings, 2))
    level = 1 - ALPHA / max(len(pairs), 1)
    found = []
    for first, second in pairs:
        by_backbone = {
            name: _differences(played.get(name, {}), second, played.get(name, {}), first) for name in backbones
        }
        apart = {}
        for one, other in combinations(backbones, 2):
            both = {t: by_backbone[one][t] - by_backbone[other][t] for t in by_backbone[one] if t in by_backbone[other]}
            apart[f"{one} − {other}"] = comparison(both, level=level, resamples=resamples)
        found.append(
            {
                "wordings": [first, second],
                "differences": {
                    name: comparison(some, level=level, resamples=resamples) for name, some in by_backbone.items()
                },
                "apart": apart,
            }
        )
    return {"level": level, "pairs": found}


def _best(gains: Mapping[str, float | None]) -> str | None:
    """The name with the highest gain, the first of equals; None where none is known."""
    known = {name: gain for name, gain in gains.items() if gain is not None}
    return max(known, key=known.__getitem__) if known else None


def _preferences(
    backbones: Sequence[Mapping[str, Any]], played: Mapping[str, Scores], resamples: int
) -> list[dict[str, Any]]:
    """For each two backbones whose best arms differ, whether each does better with its own than with the other's.

    `backbones` are those of `study`. The level makes up for the choice among the pairs of arms.
    """
    best: dict[str, str] = {}
    arms = 1
    for one in backbones:
        gains = {name: told["estimate"] for name, told in one["over_none"].items()}
        arms = 1 + len(gains)
        if one["best"] is not None:
            best[one["backbone"]] = _best({NONE: 0.0, **gains}) or NONE
    level = 1 - ALPHA / (arms * (arms - 1) // 2)
    found = []
    for first, second in combinations(best, 2):
        mine, other = best[first], best[second]
        if mine == other:
            continue
        sides = [
            _differences(played[name], own, played[name], foreign)
            for name, own, foreign in ((first, mine, other), (second, other, mine))
        ]
        both = {task: sides[0][task] + sides[1][task] for task in sides[0] if task in sides[1]}
        told = [comparison(side, level=level, resamples=resamples) for side in (*sides, both)]
        found.append(
            {
                "backbones": [first, second],
                "best": [mine, other],
                "own_over_foreign": told[:2],
                "interaction": told[2],
                "opposite": True if all(side["verdict"] for side in told[:2]) else None,
                "level": level,
            }
        )
    return found


def _bank(name: str, bank: SkillBank) -> dict[str, Any]:
    words = [len(skill.principle.split()) for group in bank.groups() for skill in group.skills]
    return {"granularity": name, "skills": len(words), "words": sum(words)}


def _same_skills(banks: Sequence[SkillBank]) -> bool:
    """Whether all banks have the same skills in the same groups, by identifier, so that only their wording differs."""
    heads = {
        tuple(sorted((group.key, skill.skill_id) for group in bank.groups() for skill in group.skills))
        for bank in banks
    }
    return len(heads) <= 1
