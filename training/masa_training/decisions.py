"""Whether a candidate replaces the incumbent: pure functions that return a reason, None where nothing can be said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a candidate replaces the incumbent, and why.

    Attributes:
        verdict: None while the evidence is too thin to judge; never guessed.
        difference: mean paired difference, candidate − incumbent; None without pairs.
        p: probability of a t at least as large if there were no difference; None where it is undefined.
        pairs: how many pairs of rewards it rests on; fewer than were given if a sequential test had decided before.
        open: whether the test would look at more pairs; not a verdict yet.
    """

    verdict: bool | None
    difference: float | None
    p: float | None
    reason: str
    pairs: int | None = None
    open: bool = False


def strict(candidate: Sequence[float], incumbent: Sequence[float]) -> Decision:
    """Accept if the mean reward is strictly higher, else reject: the published method's rule (arXiv 2605.30723).

    Both sequences hold the rewards of the same tasks and seeds. Chance alone accepts almost every second candidate that
    equals the incumbent. None without pairs.

    Raises:
        ValueError: if the sequences differ in length.
    """
    if len(candidate) != len(incumbent):
        raise ValueError(f"{len(candidate)} tasks of the candidate, {len(incumbent)} of the incumbent")
    if not candidate:
        return Decision(None, None, None, "no task was played by both", pairs=0)
    # Summed exactly, so that equal rewards in another order are not a difference.
    total = math.fsum([*candidate, *(-reward for reward in incumbent)])
    mean = total / len(candidate)
    word = "higher" if total > 0 else "not higher"
    told = f"{word}: mean difference {mean:+.3f} over {len(candidate)} tasks"
    return Decision(total > 0, mean, None, told, pairs=len(candidate))


def paired(candidate: Sequence[float], incumbent: Sequence[float], *, alpha: float = 0.05) -> Decision:
    """Decide by paired t tests over tasks (Student, 1908), one-sided, looked at once.

    Both sequences hold one mean reward per task, in the same order. Accepted if the candidate is better at level
    `alpha`, rejected if it is worse at that level, else indecisive. Looking again and again as tasks come in accepts
    noise more often than `alpha`.

    Raises:
        ValueError: if the sequences differ in length.
    """
    if len(candidate) != len(incumbent):
        raise ValueError(f"{len(candidate)} tasks of the candidate, {len(incumbent)} of the incumbent")
    differences = np.asarray(candidate, dtype=np.float64) - np.asarray(incumbent, dtype=np.float64)
    count = len(differences)
    if not count:
        return Decision(None, None, None, "no task was played by both", pairs=0)
    mean = float(differences.mean())
    if count < 2:
        return Decision(None, mean, None, "one task only", pairs=count)
    spread = float(differences.std(ddof=1)) / math.sqrt(count)
    if spread == 0:
        same = "all tasks gave the same difference"
        return Decision(None, mean, None, f"{same}, whose chance is not known", pairs=count)
    p = _tail(mean / spread, count - 1)
    told = f"mean difference {mean:+.3f} over {count} tasks, p {min(p, 1 - p):.3f}"
    if p <= alpha:
        return Decision(True, mean, p, f"better: {told}", pairs=count)
    if 1 - p <= alpha:
        return Decision(False, mean, p, f"worse: {told}", pairs=count)
    return Decision(None, mean, p, f"indecisive: {told}", pairs=count)


def minimum_detectable_effect(differences: Sequence[float], *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The mean difference that a one-sided paired t test at `alpha` would find with probability `power`.

    From the spread of the differences at hand, by the normal approximation `(t₁₋α + z_power)·s/√n`; None for fewer than
    two differences.
    """
    from scipy.special import ndtri, stdtrit  # type: ignore[import-untyped]

    count = len(differences)
    if count < 2:
        return None
    spread = float(np.std(np.asarray(differences, dtype=np.float64), ddof=1))
    return float((stdtrit(count - 1, 1 - alpha) + ndtri(power)) * spread / math.sqrt(count))


def false_accept_rate(
    first: Sequence[float], second: Sequence[float], *, alpha: float = 0.05, resamples: int = 2000, seed: int = 0
) -> float | None:
    """How often `paired` accepts one of two runs of the same arm, one mean reward per task each.

    Tasks are drawn with replacement and the two runs of a task change places by the toss of a coin, which is what
    chance alone would do. None for fewer than two tasks.

    Raises:
        ValueError: if the sequences differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} tasks")
    if len(first) < 2:
        return None
    runs = np.asarray([first, second], dtype=np.float64)
    generator = np.random.default_rng(seed)
    accepted = 0
    for _ in range(resamples):
        drawn = generator.integers(len(first), size=len(first))
        side = generator.integers(2, size=len(first))
        accepted += paired(runs[side, drawn].tolist(), runs[1 - side, drawn].tolist(), alpha=alpha).verdict is True
    return accepted / resamples


def _tail(t: float, freedom: int) -> float:
    """P(T ≥ t) of Student's t."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))
