"""What is no checkpoint that can be exported is refused in one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from masa.prompt import Segment
from masa_export.base import find_base
from masa_export.checkpoint import read_checkpoint
from masa_export.errors import ExportError
from masa_export.tensors import open_tensors

from .checkpoint_samples import SHA256, notes, write_base, write_checkpoint


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base.gguf")


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(ExportError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path, base: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", base, config={"use_rslora": True}))
    assert (checkpoint.language, checkpoint.prompt_version, checkpoint.dataset.name) == ("plan", 1, "tiny")
    assert checkpoint.template.before_system[0] == Segment("<|im_start|>", True)
    assert checkpoint.lora.gguf_alpha == 16 and checkpoint.lora.rank == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 9}, "checkpoint format 9, this masa reads 1; upgrade masa"),
        ({"format": "1"}, '"format" is "1"; it must be a whole number'),
        ({"prompt_version": 7}, "trained with prompt version 7, this masa knows 1"),
        ({"kind": "full"}, "a full checkpoint has no adapter"),
        ({"kind": "delta"}, '"kind" is "delta"; it must be "lora" or "full"'),
        ({"base": ...}, '"base" is missing'),
        ({"language": "verse"}, '"language" is "verse"'),
        ({"dataset": {"name": "x", "sha256": "12"}}, '"dataset.sha256" is "12"'),
        ({"chat_template": {"stop": []}}, '"chat_template.before_system" is missing'),
    ],
)
def test_wrong_notes(tmp_path: Path, base: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_checkpoint(tmp_path / "c", base, **changes)
    assert message in refusal(lambda: read_checkpoint(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "uses DoRA"),
        ({"bias": "lora_only"}, "trained biases (bias: lora_only)"),
        ({"lora_bias": True}, "trained biases"),
        ({"modules_to_save": ["lm_head"]}, "(modules_to_save)"),
        ({"trainable_token_indices": [1]}, "trained token embeddings"),
        ({"rank_pattern": {"q_proj": 8}}, "(rank_pattern)"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base's own weights"),
        ({"peft_type": "IA3"}, "only LORA can be exported"),
        ({"r": 0}, '"r" is 0'),
        ({"lora_alpha": -1}, '"lora_alpha" is -1'),
    ],
)
def test_adapters_that_gguf_cannot_hold(tmp_path: Path, base: Path, config: dict[str, Any], message: str) -> None:
    folder = write_checkpoint(tmp_path / "c", base, config=config)
    assert message in refusal(lambda: read_checkpoint(folder))


@pytest.mark.parametrize("name", ["masa.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, base: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "c", base)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])

    def read() -> None:
        open_tensors(read_checkpoint(folder).weights)

    assert name in refusal(read)
    (folder / name).unlink()
    assert name in refusal(read)
    shutil.rmtree(folder)
    assert "no such folder" in refusal(read)


def test_the_base_is_found_where_it_was_or_where_it_is_said_to_be(tmp_path: Path, base: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", base)
    assert find_base(read_checkpoint(folder)).kv_heads == 2
    moved = base.rename(tmp_path / "moved.gguf")
    assert "give the GGUF file with --base" in refusal(lambda: find_base(read_checkpoint(folder)))
    assert find_base(read_checkpoint(folder), str(moved)).gguf == moved
    other = write_base(tmp_path / "other.gguf", "qwen3")
    assert "not the base of" in refusal(lambda: find_base(read_checkpoint(folder), str(other)))
    assert "neither a GGUF file nor a rewriter" in refusal(lambda: find_base(read_checkpoint(folder), "nowhere"))


def test_a_hugging_face_base_tells_its_shape(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    note = {**notes(model)["base"], "kind": "hf", "sha256": SHA256}
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", model, base=note))
    assert "is not there" in refusal(lambda: find_base(checkpoint))
    config = '{"model_type": "qwen3", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}'
    (model / "config.json").write_text(config)
    base = find_base(checkpoint)
    assert (base.architecture, base.layers, base.heads, base.kv_heads, base.gguf) == ("qwen3", 2, 4, 2, None)
    same = write_base(tmp_path / "same.gguf", "qwen3")
    assert find_base(checkpoint, str(same)).folder == model
    other = write_base(tmp_path / "other.gguf", "llama")
    assert "another shape" in refusal(lambda: find_base(checkpoint, str(other)))
    (model / "config.json").write_text(config.replace("qwen3", "bert"))
    assert "the architecture bert cannot be exported" in refusal(lambda: find_base(checkpoint))
