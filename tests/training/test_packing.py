"""Rows and steps: every sample once, prefixes shared, limits kept, order a function of the seed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.distill.packing import Branch, Tree, epoch_steps, families, lay_out, rows_of
from masa_training.encoding import Encoded


@st.composite
def encoded_samples(draw: st.DrawFn) -> list[Encoded]:
    samples = []
    for family in range(draw(st.integers(1, 6))):
        prefix = (family + 1000, *draw(st.lists(st.integers(0, 9), max_size=12)))
        for member in range(draw(st.integers(1, 7))):
            rest = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6))
            target = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
            samples.append(Encoded(f"{family}/{member}", (*prefix, *rest), len(prefix), tuple(target)))
    return samples


def sequences(row: object) -> dict[str, tuple[list[int], list[int]]]:
    """For every branch of a row the tokens it sees, in order, and the labels it must predict."""
    found = {}
    offset = label = number = 0
    for prefix, *lengths in row.layout:  # type: ignore[attr-defined]
        stem = list(row.tokens[offset : offset + prefix])  # type: ignore[attr-defined]
        offset += prefix
        for length in lengths:
            own = list(row.tokens[offset : offset + length])  # type: ignore[attr-defined]
            count = row.lengths[number]  # type: ignore[attr-defined]
            found[row.ids[number]] = (stem + own, list(row.labels[label : label + count]))  # type: ignore[attr-defined]
            offset, label, number = offset + length, label + count, number + 1
    return found


@given(encoded_samples(), st.integers(1, 6), st.integers(5, 60), st.integers(0, 5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_epoch_holds_every_sample_once_whole_and_in_steps_of_bounded_size(
    samples: list[Encoded], batch: int, tokens: int, seed: int, share: bool
) -> None:
    steps = list(epoch_steps(samples, batch_size=batch, row_tokens=tokens, seed=seed, epoch=0, share=share))
    assert sorted(i for step in steps for row in step for i in row.ids) == sorted(s.id for s in samples)
    assert all(sum(row.samples for row in step) <= batch for step in steps)
    by_id = {sample.id: sample for sample in samples}
    for row in (row for step in steps for row in step):
        for identifier, (seen, labels) in sequences(row).items():
            sample = by_id[identifier]
            assert tuple(seen) == (*sample.prompt, *sample.target)
            assert tuple(labels) == sample.target, "the loss is on the target only, the stop token included"
        assert row.samples == 1 or len(row.tokens) <= tokens


@given(encoded_samples(), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_labels_are_what_follows_their_places_and_positions_are_those_of_the_sample_alone(
    samples: list[Encoded], seed: int
) -> None:
    for step in epoch_steps(samples, batch_size=3, row_tokens=50, seed=seed, epoch=1):
        for row in step:
            assert [row.tokens[place + 1] for place in row.places] == list(row.labels)
            offset = 0
            for prefix, *lengths in row.layout:
                assert list(row.positions[offset : offset + prefix]) == list(range(prefix))
                offset += prefix
                for length in lengths:
                    assert list(row.positions[offset : offset + length]) == list(range(prefix, prefix + length))
                    offset += length
            assert offset == len(row.tokens)


@given(encoded_samples(), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_the_order_follows_from_seed_and_epoch_alone(samples: list[Encoded], seed: int) -> None:
    def order(epoch: int) -> list[object]:
        return list(epoch_steps(samples, batch_size=2, row_tokens=99, seed=seed, epoch=epoch))

    assert order(0) == order(0)
    if len(families(samples)) > 4:
        assert any(order(0) != order(epoch) for epoch in (1, 2, 3, 4, 5))


def family() -> list[Encoded]:
    return [Encoded(str(n), (1, 2, 3, 50 + n), 3, (70 + n, 9)) for n in range(3)]


def test_sharing_computes_a_prefix_once() -> None:
    (row,) = rows_of(family(), 100)
    assert row.tokens == (1, 2, 3, 50, 70, 9, 51, 71, 9, 52, 72, 9)


@pytest.mark.parametrize(("objective", "worse"), [("contrast", "card"), ("preference", "target")])
def test_comparisons_stand_behind_what_should_beat_them(objective: str, worse: str) -> None:
    import random

    rows = rows_of(family(), 14, objective=objective, partners=random.Random(0))
    assert sum(row.samples for row in rows) == 3 and len(rows) > 1
    for row in rows:
        assert row.against == tuple(n for i in range(row.samples) for n in (-1, 2 * i))
        for i in range(0, len(row.ids), 2):
            own, other = (row.tokens[3 + 3 * n : 6 + 3 * n] for n in (i, i + 1))
            assert (own[0] != other[0]) == (worse == "card") and (own[1] != other[1]) == (worse == "target")


def test_a_target_needs_a_token_before_it() -> None:
    with pytest.raises(ValueError, match="sample x: a branch needs a token before its target"):
        lay_out([Tree((1,), (Branch("x", (2, 3), 0),))])
