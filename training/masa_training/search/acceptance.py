"""Rules by which a candidate replaces the incumbent: how many pairs to play, and what to make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from masa_training.decisions import Decision, paired, strict
from masa_training.search.sequential import sequential_paired

Rewards = Sequence[float | None]
"""One reward for each pair of task and seed, in the order played; None where the episode is missing."""


class Acceptance(Protocol):
    """A rule. A search plays both sides up to each look in turn until the decision is no longer `open`."""

    @property
    def name(self) -> str: ...

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of pairs, rising."""

    def judge(self, candidate: Rewards, incumbent: Rewards) -> Decision:
        """Decide from the pairs played so far, as many as one of `looks` says; a pure function."""


@dataclass(frozen=True, slots=True)
class OneLook:
    """What rules share that look once, after `pairs` pairs."""

    pairs: int = 100

    def __post_init__(self) -> None:
        _positive(self.pairs)

    @property
    def looks(self) -> tuple[int, ...]:
        return (self.pairs,)


@dataclass(frozen=True, slots=True)
class Strict(OneLook):
    """The published method's rule: after `pairs` pairs, accept if the mean is strictly higher."""

    name = "strict"

    def judge(self, candidate: Rewards, incumbent: Rewards) -> Decision:
        return strict(*_known(candidate, incumbent))


@dataclass(frozen=True, slots=True)
class FixedPaired(OneLook):
    """One look after `pairs` pairs: paired t tests at level `alpha`; reject only what is worse at that level."""

    alpha: float = 0.05
    name = "paired, fixed"

    def judge(self, candidate: Rewards, incumbent: Rewards) -> Decision:
        return paired(*_known(candidate, incumbent), alpha=self.alpha)


@dataclass(frozen=True, slots=True)
class SequentialPaired:
    """The default: looks at growing numbers of pairs, up to `most`, and stops as soon as the decision is clear.

    With these settings about as many better candidates are accepted as by one look at 100 pairs, whatever the
    difference; `benchmarks/search.py` measures it. See `sequential_paired` for the test.
    """

    most: int = 150
    first: int = 5
    alpha: float = 0.05
    futility: float = 0.1
    name = "paired, sequential"

    def __post_init__(self) -> None:
        _positive(self.most)
        _positive(self.first)

    @property
    def looks(self) -> tuple[int, ...]:
        return growing(self.first, self.most)

    def judge(self, candidate: Rewards, incumbent: Rewards) -> Decision:
        return sequential_paired(candidate, incumbent, looks=self.looks, alpha=self.alpha, futility=self.futility)


def growing(first: int, most: int) -> tuple[int, ...]:
    """Numbers of pairs to look at: steps of `first`, later of a fifth of what was played, the last one `most`."""
    looks = []
    look = first
    while look < most:
        looks.append(look)
        look += max(first, look // 5)
    # A last batch smaller than the first says too little for a look of its own.
    if looks and most - looks[-1] < first:
        looks.pop()
    return (*looks, most)


def _known(candidate: Rewards, incumbent: Rewards) -> tuple[list[float], list[float]]:
    """The pairs of which both halves are known."""
    if len(candidate) != len(incumbent):
        raise ValueError(f"{len(candidate)} pairs of the candidate, {len(incumbent)} of the incumbent")
    both = [(a, b) for a, b in zip(candidate, incumbent, strict=True) if a is not None and b is not None]
    return [a for a, _ in both], [b for _, b in both]


def _positive(pairs: int) -> None:
    if pairs < 1:
        raise ValueError(f"{pairs} pairs: at least one has to be played")
