"""The contestants of `search.py`: rules that accept, and searches that spend a budget of episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from masa_training.decisions import Decision, paired
from masa_training.search import (
    Acceptance,
    FixedPaired,
    SearchStopped,
    SequentialPaired,
    Strict,
    hill_climb,
    tree_search,
)
from masa_training.search.acceptance import Rewards, growing
from masa_training.search.simulated import SimulatedBackbone, Wordings, rewrite, simulated_teacher

_INSIGHT = 0.2
"""How often a proposal is the planted wording of its skill, for all sides."""


@dataclass(frozen=True, slots=True)
class TAtEveryLook:
    """Student's paired t at each look, uncorrected: what not to do."""

    looks: tuple[int, ...] = tuple(range(10, 101, 10))
    name = "t at every look"

    def judge(self, candidate: Rewards, incumbent: Rewards) -> Decision:
        decision = paired([it or 0.0 for it in candidate], [it or 0.0 for it in incumbent])
        if decision.verdict is None and len(candidate) < self.looks[-1]:
            return Decision(None, decision.difference, None, "open", open=True)
        return decision


@dataclass(frozen=True, slots=True)
class Betting:
    """An e-process: wealth from betting on the differences (Waudby-Smith and Ramdas, 2024), mixed over fixed stakes.

    Accepts when wealth reaches 1/α, at any time; gives up by the predictive power that `sequential_paired` uses.
    """

    looks: tuple[int, ...] = growing(5, 150)
    alpha: float = 0.05
    futility: float = 0.1
    name = "betting e-process"

    def judge(self, candidate: Rewards, incumbent: Rewards) -> Decision:
        from scipy.special import ndtri

        differences = np.array([(a or 0.0) - (b or 0.0) for a, b in zip(candidate, incumbent, strict=True)])
        stakes = np.linspace(0.1, 0.9, 9)
        wealth = np.exp(np.cumsum(np.log1p(stakes[:, None] * differences[None, :]), axis=1)).mean(axis=0)
        if wealth.max() >= 1 / self.alpha:
            return Decision(True, None, None, "better")
        share = len(differences) / self.looks[-1]
        if share == 1:
            return Decision(None, None, None, "indecisive")
        low = math.sqrt(share) * ndtri(1 - self.alpha) + ndtri(self.futility) * math.sqrt(1 - share)
        if np.count_nonzero(differences) >= 3 and differences.sum() <= low * math.sqrt(float((differences**2).sum())):
            return Decision(False, None, None, "hopeless")
        return Decision(None, None, None, "open", open=True)


RULES: dict[str, Acceptance] = {
    "sequential paired": SequentialPaired(),
    "sequential paired, at most 100": SequentialPaired(most=100),
    "fixed paired, N = 100": FixedPaired(),
    "strict, N = 100": Strict(),
    "t at 10, 20, … 100, uncorrected": TAtEveryLook(),
    "betting e-process": Betting(),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What a search returned: its true reward, and what it used."""

    reward: float
    episodes: int
    candidates: int


Side = Callable[[SimulatedBackbone, int], Result]


class Meter:
    """Plays episodes and counts them; refuses what would exceed the budget."""

    def __init__(self, backbone: SimulatedBackbone, budget: int) -> None:
        self._backbone, self._budget = backbone, budget
        self.used = 0

    def evaluate(self, group: Wordings, first: int, count: int) -> Sequence[float]:
        if self.used + count > self._budget:
            raise SearchStopped("the budget is spent")
        self.used += count
        return self._backbone.evaluate(group, first, count)


def _masa(search: Callable[..., Any], rule: Acceptance, **options: int) -> Side:
    def run(backbone: SimulatedBackbone, budget: int) -> Result:
        meter = Meter(backbone, budget)
        trace = search(
            backbone.start,
            propose=simulated_teacher(backbone, insight=_INSIGHT),
            evaluate=meter.evaluate,
            accept=rule,
            **options,
        )
        return Result(backbone.true_reward(trace.winner), trace.episodes, len(trace.nodes))

    return run


def random_search(backbone: SimulatedBackbone, budget: int, *, episodes: int = 100) -> Result:
    """Rewrites of any earlier candidate, `episodes` each; the highest mean wins."""
    meter = Meter(backbone, budget)
    generator = np.random.default_rng([backbone.seed, 3])
    means: dict[Wordings, float] = {}
    group: Wordings | None = backbone.start
    while group is not None:
        try:
            means[group] = float(np.mean(meter.evaluate(group, 0, episodes)))
        except SearchStopped:
            break
        parent = list(means)[int(generator.integers(len(means)))]
        group = rewrite(backbone, parent, means, generator, insight=_INSIGHT)
    return Result(backbone.true_reward(max(means, key=lambda it: means[it])), meter.used, len(means))


def gepa_version() -> str | None:
    try:
        return metadata.version("gepa")
    except metadata.PackageNotFoundError:
        return None


def _gepa(validation: int) -> Side:
    """`gepa.optimize` with its defaults; a group is one component, its text the numbers of its wordings.

    Its proposer is ours, in place of a language model. Tasks are those of the other sides: the first `validation` of
    them to validate on, all of them to draw minibatches of three from.
    """

    def run(backbone: SimulatedBackbone, budget: int) -> Result:
        import gepa

        adapter = _adapter(backbone)
        generator = np.random.default_rng([backbone.seed, 4])
        tried = {backbone.start}

        def propose(
            candidate: Mapping[str, str], reflective: Mapping[str, object], components: Sequence[str]
        ) -> dict[str, str]:
            group = _read(candidate)
            found = rewrite(backbone, group, tried, generator, insight=_INSIGHT)
            tried.add(found or group)
            return {"group": _write(found or group)}

        result = gepa.optimize(
            seed_candidate={"group": _write(backbone.start)},
            trainset=list(range(len(backbone.ease))),
            valset=list(range(validation)),
            adapter=adapter,
            custom_candidate_proposer=propose,
            max_metric_calls=budget,
            logger=_Silent(),
            seed=backbone.seed,
        )
        return Result(backbone.true_reward(_read(result.best_candidate)), adapter.used, len(tried))

    return run


class _Silent:
    def log(self, message: str) -> None:
        """Nothing."""


def _write(group: Wordings) -> str:
    return " ".join(map(str, group))


def _read(candidate: Mapping[str, str]) -> Wordings:
    return tuple(map(int, candidate["group"].split()))


def _adapter(backbone: SimulatedBackbone) -> Any:
    from gepa import EvaluationBatch

    class Adapter:
        """Plays tasks; every time a task is played again its luck is new."""

        propose_new_texts = None

        def __init__(self) -> None:
            self.used = 0
            self._runs: dict[tuple[Wordings, int], int] = {}

        def evaluate(self, batch: list[int], candidate: dict[str, str], capture_traces: bool = False) -> Any:
            group = _read(candidate)
            scores = [self._play(group, task) for task in batch]
            return EvaluationBatch(outputs=scores, scores=scores, trajectories=scores if capture_traces else None)

        def make_reflective_dataset(
            self, candidate: dict[str, str], evaluated: Any, components: list[str]
        ) -> dict[str, list[dict[str, float]]]:
            return {"group": [{"score": score} for score in evaluated.scores]}

        def _play(self, group: Wordings, task: int) -> float:
            self.used += 1
            run = self._runs[group, task] = self._runs.get((group, task), -1) + 1
            return backbone.evaluate(group, task, 1, run=run)[0]

    return Adapter()


_ENDLESS = 400
SIDES: dict[str, Side] = {
    "hill climbing, sequential": _masa(hill_climb, SequentialPaired(), rounds=_ENDLESS, patience=_ENDLESS),
    "hill climbing, sequential, alpha 0.25": _masa(
        hill_climb, SequentialPaired(alpha=0.25), rounds=_ENDLESS, patience=_ENDLESS
    ),
    "hill climbing, fixed N = 100": _masa(hill_climb, FixedPaired(), rounds=_ENDLESS, patience=_ENDLESS),
    "hill climbing, strict N = 100": _masa(hill_climb, Strict(), rounds=_ENDLESS, patience=_ENDLESS),
    "tree search, sequential": _masa(tree_search, SequentialPaired(), iterations=_ENDLESS),
    "tree search, strict N = 100": _masa(tree_search, Strict(), iterations=_ENDLESS),
    "random search, N = 100": random_search,
    "GEPA, 100 validation tasks": _gepa(100),
    "GEPA, 30 validation tasks": _gepa(30),
}
