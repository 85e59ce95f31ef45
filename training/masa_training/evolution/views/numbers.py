"""The tables of a report: rates by task type with their intervals, and what everything cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields

from masa.skills import GENERAL
from masa_training.bank_groups import WHOLE, climbs
from masa_training.evaluate.banks.config import NO_SKILL
from masa_training.evolution.config import BudgetConfig
from masa_training.evolution.run_log import Played, Run, Search
from masa_training.rollouts import Episode
from masa_training.search import Evaluation, Proposal
from masa_training.statistics import cluster_bootstrap, mean, paired_differences

Estimate = Mapping[str, float | None]
"""estimate, low, high; the bounds are None where there is no interval."""


@dataclass(frozen=True, slots=True)
class TypeRow:
    """One task type on the deciding tasks: the bank at the start and the best one so far.

    Attributes:
        task_type: empty for all together.
        difference: of rewards, best − start, on the tasks and seeds that both played.
    """

    task_type: str
    episodes: int
    start: Estimate | None
    best: Estimate | None
    difference: Estimate | None
    pairs: int


@dataclass(frozen=True, slots=True)
class CostRow:
    """What the search for one group used.

    Attributes:
        episodes: that its decisions rest on; those of a frozen bank may be shared with another group.
        asked: answers of the teacher.
    """

    key: str
    rounds: int
    nodes: int
    failed: int
    episodes: int
    asked: int
    teacher_tokens: int
    dollars: float


@dataclass(frozen=True, slots=True)
class SplitRow:
    """What the episodes of one split used."""

    split: str
    episodes: int
    missing: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    model_seconds: float


def by_type(run: Run) -> list[TypeRow]:
    """Start and best bank by task type; none for runs that did not record which bank an episode was of."""
    first = next((group for group in run.searches.values() if group.state.nodes), None)
    if first is None or 0 not in first.banks:
        return []
    played: dict[str, dict[Played, Episode]] = defaultdict(dict)
    for key, episode in run.episodes.items():
        if key.split == "val" and episode.outcome == "finished":
            played[key.bank][key] = episode
    general, whole = run.searches.get(GENERAL), run.searches.get(WHOLE)
    types = sorted({episode.task_type for some in played.values() for episode in some.values()})
    rows = []
    for name in types:
        tree = run.searches.get(name)
        start = _bank(first if climbs(first.key) else tree, 0)
        best = _best(tree) or _best(general) or _best(whole)
        if start is None or best is None:
            continue
        rows.append(_row(name, _of(played[start], name), _of(played[best], name), run))
    return rows


def tested(run: Run) -> list[tuple[str, list[Estimate | None]]]:
    """Success rates of the final comparison: by task type one estimate for each arm, all types together first."""
    rows = run.test.get("rows", ())
    types = sorted({name for row in rows for name in row["by_type"]})
    together: list[tuple[str, list[Estimate | None]]] = [("", [row["SR"] for row in rows])] if rows else []
    return together + [(name, [row["by_type"].get(name) for row in rows]) for name in types]


def costs(run: Run) -> list[CostRow]:
    """By group."""
    return [cost(group) for group in run.searches.values()]


def splits(run: Run) -> list[SplitRow]:
    """By split, the final test last."""
    found: dict[str, list[Episode]] = {"train": [], "val": [], "test": []}
    for key, episode in run.episodes.items():
        found.setdefault(key.split, []).append(episode)
    return [
        SplitRow(
            name,
            len(some),
            sum(e.outcome == "missing" for e in some),
            sum(e.prompt_tokens for e in some),
            sum(e.cached_tokens for e in some),
            sum(e.completion_tokens for e in some),
            sum(e.model_seconds for e in some),
        )
        for name, some in found.items()
        if some
    ]


def budget(run: Run) -> list[tuple[str, float, float]]:
    """Name, spent, limit (0 is none) of all that a budget can limit."""
    limits = run.settings.get("budget") or {}
    return [
        (limit.name, float(getattr(run.spent, limit.name)), float(limits.get(limit.name, 0) or 0))
        for limit in fields(BudgetConfig)
    ]


def arm_words(arm: str) -> str:
    """An arm of the final comparison, for a person."""
    return {"base": "the bank at the start", NO_SKILL: "no skills", "evolved": "the evolved bank"}.get(arm, arm)


def amount(value: float) -> str:
    """Something that was used or may be: whole numbers as they are, others with two digits."""
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:,.2f}"


def cost(group: Search) -> CostRow:
    """Of one group."""
    events = group.state.events
    return CostRow(
        key=group.key,
        rounds=sum(isinstance(event, Proposal) and event.round > 0 for event in events),
        nodes=len(group.state.nodes),
        failed=len(group.state.failures),
        episodes=sum(len(event.rewards) for event in events if isinstance(event, Evaluation)),
        asked=len(group.answers),
        teacher_tokens=sum(said.tokens for said in group.answers),
        dollars=sum(said.dollars for said in group.answers),
    )


def _bank(group: Search | None, node: int) -> str | None:
    return None if group is None else group.banks.get(node)


def _best(group: Search | None) -> str | None:
    return _bank(group, group.state.best) if group is not None and group.state.nodes else None


def _of(played: Mapping[Played, Episode], task_type: str) -> dict[tuple[str, int], Episode]:
    return {(key.task, key.seed): episode for key, episode in played.items() if episode.task_type == task_type}


def _row(
    name: str, start: Mapping[tuple[str, int], Episode], best: Mapping[tuple[str, int], Episode], run: Run
) -> TypeRow:
    pairs = [(key[0], run.reward(best[key]), run.reward(start[key])) for key in best if key in start]
    return TypeRow(
        name,
        len(best),
        _rate(start.values()),
        _rate(best.values()),
        _estimate(paired_differences(pairs)),
        len(pairs),
    )


def _rate(episodes: Iterable[Episode]) -> Estimate | None:
    by_task: dict[Hashable, list[float]] = defaultdict(list)
    for episode in episodes:
        by_task[episode.job.task].append(float(episode.success))
    return _estimate(by_task)


def _estimate(by_task: Mapping[Hashable, list[float]]) -> Estimate | None:
    """The mean with its interval; without one where there is no spread to resample."""
    values = [value for some in by_task.values() for value in some]
    if not values:
        return None
    found = cluster_bootstrap(by_task, mean, seed=0) if len(set(values)) > 1 else None
    if found is None:
        return {"estimate": sum(values) / len(values), "low": None, "high": None}
    return {"estimate": found.estimate, "low": found.low, "high": found.high}
