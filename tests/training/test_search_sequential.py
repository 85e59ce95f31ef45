"""The sequential paired test: exact under chance, quick where the case is clear, silent where nothing is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.decisions import paired
from masa_training.search import SequentialPaired, sequential_paired
from masa_training.search.acceptance import growing

LOOKS = SequentialPaired().looks
reward = st.one_of(st.sampled_from([0.0, 1.0, 0.0, 1.0, -0.25, 0.4]), st.none())


def bernoulli(generator: np.random.Generator, chances: np.ndarray) -> list[float]:
    return [float(won) for won in generator.random(len(chances)) < chances]


# Rare, middling and frequent success; tasks alike and tasks that are almost always won or lost, with many ties.
NULLS = [(0.01, None), (0.05, None), (0.3, None), (0.5, 0.3), (0.9, 0.5)]


def test_of_2000_candidates_that_equal_the_incumbent_at_most_one_in_twenty_is_accepted() -> None:
    generator = np.random.default_rng(11)
    accepted = dict.fromkeys(NULLS, 0)
    runs = 2000 // len(NULLS)
    for success, spread in NULLS:
        for _ in range(runs):
            chances = np.full(LOOKS[-1], success)
            if spread:
                chances = generator.beta(success * spread, (1 - success) * spread, size=LOOKS[-1])
            sides = bernoulli(generator, chances), bernoulli(generator, chances)
            accepted[success, spread] += sequential_paired(*sides, looks=LOOKS).verdict is True
    # The level holds exactly; what is added is luck of the runs, two standard errors.
    assert sum(accepted.values()) / 2000 <= 0.05
    assert all(count / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5 for count in accepted.values()), accepted
    assert sum(accepted.values()) / 2000 >= 0.01, "a test that never accepts would pass too"


@pytest.mark.parametrize("sizes", [[1.0] * 12, [0.3, 1.0, 0.25, 0.7, 0.0, 1.0, 0.5, 0.5, 1.25, 0.1, 1.0, 0.6]])
def test_over_all_ways_that_signs_can_fall_the_level_is_kept_exactly(sizes: list[float]) -> None:
    accepted = 0
    for signs in itertools.product((1, -1), repeat=len(sizes)):
        candidate = [sign * size for sign, size in zip(signs, sizes, strict=True)]
        decision = sequential_paired(candidate, [0.0] * len(sizes), looks=(5, 8, 12), futility=0.1)
        accepted += decision.verdict is True
    share = accepted / 2 ** len(sizes)
    assert 0.02 < share <= 0.05


def test_better_candidates_are_accepted_as_often_as_by_one_look_at_100_pairs_and_hopeless_ones_cost_little() -> None:
    generator = np.random.default_rng(5)
    runs = 250
    found = {gain: [0, 0, 0] for gain in (-0.2, 0.2)}
    for gain, counts in found.items():
        for _ in range(runs):
            chances = generator.beta(1, 1.5, size=LOOKS[-1])
            candidate, incumbent = bernoulli(generator, chances + gain), bernoulli(generator, chances)
            decision = sequential_paired(candidate, incumbent, looks=LOOKS)
            assert decision.pairs is not None
            counts[0] += decision.verdict is True
            counts[1] += paired(candidate[:100], incumbent[:100]).verdict is True
            counts[2] += decision.pairs
    accepted, at_once, pairs = found[0.2]
    assert accepted >= at_once - 0.05 * runs and accepted > 0.8 * runs
    assert pairs / runs < 70
    accepted, _, pairs = found[-0.2]
    assert accepted == 0 and pairs / runs < 25


@given(st.lists(st.tuples(reward, reward), max_size=60), st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_what_a_look_decided_stays_decided_when_more_pairs_are_given(
    pairs: list[tuple[float | None, float | None]], cut: int
) -> None:
    looks = growing(5, 60)
    candidate, incumbent = [a for a, _ in pairs], [b for _, b in pairs]
    early = sequential_paired(candidate[:cut], incumbent[:cut], looks=looks)
    late = sequential_paired(candidate, incumbent, looks=looks)
    assert early.open or early == late
    assert not (early.open and early.verdict is not None)
    assert len(pairs) < 60 or not late.open


@given(st.lists(st.tuples(reward, reward), max_size=40))
@settings(max_examples=50, deadline=None)
def test_a_better_and_a_worse_side_never_both_win(pairs: list[tuple[float | None, float | None]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    verdicts = {
        sequential_paired(*sides, looks=(5, 10, 20, 40)).verdict for sides in [(first, second), (second, first)]
    }
    assert verdicts != {True}
    known = [a - b for a, b in pairs if a is not None and b is not None]
    difference = sequential_paired(first, second, looks=(200,)).difference
    assert difference is None if not known else difference == pytest.approx(sum(known) / len(known))


def test_nothing_known_is_indecisive_and_never_a_zero() -> None:
    lost = sequential_paired([None] * 150, [1.0] * 150, looks=LOOKS)
    assert (lost.verdict, lost.difference, lost.pairs) == (None, None, 0)
    ties = sequential_paired([0.0] * 150, [0.0] * 150, looks=LOOKS)
    assert ties.verdict is None and ties.difference == 0.0 and not ties.open
    assert ties.pairs is not None and ties.pairs < 100, "pairs that never differ are not played to the end"
    assert sequential_paired([], [], looks=LOOKS).open


def test_a_missing_episode_is_not_a_failure() -> None:
    won = [1.0] * 20
    with_gaps = [None if i % 4 == 0 else 1.0 for i in range(20)]
    assert sequential_paired(with_gaps, [0.0] * 20, looks=(10, 20)).difference == 1.0
    assert sequential_paired(won, [None if i % 2 else 0.0 for i in range(20)], looks=(20,)).pairs == 10


def test_one_or_two_unlucky_pairs_do_not_end_it() -> None:
    assert sequential_paired([0, 0, 0, 0, 0], [1, 1, 0, 0, 0], looks=LOOKS).open
    assert sequential_paired([0, 0, 0, 0, 0], [1, 1, 1, 1, 0], looks=LOOKS).verdict is False


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="1 pairs of"):
        sequential_paired([1], [1, 0], looks=(2,))
    with pytest.raises(ValueError, match="not rising"):
        sequential_paired([], [], looks=(5, 5))
    with pytest.raises(ValueError, match=r"alpha 0\.6"):
        sequential_paired([], [], looks=(5,), alpha=0.6)


@given(st.integers(1, 20), st.integers(1, 300))
@settings(max_examples=50)
def test_looks_grow_and_end_at_the_most(first: int, most: int) -> None:
    looks = growing(first, most)
    steps = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert looks[-1] == most and all(step >= min(first, most) for step in steps)
