"""Decisions: right where the answer is known, silent where it is not, and rarely wrong by chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.decisions import false_accept_rate, minimum_detectable_effect, paired, strict

rewards = st.lists(st.floats(0, 1, width=16), min_size=0, max_size=30)


def test_a_clear_difference_is_decided_and_the_other_way_round_too() -> None:
    better = [0.9, 0.8, 1.0, 0.9, 0.7, 0.9]
    worse = [0.1, 0.3, 0.2, 0.0, 0.1, 0.2]
    assert paired(better, worse).verdict is True
    assert paired(worse, better).verdict is False


def test_the_p_value_is_that_of_a_one_sided_paired_t_test() -> None:
    from scipy.stats import ttest_rel

    a, b = [0.4, 0.7, 0.9, 0.3, 0.8], [0.2, 0.8, 0.5, 0.3, 0.4]
    assert paired(a, b).p == pytest.approx(ttest_rel(a, b, alternative="greater").pvalue)


def test_nothing_is_said_without_evidence() -> None:
    assert paired([], []).verdict is None and paired([], []).difference is None
    assert paired([1.0], [0.0]).verdict is None
    assert paired([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]).verdict is None
    with pytest.raises(ValueError, match="3 tasks of"):
        paired([1, 2, 3], [1, 2])


@given(rewards, st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_swapping_the_sides_turns_the_decision_round(first: list[float], seed: int) -> None:
    second = np.random.default_rng(seed).permutation(first).tolist()
    one, other = paired(first, second), paired(second, first)
    turned = {True: False, False: True, None: None}
    assert one.verdict == turned[other.verdict]


def test_noise_is_accepted_no_more_often_than_alpha_says() -> None:
    generator = np.random.default_rng(7)
    accepted = sum(
        paired(generator.normal(size=30).tolist(), generator.normal(size=30).tolist()).verdict is True
        for _ in range(2000)
    )
    assert 0.03 <= accepted / 2000 <= 0.07


def test_the_detectable_effect_is_found_about_as_often_as_the_power_says() -> None:
    generator = np.random.default_rng(1)
    effect = minimum_detectable_effect(generator.normal(scale=0.3, size=40).tolist())
    assert effect is not None
    found = 0
    for _ in range(1000):
        differences = generator.normal(loc=effect, scale=0.3, size=40)
        found += paired(differences.tolist(), [0.0] * 40).verdict is True
    assert 0.7 <= found / 1000 <= 0.9
    assert minimum_detectable_effect([0.3]) is None


def test_an_arm_against_itself_is_accepted_about_as_often_as_alpha_says() -> None:
    generator = np.random.default_rng(3)
    chance = generator.uniform(size=80)
    first, second = ((generator.uniform(size=80) < chance).astype(float).tolist() for _ in range(2))
    rate = false_accept_rate(first, second, resamples=1000)
    assert rate is not None and 0.02 <= rate <= 0.08
    assert false_accept_rate(first, second, resamples=50) == false_accept_rate(first, second, resamples=50)
    assert false_accept_rate([1.0], [0.0]) is None


def test_strict_accepts_any_higher_mean_and_nothing_else() -> None:
    assert strict([1.0, 0.0, 1.0], [1.0, 0.0, 0.0]).verdict is True
    # 0.1 + 0.2 + 0.3 depends on the order when added one by one; the mean reward does not.
    assert strict([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]).verdict is False
    assert strict([0.0], [1.0]).difference == -1.0
    assert strict([], []).verdict is None and strict([], []).difference is None
    with pytest.raises(ValueError, match="1 tasks of"):
        strict([1.0], [])


@given(rewards)
@settings(max_examples=30, deadline=None)
def test_a_decision_tells_how_many_pairs_it_rests_on(side: list[float]) -> None:
    for rule in (paired, strict):
        decision = rule(side, [0.25] * len(side))
        assert decision.pairs == len(side) and not decision.open
