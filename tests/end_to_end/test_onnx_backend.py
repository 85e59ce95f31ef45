"""Real weights through `masa export onnx`: the plans that ONNX Runtime writes are those of llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.export.checkpoint_samples import write_checkpoint

from masa.artifact import load_artifact
from masa.backends.llama import LlamaBackend
from masa.backends.onnx import OnnxBackend
from masa.cards import find_shipped
from masa.formats import load_bank
from masa.rewriter import Rewriter

pytestmark = pytest.mark.model


def lora(smollm2: Path) -> dict[str, np.ndarray]:
    """A small random adapter of every value projection."""
    from masa.formats.gguf_header import read_header

    rng = np.random.default_rng(0)
    tensors = {}
    for tensor in read_header(smollm2).tensors:
        if tensor.name.endswith("attn_v.weight"):
            inputs, outputs = tensor.shape
            stem = f"base_model.model.model.layers.{tensor.name.split('.')[1]}.self_attn.v_proj"
            tensors[f"{stem}.lora_A.weight"] = rng.normal(0, 0.05, (4, inputs)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = rng.normal(0, 0.05, (outputs, 4)).astype(np.float32)
    return tensors


def test_both_backends_write_the_same_plans(smollm2: Path, repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from masa_export.merge import gguf_changes, merge_into_gguf
    from masa_export.onnx_export import OnnxSettings, export_onnx
    from masa_export.source import open_source

    config = {"target_modules": ["v_proj"], "task_type": "CAUSAL_LM"}
    folder = write_checkpoint(tmp_path / "checkpoint", smollm2, lora(smollm2), config=config, context_length=8192)
    done = export_onnx(folder, OnnxSettings(("fp32", "w8"), tmp_path / "out", "real"))
    assert (
        done.merged is not None
        and done.merged.equal == 1.0
        and done.tokenizer_texts is not None
        and done.tokenizer_texts > 40_000
    )
    fp32, w8 = done.artifacts
    assert fp32.likeness is not None and w8.likeness is not None
    assert fp32.likeness.divergence < 1e-4 and w8.likeness.divergence < 0.05

    source = open_source(folder)
    assert source.header is not None
    merge_into_gguf(source.header, gguf_changes(source), tmp_path / "merged.gguf", "F32")
    bank = load_bank(repository / "examples" / "banks" / "household.json")
    card = replace(find_shipped("SmolLM2-135M-Instruct"), weaknesses="skips steps")
    artifact = load_artifact(fp32.path)
    plans = []
    for open_backend in (
        lambda: LlamaBackend.load(tmp_path / "merged.gguf"),
        lambda: OnnxBackend.load(artifact.weights_path),
    ):
        with Rewriter(artifact, open_backend) as rewriter:
            plans.append({group.key: group.raw for group in rewriter.rewrite(bank, card).groups})
    assert len(plans[0]) == 5 and plans[0] == plans[1]
    with Rewriter.load(w8.path, cache=False) as rewriter:
        assert rewriter.rewrite(bank, card, only=["fetch"]).groups[0].raw
