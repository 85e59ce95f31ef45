"""Small LoRA checkpoints and bases for the export tests, without torch; the bases hold shapes and no sense."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

LAYERS, HEADS, KV_HEADS, HIDDEN, INNER = 2, 4, 2, 64, 96
# Hugging Face name -> GGUF name, inputs, outputs
LINEAR: Mapping[str, tuple[str, int, int]] = {
    "self_attn.q_proj": ("attn_q", HIDDEN, HIDDEN),
    "self_attn.k_proj": ("attn_k", HIDDEN, HIDDEN * KV_HEADS // HEADS),
    "self_attn.v_proj": ("attn_v", HIDDEN, HIDDEN * KV_HEADS // HEADS),
    "self_attn.o_proj": ("attn_output", HIDDEN, HIDDEN),
    "mlp.gate_proj": ("ffn_gate", HIDDEN, INNER),
    "mlp.up_proj": ("ffn_up", HIDDEN, INNER),
    "mlp.down_proj": ("ffn_down", INNER, HIDDEN),
}
SHA256 = "0" * 64
TEMPLATE = {
    "before_system": [["<|im_start|>", True], ["system\n", False]],
    "before_user": [["<|im_end|>", True], ["\n", False]],
    "before_assistant": [["<|im_end|>", True]],
    "stop": ["<|im_end|>"],
}


def write_base(path: Path, architecture: str = "llama") -> Path:
    """A GGUF that has a model's shapes; its numbers are zeros and it has no vocabulary."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    for layer in range(LAYERS):
        for name, inputs, outputs in LINEAR.values():
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros((outputs, inputs), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_lora(
    rank: int = 4, seed: int = 0, modules: Iterable[str] = tuple(LINEAR), layers: int = LAYERS
) -> dict[str, np.ndarray]:
    """Tensors under peft's names."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for module in modules:
            _, inputs, outputs = LINEAR[module]
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A.weight"] = rng.normal(0, 0.1, (rank, inputs)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = rng.normal(0, 0.1, (outputs, rank)).astype(np.float32)
    return tensors


def notes(base: Path, /, **changes: Any) -> dict[str, Any]:
    """The content of masa.json; a change to `...` removes the key."""
    content = {
        "format": 1,
        "kind": "lora",
        "base": {
            "name": "sample",
            "spec": str(base),
            "path": str(base),
            "kind": "gguf",
            "sha256": hashlib.sha256(base.read_bytes()).hexdigest() if base.is_file() else SHA256,
        },
        "language": "plan",
        "prompt_version": 1,
        "chat_template": TEMPLATE,
        "context_length": 512,
        "dataset": {
            "name": "tiny",
            "sha256": SHA256,
            "summary": "Trained on four made-up samples.",
            "synthetic": True,
            "licence": "CC0-1.0",
        },
        "training": {},
        "metrics": {},
    }
    return {key: value for key, value in {**content, **changes}.items() if value is not ...}


def write_checkpoint(
    folder: Path,
    base: Path,
    tensors: Mapping[str, np.ndarray] | None = None,
    /,
    *,
    config: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A checkpoint folder; `changes` are to masa.json, `config` to peft's settings."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(random_lora() if tensors is None else tensors), folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_rslora": False, **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "masa.json").write_text(json.dumps(notes(base, **changes)), encoding="utf-8")
    return folder
