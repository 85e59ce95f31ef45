"""Scores must be the model's own, and what is shared must not change them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from masa.prompt import CHATML, render_prompt
from masa_training.encoding import encode
from masa_training.errors import TrainingError
from masa_training.evaluate.rewriter.arms import breakdown_tags, chosen, cluster, pool_of, variants
from masa_training.evaluate.rewriter.scoring import SLOTS, score, tokenized
from masa_training.transformers_backend import TransformersBackend
from tests.support import ScriptedBackend
from tests.training.evaluation_samples import LikingBackend, card_reader, sample, samples
from tests.training.tiny_checkpoint import CONTEXT, tiny_model


def asked(requests, target: str, backend):
    return tokenized([render_prompt(request, "plan", CHATML) for request in requests], target, backend, CHATML)


def prepared(backend, kind: int = 1, wrong_cards: int = 8):
    everything = samples(3)
    chosen_sample = next(s for s in everything if s.id == f"s0-{kind}")
    found = variants(chosen_sample, pool_of(everything, {}), wrong_cards=wrong_cards, seed=0)
    return found, asked([v.request for v in found], chosen_sample.target, backend), chosen_sample


def test_a_score_is_the_probability_of_the_target_in_one_pass_without_sharing() -> None:
    torch.set_num_threads(1)
    model = tiny_model()
    backend = TransformersBackend(model, ScriptedBackend(lambda _: ""), context_length=CONTEXT)
    found, prompts, _ = prepared(backend, wrong_cards=5)
    session = backend.session(slots=SLOTS, length=prompts.longest)
    scores = score(session, prompts)
    assert len(scores) == len(found) >= 3 + 5
    for own, got in zip(prompts.own, scores, strict=True):
        ids = [*prompts.shared, *own, *prompts.target]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -len(prompts.target) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(prompts.target), reduction="sum")
        assert got.nll == pytest.approx(float(expected), abs=1e-3)
        assert got.tokens == len(prompts.target)
        assert got.hits == int((logits.argmax(1) == torch.tensor(prompts.target)).sum())


def test_the_prompt_up_to_the_card_is_computed_once_and_ids_are_those_of_training() -> None:
    backend = LikingBackend(card_reader)
    found, prompts, chosen_sample = prepared(backend)
    encoded = encode(chosen_sample, backend, CHATML)
    assert (*prompts.shared, *prompts.own[0]) == encoded.prompt and prompts.target == encoded.target
    assert len(prompts.shared) >= encoded.fork
    assert bytes(t for t in prompts.shared if t < 256).decode().endswith("Reader:"), "shared as far as ids are equal"
    for variant, own in zip(found, prompts.own, strict=True):
        prompt = render_prompt(variant.request, "plan", CHATML)
        assert [*prompts.shared, *own] == backend.tokenize((*prompt.shared, *prompt.own))
    together = sum(map(len, prompts.own)) + len(prompts.own) * (len(prompts.target) - 1)
    assert prompts.computed == len(prompts.shared) + together


def test_a_likely_target_has_a_low_nll_and_all_hits() -> None:
    backend = LikingBackend(card_reader, strength=8.0)
    found, prompts, _ = prepared(backend)
    session = backend.session(slots=2, length=prompts.longest)
    scores = score(session, prompts)
    by_card = {variant.key: got for variant, got in zip(found, scores, strict=True)}
    # Every token: 8 above 257 zeros.
    each = -np.log(np.exp(8) / (np.exp(8) + 257))
    assert by_card["right"].nll == pytest.approx(len(prompts.target) * each, rel=1e-5)
    assert by_card["right"].hits == len(prompts.target)
    assert by_card["card reader-0-0"].nll > by_card["right"].nll
    assert not session.sequences, "every slot is released"


def test_a_target_longer_than_a_piece_is_scored_whole() -> None:
    backend = LikingBackend(lambda _: "x" * 200)
    request = sample(0, 0).request
    prompts = asked([request, request], "x" * 200, backend)
    session = backend.session(slots=2, length=prompts.longest)
    first, second = score(session, prompts)
    assert first.tokens == 201 and first.hits == 201 and first == second
    assert backend.sessions[0].steps == 4


def test_equal_prompts_leave_something_to_begin_with() -> None:
    backend = ScriptedBackend(lambda _: "")
    prompts = asked([sample(0, 0).request] * 3, "1 keep", backend)
    assert all(len(own) == 1 for own in prompts.own)


def test_a_model_without_the_stop_token_is_refused() -> None:
    backend = ScriptedBackend(lambda _: "")
    backend.token_id = lambda text: None  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="ends an answer"):
        asked([sample(0, 0).request], "1 keep", backend)


def test_every_other_card_is_wrong_where_they_are_few() -> None:
    everything = samples(4, generated=False)
    pool = pool_of(everything, {"reader-7": {"family": "Reader7"}})
    found = variants(everything[0], pool, wrong_cards=8, seed=0)
    named = {variant.backbone: variant.arms for variant in found if variant.backbone}
    assert named == {"reader-1": ("wrong",), "reader-2": ("wrong",), "reader-7": ("wrong",)}
    assert [variant.key for variant in found[:3]] == ["right", "none", "bare"]
    assert found[1].request.card == {} and set(found[2].request.card) == {"family", "num_layers"}


def test_many_cards_are_sampled_evenly_by_the_seed() -> None:
    everything = samples(40)
    pool = pool_of(everything, {})

    def drawn(seed: int) -> list[tuple[str, ...]]:
        return [
            tuple(v.backbone for v in variants(s, pool, wrong_cards=4, seed=seed) if "wrong" in v.arms)
            for s in everything
        ]

    assert drawn(0) == drawn(0) != drawn(1)
    assert all(len(set(names)) == 4 for names in drawn(0))
    assert len(Counter(name for names in drawn(0) for name in names)) > 80, "not always the same few cards"


def test_the_contrast_set_is_the_other_cards_of_the_tree() -> None:
    everything = samples(5)
    found = variants(everything[4], pool_of(everything, {}), wrong_cards=2, seed=0)
    contrast = {variant.backbone for variant in found if "contrast" in variant.arms}
    assert contrast == {"reader-0-1", "reader-2-1"}
    assert sum("wrong" in variant.arms for variant in found) == 2


def test_a_card_of_another_backbone_that_says_the_same_is_not_wrong() -> None:
    first = sample(0, 0)
    twin = sample(1, 0, request=first.request, backbone="twin")
    other = sample(1, 1)
    found = variants(first, pool_of([first, twin, other], {}), wrong_cards=8, seed=0)
    assert [variant.backbone for variant in found[3:]] == ["reader-1-1"]


def test_cards_are_cut_to_the_fields_that_the_rewriter_reads() -> None:
    everything = samples(2)
    for variant in variants(everything[0], pool_of(everything, {}), wrong_cards=8, seed=0, fields=("family",)):
        assert set(variant.request.card) <= {"family"}


def test_a_tree_is_one_cluster_and_a_published_cell_too() -> None:
    everything = samples(3)
    assert len({cluster(s) for s in everything}) == 3
    published = samples(3, generated=False)
    assert len({cluster(s) for s in published}) == 3, "three backbones, one group"


def test_a_limit_is_spread_over_all_clusters_and_a_larger_one_adds_to_it() -> None:
    everything = samples(30)
    few, more = (chosen(everything, limit, seed=1) for limit in (9, 35))
    assert few == more[:9] and len({cluster(s) for s in few}) == 9
    assert len({cluster(s) for s in more}) == 30 and len({s.id for s in more}) == 35
    assert chosen(everything, None, 0) == everything


def test_only_tags_with_few_values_and_no_lists_are_broken_down() -> None:
    assert breakdown_tags(samples(20)) == {"behaviours": ("seen", "unseen")}
    assert breakdown_tags(samples(1)) == {}, "three samples are too few for two values"
    listed = [sample(tree, 0, tags={"needs": "a,b" if tree % 2 else "a"}) for tree in range(12)]
    assert breakdown_tags(listed) == {}


def test_another_card_of_the_own_backbone_is_not_wrong() -> None:
    own = sample(0, 0, generated=False)
    cards = {own.backbone: {"family": "Reader0", "strengths": "told at more length"}, "other": {"family": "Other"}}
    found = variants(own, pool_of([own], cards), wrong_cards=8, seed=0)
    assert [variant.backbone for variant in found[3:]] == ["other"]
