"""Thresholds, verdicts and the arithmetic of the checks, without a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_export.errors import ExportError
from masa_export.logits import Likeness, likeness, pool
from masa_export.verify.outputs import Written, compare_outputs, distance
from masa_export.verify.scoring import Nll, Score, measure_awareness
from masa_export.verify.thresholds import FIGURES, class_of, default_thresholds, judge, parse_thresholds
from masa_export.verify.tokens import compare_tokens, look_alikes
from tests.support import ScriptedBackend

ALIKE = Likeness(0.0, 0.0, 1.0, 0.0, 0.0, 1)


def score(number: int, right: tuple[float, float], wrong: list[tuple[float, float]], tokens: int = 10) -> Score:
    return Score(str(number), tokens, ALIKE, Nll(*right), tuple(Nll(*pair) for pair in wrong))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), cut=st.integers(1, 6))
def test_pooled_parts_are_the_whole(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 3, (2, 7, 20)).astype(np.float32)
    whole, parts = likeness(a, b), pool([likeness(a[:cut], b[:cut]), likeness(a[cut:], b[cut:])])
    for name in ("divergence", "worst", "equal", "difference", "error", "positions"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-5), name


def test_a_divergence_that_is_no_number_never_looks_like_none() -> None:
    broken = likeness(np.full((1, 3), np.nan, np.float32), np.zeros((1, 3), np.float32))
    assert math.isnan(broken.divergence) and math.isnan(pool([ALIKE, broken]).divergence)
    assert math.isnan(pool([broken, ALIKE]).worst)
    (verdict,) = judge({"kl": broken.divergence}, {"kl": 0.1}, {})
    assert verdict.passed is False


@pytest.mark.parametrize(
    ("quantization", "kind"),
    [
        ("F16", "16 bits"), ("BF16", "16 bits"), ("fp32", "16 bits"), (None, "16 bits"), ("Q8_0", "8 bits"),
        ("int8", "8 bits"), ("Q6_K", "5–6 bits"), ("Q5_K_M", "5–6 bits"), ("Q4_0", "4 bits"), ("IQ4_NL", "4 bits"),
        ("int4", "4 bits"), ("MXFP4_MOE", "4 bits"), ("Q3_K_S", "below 4 bits"), ("TQ1_0", "below 4 bits"),
    ],
)  # fmt: skip
def test_a_types_name_tells_its_class(quantization: str | None, kind: str) -> None:
    assert class_of(quantization) == kind


def test_weights_that_were_trained_on_are_held_to_more_than_their_name() -> None:
    assert class_of("Q4_1", untouched=True) == "8 bits"


def test_a_coarser_type_may_never_lose_less() -> None:
    kinds = ["16 bits", "8 bits", "5–6 bits", "4 bits", "below 4 bits"]
    for figure in FIGURES:
        limits = [default_thresholds(kind).get(figure.name) for kind in kinds]
        if None not in limits:
            assert limits == sorted(limits, reverse=not figure.most), figure.name


def test_thresholds_are_judged_on_their_side_and_what_was_not_measured_is_not_judged() -> None:
    found = {"kl": 0.1, "top1": 0.9, "card_gap": None, "memory_mb": 300.0}
    verdicts = {v.name: v.passed for v in judge(found, {"kl": 0.1, "top1": 0.91, "card_gap": 0.7, "distance": 0.1}, {})}
    assert verdicts == {"kl": True, "top1": False, "card_gap": None, "memory_mb": None, "distance": None}
    given = parse_thresholds(["top1=0.5", "kl=off", "size_mb=10", "card_gap=0.9"])
    verdicts = {v.name: v.passed for v in judge(found, {"kl": 0.0, "top1": 0.91}, given)}
    assert verdicts == {"kl": None, "top1": True, "card_gap": False, "size_mb": False, "memory_mb": None}


@pytest.mark.parametrize("text", ["kl", "kl=", "kl=nan", "klx=1", "=1"])
def test_a_wrong_threshold_costs_one_sentence(text: str) -> None:
    with pytest.raises(ExportError, match="--threshold") as caught:
        parse_thresholds([text])
    assert "\n" not in str(caught.value)


def test_awareness_that_survives_and_awareness_that_is_lost() -> None:
    whole = measure_awareness([score(0, (3.0, 3.0), [(8.0, 8.0), (9.0, 9.0)]), score(1, (5.0, 5.0), [(7.0, 7.0)])])
    assert whole.kept == pytest.approx(1.0) and whole.loss == 0
    assert whole.right == pytest.approx(0.4) and whole.wrong == pytest.approx((8.5 + 7) / 20)
    lost = measure_awareness([score(0, (5.0, 3.0), [(5.0, 8.0)])])
    assert lost.kept == pytest.approx(0.0) and lost.loss == pytest.approx(0.2)


def test_samples_without_wrong_cards_count_for_likelihood_alone() -> None:
    found = measure_awareness([score(0, (3.0, 3.0), [(8.0, 8.0)]), score(1, (90.0, 90.0), [])])
    assert (found.compared, found.samples) == (1, 2)
    assert found.kept == pytest.approx(1.0) and found.right == pytest.approx(93 / 20)
    assert measure_awareness([score(0, (3.0, 3.0), [])]).wrong is None


def test_a_checkpoint_that_does_not_read_the_card_leaves_nothing_to_survive() -> None:
    assert measure_awareness([score(0, (3.0, 3.0), [(3.1, 3.1)])]).kept is None


def test_outputs_are_compared_in_words() -> None:
    assert distance("1 keep\n2 drop", "1 keep\n2 shorten") == 0.25
    assert distance("", "") == 0 and distance("a", "") == 1
    good, other = Written("1 keep", True, True, ""), Written("1 drop", True, False, "the guard refused the output")
    broken = Written("1 ke", False, False, "not finished")
    found = compare_outputs({"a": good, "b": other, "c": broken}, {"a": good, "b": good, "c": good})
    assert (found.valid, found.guarded) == pytest.approx((2 / 3, 1 / 3))
    assert found.valid_loss == pytest.approx(1 / 3) and found.same == pytest.approx(1 / 3)
    assert found.reasons == (other.reason, broken.reason)


class Greedy(ScriptedBackend):
    """Reads special tokens inside texts, as a careless tokenizer does."""

    def tokenize(self, segments: object) -> list[int]:
        tokens = super().tokenize(segments)  # type: ignore[arg-type]
        start = list(b"<|im_start|>")
        for at in range(len(tokens) - len(start), -1, -1):
            if tokens[at : at + len(start)] == start:
                tokens[at : at + len(start)] = [256]
        return tokens


def test_a_tokenizer_that_reads_look_alikes_as_special_tokens_is_found() -> None:
    honest = ScriptedBackend(lambda prompt: "")
    assert compare_tokens(honest, honest, ["text"]).mismatches == 0
    found = compare_tokens(Greedy(lambda prompt: ""), honest, ["text"])
    assert found.different == 2 and "<|im_start|>" in found.first
    assert found.texts == len({"text", *look_alikes(honest.control_tokens())}) + 11
