"""Statistics of results that are not independent: pure functions, None where a number is undefined."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Value = float | Sequence[float]
Statistic = Callable[[NDArray[np.float64]], float | None]
"""From the observations, an array of shape (n,) or (n, k) with n at least 1, to a number or None."""

_FEWEST_DEFINED = 0.95


class Interval(NamedTuple):
    """An estimate and its confidence interval; `clusters` is how many independent units it rests on."""

    estimate: float
    low: float
    high: float
    clusters: int


def cluster_bootstrap(
    values_by_cluster: Mapping[Hashable, Sequence[Value]],
    statistic: Statistic,
    *,
    resamples: int = 2000,
    seed: int,
    level: float = 0.95,
) -> Interval | None:
    """Confidence interval of a statistic by resampling whole clusters with replacement.

    Observations within a cluster may depend on each other in any way; clusters must be independent. The interval is
    the expanded percentile interval (Hesterberg, 2015, "What Teachers Should Know About the Bootstrap", section 4.3):
    percentiles further out than `level` says, as far as Student's t for that many clusters is, because the plain
    percentile interval is too narrow where clusters are few. It is widened where needed to contain the estimate.

    Args:
        values_by_cluster: the observations of each cluster: numbers, or rows of k numbers each. Clusters without
            observations do not count.
        statistic: computed on all observations, of all clusters of a resample, together.
        resamples: how many resamples.
        seed: of the generator; the same seed gives the same interval, whatever the order of the clusters.
        level: coverage aimed at, between 0 and 1.

    Returns:
        None for fewer than two clusters, where the statistic itself is undefined, or where it is undefined in more
        than one resample of twenty.

    Raises:
        ValueError: if `level` or `resamples` is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    if resamples < 1:
        raise ValueError(f"{resamples} resamples")
    names = sorted((name for name, values in values_by_cluster.items() if len(values)), key=repr)
    clusters = [np.asarray(values_by_cluster[name], dtype=np.float64) for name in names]
    if len(clusters) < 2:
        return None
    everything = np.concatenate(clusters)
    estimate = _finite(statistic(everything))
    if estimate is None:
        return None
    generator = np.random.default_rng(seed)
    single = len(everything) == len(clusters)
    found = []
    for _ in range(resamples):
        drawn = generator.integers(len(clusters), size=len(clusters))
        resample = everything[drawn] if single else np.concatenate([clusters[i] for i in drawn])
        value = _finite(statistic(resample))
        if value is not None:
            found.append(value)
    if len(found) < _FEWEST_DEFINED * resamples:
        return None
    tail = _tail(level, len(clusters))
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate), len(clusters))


def paired_differences(
    pairs: Iterable[tuple[Hashable, float | None, float | None]],
) -> dict[Hashable, list[float]]:
    """Differences first − second by cluster, from (cluster, first, second); pairs with an unknown half are left out."""
    found: dict[Hashable, list[float]] = {}
    for cluster, first, second in pairs:
        if first is not None and second is not None:
            found.setdefault(cluster, []).append(first - second)
    return found


def mean(values: NDArray[np.float64]) -> float | None:
    """Mean of numbers."""
    return float(values.mean()) if values.size else None


def ratio_of_sums(rows: NDArray[np.float64]) -> float | None:
    """Σ first column / Σ second column, such as NLL per token over samples of different lengths."""
    total = float(rows[:, 1].sum()) if rows.size else 0.0
    return float(rows[:, 0].sum()) / total if total else None


def f1(rows: NDArray[np.float64]) -> float | None:
    """F1 of rows (true positives, false positives, false negatives), summed first; None if there is nothing."""
    if not rows.size:
        return None
    right, invented, missed = (float(column) for column in rows.sum(axis=0))
    total = 2 * right + invented + missed
    return 2 * right / total if total else None


def _tail(level: float, clusters: int) -> float:
    """The share of resamples to leave out at each end."""
    from scipy.special import ndtr, stdtrit  # type: ignore[import-untyped]

    t = float(stdtrit(clusters - 1, (1 + level) / 2))
    return float(ndtr(-t * (clusters / (clusters - 1)) ** 0.5))


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
