"""A checkpoint and its base are opened, and what cannot be exported is refused in one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from masa.errors import MasaError
from masa.prompt import Segment
from masa_export.source import Shape, open_source
from masa_export.tensors import open_tensors
from masa_training.bases import folder_sha256

from .checkpoint_samples import notes, write_base, write_checkpoint


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base.gguf")


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(MasaError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path, base: Path) -> None:
    source = open_source(write_checkpoint(tmp_path / "c", base, config={"use_rslora": True}))
    checkpoint = source.checkpoint
    assert (checkpoint.language, checkpoint.prompt_version, checkpoint.dataset.name) == ("plan", 1, "tiny")
    assert checkpoint.template.before_system[0] == Segment("<|im_start|>", True)
    assert source.adapter.gguf_alpha == 16 and source.adapter.rank == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 9}, "checkpoint format 9, this masa reads 1; upgrade masa"),
        ({"format": "1"}, '"format" is "1"; it must be a whole number'),
        ({"prompt_version": 7}, "trained with prompt version 7, this masa knows 1"),
        ({"kind": "full"}, "a full checkpoint has no adapter"),
        ({"kind": "delta"}, '"kind" is "delta"; it must be "lora" or "full"'),
        ({"base": ...}, '"base" is missing'),
        ({"language": "action"}, "writes 'action', a rewriter writes"),
        ({"dataset": {"name": "x", "sha256": "12"}}, '"dataset.sha256" is "12"'),
        ({"chat_template": {"stop": []}}, '"chat_template.before_system" is missing'),
    ],
)
def test_wrong_notes(tmp_path: Path, base: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_checkpoint(tmp_path / "c", base, **changes)
    assert message in refusal(lambda: open_source(folder))


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
    assert message in refusal(lambda: open_source(folder))


@pytest.mark.parametrize("name", ["masa.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, base: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "c", base)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])

    def read() -> None:
        open_tensors(open_source(folder).weights)

    assert name in refusal(read)
    (folder / name).unlink()
    assert name in refusal(read)
    shutil.rmtree(folder)
    assert "no such folder" in refusal(read)


def test_the_base_is_found_where_it_was_or_where_it_is_said_to_be(tmp_path: Path, base: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", base)
    assert open_source(folder).shape.kv_heads == 2
    moved = base.rename(tmp_path / "moved.gguf")
    assert "is not there" in refusal(lambda: open_source(folder))
    assert open_source(folder, str(moved)).gguf == moved
    other = write_base(tmp_path / "other.gguf", "qwen3")
    assert "not the base of" in refusal(lambda: open_source(folder, str(other)))
    assert "neither a GGUF file nor a rewriter" in refusal(lambda: open_source(folder, "nowhere"))


def test_a_hugging_face_base_tells_its_shape(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    note = {**notes(model)["base"], "kind": "hf", "sha256": folder_sha256(model)}
    folder = write_checkpoint(tmp_path / "c", model, base=note)
    assert "is not there" in refusal(lambda: open_source(folder))
    same = write_base(tmp_path / "same.gguf", "qwen3")
    alone = open_source(folder, str(same))
    assert alone.folder is None and alone.gguf == alone.base.path == same, "the folder may be gone"
    config = '{"model_type": "qwen3", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}'
    (model / "config.json").write_text(config)
    source = open_source(folder)
    assert (source.shape, source.gguf) == (Shape("qwen3", 2, 4, 2), None)
    assert open_source(folder, str(same)).folder == model
    other = write_base(tmp_path / "other.gguf", "llama")
    assert "another shape" in refusal(lambda: open_source(folder, str(other)))
    (model / "model.safetensors").write_bytes(b"another model")
    assert "not the base of" in refusal(lambda: open_source(folder))
    (model / "model.safetensors").unlink()
    (model / "config.json").write_text(config.replace("qwen3", "bert"))
    assert "the architecture bert cannot be exported" in refusal(lambda: open_source(folder))
