"""Forms: a rewriter written for this CPU computes what it computed, and is found, kept and left as it should be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.artifact_samples import write_artifact
from tests.tiny_gguf import FEED, HIDDEN, write_tiny_gguf

from masa import Rewriter, load_bank, resolve_backbone
from masa.artifact import Artifact, load_artifact
from masa.backends import Backend, open_backend
from masa.backends.onnx import OnnxBackend
from masa.errors import BackendError, MissingExtraError
from masa.forms.finding import choose_form, find_form, form_checks
from masa.forms.graph import FORMS, signed_saturates, write_graph
from masa.forms.making import make_form, same_best
from masa.forms.reference import Sizes, forward
from masa.forms.rounding import hadamard, in_blocks, rotated, smoothed
from masa.forms.tokenizer import write_tokenizer
from masa.forms.weights import read_model
from masa.prompt import Segment

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TEXT = "Open the fridge before you look into it; take at most 3 apples.\n" * 4


def write_lora(path: Path) -> Path:
    """An adapter that changes two matrices of the tiny model a lot."""
    import gguf

    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for name, outputs, inputs in (("blk.0.attn_q", HIDDEN, HIDDEN), ("blk.1.ffn_down", HIDDEN, FEED)):
        writer.add_tensor(f"{name}.weight.lora_a", rng.normal(0, 0.3, (4, inputs)).astype(np.float32))
        writer.add_tensor(f"{name}.weight.lora_b", rng.normal(0, 0.3, (outputs, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    """Makes an artifact of the tiny model: an architecture, or "lora" for a llama with an adapter."""
    folder = tmp_path_factory.mktemp("tiny")

    def make(kind: str) -> Artifact:
        where = folder / kind
        if not where.exists():
            architecture = "llama" if kind == "lora" else kind
            files = {"weights.gguf": write_tiny_gguf(smollm2, folder / f"{kind}.gguf", architecture=architecture)}
            if kind == "lora":
                files["adapter.gguf"] = write_lora(folder / "adapter.gguf")
            contents = {name: path.read_bytes() for name, path in files.items()}
            adapter = "adapter.gguf" if kind == "lora" else None
            write_artifact(where, contents, name=f"tiny-{kind}", adapter=adapter, context_length=4096)
        return load_artifact(where)

    return make


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setattr("masa.forms.finding.MIN_SAME", 0.5)  # random weights are full of near ties
        yield folder


def form_of(artifact: Artifact) -> Artifact:
    return find_form(artifact) or make_form(artifact)


def logits(backend: Backend, tokens: list[int]) -> np.ndarray:
    """Logits after every token but the first."""
    session = backend.session(slots=1, length=len(tokens) + 1)
    session.begin(0, tokens[:1])
    found = np.array(session.step([(0, tokens[1:])], [len(tokens) - 1])[0])
    session.close()
    return found


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma3", "lora"])
def test_numpy_and_the_form_compute_what_llama_cpp_does(
    tiny: Callable[[str], Artifact], cache: Path, kind: str
) -> None:
    artifact = tiny(kind)
    shipped = open_backend(artifact)
    tokens = shipped.tokenize((Segment(TEXT),))
    expected = logits(shipped, tokens)
    shipped.close()
    sizes = Sizes()
    model = read_model(artifact)
    last = len(tokens) - 1
    assert (
        np.abs(forward(model, tokens, last=last, sizes=sizes) - expected).max() < 1e-2
    )  # llama.cpp keeps keys and values in 16 bits
    assert (
        np.abs(forward(smoothed(model, sizes), tokens, last=last) - expected).max() < 1e-2
    )  # llama.cpp keeps keys and values in 16 bits
    backend = open_backend(form_of(artifact))
    assert backend.tokenize((Segment(TEXT),)) == tokens
    found = logits(backend, tokens)
    # A wrong rotation or a lost adapter moves logits by half their size, rounding by a hundredth.
    assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()
    backend.close()


def test_a_token_does_not_depend_on_what_is_computed_beside_it(tiny: Callable[[str], Artifact], cache: Path) -> None:
    backend = open_backend(form_of(tiny("llama")))
    tokens = backend.tokenize((Segment(TEXT),))
    alone = logits(backend, tokens[:9])[-1]
    session = backend.session(slots=3, length=64)
    for slot in range(3):
        session.begin(slot, tokens[slot * 8 : slot * 8 + 8])
    beside = session.step([(0, tokens[8:9]), (1, [1999]), (2, [3])], [1, 1, 1])[0][0]
    assert np.abs(beside - alone).max() < 1e-4
    session.close()
    backend.close()


@pytest.mark.parametrize("form", list(FORMS))
def test_every_constant_of_a_graph_is_read(tiny: Callable[[str], Artifact], tmp_path: Path, form: str) -> None:
    write_graph(read_model(tiny("llama")), form, tmp_path / "model.onnx")
    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    assert {one.name for one in graph.initializer} <= {name for node in graph.node for name in node.input}


def test_a_large_channel_does_not_make_a_token_coarse(
    tiny: Callable[[str], Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_model(tiny("llama"))
    weights = {}
    for number in range(model.layers):
        scale = np.ones(FEED, np.float32)
        scale[0] = 200
        weights[f"blk.{number}.ffn_up.weight"] = model.layer(number, "ffn_up") * scale[:, None]
        weights[f"blk.{number}.ffn_down.weight"] = model.layer(number, "ffn_down") / scale
    uneven = model.changed(weights)
    tokens = list(range(40, 80))
    expected = forward(model, tokens, last=len(tokens) - 1)
    write_tokenizer(tiny("llama").weights_path, tmp_path / "tokenizer.json")

    def error() -> float:
        write_graph(uneven, "uint8", tmp_path / "model.onnx")
        backend = OnnxBackend.load(tmp_path / "model.onnx", threads=1, provider="cpu")
        found = logits(backend, tokens)
        backend.close()
        return float(np.abs(found - expected).mean())

    rotated_error = error()
    monkeypatch.setattr("masa.forms.rounding._ROTATED", 1)
    assert rotated_error < 0.5 * error()


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_hold_the_weights_and_what_a_base_in_q8_0_has_to_the_bit(bits: int) -> None:
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.5, 2, size=(40, 3, 1)).astype(np.float16).astype(np.float32)
    values = rng.integers(-127, 128, size=(40, 3, 32))
    values[..., 0] = 127  # as Q8_0 makes them: the largest of a block is 127 steps
    matrix = (scales * values).astype(np.float32).reshape(40, 96)
    packed, found, zeros = in_blocks(matrix, bits)
    if bits == 8:
        assert zeros is None and np.array_equal(packed.astype(int) - 128, values)
        assert np.allclose(found, scales[..., 0], rtol=1e-6)
    else:
        low, high = packed & 15, packed >> 4
        stored = np.stack([low, high], -1).reshape(40, 3, 32).astype(np.float32)
        nibbles = np.stack([zeros & 15, zeros >> 4], -1).reshape(40, -1)[:, :3, None]
        assert np.abs((stored - nibbles) * found[..., None] - matrix.reshape(40, 3, 32)).max() < np.abs(found).max()
    assert in_blocks(np.zeros((2, 40), np.float32), bits)[1].shape == (2, 2)


@pytest.mark.parametrize(("width", "size"), [(576, 64), (96, 32), (63, 1)])
def test_what_is_rotated_twice_is_as_before(width: int, size: int) -> None:
    matrix = np.random.default_rng(0).normal(size=(5, width)).astype(np.float32)
    assert len(hadamard(width)) == size
    assert np.abs(rotated(rotated(matrix)) - matrix).max() < 1e-5
    assert np.abs(rotated(matrix) @ rotated(matrix).T - matrix @ matrix.T).max() < 1e-3


def test_a_near_tie_is_no_difference_and_another_choice_is() -> None:
    wanted = np.log(np.array([[0.50, 0.48, 0.02], [0.60, 0.38, 0.02], [0.60, 0.38, 0.02]]))
    found = np.log(np.array([[0.48, 0.50, 0.02], [0.38, 0.60, 0.02], [0.50, 0.48, 0.02]]))
    assert same_best(wanted, found).tolist() == [True, False, True]


def test_no_sum_saturates_in_the_form_for_this_cpu(tiny: Callable[[str], Artifact], tmp_path: Path) -> None:
    model = read_model(tiny("llama"))
    tokens = list(range(40, 80))
    expected = forward(model, tokens, last=len(tokens) - 1)
    error = {}
    for form in ("int8", "uint8"):
        write_graph(model, form, tmp_path / "model.onnx")
        write_tokenizer(tiny("llama").weights_path, tmp_path / "tokenizer.json")
        backend = OnnxBackend.load(tmp_path / "model.onnx", threads=1, provider="cpu")
        error[form] = float(np.abs(logits(backend, tokens) - expected).mean())
        backend.close()
    if signed_saturates():
        assert error["uint8"] < error["int8"]
    else:
        assert error["uint8"] == pytest.approx(error["int8"], rel=0.02)
    assert (form_of(tiny("llama")).quantization in ("uint8", "w8")) == signed_saturates()


def test_a_rewriter_runs_the_form_that_was_made_and_says_so(
    tiny: Callable[[str], Artifact], cache: Path, repository: Path
) -> None:
    artifact = tiny("lora")
    bank = load_bank(repository / "examples" / "banks" / "household.json")
    card = resolve_backbone(str(repository / "examples" / "card.yaml"))
    shutil.rmtree(cache / "masa", ignore_errors=True)
    assert find_form(artifact) is None
    with Rewriter.load(artifact, cache=False) as rewriter:
        assert rewriter.form is None and f"masa pull {artifact.name}" in rewriter.form_reason
    form = make_form(artifact)
    assert find_form(artifact) == form
    check = form_checks(form)[-1]
    assert check.passed and form.quantization == check.form and check.tokens > 20
    with Rewriter.load(artifact, cache=False) as rewriter:
        result = rewriter.rewrite(bank, card, only=["clean"])
        assert result.form == form.quantization
        told = result.to_json()["artifact"]
        assert told["form"] == form.quantization and f"KL {check.kl:.4f}" in told["form_reason"]
        assert result.artifact_fingerprint == artifact.fingerprint, "a variant is not stale because a form was made"
        rewriter.use_adapter(artifact.adapter_path)
        result = rewriter.rewrite(bank, card, only=["clean"])
        assert result.form is None and "adapter" in result.form_reason
    with Rewriter.load(artifact, cache=False, form=False) as rewriter:
        result = rewriter.rewrite(bank, card, only=["clean"])
        assert result.form is None and result.form_reason == "as asked for"
    with Rewriter.load(artifact, cache=False, gpu_layers=1) as rewriter:
        assert rewriter.form is None and "GPU" in rewriter.form_reason


def test_a_form_of_another_rewriter_or_a_damaged_one_is_not_run(tiny: Callable[[str], Artifact], cache: Path) -> None:
    artifact = tiny("llama")
    form = form_of(artifact)
    assert find_form(tiny("qwen2")) != form
    manifest = form.path / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text[:-20])
    assert find_form(artifact) is None
    manifest.write_text(text)
    checks = (form.path / "form.json").read_bytes()
    (form.path / "form.json").write_bytes(b"[]")
    found, why = choose_form(artifact)
    assert found is None and "damaged" in why
    (form.path / "form.json").write_bytes(checks)
    (form.path / "model.onnx.data").write_bytes(b"short")
    assert find_form(artifact) is None
    assert make_form(artifact) == find_form(artifact)


def test_what_computes_something_else_is_refused(
    tiny: Callable[[str], Artifact], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from masa.forms import rounding

    monkeypatch.setattr(rounding, "_factor", lambda sizes, widths: np.full(len(sizes), 1e6, np.float32))
    monkeypatch.setattr("masa.forms.finding.MAX_KL", 0.0)
    (cache / "masa" / "forms").mkdir(parents=True, exist_ok=True)
    before = sorted((cache / "masa" / "forms").iterdir())
    with pytest.raises(BackendError, match="no form computes here what the weights do"):
        make_form(tiny("llama"))
    assert sorted((cache / "masa" / "forms").iterdir()) == before


def test_a_missing_package_is_told(
    tiny: Callable[[str], Artifact], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[onnx\]"):
        make_form(tiny("llama"))


def test_an_unknown_architecture_is_told(smollm2: Path, tmp_path: Path) -> None:
    path = write_tiny_gguf(smollm2, tmp_path / "x.gguf")
    data = path.read_bytes().replace(b"llama", b"lamma")
    folder = write_artifact(tmp_path / "artifact", {"weights.gguf": data})
    with pytest.raises(BackendError, match="'lamma'"):
        read_model(load_artifact(folder))


def test_the_manifest_keeps_what_the_rewriter_is(tiny: Callable[[str], Artifact], cache: Path) -> None:
    artifact = tiny("lora")
    form = form_of(artifact)
    for name in ("name", "version", "language", "prompt_version", "base_model", "chat_template", "context_length"):
        assert getattr(form, name) == getattr(artifact, name)
    assert form.adapter is None and form.kind == "onnx"
    assert "form.json" in json.loads((form.path / "manifest.json").read_text())["files"]
