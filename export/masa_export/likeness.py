"""How like two models are, as numbers: their logits at the same positions of the same texts.

Pure functions on arrays; `masa_export.parity` and `masa_export.verify` compute the logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Likeness:
    """A model against a reference, over all positions.

    Attributes:
        divergence: mean Kullback-Leibler divergence of the next token's distribution from the reference's, in nats.
        worst: the largest one of a single position.
        equal: share of positions whose most probable token is the same.
        difference: the largest absolute difference of two logits.
        error: root mean square of the differences of logits.
        positions: how many there are.
    """

    divergence: float
    worst: float
    equal: float
    difference: float
    error: float
    positions: int


@dataclass(frozen=True, slots=True)
class Margin:
    """What may differ: a constant for rounding, and a share of the effect (rms of what training changes in logits)."""

    difference: float
    difference_share: float
    error: float
    error_share: float


def likeness(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> Likeness:
    """Compare logits (positions x vocabulary, at least one position) with the reference's."""
    import numpy as np

    divergences = []
    for ours, theirs in zip(logits, reference, strict=True):  # row by row: float64 of all would be large
        p, q = _log_softmax(theirs), _log_softmax(ours)
        divergences.append(float(np.sum(np.exp(p) * (p - q))))
    return Likeness(
        divergence=_not_negative(float(np.mean(divergences))),
        worst=_not_negative(float(np.max(divergences))),
        equal=float((logits.argmax(1) == reference.argmax(1)).mean()),
        difference=float(np.abs(logits - reference).max()),
        error=rms(logits - reference),
        positions=len(logits),
    )


def pool(parts: Sequence[Likeness]) -> Likeness:
    """The likeness over the positions of all `parts` (at least one) together; every position weighs the same."""
    positions = sum(part.positions for part in parts)

    def mean(values: Sequence[float]) -> float:
        return sum(value * part.positions for value, part in zip(values, parts, strict=True)) / positions

    return Likeness(
        divergence=mean([part.divergence for part in parts]),
        worst=_largest([part.worst for part in parts]),
        equal=mean([part.equal for part in parts]),
        difference=_largest([part.difference for part in parts]),
        error=math.sqrt(mean([part.error**2 for part in parts])),
        positions=positions,
    )


def excess(found: Likeness, margin: Margin, effect: float, equal: float) -> str:
    """What is beyond the margin, with measured and allowed figures; empty where nothing is.

    `equal` is the least share of equal best tokens. What is no number is beyond every margin.
    """
    difference = margin.difference + margin.difference_share * effect
    error = margin.error + margin.error_share * effect
    # Written so that a NaN is found.
    if not found.error <= error:
        return f"logits differ by {found.error:.2g} (rms), {error:.2g} is allowed"
    if not found.difference <= difference:
        return f"logits differ by up to {found.difference:.2g}, {difference:.2g} is allowed"
    if not found.equal >= equal:
        return f"{found.equal:.0%} of the best tokens are equal, at least {equal:.0%} must be"
    return ""


def rms(values: NDArray[np.float32]) -> float:
    """Root mean square."""
    import numpy as np

    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def _log_softmax(row: NDArray[np.float32]) -> NDArray[np.float64]:
    import numpy as np

    shifted = row.astype(np.float64) - row.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def _not_negative(value: float) -> float:
    """Rounding may leave a divergence a little below zero; a NaN stays one."""
    return 0.0 if value < 0 else value


def _largest(values: Sequence[float]) -> float:
    """The largest value, or NaN if one is."""
    return math.nan if any(math.isnan(value) for value in values) else max(values)
