"""Intervals must cover as often as they say, also where results depend on each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.statistics import Interval, cluster_bootstrap, f1, mean, paired_differences, ratio_of_sums

values = st.floats(-100, 100, allow_nan=False)
clusters_strategy = st.dictionaries(st.text(max_size=4), st.lists(values, max_size=5), max_size=6)


def simulated(rng: np.random.Generator, clusters: int, size: int) -> dict[int, list[float]]:
    """Mean 0; half of the variance is common to the members of a cluster."""
    return {c: list(rng.normal(rng.normal(), 1, size)) for c in range(clusters)}


def coverage(clusters: int, *, split: bool, times: int = 120) -> float:
    """How often the interval contains the true mean; with `split` every value is taken for independent."""
    hits = 0
    for run in range(times):
        drawn = simulated(np.random.default_rng(run), clusters, 8)
        given_clusters = {(c, i): [v] for c, vs in drawn.items() for i, v in enumerate(vs)} if split else drawn
        interval = cluster_bootstrap(given_clusters, mean, resamples=200, seed=run)
        assert interval is not None
        hits += interval.low <= 0 <= interval.high
    return hits / times


def test_intervals_cover_under_correlation_within_clusters() -> None:
    assert 0.90 <= coverage(40, split=False) <= 0.99


def test_ignoring_the_clusters_would_not_cover() -> None:
    assert coverage(40, split=True) < 0.8


def test_few_clusters_cover_too() -> None:
    assert 0.90 <= coverage(6, split=False) <= 1.0


@settings(max_examples=50, deadline=None)
@given(clusters=clusters_strategy, seed=st.integers(0, 5))
def test_the_interval_contains_the_estimate_and_needs_two_clusters(clusters: dict[str, list[float]], seed: int) -> None:
    interval = cluster_bootstrap(clusters, mean, resamples=50, seed=seed)
    filled = [members for members in clusters.values() if members]
    if len(filled) < 2:
        assert interval is None
        return
    assert interval is not None
    everything = [value for members in filled for value in members]
    assert interval.estimate == pytest.approx(sum(everything) / len(everything))
    assert interval.low <= interval.estimate <= interval.high
    assert min(everything) - 1e-9 <= interval.low and interval.high <= max(everything) + 1e-9
    assert interval.clusters == len(filled)


def test_the_same_seed_gives_the_same_interval_in_any_order() -> None:
    drawn = simulated(np.random.default_rng(0), 12, 3)
    first = cluster_bootstrap(drawn, mean, seed=3)
    assert first == cluster_bootstrap(dict(reversed(drawn.items())), mean, seed=3)
    assert first != cluster_bootstrap(drawn, mean, seed=4)


def test_a_wider_level_gives_a_wider_interval() -> None:
    drawn = simulated(np.random.default_rng(0), 12, 3)
    narrow, wide = (cluster_bootstrap(drawn, mean, seed=1, level=level) for level in (0.5, 0.99))
    assert narrow is not None and wide is not None
    assert wide.low < narrow.low and narrow.high < wide.high


def test_undefined_is_none() -> None:
    assert cluster_bootstrap({}, mean, seed=0) is None
    assert cluster_bootstrap({"a": [1.0, 2.0]}, mean, seed=0) is None
    # No tokens at all: the ratio has no value.
    assert cluster_bootstrap({"a": [(1.0, 0.0)], "b": [(2.0, 0.0)]}, ratio_of_sums, seed=0) is None
    # Defined on all clusters together but on a quarter of the resamples not.
    assert cluster_bootstrap({"a": [(1.0, 0.0)], "b": [(2.0, 1.0)]}, ratio_of_sums, seed=0) is None
    with pytest.raises(ValueError, match="level"):
        cluster_bootstrap({"a": [1.0], "b": [2.0]}, mean, seed=0, level=1.0)


def test_constant_values_have_an_interval_without_width() -> None:
    assert cluster_bootstrap({c: [2.0, 2.0] for c in "abc"}, mean, seed=0) == Interval(2.0, 2.0, 2.0, 3)


def test_ratio_and_f1_sum_before_they_divide() -> None:
    assert ratio_of_sums(np.array([[1.0, 1.0], [9.0, 3.0]])) == 2.5
    assert f1(np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])) == pytest.approx(2 * 2 / (4 + 2))
    assert f1(np.array([[0.0, 0.0, 0.0]])) is None
    assert mean(np.array([])) is None


def test_pairs_with_an_unknown_half_are_left_out() -> None:
    pairs = [("a", 3.0, 1.0), ("a", None, 1.0), ("b", 1.0, None), ("c", 0.0, 0.5), ("a", 1.0, 1.0)]
    assert paired_differences(pairs) == {"a": [2.0, 0.0], "c": [-0.5]}
