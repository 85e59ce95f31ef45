"""A transformers model must be the same to the decoding loop as any other backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.backends import Backend
from masa.backends.llama import LlamaBackend
from masa.cards import ModelCard
from masa.constraint import Constraint
from masa.decoding import Job, decode
from masa.errors import BackendError
from masa.group_rewrite import prepare
from masa.languages import parse_plan
from masa.prompt import CHATML, Request, render_prompt
from masa.sampling import Sampling
from masa.skills import Group, Skill, SkillBank
from masa_training.bases import open_base
from masa_training.checkpoint import BaseNote
from masa_training.errors import TrainingError
from masa_training.evaluate.rewriter.scoring import Prompts, Score, score, tokenized
from masa_training.transformers_backend import TransformersBackend, open_checkpoint, rewriter_for
from tests.support import ScriptedBackend
from tests.training.tiny import windowed_model
from tests.training.tiny_checkpoint import CONTEXT, tiny_base, tiny_checkpoint, tiny_model

TOLERANCE = 1e-4

GROUP = Group(
    "sort",
    (
        Skill("a", "Look first", "Read every label before you move anything. Then move one item.", "at the start"),
        Skill("b", "Finish", "If the shelf is full, stop. Otherwise go on with the next box.", "near the end"),
    ),
)
REQUEST = Request(GROUP, {"family": "Tiny", "parameter_count": "1M"}, "sorting boxes")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


@pytest.fixture(scope="module")
def backend(model: Any) -> TransformersBackend:
    return TransformersBackend(model, ScriptedBackend(lambda _: ""), context_length=CONTEXT)


def whole(model: Any, tokens: list[int]) -> np.ndarray:
    """Logits at every place, in one pass without a cache."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()


tokens_strategy = st.lists(st.integers(0, 257), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(
    prefix=st.lists(st.integers(0, 257), max_size=10), own=tokens_strategy, steps=st.lists(tokens_strategy, max_size=3)
)
def test_prefix_prompt_and_steps_give_the_logits_of_one_pass(
    model: Any, backend: TransformersBackend, prefix: list[int], own: list[int], steps: list[list[int]]
) -> None:
    session = backend.session(slots=1, length=100)
    session.share(prefix)
    rows = [session.begin(0, own)[None]]
    for tokens in steps:
        rows += session.step([(0, tokens)], [len(tokens)])
    everything = [*prefix, *own, *(token for tokens in steps for token in tokens)]
    expected = whole(model, everything)[len(prefix) + len(own) - 1 :]
    found = np.concatenate(rows)
    assert found.dtype == np.float32 and found.shape == (expected.shape[0], backend.vocabulary)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_slots_of_different_lengths_do_not_touch_each_other(model: Any, backend: TransformersBackend) -> None:
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    more = [[10, 11], [12], [13, 14, 15]]
    together = backend.session(slots=3, length=50)
    together.share([20, 21])
    firsts = [together.begin(slot, prompt) for slot, prompt in enumerate(prompts)]
    rows = together.step([(slot, tokens) for slot, tokens in enumerate(more)], [2, 1, 1])
    for slot, (prompt, tokens) in enumerate(zip(prompts, more, strict=True)):
        alone = backend.session(slots=1, length=50)
        alone.share([20, 21])
        assert np.array_equal(alone.begin(0, prompt), firsts[slot])
        assert np.array_equal(alone.step([(0, tokens)], [len(rows[slot])])[0], rows[slot])


def test_a_rewound_sequence_goes_on_as_if_the_draft_had_never_been(backend: TransformersBackend) -> None:
    session = backend.session(slots=2, length=50)
    session.share([1, 2])
    for slot in (0, 1):
        session.begin(slot, [3, 4])
    session.step([(0, [5, 9, 9, 9])], [4])
    session.rewind(0, 3)
    session.step([(1, [5])], [1])
    drafted, plain = session.step([(0, [6]), (1, [6])], [1, 1])
    np.testing.assert_allclose(drafted, plain, atol=TOLERANCE)


def test_a_sliding_window_can_be_rewound_and_keeps_its_window() -> None:
    model = windowed_model()
    backend = TransformersBackend(model, ScriptedBackend(lambda _: ""), context_length=100)
    tokens = [7 * i % 258 for i in range(40)]
    session = backend.session(slots=1, length=60)
    session.share(tokens[:15])
    session.begin(0, tokens[15:20])
    session.step([(0, [1, 2, 3, 4])], [1])
    session.rewind(0, 4)
    rows = session.step([(0, tokens[20:])], [20])[0]
    np.testing.assert_allclose(rows, whole(model, tokens)[20:], atol=TOLERANCE)
    # The window matters to this model, so the agreement above is no accident.
    changed = [255, *tokens[1:]]
    assert np.abs(whole(model, changed)[0] - whole(model, tokens)[0]).max() > TOLERANCE


def test_sharing_another_prefix_replaces_the_first(model: Any, backend: TransformersBackend) -> None:
    session = backend.session(slots=1, length=50)
    session.share([1, 2, 3])
    session.begin(0, [4])
    session.release(0)
    session.share([9, 8])
    np.testing.assert_allclose(session.begin(0, [4]), whole(model, [9, 8, 4])[-1], atol=TOLERANCE)


def test_what_does_not_fit_is_one_sentence(backend: TransformersBackend) -> None:
    with pytest.raises(BackendError, match=f"does not fit the context of {CONTEXT}"):
        backend.session(slots=1, length=CONTEXT + 1)
    session = backend.session(slots=1, length=4)
    session.begin(0, [1, 2, 3])
    with pytest.raises(BackendError, match="5 tokens in"):
        session.step([(0, [4, 5])], [1])
    with pytest.raises(BackendError, match="export it"):
        backend.set_adapter("other.gguf")
    backend.set_adapter(None)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.begin(0, [1])


def test_random_weights_write_a_valid_plan_through_the_decoding_loop(backend: TransformersBackend) -> None:
    work = prepare(REQUEST, frozenset(), "plan")
    prompt = render_prompt(REQUEST, "plan", CHATML)
    shared, own = backend.tokenize(prompt.shared), backend.tokenize(prompt.own)
    grammar, regex = work.grammar()
    stop = backend.token_id("<|im_end|>")
    assert stop is not None
    outputs = []
    for sampling in (Sampling(forced=False), Sampling(draft=4)):
        session = backend.session(slots=2, length=len(shared) + len(own) + 200)
        jobs = [
            Job(n, own, 150, lambda: Constraint(backend.grammar_tokenizer(), grammar, regex=regex)) for n in range(2)
        ]
        done = list(decode(session, shared, jobs, stop=[stop], sampling=sampling))
        outputs.append({backend.detokenize(completion.tokens).decode() for completion in done})
    assert len(outputs[0]) == 1 and outputs[0] == outputs[1]
    assert len(parse_plan(outputs[0].pop(), work.allowed).lines) == 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_checkpoint_opens_with_its_own_weights(base: Path, tmp_path: Path, kind: str) -> None:
    folder = tiny_checkpoint(tmp_path / "checkpoint", base, kind=kind)

    def logits(adapter: bool) -> np.ndarray:
        opened = open_checkpoint(folder, dtype="float32", device="cpu", adapter=adapter)
        return opened.session(slots=1, length=20).begin(0, [1, 2, 3])

    trained, untrained = logits(True), logits(False)
    np.testing.assert_allclose(untrained, whole(tiny_model(), [1, 2, 3])[-1], atol=TOLERANCE)
    assert np.abs(trained - untrained).max() > 0.01


def test_a_rewriter_runs_a_checkpoint_as_it_is(base: Path, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "checkpoint", base)
    bank = SkillBank((), {"sort": GROUP.skills})
    with rewriter_for(folder, dtype="float32", device="cpu") as rewriter:
        result = rewriter.rewrite(bank, ModelCard(family="Tiny", weaknesses="skips steps"), task="sorting boxes")
    (group,) = result.groups
    assert result.trained and result.language == "plan" and result.artifact == "checkpoint"
    assert group.raw.startswith("1 ") and "\n2 " in group.raw


def test_an_instrument_is_no_rewriter(base: Path, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "checkpoint", base, language="action")
    with pytest.raises(TrainingError, match="'action'"):
        rewriter_for(folder)


def test_another_base_than_the_one_trained_from_is_refused(base: Path, tmp_path: Path) -> None:
    record = BaseNote("x", str(base), str(base), "hf", "f" * 64)
    folder = tiny_checkpoint(tmp_path / "checkpoint", base, base=record)
    with pytest.raises(TrainingError, match="not the base of"):
        open_checkpoint(folder)


def test_lost_weights_and_a_wrong_dtype_are_one_sentence(base: Path, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "checkpoint", base)
    with pytest.raises(TrainingError, match="bfloat16"):
        open_checkpoint(folder, dtype="int3")
    (folder / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(TrainingError, match="cannot be loaded"):
        open_checkpoint(folder, dtype="float32")


@pytest.mark.model
def test_dequantized_weights_agree_with_llama_cpp_and_plan(smollm2: Path) -> None:
    base = open_base(str(smollm2))
    ours = TransformersBackend(base.model(torch.float32), base.tokenizer(), context_length=base.context_length)
    theirs = LlamaBackend.load(smollm2, threads=1)
    work = prepare(REQUEST, frozenset(), "plan")
    prompt = render_prompt(REQUEST, "plan", base.template)
    shared, own = ours.tokenize(prompt.shared), ours.tokenize(prompt.own)
    assert (shared, own) == (theirs.tokenize(prompt.shared), theirs.tokenize(prompt.own))
    target = ours.tokenize(render_prompt(REQUEST, "plan", base.template).shared[1:2])[:40]
    rows = []
    for backend in (ours, theirs):
        session = backend.session(slots=1, length=len(shared) + len(own) + 200)
        session.share(shared)
        first = session.begin(0, own).copy()
        rest = session.step([(0, target)], [len(target)])[0].copy()
        rows.append(np.concatenate([first[None], rest]))
        session.close()
    correlation = min(float(np.corrcoef(a, b)[0, 1]) for a, b in zip(*rows, strict=True))
    agreement = float((rows[0].argmax(1) == rows[1].argmax(1)).mean())
    assert correlation > 0.99 and agreement > 0.85, (correlation, agreement)

    # The evaluation's scores of a plan, under a card and under none, are the same through either.
    asked = [render_prompt(request, "plan", base.template) for request in (REQUEST, replace(REQUEST, card={}))]
    prompts = tokenized(asked, "1 keep\n2 steps", ours, base.template)
    for mine, other in zip(*(_scored(backend, prompts) for backend in (ours, theirs)), strict=True):
        assert mine.tokens == other.tokens
        assert mine.nll / mine.tokens == pytest.approx(other.nll / other.tokens, abs=0.1)

    grammar, regex = work.grammar()
    stop = ours.token_id("<|im_end|>")
    assert stop is not None
    session = ours.session(slots=1, length=len(shared) + len(own) + 100)
    job = Job(0, own, 80, lambda: Constraint(ours.grammar_tokenizer(), grammar, regex=regex))
    (done,) = decode(session, shared, [job], stop=[stop])
    parse_plan(ours.detokenize(done.tokens).decode(), work.allowed)


def _scored(backend: Backend, prompts: Prompts) -> list[Score]:
    session = backend.session(slots=2, length=prompts.longest)
    try:
        return score(session, prompts)
    finally:
        session.close()
