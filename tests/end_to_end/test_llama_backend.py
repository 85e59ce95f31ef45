"""The llama.cpp backend on real weights: tokens, shared prefix, batching, rewinding, adapters, lent models."""

from __future__ import annotations

import ctypes
import logging
import platform
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from masa.backends.llama import LlamaBackend
from masa.cards import ModelCard
from masa.constraint import Constraint
from masa.decoding import Job, decode
from masa.errors import BackendError
from masa.languages import numbered, render_blocks, text_pattern
from masa.prompt import CHATML, Request, Segment, render_prompt
from masa.rewriter import Rewriter
from masa.sampling import Sampling
from masa.skills import Group, Skill, SkillBank

pytestmark = pytest.mark.model

GROUPS = (
    Group(None, (Skill("g1", "Search once", "Search every place once before you go back to one.", "Not found yet"),)),
    Group(
        "clean",
        (
            Skill("c1", "Wash", "Take the object to the sink. Clean it there, then carry it to the goal."),
            Skill("c2", "Deliver", "Put the clean object down at the goal, and nowhere else."),
        ),
    ),
    Group("heat", (Skill("h1", "Heat", "Take the object to the microwave and heat it. Do not open it twice."),)),
)
STOP = "<|im_end|>"


@pytest.fixture(scope="session")
def quantized(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The embedded weights in another quantization, made once by llama.cpp's own quantizer."""
    import llama_cpp

    folder = tmp_path_factory.mktemp("weights")

    def make(name: str) -> Path:
        path = folder / f"{name}.gguf"
        if not path.exists():
            params = llama_cpp.llama_model_quantize_default_params()
            params.ftype = {"Q8_0": 7, "Q4_0": 2, "Q5_0": 8}[name]
            params.allow_requantize = True
            assert llama_cpp.llama_model_quantize(str(smollm2).encode(), str(path).encode(), ctypes.byref(params)) == 0
        return path

    return make


@pytest.fixture(scope="module")
def backend(quantized: Callable[[str], Path]) -> Iterator[LlamaBackend]:
    backend = LlamaBackend.load(quantized("Q8_0"))
    yield backend
    backend.close()


def jobs(backend: LlamaBackend, most: int = 48) -> tuple[list[int], list[Job]]:
    tokenizer = backend.grammar_tokenizer()
    shared: list[int] = []
    result = []
    for number, group in enumerate(GROUPS):
        prompt = render_prompt(Request(group, {"family": "SmolLM2"}), "text")
        shared = backend.tokenize(prompt.shared)
        pattern = text_pattern(len(group))
        result.append(
            Job(number, backend.tokenize(prompt.own), most, lambda p=pattern: Constraint(tokenizer, p, regex=True))
        )
    return shared, result


def written(backend: LlamaBackend, sampling: Sampling, most: int = 48) -> dict[int, tuple[int, ...]]:
    shared, work = jobs(backend, most)
    stop = [backend.token_id(STOP)]
    session = backend.session(slots=min(sampling.parallel or len(work), len(work)), length=1024)
    try:
        return {c.number: c.tokens for c in decode(session, shared, work, stop=stop, sampling=sampling)}
    finally:
        session.close()


def test_text_never_becomes_a_control_token(backend: LlamaBackend) -> None:
    spelled = backend.tokenize([Segment("a <|im_end|> b")])
    meant = backend.tokenize([Segment("a "), Segment("<|im_end|>", control=True), Segment(" b")])
    assert backend.token_id(STOP) not in spelled and backend.token_id(STOP) in meant
    assert backend.detokenize(spelled) == b"a <|im_end|> b"
    assert backend.detokenize(meant) == b"a  b", "special tokens spell nothing"
    assert backend.token_id("no such token") is None
    assert STOP in backend.control_tokens()


@pytest.mark.parametrize("text", ["Ünïcödé → 東京 🙂", "a\r\n\tb   c", "", "½²\u200b", "x" * 3000])
def test_tokens_spell_the_text_they_came_from(backend: LlamaBackend, text: str) -> None:
    assert backend.detokenize(backend.tokenize([Segment(text)])).decode() == text


def test_a_shared_prefix_gives_the_same_logits_as_the_whole_prompt(backend: LlamaBackend) -> None:
    prompt = render_prompt(Request(GROUPS[1], {}), "text", CHATML)
    shared, own = backend.tokenize(prompt.shared), backend.tokenize(prompt.own)
    rows = []
    for prefix, rest in ((shared, own), (shared + own[:5], own[5:])):
        session = backend.session(slots=3, length=1024)
        session.share(prefix)
        for slot in (0, 2):
            rows.append(session.begin(slot, rest).copy())
        session.close()
    assert np.array_equal(rows[0], rows[1]), "the same computation in another stream"
    assert rows[0].argmax() == rows[2].argmax()
    assert np.abs(rows[0] - rows[2]).max() < 1.0, "another split of the prompt rounds otherwise, no more"


def test_five_bits_multiplied_as_eight_give_the_same_logits(
    quantized: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for machine in (platform.machine(), "unknown"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        backend = LlamaBackend.load(quantized("Q5_0"))
        session = backend.session(slots=1, length=256)
        rows.append(session.begin(0, backend.tokenize([Segment("Take the object to the sink.")])).copy())
        session.close()
        backend.close()
    assert np.abs(rows[0] - rows[1]).max() < 1e-3


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
def test_batched_and_one_by_one_decoding_write_the_same(quantized: Callable[[str], Path], name: str) -> None:
    backend = LlamaBackend.load(quantized(name))
    try:
        together = written(backend, Sampling(parallel=8))
        assert together == written(backend, Sampling(parallel=1))
        assert together == written(backend, Sampling(parallel=2)), "with refilling"
        assert together == written(backend, Sampling(parallel=8)), "again"
        assert len(set(together.values())) == len(GROUPS)
    finally:
        backend.close()


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1"])
def test_a_sequences_numbers_do_not_depend_on_its_neighbours(
    quantized: Callable[[str], Path], smollm2: Path, name: str
) -> None:
    """To the bit, also past 512 tokens and where sequences take steps of different lengths."""
    backend = LlamaBackend.load(smollm2 if name == "Q4_1" else quantized(name))
    rng = np.random.default_rng(0)
    shared = rng.integers(100, 40_000, 60).tolist()
    prompts = [rng.integers(100, 40_000, length).tolist() for length in (50, 130, 500)]
    lengths = ((1, 3, 2), (2, 1, 3), (4, 4, 1))
    tokens = rng.integers(100, 40_000, (3, 8)).tolist()

    def logits(which: list[int]) -> dict[tuple[int, int], np.ndarray]:
        session = backend.session(slots=len(which), length=768)
        session.share(shared)
        found = {(i, -1): session.begin(slot, prompts[i]).copy() for slot, i in enumerate(which)}
        for turn in range(3):
            start = [sum(lengths[i][:turn]) for i in which]
            feeds = [(s, tokens[i][start[s] : start[s] + lengths[i][turn]]) for s, i in enumerate(which)]
            rows = session.step(feeds, [len(fed) for _, fed in feeds])
            found |= {(i, turn): rows[s].copy() for s, i in enumerate(which)}
        session.close()
        return found

    together = logits([0, 1, 2])
    for i in range(3):
        for key, alone in logits([i]).items():
            assert np.array_equal(alone, together[key]), key
    backend.close()


def test_drafts_and_forced_tokens_save_passes(backend: LlamaBackend) -> None:
    """Several tokens in one pass are rounded otherwise than one by one, so equal text is promised up to near ties."""
    shared, work = jobs(backend, 40)
    passes = {}
    for sampling in (Sampling(forced=False), Sampling(draft=6)):
        session = backend.session(slots=3, length=1024)
        done = list(decode(session, shared, work, stop=[backend.token_id(STOP)], sampling=sampling))
        session.close()
        passes[sampling.draft] = sum(completion.steps for completion in done)
        assert all(backend.detokenize(c.tokens).startswith(b"## [") for c in done)
    assert passes[6] < passes[0]


def test_rewinding_forgets_exactly_the_last_tokens(backend: LlamaBackend) -> None:
    tokens = backend.tokenize([Segment("Search every place once, and then go on to the next room of the house.")])
    session = backend.session(slots=2, length=256)
    session.share(tokens[:4])
    session.begin(0, tokens[4:8])
    plain = session.step([(0, tokens[8:9])], [1])[0].copy()
    session.begin(1, tokens[4:8])
    session.step([(1, tokens[10:13])], [1])
    session.rewind(1, 3)
    assert np.array_equal(session.step([(1, tokens[8:9])], [1])[0], plain)
    session.close()


def test_streams_move_together_when_their_neighbours_finish(backend: LlamaBackend) -> None:
    """llama.cpp computes neighbouring streams in one pass, so gaps are closed; nothing may get mixed up."""
    tokens = backend.tokenize([Segment("one two three four five six seven eight nine ten eleven twelve")])
    session = backend.session(slots=4, length=256)
    session.share(tokens[:2])
    for slot in range(4):
        session.begin(slot, tokens[2 : 4 + slot])
    rows = session.step([(slot, tokens[8:9]) for slot in range(4)], [1] * 4)
    expected = {slot: rows[slot].copy() for slot in range(4)}
    session.release(0)
    session.release(2)
    for slot in (1, 3):
        session.rewind(slot, 1)
    rows = session.step([(3, tokens[8:9]), (1, tokens[8:9])], [1, 1])
    assert np.array_equal(rows[0], expected[3]) and np.array_equal(rows[1], expected[1])
    session.begin(0, tokens[2:4])
    row = session.step([(0, tokens[8:9]), (1, tokens[9:10]), (3, tokens[9:10])], [1, 1, 1])[0]
    assert np.array_equal(row, expected[0])
    session.close()


def lora(path: Path, seed: int) -> Path:
    """A LoRA adapter of rank 4 with random weights, for the first two layers of SmolLM2-135M."""
    import gguf

    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for layer in (0, 1):
        for name, out in (("attn_q", 576), ("ffn_up", 1536)):
            tensor = f"blk.{layer}.{name}.weight"
            writer.add_tensor(f"{tensor}.lora_a", rng.normal(0, 0.05, (4, 576)).astype(np.float32))
            writer.add_tensor(f"{tensor}.lora_b", rng.normal(0, 0.05, (out, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_adapters_are_swapped_without_loading_the_base_again(backend: LlamaBackend, tmp_path: Path) -> None:
    tokens = backend.tokenize([Segment("Search every place once before you go back to one.")])

    def logits() -> np.ndarray:
        session = backend.session(slots=1, length=256)
        session.share(())
        row = session.begin(0, tokens).copy()
        session.close()
        return row

    base = logits()
    rows = []
    for seed in (1, 2):
        backend.set_adapter(str(lora(tmp_path / f"{seed}.gguf", seed)))
        rows.append(logits())
    backend.set_adapter(str(tmp_path / "1.gguf"))
    assert np.array_equal(logits(), rows[0])
    assert not np.array_equal(rows[0], base) and not np.array_equal(rows[0], rows[1])
    backend.set_adapter(str(tmp_path / "1.gguf"), scale=0.0)
    assert np.abs(logits() - base).max() < 1e-3
    backend.set_adapter(None)
    assert np.array_equal(logits(), base)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(BackendError, match="LoRA"):
        backend.set_adapter(str(tmp_path / "bad.gguf"))
    assert np.array_equal(logits(), base), "a refused adapter changes nothing"


def test_a_lent_model_is_used_and_left_alone(smollm2: Path) -> None:
    import llama_cpp

    host = llama_cpp.Llama(str(smollm2), n_ctx=256, verbose=False)
    before = host.create_completion("The capital of France is", max_tokens=4, temperature=0)["choices"][0]["text"]
    bank = SkillBank(GROUPS[0].skills, {"clean": GROUPS[1].skills})
    with Rewriter.load("smollm2-135m", llama=host, cache=False) as rewriter:
        lent = rewriter.rewrite(bank, ModelCard(family="SmolLM2"))
    with Rewriter.load("smollm2-135m", cache=False) as rewriter:
        assert rewriter.rewrite(bank, ModelCard(family="SmolLM2")).bank == lent.bank
    after = host.create_completion("The capital of France is", max_tokens=4, temperature=0)["choices"][0]["text"]
    assert before == after
    host.close()
    with pytest.raises(BackendError, match="closed"):
        LlamaBackend.borrow(host)


def test_a_lent_model_of_another_kind_needs_the_hosts_word(quantized: Callable[[str], Path]) -> None:
    import llama_cpp

    host = llama_cpp.Llama(str(quantized("Q8_0")), n_ctx=64, verbose=False)
    with pytest.raises(BackendError, match=r"smollm2-135m's"):
        Rewriter.load("smollm2-135m", llama=host)
    with Rewriter.load("smollm2-135m", llama=host, verify=False) as rewriter:
        result = rewriter.rewrite(SkillBank(GROUPS[0].skills, {}), ModelCard(family="SmolLM2"))
    assert result.groups[0].status in ("kept", "rewritten")
    host.close()


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing"])
def test_what_is_no_model_is_refused_in_words(
    smollm2: Path, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.gguf"
    if damage == "truncated":
        path.write_bytes(smollm2.read_bytes()[:3_000_000])
    elif damage != "missing":
        path.write_text("hello" if damage == "text" else "")
    with pytest.raises(BackendError, match=r"model\.gguf") as caught:
        LlamaBackend.load(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "a library prints nothing"


def test_a_sequence_longer_than_the_context_is_refused(backend: LlamaBackend) -> None:
    with pytest.raises(BackendError, match="8192"):
        backend.session(slots=1, length=9000)


def test_the_hosts_logging_of_llama_cpp_is_put_back(smollm2: Path) -> None:
    import llama_cpp

    messages: list[str] = []
    callback = llama_cpp.llama_log_callback(lambda level, text, data: messages.append(text.decode()))
    before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        LlamaBackend.load(smollm2).close()
        seen = len(messages)
        params = llama_cpp.llama_model_default_params()
        llama_cpp.llama_model_load_from_file(b"/none.gguf", params)
        assert len(messages) > seen
    finally:
        llama_cpp.llama_log_set(before, data)
    assert logging.getLogger("llama-cpp-python").level != logging.NOTSET


def test_the_rendered_group_is_shorter_than_json(backend: LlamaBackend) -> None:
    """Why the prompt is no JSON: measured on the tokens of this vocabulary."""
    import json

    lines = json_tokens = 0
    for group in GROUPS:
        lines += len(backend.tokenize([Segment(render_blocks(numbered(group)))]))
        items = [{"title": s.title, "principle": s.principle, "when_to_apply": s.when_to_apply} for s in group.skills]
        json_tokens += len(backend.tokenize([Segment(json.dumps(items))]))
    assert lines < 0.85 * json_tokens


def test_threads_spell_tokens_side_by_side(backend: LlamaBackend) -> None:
    tokens = range(300, 4_300)
    alone = [backend.detokenize([token]) for token in tokens]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda _: [backend.detokenize([token]) for token in tokens], range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert together == [alone] * 4
