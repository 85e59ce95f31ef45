"""A PEFT LoRA as a GGUF adapter: names, rotary order, scale and storage types."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_export.adapter import Written, permute, write_adapter
from masa_export.errors import ExportError
from masa_export.source import open_source

from .checkpoint_samples import HEADS, KV_HEADS, LAYERS, LINEAR, random_lora, write_base, write_checkpoint


def exported(
    folder: Path, tensors: Any = None, *, architecture: str = "llama", kind: str = "f32", config: Any = None
) -> tuple[Written, dict[str, np.ndarray], dict[str, Any]]:
    """What was written: the tensors de-quantized, and the metadata."""
    import gguf

    base = write_base(folder / "base.gguf", architecture)
    source = open_source(write_checkpoint(folder / "checkpoint", base, tensors, config=config))
    written = write_adapter(source, folder / "adapter.gguf", kind=kind)
    reader = gguf.GGUFReader(written.path)
    found = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    return written, found, {name: field.contents() for name, field in reader.fields.items()}


def rotated_by_llama_cpp(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of q or k as llama.cpp wants them, row by row: those that rotate together lie beside each other."""
    size = weight.shape[0] // heads
    order = [head * size + half * (size // 2) + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return weight[order]


@settings(max_examples=40, deadline=None)
@given(heads=st.integers(1, 5), half=st.integers(1, 6), columns=st.integers(1, 7), seed=st.integers(0, 99))
def test_adapting_commutes_with_the_rotary_order(heads: int, half: int, columns: int, seed: int) -> None:
    """Merging, then reordering rows, is the same as reordering base and lora_B, then merging."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(heads * 2 * half, columns))
    a, b = rng.normal(size=(3, columns)), rng.normal(size=(heads * 2 * half, 3))
    merged = rotated_by_llama_cpp(weight + b @ a, heads)
    assert np.allclose(rotated_by_llama_cpp(weight, heads) + permute(b, heads) @ a, merged)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen2", "qwen3"])
def test_every_layer_has_its_llama_cpp_name_and_order(tmp_path: Path, architecture: str) -> None:
    tensors = random_lora()
    written, found, _ = exported(tmp_path, tensors, architecture=architecture)
    assert written.layers == LAYERS * len(LINEAR) and len(found) == 2 * written.layers
    for layer in range(LAYERS):
        for module, (name, _, _) in LINEAR.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            expected = tensors[f"{stem}.lora_B.weight"]
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name)
            if architecture == "llama" and heads:
                expected = rotated_by_llama_cpp(expected, heads)
            assert np.array_equal(found[f"blk.{layer}.{name}.weight.lora_b"], expected), name
            assert np.array_equal(found[f"blk.{layer}.{name}.weight.lora_a"], tensors[f"{stem}.lora_A.weight"])


@pytest.mark.parametrize(("rslora", "scale"), [(False, 8 / 4), (True, 8 / math.sqrt(4))])
def test_llama_cpps_scale_is_pefts(tmp_path: Path, rslora: bool, scale: float) -> None:
    _, found, metadata = exported(tmp_path, config={"use_rslora": rslora})
    rank = found["blk.0.attn_q.weight.lora_b"].shape[1]  # llama.cpp takes the rank from here
    assert metadata["adapter.lora.alpha"] / rank == pytest.approx(scale)


def test_the_file_says_what_it_is_and_where_it_came_from(tmp_path: Path) -> None:
    _, _, metadata = exported(tmp_path)
    assert (metadata["general.type"], metadata["adapter.type"]) == ("adapter", "lora")
    assert metadata["general.architecture"] == "llama"
    assert metadata["masa.dataset"] == "tiny" and len(metadata["masa.checkpoint_sha256"]) == 64


def test_two_exports_are_equal_to_the_byte(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, _, _ = exported(tmp_path / "one")
    assert first.sha256 == exported(tmp_path / "two")[0].sha256


@pytest.mark.parametrize(("kind", "error", "plain"), [("f32", 0, 0), ("f16", 1e-3, 0), ("q8_0", 1e-2, 14)])
def test_numbers_survive_as_well_as_their_type_allows(tmp_path: Path, kind: str, error: float, plain: int) -> None:
    tensors = random_lora()
    written, found, _ = exported(tmp_path, tensors, kind=kind)
    expected = tensors["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"]
    assert np.abs(found["blk.1.ffn_up.weight.lora_a"] - expected).max() <= error * np.abs(expected).max()
    assert written.f16_tensors == plain, "lora_B has rows of 4 numbers, which Q8_0 cannot store"


def test_bfloat16_is_read_without_torch(tmp_path: Path) -> None:
    import json

    tensors = random_lora(modules=["mlp.up_proj"])
    base = write_base(tmp_path / "base.gguf")
    folder = write_checkpoint(tmp_path / "checkpoint", base, tensors)
    header, data, offset = {}, b"", 0
    for name, values in tensors.items():
        half = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [offset, offset + len(half)]}
        data, offset = data + half, offset + len(half)
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    import gguf

    written = write_adapter(open_source(folder), tmp_path / "a.gguf", kind="f32")
    found = {t.name: t.data for t in gguf.GGUFReader(written.path).tensors}["blk.0.ffn_up.weight.lora_a"]
    expected = tensors["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"]
    assert 0 < np.abs(found - expected).max() < np.abs(expected).max() / 128


def renamed(old: str, new: str) -> dict[str, np.ndarray]:
    return {name.replace(old, new): values for name, values in random_lora().items()}


def changed(end: str, values: Any) -> dict[str, np.ndarray]:
    return {name: values if name.endswith(f"0.{end}") else old for name, old in random_lora().items()}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (renamed("lora_A", "lora_embedding_A"), "no LoRA of a linear layer"),
        (renamed("layers.1.", "layers.7."), "layers.7.mlp.down_proj has no place in a llama of 2 layers"),
        (renamed("up_proj", "side_proj"), "side_proj has no place in a llama"),
        (renamed("model.layers.1.mlp.up_proj", "lm_head"), "has no tensor output.weight"),
        ({n: v for n, v in random_lora().items() if "up_proj.lora_B" not in n}, "only lora_A is there"),
        (random_lora(rank=8), "which is no LoRA of rank 4"),
        (
            changed("mlp.up_proj.lora_A.weight", np.zeros((4, 32), np.float32)),
            "are for a layer of 96 x 32, but blk.0.ffn_up.weight",
        ),
        (
            changed("mlp.up_proj.lora_A.weight", np.full((4, 64), np.nan, np.float32)),
            "numbers that are not finite",
        ),
        (changed("mlp.up_proj.lora_A.weight", np.full((4, 64), 1e6, np.float32)), "too large for f16"),
        (changed("mlp.up_proj.lora_A.weight", np.zeros((4, 64), np.int32)), "is stored as I32"),
        ({}, "holds no tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_in_one_sentence(tmp_path: Path, tensors: Any, message: str) -> None:
    with pytest.raises(ExportError) as caught:
        exported(tmp_path, tensors, kind="f16")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_architecture_whose_order_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="falcon"):
        exported(tmp_path, architecture="falcon")
