"""A checkpoint merged into its base: the numbers, and a header that stays what it was."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from masa.formats.gguf_header import read_header
from masa_export.errors import ExportError
from masa_export.merge import encode, gguf_changes, merge_folder, merge_into_gguf
from masa_export.source import Source, open_source
from masa_export.tensors import open_model
from masa_training.bases import folder_sha256

from .checkpoint_samples import HEADS, HIDDEN, KV_HEADS, LAYERS, LINEAR, notes, random_lora, write_checkpoint
from .test_adapter import rotated_by_llama_cpp

SCALE = 8 / 4  # alpha / rank of write_checkpoint
TEXT = "a template with general.file_type in it"


def write_model(path: Path, architecture: str = "llama", kind: str = "F16", **extra: Any) -> dict[str, np.ndarray]:
    """A GGUF of random numbers with norms and strings; returns its tensors as they are read back."""
    import gguf

    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_file_type(2)
    writer.add_chat_template(TEXT)
    writer.add_token_list([b"a", "\u0120\u00e9".encode(), b"\xff broken"])
    for key, value in extra.items():
        writer.add_uint16(key.replace("__", "."), value)
    found = {}
    tensors = {"token_embd.weight": (7, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        tensors |= {f"blk.{layer}.{name}.weight": (rows, columns) for name, columns, rows in LINEAR.values()}
        tensors[f"blk.{layer}.attn_norm.weight"] = (HIDDEN,)
    for name, shape in tensors.items():
        values = rng.normal(0, 1, shape).astype(np.float32)
        stored = gguf.GGMLQuantizationType[kind if len(shape) > 1 else "F32"]
        data = gguf.quants.quantize(values, stored)
        writer.add_tensor(name, data, raw_dtype=stored)
        found[name] = gguf.quants.dequantize(data, stored).reshape(shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return found


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    import gguf

    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


def merged(folder: Path, architecture: str = "llama", stored: str = "F16", kind: str = "F32") -> tuple[Any, Any, Any]:
    """The base's tensors, the LoRA's, and those of the merged file."""
    base = write_model(folder / "base.gguf", architecture, stored)
    tensors = random_lora()
    source = open_source(write_checkpoint(folder / "checkpoint", folder / "base.gguf", tensors))
    assert source.header is not None
    merge_into_gguf(source.header, gguf_changes(source), folder / "merged.gguf", kind)
    return base, tensors, read_tensors(folder / "merged.gguf")


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen2", "qwen3"])
@pytest.mark.parametrize("stored", ["F16", "Q8_0"])
def test_every_weight_is_base_plus_scaled_adapter(tmp_path: Path, architecture: str, stored: str) -> None:
    base, lora, found = merged(tmp_path, architecture, stored)
    assert set(found) == set(base)
    for layer in range(LAYERS):
        for module, (name, _, _) in LINEAR.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            change = SCALE * lora[f"{stem}.lora_B.weight"] @ lora[f"{stem}.lora_A.weight"]
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name)
            if architecture == "llama" and heads:
                change = rotated_by_llama_cpp(change, heads)
            key = f"blk.{layer}.{name}.weight"
            assert np.allclose(found[key], base[key] + change, atol=1e-5), key
    for key in ("token_embd.weight", "output_norm.weight", "blk.1.attn_norm.weight"):
        assert np.array_equal(found[key], base[key]), key


def test_large_tensors_are_merged_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = merged(tmp_path)[2]
    (tmp_path / "pieces").mkdir()
    monkeypatch.setattr("masa_export.merge._NUMBERS", 5 * HIDDEN)
    pieces = merged(tmp_path / "pieces")[2]
    assert all(np.allclose(pieces[name], whole[name], atol=1e-6) for name in whole)


def metadata(path: Path) -> bytes:
    """The bytes of a GGUF's metadata."""
    import gguf

    first = gguf.GGUFReader(path).tensors[0]
    return path.read_bytes()[24 : first.field.offset]


@pytest.mark.parametrize(("kind", "number"), [("F16", 1), ("BF16", 32), ("F32", 0)])
def test_the_header_stays_to_the_byte_but_for_the_file_type(tmp_path: Path, kind: str, number: int) -> None:
    merged(tmp_path, kind=kind)
    before, after = metadata(tmp_path / "base.gguf"), metadata(tmp_path / "merged.gguf")
    key = b"general.file_type" + struct.pack("<I", 4)
    assert after == before.replace(key + struct.pack("<I", 2), key + struct.pack("<I", number))
    assert b"\xff broken" in after and TEXT.encode() in after
    header = read_header(tmp_path / "merged.gguf")
    assert header.size == -(-(header.expected_size or 0) // 32) * 32


def test_another_alignment_is_kept(tmp_path: Path) -> None:
    import gguf

    write_model(tmp_path / "base.gguf")
    reader = gguf.GGUFReader(tmp_path / "base.gguf")
    writer = gguf.GGUFWriter(tmp_path / "aligned.gguf", "llama")
    writer.add_custom_alignment(128)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    merge_into_gguf(read_header(tmp_path / "aligned.gguf"), {}, tmp_path / "merged.gguf", "F32")
    assert read_header(tmp_path / "merged.gguf").data_offset % 128 == 0
    before, after = read_tensors(tmp_path / "base.gguf"), read_tensors(tmp_path / "merged.gguf")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def write_full(folder: Path, base: Path, tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "masa.json").write_text(json.dumps(notes(base, kind="full")), encoding="utf-8")
    return folder


def full_tensors(architecture: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    shapes = {"model.embed_tokens.weight": (7, HIDDEN), "lm_head.weight": (7, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        shapes |= {f"{stem}.{module}.weight": (rows, columns) for module, (_, columns, rows) in LINEAR.items()}
        shapes[f"{stem}.input_layernorm.weight"] = (HIDDEN,)
    return {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_full_checkpoint_replaces_the_weights(tmp_path: Path, architecture: str) -> None:
    write_model(tmp_path / "base.gguf", architecture)
    tensors = full_tensors(architecture)
    folder = write_full(tmp_path / "full", tmp_path / "base.gguf", tensors)
    source = open_source(folder, full=True)
    assert source.header is not None
    merge_into_gguf(source.header, gguf_changes(source), tmp_path / "merged.gguf", "F32")
    found = read_tensors(tmp_path / "merged.gguf")
    assert np.array_equal(found["token_embd.weight"], tensors["model.embed_tokens.weight"])
    offset = 1 if architecture == "gemma3" else 0
    assert np.allclose(found["output_norm.weight"], tensors["model.norm.weight"] + offset)
    query = tensors["model.layers.1.self_attn.q_proj.weight"]
    expected = rotated_by_llama_cpp(query, HEADS) if architecture == "llama" else query
    assert np.array_equal(found["blk.1.attn_q.weight"], expected)
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ExportError, match=r"holds nothing for blk\.1\.attn_q\.weight"):
        gguf_changes(source)


def write_folder(folder: Path) -> dict[str, np.ndarray]:
    """A Hugging Face folder of two weight files."""
    folder.mkdir()
    tensors = full_tensors("qwen3")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for part, inside in parts.items():
        save_file({name: tensors[name] for name in inside}, folder / part)
    places = {name: part for part, inside in parts.items() for name in inside}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text(
        '{"model_type": "qwen3", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}'
    )
    (folder / "unrelated.bin").write_bytes(b"never copied")
    return tensors


def hf_checkpoint(folder: Path, model: Path, tensors: Any = None) -> Source:
    base = {**notes(model)["base"], "kind": "hf", "sha256": folder_sha256(model)}
    return open_source(write_checkpoint(folder, model, tensors, base=base))


def test_a_folder_is_merged_file_by_file(tmp_path: Path) -> None:
    tensors = write_folder(tmp_path / "model")
    lora = random_lora()
    target = tmp_path / "merged"
    merge_folder(hf_checkpoint(tmp_path / "checkpoint", tmp_path / "model", lora), target, "F16")
    assert sorted(path.name for path in target.iterdir()) == [
        *("config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"),
        "tokenizer.json",
    ]
    found: dict[str, np.ndarray] = {}
    for part in ("model-1.safetensors", "model-2.safetensors"):
        found |= load_file(target / part)
    assert set(found) == set(tensors) == set(open_model(target))
    for name, values in tensors.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in lora:
            change = SCALE * lora[f"{stem}.lora_B.weight"] @ lora[f"{stem}.lora_A.weight"]
            assert found[name].dtype == np.float16 and np.allclose(found[name], values + change, atol=4e-3), name
        else:
            assert np.array_equal(found[name], values), "what does not change keeps every bit"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("truncated", "truncated"),
        ("index", "no list of tensors"),
        ("outside", "names a file outside"),
        ("absent", "does not hold model.norm.weight"),
        ("part", "cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(tmp_path: Path, spoil: str, message: str) -> None:
    model = tmp_path / "model"
    write_folder(model)
    part, index = model / "model-2.safetensors", model / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    if spoil == "truncated":
        part.write_bytes(part.read_bytes()[:-9])
    elif spoil == "index":
        index.write_text("{")
    elif spoil == "part":
        part.unlink()
    else:
        values = {"outside": "../model-2.safetensors", "absent": "model-1.safetensors"}
        wrong = "model.norm.weight" if places["model.norm.weight"] != values[spoil] else "model.embed_tokens.weight"
        message = message.replace("model.norm.weight", wrong)
        index.write_text(json.dumps({"weight_map": {**places, wrong: values[spoil]}}))
    source = hf_checkpoint(tmp_path / "checkpoint", model)
    with pytest.raises(ExportError) as caught:
        merge_folder(source, tmp_path / "merged", "F16")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_merged_is_refused_in_one_sentence(tmp_path: Path) -> None:
    write_model(tmp_path / "split.gguf", split__count=3)
    with pytest.raises(ExportError, match="one of 3"):
        merge_into_gguf(read_header(tmp_path / "split.gguf"), {}, tmp_path / "out.gguf", "F16")
    write_model(tmp_path / "base.gguf")
    data = (tmp_path / "base.gguf").read_bytes()
    header = read_header(tmp_path / "base.gguf")
    at = header.data_offset + header.tensors[0].offset
    (tmp_path / "nan.gguf").write_bytes(data[:at] + b"\xff\xff" + data[at + 2 :])
    with pytest.raises(ExportError, match=r"token_embd\.weight"):
        merge_into_gguf(read_header(tmp_path / "nan.gguf"), {}, tmp_path / "out.gguf", "F32")


def test_numbers_too_large_for_f16_are_an_error_and_not_infinity() -> None:
    large = np.array([[1e5]], np.float32)
    with pytest.raises(ExportError, match="too large for F16"):
        encode(large, "F16", "x")
    assert encode(large, "F32", "x")[0, 0] == 1e5
    assert (int(encode(large, "BF16", "x").ravel()[0]) << 16) == struct.unpack("<I", struct.pack("<f", 99840.0))[0]
