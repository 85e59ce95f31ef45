"""A tiny Llama as an ONNX artifact's files, exported from random weights with the real tokenizer of SmolLM2."""

from __future__ import annotations

from pathlib import Path

from tests.export.checkpoint_samples import write_checkpoint
from tests.export.test_gguf_command import SHAPES, lora
from tests.tiny_gguf import write_tiny_gguf


def write_tiny_checkpoint(folder: Path, smollm2: Path) -> Path:
    """A LoRA checkpoint of a tiny base that lies beside it as base.gguf."""
    base = write_tiny_gguf(smollm2, folder / "base.gguf")
    modules = [module.rsplit(".", 1)[1] for module in SHAPES]
    return write_checkpoint(
        folder / "checkpoint", base, lora(), config={"target_modules": modules, "task_type": "CAUSAL_LM"}
    )
