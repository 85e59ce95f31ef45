"""What a trial says, computed from its episodes alone: rates with intervals, paired differences, by task type.

Intervals are cluster bootstraps over tasks (`masa_training.statistics`), because the episodes of one task are alike.
Differences are between arms of one backbone, on the tasks and seeds that both played. Missing episodes count nowhere
but under `missing`.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from masa_training.decisions import Decision, false_accept_rate, minimum_detectable_effect, paired
from masa_training.evaluate.banks.config import NO_SKILL, Trial
from masa_training.rollouts import Episode
from masa_training.rollouts.episodes import reward_of
from masa_training.statistics import Value, cluster_bootstrap, mean
from masa_training.tables import NOTHING, bracketed, table

Episodes = Mapping[str, Sequence[Episode]]
"""By backbone; the random policy's under the name ""."""


def report(
    trial: Trial, episodes: Episodes, *, complete: bool, resamples: int = 2000, aa: str | None = None
) -> dict[str, Any]:
    """Everything as JSON values; None where a number is undefined.

    `aa` names an arm that was played with an even number of seeds: its first half is compared with its second.
    """
    rows = []
    for backbone, arm, some in _cells(trial, episodes):
        finished = [e for e in some if e.outcome == "finished"]
        rows.append(
            {
                "backbone": backbone or None,
                "arm": arm,
                "episodes": len(finished),
                "missing": len(some) - len(finished),
                "tasks": len({e.job.task for e in finished}),
                **figures_of(finished, resamples=resamples),
                "reward": _interval(finished, lambda e: _reward(trial, e) or 0.0, resamples),
                "steps": _average(finished, lambda e: float(e.steps)),
                "invalid_share": _share(sum(e.invalid for e in finished), sum(e.steps for e in finished)),
                "prompt_tokens": _average(finished, lambda e: float(e.prompt_tokens)),
                "completion_tokens": _average(finished, lambda e: float(e.completion_tokens)),
                "skills": len(finished[0].skills) if finished else None,
                "by_type": {
                    name: _interval([e for e in finished if e.task_type == name], lambda e: float(e.success), resamples)
                    for name in sorted({e.task_type for e in finished})
                },
            }
        )
    told: dict[str, Any] = {
        "settings": trial.settings(),
        "penalty": trial.penalty,
        "score": trial.score,
        "complete": complete,
        "rows": rows,
        "differences": _differences(trial, episodes, resamples),
    }
    if aa is not None:
        told["a_a"] = [_a_a(trial, name, aa, some) for name, some in episodes.items() if name]
    return told


def figures_of(finished: Sequence[Episode], *, resamples: int = 2000) -> dict[str, Any]:
    """SR, NHR and the environment's reward of finished episodes, each with its interval; None without episodes."""
    return {
        "SR": _interval(finished, lambda e: float(e.success), resamples),
        "NHR": _interval(finished, lambda e: e.unchanged / e.steps if e.steps else 0.0, resamples),
        "environment_reward": _interval(finished, lambda e: e.reward, resamples),
    }


def reward_in_words(told: Mapping[str, Any]) -> str:
    """What R is in a report."""
    return f"R = {'SR' if told['score'] == 'success' else 'reward'} − {told['penalty']:g}·NHR"


def to_csv(told: Mapping[str, Any]) -> str:
    """The rows as CSV, one line an arm and backbone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    plain = ("episodes", "missing", "tasks", "steps", "invalid_share", "prompt_tokens")
    measured = ("SR", "NHR", "environment_reward", "reward")
    writer.writerow(
        ["backbone", "arm", *plain, *(f"{name}{end}" for name in measured for end in ("", "_low", "_high"))]
    )
    for row in told["rows"]:
        values = [row[name] for name in plain]
        for name in measured:
            found = row[name] or {}
            values += [found.get(key) for key in ("estimate", "low", "high")]
        writer.writerow([row["backbone"] or "", row["arm"], *values])
    return text.getvalue()


def to_markdown(told: Mapping[str, Any]) -> str:
    """The tables for a person."""
    settings = told["settings"]
    partial = "" if told["complete"] else " (PARTIAL)"
    lines = [
        f"# {settings['environment']}, {settings['split']} split{partial}",
        "",
        f"{reward_in_words(told)}. Brackets: 95 % intervals by cluster bootstrap over tasks.",
        "",
    ]
    head = ["backbone", "arm", "episodes", "missing", "SR", "reward", "NHR", "R", "steps", "prompt tokens"]
    body = [
        [
            row["backbone"] or "–",
            row["arm"],
            str(row["episodes"]),
            str(row["missing"]),
            _percent(row["SR"]),
            _plain(row["environment_reward"]),
            _percent(row["NHR"]),
            _plain(row["reward"]),
            _number(row["steps"]),
            _number(row["prompt_tokens"]),
        ]
        for row in told["rows"]
    ]
    lines += [*table(head, body), ""]
    if told["differences"]:
        lines += ["## Against the first arm of the same backbone, and against no skills", ""]
        head = ["backbone", "arm", "against", "tasks", "difference of R", "detectable", "verdict"]
        body = [
            [
                row["backbone"],
                row["arm"],
                row["against"],
                str(row["tasks"]),
                _plain(row["difference"], signed=True),
                _number(row["detectable"]),
                row["reason"],
            ]
            for row in told["differences"]
        ]
        lines += [*table(head, body), ""]
    types = sorted({name for row in told["rows"] for name in row["by_type"]})
    if len(types) > 1:
        lines += ["## SR by task type", ""]
        body = [
            [row["backbone"] or "–", row["arm"], *(_percent(row["by_type"].get(name)) for name in types)]
            for row in told["rows"]
        ]
        lines += [*table(["backbone", "arm", *types], body), ""]
    for row in told.get("a_a", ()):
        lines.append(
            f"A-A, {row['backbone']}, {row['arm']}: false-accept rate {_number(row['false_accept_rate'])} at α "
            f"{row['alpha']:g}, minimum detectable effect {_number(row['detectable'])} over {row['tasks']} tasks."
        )
    return "\n".join(lines).rstrip() + "\n"


def _cells(trial: Trial, episodes: Episodes) -> Iterable[tuple[str, str, list[Episode]]]:
    for backbone, spec in trial.parts():
        for arm in spec.arms:
            yield backbone, arm, [e for e in episodes.get(backbone, ()) if e.job.arm == arm]


def _differences(trial: Trial, episodes: Episodes, resamples: int) -> list[dict[str, Any]]:
    found = []
    for backbone, spec in trial.parts():
        for arm, first in _compared(list(spec.arms)):
            pairs = _pairs(trial, episodes.get(backbone, ()), arm, first)
            by_task: dict[Hashable, list[Value]] = {task: [a - b for a, b in some] for task, some in pairs.items()}
            means = {task: _mean_pair(some) for task, some in pairs.items()}
            decision: Decision = paired([a for a, _ in means.values()], [b for _, b in means.values()])
            interval = cluster_bootstrap(by_task, mean, resamples=resamples, seed=0)
            found.append(
                {
                    "backbone": backbone,
                    "arm": arm,
                    "against": first,
                    "tasks": len(pairs),
                    "difference": interval._asdict()
                    if interval
                    else {"estimate": decision.difference, "low": None, "high": None},
                    "detectable": minimum_detectable_effect([a - b for a, b in means.values()]),
                    "verdict": decision.verdict,
                    "p": decision.p,
                    "reason": decision.reason,
                }
            )
    return found


def _compared(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Every arm against the first one, then every further arm against no skills where these are an arm, too.

    A bank that is better than the one it began with may still be worse than none.
    """
    first, *others = arms
    pairs = [(arm, first) for arm in others]
    if NO_SKILL in others:
        pairs += [(arm, NO_SKILL) for arm in others if arm != NO_SKILL]
    return pairs


def _pairs(trial: Trial, episodes: Sequence[Episode], arm: str, other: str) -> dict[str, list[tuple[float, float]]]:
    """By task the rewards of both arms at the seeds that both played."""
    rewards = {(e.job.arm, e.job.task, e.job.seed): _reward(trial, e) for e in episodes}
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (name, task, seed), reward in rewards.items():
        against = rewards.get((other, task, seed))
        if name == arm and reward is not None and against is not None:
            pairs[task].append((reward, against))
    return dict(pairs)


def _reward(trial: Trial, episode: Episode) -> float | None:
    return reward_of(episode, trial.penalty, trial.score)


def _mean_pair(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)


def _a_a(trial: Trial, backbone: str, arm: str, episodes: Sequence[Episode], alpha: float = 0.05) -> dict[str, Any]:
    """An arm against itself: the lower half of its seeds against the upper half."""
    middle = trial.first_seed + trial.seeds // 2
    halves: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for episode in episodes:
        reward = _reward(trial, episode)
        if episode.job.arm == arm and reward is not None:
            halves[episode.job.task][episode.job.seed >= middle].append(reward)
    both = [(sum(a) / len(a), sum(b) / len(b)) for a, b in halves.values() if a and b]
    first, second = [a for a, _ in both], [b for _, b in both]
    return {
        "backbone": backbone,
        "arm": arm,
        "alpha": alpha,
        "tasks": len(both),
        "false_accept_rate": false_accept_rate(first, second, alpha=alpha),
        "detectable": minimum_detectable_effect([a - b for a, b in both], alpha=alpha),
    }


def _interval(episodes: Sequence[Episode], value: Callable[[Episode], float], resamples: int) -> dict[str, Any] | None:
    """Estimate with bounds; None without episodes, no bounds for a single task."""
    by_task: dict[Hashable, list[Value]] = defaultdict(list)
    for episode in episodes:
        by_task[episode.job.task].append(value(episode))
    if not by_task:
        return None
    found = cluster_bootstrap(by_task, mean, resamples=resamples, seed=0)
    if found is None:
        return {"estimate": _average(episodes, value), "low": None, "high": None}
    return {"estimate": found.estimate, "low": found.low, "high": found.high}


def _average(episodes: Sequence[Episode], value: Callable[[Episode], float]) -> float | None:
    return sum(map(value, episodes)) / len(episodes) if episodes else None


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _percent(found: Mapping[str, Any] | None) -> str:
    return bracketed(found, ".0%")


def _plain(found: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    return bracketed(found, "+.3f" if signed else ".3f")


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}" if abs(value) < 10 else f"{value:,.0f}"


def plot(told: Mapping[str, Any]) -> bytes | None:
    """SR with intervals, a point an arm and a panel a backbone, as SVG; None where matplotlib is not installed.

    The random policy is a dashed line in every panel. Arms that nobody has begun to play are left out.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return None
    rows = [row for row in told["rows"] if row["SR"] and row["SR"]["estimate"] is not None]
    backbones = list(dict.fromkeys(row["backbone"] for row in rows if row["backbone"]))
    chance = next((row["SR"]["estimate"] for row in rows if row["backbone"] is None), None)
    if not backbones:
        return None
    most = max(sum(row["backbone"] == name for row in rows) for name in backbones)
    figure = Figure(figsize=(3.2 * len(backbones) + 1.5, 0.45 * most + 1.4), layout="constrained")
    panels = figure.subplots(1, len(backbones), sharex=True, sharey=False, squeeze=False)[0]
    for panel, name in zip(panels, backbones, strict=True):
        some = [row for row in rows if row["backbone"] == name][::-1]
        for place, row in enumerate(some):
            found = row["SR"]
            if found["low"] is not None:
                panel.plot([found["low"], found["high"]], [place, place], color="#4477aa", linewidth=2)
            panel.plot(found["estimate"], place, "o", color="#223355")
        panel.set_yticks(range(len(some)), [row["arm"] for row in some])
        panel.set_ylim(-0.6, len(some) - 0.4)
        panel.set_xlim(0, 1)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("SR")
        if chance is not None:
            panel.axvline(chance, color="#bb5566", linestyle="--", linewidth=1)
    out = io.BytesIO()
    # Letters as text, and the same bytes every time.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "masa"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
