"""The ONNX backend on a tiny graph: shared prefix, batching, rewinding, several tokens a step, providers, mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from masa.backends.onnx import OnnxBackend, OnnxSession, choose_provider
from masa.decoding import Job, decode
from masa.doctor import check_onnx
from masa.engine import check_options
from masa.errors import BackendError
from masa.sampling import Sampling

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
VOCABULARY, CONTEXT = 300, 128
CLOSE = 1e-4
"""What float32 rounds otherwise in passes of other shapes, and more."""


def test_the_best_provider_that_is_there_is_taken() -> None:
    assert choose_provider(None, [CPU]) == "cpu"
    assert choose_provider(None, ["AzureExecutionProvider", TENSORRT, CUDA, CPU]) == "cuda"
    assert choose_provider("tensorrt", [TENSORRT, CUDA, CPU]) == "tensorrt"
    assert choose_provider("cpu", [CUDA, CPU]) == "cpu"


def test_a_provider_that_is_missing_is_named_with_the_way_to_get_it() -> None:
    with pytest.raises(BackendError, match=r"cuda is not in this .* \(it has cpu\).*pip install .*\[onnx-gpu\]"):
        choose_provider("cuda", [CPU])
    with pytest.raises(BackendError, match="unknown provider 'gpu'"):
        choose_provider("gpu", [CPU])


def test_two_builds_of_onnx_runtime_are_named_as_trouble() -> None:
    assert check_onnx([]) is None
    one, both = check_onnx(["onnxruntime"]), check_onnx(["onnxruntime", "onnxruntime-gpu"])
    assert one is not None and one.status == "ok"
    assert both is not None and both.status == "warn" and "overwrite each other" in both.found


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        ("gguf", {"provider": "cpu"}, "has no providers; use gpu_layers"),
        ("onnx", {"gpu_layers": -1}, "takes no gpu_layers; use provider"),
        ("onnx", {"lent": True}, "to a GGUF artifact only"),
    ],
)
def test_options_of_the_other_library_are_refused(kind: str, options: dict[str, Any], problem: str) -> None:
    artifact: Any = SimpleNamespace(path="x", kind=kind)
    check_options(artifact, gpu_layers=0, provider=None, lent=False)
    with pytest.raises(BackendError, match=problem):
        check_options(artifact, **{"gpu_layers": 0, "provider": None, "lent": False, **options})


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, written as a graph; its tokenizer knows the bytes and one control token."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from masa.forms.graph import write_graph
    from masa.forms.reference import forward
    from masa.forms.weights import Model

    folder = tmp_path_factory.mktemp("graph")
    rng = np.random.default_rng(0)
    hidden, inner, heads, kv_heads, width = 64, 96, 4, 2, 16
    shapes = {"attn_q": (heads * width, hidden), "attn_output": (hidden, heads * width), "ffn_down": (hidden, inner)}
    shapes |= dict.fromkeys(("attn_k", "attn_v"), (kv_heads * width, hidden))
    shapes |= dict.fromkeys(("ffn_gate", "ffn_up"), (inner, hidden))
    named = {f"blk.{layer}.{part}.weight": shape for layer in range(2) for part, shape in shapes.items()}
    named["token_embd.weight"] = (VOCABULARY, hidden)
    weights = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in named.items()}
    norms = [f"blk.{layer}.{part}.weight" for layer in range(2) for part in ("attn_norm", "ffn_norm")]
    weights |= {name: np.ones(hidden, np.float32) for name in (*norms, "output_norm.weight")}
    model = Model("qwen2", 2, heads, kv_heads, width, 1e-5, (10000.0, 10000.0), 1.0, 0, CONTEXT, 256, weights)
    write_graph(model, "fp32", folder / "model.onnx")
    np.save(folder / "expected.npy", forward(model, list(range(1, 41)), last=40))
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def backend(graph: Path) -> Iterator[OnnxBackend]:
    backend = OnnxBackend.load(graph, threads=1, provider="cpu", batch=16)
    yield backend
    backend.close()


def session(backend: OnnxBackend, prefix: list[int], slots: int = 4) -> OnnxSession:
    made = backend.session(slots=slots, length=100)
    made.share(prefix)
    return made


def close(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.abs(left - right).max() < CLOSE)


def test_logits_are_those_of_the_weights_however_the_prompt_is_cut(backend: OnnxBackend, graph: Path) -> None:
    expected = np.load(graph.with_name("expected.npy"))
    tokens = list(range(1, 41))
    for shared in (0, 1, 7, 30):
        made = session(backend, tokens[:shared])
        assert close(made.begin(2, tokens[shared:39]), expected[38])
        assert close(made.step([(2, tokens[39:])], [1])[0], expected[39:])
        made.close()
    made = session(backend, [])
    made.begin(0, tokens[:10])
    assert close(made.step([(0, tokens[10:40])], [25])[0], expected[15:])
    made.close()


def test_a_sequences_numbers_do_not_depend_on_its_neighbours(backend: OnnxBackend) -> None:
    rng = np.random.default_rng(0)
    shared = rng.integers(0, 256, 9).tolist()
    prompts = [rng.integers(0, 256, length).tolist() for length in (5, 30, 17)]
    lengths = ((1, 3, 2), (2, 1, 3), (4, 4, 1), (1, 1, 1))
    tokens = rng.integers(0, 256, (3, 12)).tolist()

    def logits(which: list[int]) -> dict[tuple[int, int], np.ndarray]:
        made = session(backend, shared)
        found = {(i, -1): made.begin(slot, prompts[i]).copy() for slot, i in enumerate(which)}
        for turn in range(len(lengths)):
            start = [sum(lengths[j][i] for j in range(turn)) for i in which]
            feeds = [(s, tokens[i][start[s] : start[s] + lengths[turn][i]]) for s, i in enumerate(which)]
            rows = made.step(feeds, [len(fed) for _, fed in feeds])
            found |= {(i, turn): rows[s].copy() for s, i in enumerate(which)}
        made.close()
        return found

    together = logits([0, 1, 2])
    for i in range(3):
        for key, alone in logits([i]).items():
            assert alone.shape == together[key].shape and close(alone, together[key]), key


def test_rewinding_forgets_exactly_the_last_tokens(backend: OnnxBackend) -> None:
    made = session(backend, [1, 2, 3])
    made.begin(0, [4, 5])
    plain = made.step([(0, [6])], [1])[0].copy()
    made.begin(1, [4, 5])
    made.step([(1, [9, 9, 9])], [1])
    made.rewind(1, 3)
    assert close(made.step([(1, [6])], [1])[0], plain)
    made.close()


def test_rows_move_together_when_their_neighbours_finish(backend: OnnxBackend) -> None:
    made = session(backend, [1, 2])
    for slot in range(4):
        made.begin(slot, list(range(3, 5 + slot)))
    rows = made.step([(slot, [8]) for slot in range(4)], [1] * 4)
    expected = {slot: rows[slot].copy() for slot in range(4)}
    assert not close(expected[1], expected[3])
    made.release(0)
    made.release(2)
    for slot in (1, 3):
        made.rewind(slot, 1)
    rows = made.step([(3, [8]), (1, [8])], [1, 1])
    assert close(rows[0], expected[3]) and close(rows[1], expected[1])
    made.begin(0, [3, 4])
    assert close(made.step([(0, [8]), (1, [9]), (3, [9])], [1, 1, 1])[0], expected[0])
    made.rewind(1, 1)
    # One rests in the middle of a pass, and is not changed by it.
    made.step([(3, [7]), (0, [7])], [1, 1])
    made.rewind(1, 1)
    assert close(made.step([(1, [8])], [1])[0], expected[1])
    made.close()


def test_decoding_writes_the_same_side_by_side_and_one_by_one(backend: OnnxBackend) -> None:
    rng = np.random.default_rng(1)
    jobs = [Job(number, rng.integers(0, 256, 4 + 3 * number).tolist(), 12) for number in range(5)]

    def written(sampling: Sampling) -> dict[int, tuple[int, ...]]:
        made = backend.session(slots=sampling.parallel or 5, length=CONTEXT)
        done = {c.number: c.tokens for c in decode(made, [1, 2, 3], jobs, stop=[256], sampling=sampling)}
        made.close()
        return done

    together = written(Sampling(parallel=5))
    assert together == written(Sampling(parallel=1)) == written(Sampling(parallel=2))
    assert together == written(Sampling(parallel=3, draft=4))
    assert len(set(together.values())) > 1


def test_the_last_cell_can_be_used(backend: OnnxBackend) -> None:
    made = backend.session(slots=2, length=6)
    made.share([1, 2])
    made.begin(0, [3])
    made.begin(1, [3, 4, 5])
    full = made.step([(0, [4]), (1, [6])], [1, 1])[1].copy()
    made.step([(0, [5])], [1])
    made.step([(0, [6])], [1])
    made.rewind(1, 1)
    assert close(made.step([(1, [6])], [1])[0], full)
    made.close()


def test_a_closed_session_says_so(backend: OnnxBackend) -> None:
    made = session(backend, [1])
    made.begin(0, [2])
    made.close()
    made.close()
    made.release(0)
    with pytest.raises(BackendError, match="closed in the middle"):
        made.begin(1, [2])


def test_what_is_no_graph_of_masa_is_refused_in_one_sentence(graph: Path, tmp_path: Path) -> None:
    import onnx

    with pytest.raises(BackendError, match="no such file"):
        OnnxBackend.load(tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(BackendError, match="ONNX Runtime cannot"):
        OnnxBackend.load(broken, threads=1)
    other = onnx.load(str(graph))
    for entry in other.metadata_props:
        if entry.key == "masa.graph":
            entry.value = "99"
    onnx.save(other, str(tmp_path / "newer.onnx"))
    with pytest.raises(BackendError, match="of version 99"):
        OnnxBackend.load(tmp_path / "newer.onnx", threads=1, tokenizer=graph.with_name("tokenizer.json"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BackendError, match="tokenizers cannot read this"):
        OnnxBackend.load(graph, threads=1, tokenizer=tmp_path / "tokenizer.json")


def test_the_device_needs_neither_torch_nor_transformers(graph: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom masa.backends.onnx import OnnxBackend\nfrom masa.prompt import Segment\n"
        f"b = OnnxBackend.load({str(graph)!r}, threads=1)\n"
        "assert b.detokenize(b.tokenize([Segment('a <|end|> b')])) == b'a <|end|> b'\n"
        "s = b.session(slots=1, length=9)\ns.share([1])\ns.begin(0, [2])\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'masa_export', 'llama_cpp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", ""), done
