"""The model to train: a base with tree attention, whole or behind a LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from masa_training.bases import Base
from masa_training.distill import attention
from masa_training.distill.config import DistillConfig

ADAPTER = "adapter_model.safetensors"


def trainable(base: Base, config: DistillConfig) -> Any:
    """The base ready for training, on the CPU: all weights in fp32, or frozen weights behind a LoRA in fp32."""
    attention.register()
    frozen = torch.bfloat16 if config.precision == "bf16" else torch.float32
    model = base.model(frozen if config.method == "lora" else torch.float32)
    model.set_attn_implementation(attention.NAME)
    model.config.use_cache = False
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.method == "full":
        return model
    from peft import LoraConfig, get_peft_model

    targets: Any = config.targets if config.targets == "all-linear" else config.targets.split(",")
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
    adapted: Any = get_peft_model(model, lora)
    if config.start:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(adapted, load_file(Path(config.start) / ADAPTER))
    return adapted
