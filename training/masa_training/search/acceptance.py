"""Rules by which a candidate replaces the incumbent: how many pairs to play, and what to make of them.

The sequential rule, `SequentialPaired`, is a paired test that is looked at while episodes come in, and stops once the
decision is clear. It is the default of `masa evolve`; the setting `accept.rule` chooses another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from masa_training.decisions import Decision, paired, strict

_UNIT = 0.01
"""Differences are rounded to this for the test alone: what is smaller makes no candidate worth having."""

_TREND = 3
"""Fewer differing pairs than this show no trend, so that no candidate is given up for one unlucky episode."""

_SIGNIFICANT = 5
"""Fewer differing pairs than this cannot be significant at 5 %, even if all favour the candidate."""

_WORSE = -1.645
"""Below this, in standard deviations, a candidate is called worse; a word in the reason, which decides nothing."""


def sequential_paired(
    candidate: Sequence[float | None],
    incumbent: Sequence[float | None],
    *,
    looks: Sequence[int],
    alpha: float = 0.05,
    futility: float = 0.1,
) -> Decision:
    """Decide by a sign-flip test with alpha spending, exact at every number of pairs, and give up what is hopeless.

    Reward i of both sides comes from the same task and seed; None where an episode is missing, which leaves the pair
    out. Both sides hold the pairs played so far, in the order played. A pure function of these: what an earlier look
    decided stays decided when more pairs are given.

    Accepting. If both sides draw their rewards from the same distribution, each difference dᵢ is as likely as −dᵢ, so
    that given the sizes |dᵢ| the sum S = Σ dᵢ is a walk with known steps and fair signs (Fisher, 1935). Its
    distribution is computed exactly, step by step, without the walks that an earlier look stopped. After n of N pairs
    walks of probability α·n/N in all may have been accepted (Lan and DeMets, 1983, spending proportional to the
    pairs); a candidate is accepted if its S is among the largest for which that holds. What a look could not spend,
    because S comes in steps, is left to the next. Over all looks at most `alpha` of the candidates that equal the
    incumbent are accepted, fewer of those that are worse; also with rare successes and many ties, where Student's t
    promises nothing.

    Giving up. With t = n/N, V = Σ dᵢ², B = S·√(t/V) and a flat prior on the drift, a test of size `alpha` at N pairs
    would accept with probability Φ((B/t − z₁₋α)/√((1 − t)/t)) (predictive power: Spiegelhalter, Freedman and
    Blackburn, 1986). Below `futility` the verdict is False. Where five differing pairs, the fewest that could be
    significant at 5 %, are not to be expected by N (beta-binomial, uniform prior), it is None: indecisive.

    Args:
        looks: after how many pairs to look, rising; the last is N.
        alpha: share of equal candidates that may be accepted.
        futility: give up below this chance of being accepted; 0 never does.

    Returns:
        `verdict` True: better; False: worse, or hopeless; None: open, if `open` says so, else indecisive. `p` is None:
        the probability that counts is that of the whole procedure.

    Raises:
        ValueError: if the sequences differ in length, or if `looks`, `alpha` or `futility` is out of range.
    """
    _check(candidate, incumbent, looks, alpha, futility)
    paired = [None if a is None or b is None else a - b for a, b in zip(candidate, incumbent, strict=True)]
    steps = np.rint(np.array([difference or 0.0 for difference in paired]) / _UNIT).astype(np.int64)
    if len(steps):
        steps //= max(1, int(np.gcd.reduce(steps)))
    walks, spent, played = np.ones(1), 0.0, 0
    for look in looks:
        if look > len(steps):
            return _decision(None, f"open, at most {looks[-1]} pairs", paired, open=True)
        walks = _lengthen(walks, np.abs(steps[played:look]))
        played, share, total = look, look / looks[-1], int(steps[:look].sum())
        seen = paired[:look]
        bound, taken = _bound(walks, alpha * share - spent)
        if total >= bound:
            return _decision(True, "better", seen)
        if look == looks[-1]:
            break
        spent += taken
        deviation = math.sqrt(float((steps[:look] ** 2).sum()))
        differing = int(np.count_nonzero(steps[:look]))
        low = -math.inf
        if futility and differing >= _TREND:
            low = _lowest(share, alpha, futility) * deviation
            if total <= low:
                return _decision(False, "worse" if total <= _WORSE * deviation else "hopeless", seen)
        if _too_few(differing, len(seen) - seen.count(None), looks[-1] - look, futility):
            return _decision(None, f"indecisive: {differing} of the pairs differ", seen)
        walks = _cut(walks, low, bound)
    return _decision(None, "indecisive", paired[: looks[-1]])


def _check(
    candidate: Sequence[object], incumbent: Sequence[object], looks: Sequence[int], alpha: float, futility: float
) -> None:
    if len(candidate) != len(incumbent):
        raise ValueError(f"{len(candidate)} pairs of the candidate, {len(incumbent)} of the incumbent")
    if not looks or looks[0] < 1 or any(later <= earlier for earlier, later in itertools.pairwise(looks)):
        raise ValueError(f"looks {list(looks)} are not rising numbers of pairs")
    if not 0 < alpha < 0.5 or not 0 <= futility < 0.5:
        raise ValueError(f"alpha {alpha} and futility {futility} have to be below 0.5, and alpha above 0")


def _decision(verdict: bool | None, word: str, paired: Sequence[float | None], *, open: bool = False) -> Decision:
    """A decision that tells the mean difference of the pairs that are known."""
    known = [difference for difference in paired if difference is not None]
    if not known:
        return Decision(verdict, None, None, f"{word}: no pair was played by both", pairs=0, open=open)
    mean = math.fsum(known) / len(known)
    return Decision(
        verdict, mean, None, f"{word}: mean difference {mean:+.3f} over {len(known)} pairs", pairs=len(known), open=open
    )


def _lengthen(walks: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The distribution of the sum, an array over −m … m, after one more step of ± each size."""
    for size in sizes[sizes > 0].tolist():
        longer = np.zeros(len(walks) + 2 * size)
        longer[: len(walks)] = walks
        longer[2 * size :] += walks
        walks = 0.5 * longer
    return walks


def _bound(walks: NDArray[np.float64], allowance: float) -> tuple[float, float]:
    """The lowest sum from which on all walks have at most the probability `allowance` in all, and that probability."""
    tail = np.cumsum(walks[::-1])
    # An allowance that is met exactly must not be missed by rounding.
    fits = int(np.searchsorted(tail, allowance + 1e-12, side="right"))
    if not fits or not tail[fits - 1]:
        return math.inf, 0.0
    return len(walks) // 2 + 1 - fits, float(tail[fits - 1])


def _cut(walks: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """The walks that go on: with sums above `low` and below `high`."""
    sums = np.arange(len(walks)) - len(walks) // 2
    return np.where((sums > low) & (sums < high), walks, 0.0)


def _lowest(share: float, alpha: float, futility: float) -> float:
    """S/√V at which a look at all pairs would accept with probability `futility`, after this share of them."""
    from scipy.special import ndtri  # type: ignore[import-untyped]

    return float(math.sqrt(share) * ndtri(1 - alpha) + ndtri(futility) * math.sqrt(1 - share))


def _too_few(differing: int, played: int, ahead: int, futility: float) -> bool:
    """Whether too few pairs to be significant will differ after `ahead` more, but for a chance `futility`."""
    missing = _SIGNIFICANT - differing
    if missing <= 0:
        return False
    from scipy.special import betaln, gammaln

    more = np.arange(min(missing, ahead + 1))
    ways = gammaln(ahead + 1) - gammaln(more + 1) - gammaln(ahead - more + 1)
    a, b = differing + 1, played - differing + 1
    below = float(np.exp(ways + betaln(more + a, ahead - more + b) - betaln(a, b)).sum())
    return 1 - below < futility


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
    """The default: looks at growing numbers of pairs, up to `most`, and stops once the decision is clear.

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
