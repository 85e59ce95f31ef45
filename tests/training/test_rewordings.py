"""The corpus of rewordings: every pair against its checklist, its contract and the guard; what becomes a sample."""

from __future__ import annotations

from collections import Counter

import pytest

from masa.wording import OPERATIONS
from masa_training.errors import TrainingError
from masa_training.rewordings import RewordingsConfig, faults, fields, load_field, missing_facts, rewording_samples
from masa_training.samples import dumps_sample, loads_sample


@pytest.mark.parametrize("field", fields())
def test_every_pair_says_what_its_source_says(field: str) -> None:
    assert [fault for entry in load_field(field) for fault in faults(entry)] == []


def test_the_corpus_is_large_and_even() -> None:
    entries = [entry for field in fields() for entry in load_field(field)]
    pairs = Counter(operation for entry in entries for operation in entry.texts)
    assert len(fields()) >= 8 and pairs.total() >= 1500 and set(pairs) == set(OPERATIONS)
    lengths = [len(entry.text.split()) for entry in entries]
    assert min(lengths) >= 10 and max(lengths) <= 150
    assert len({entry.text.casefold() for entry in entries}) == len(entries)


def test_a_counter_example_is_another_text_than_the_right_one() -> None:
    for entry in (entry for field in fields() for entry in load_field(field)):
        for wrong in entry.wrong:
            assert wrong.text != entry.texts.get(wrong.operation) and wrong.fault


def test_a_fact_may_be_spelled_in_several_ways() -> None:
    entry = next(entry for entry in load_field(fields()[0]) if any(len(fact) > 1 for fact in entry.facts))
    fact = next(fact for fact in entry.facts if len(fact) > 1)
    assert fact[0] in missing_facts(entry, "") or any(one.casefold() in entry.when.casefold() for one in fact)
    assert fact[0] not in missing_facts(entry, f"x {fact[-1]} x")


def test_held_out_fields_are_in_no_training_sample() -> None:
    test, validation = fields()[0], fields()[1]
    splits = rewording_samples(RewordingsConfig(test=(test,), validation=(validation,), pairs=100), seed=1)
    held = {split: {sample.tags["field"] for sample in samples} for split, samples in splits.items()}
    assert held["test"] == {test} and held["validation"] == {validation}
    assert not held["train"] & {test, validation} and len(splits["train"]) == 100
    again = rewording_samples(RewordingsConfig(test=(test,), validation=(validation,), pairs=100), seed=1)
    assert again == splits
    for sample in splits["test"]:
        assert loads_sample(dumps_sample(sample)) == sample


def test_a_field_that_is_not_there_is_named() -> None:
    with pytest.raises(TrainingError, match="gardening"):
        rewording_samples(RewordingsConfig(test=("gardening",)), seed=0)
