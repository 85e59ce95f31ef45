"""The model to train: a base with tree attention, whole or behind a LoRA."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from masa_training.bases import Base
from masa_training.distill import attention
from masa_training.distill.config import DistillConfig
from masa_training.errors import TrainingError

ADAPTER = "adapter_model.safetensors"


def trainable(base: Base, config: DistillConfig) -> Any:
    """The base ready for training, on the CPU: all weights in fp32, or frozen weights behind a LoRA in fp32."""
    attention.register()
    frozen = torch.bfloat16 if config.precision == "bf16" else torch.float32
    model = base.model(frozen if config.method == "lora" else torch.float32)
    model.set_attn_implementation(attention.NAME)
    model.config.use_cache = False
    if config.gradient_checkpointing:
        # Its name in transformers 5; in 4 only the other one is there.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if config.method == "full":
        return model
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
    adapted = _adapted(model, base, config)
    if config.start:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(adapted, load_file(Path(config.start) / ADAPTER))
    return adapted


def check_targets(base: Base, config: DistillConfig) -> None:
    """Put the LoRA on the base's shapes alone, for its weights may take minutes to load.

    Raises:
        TrainingError: if `targets` names a layer that the base does not have, or that cannot be adapted.
    """
    if config.method != "lora" or config.targets == "all-linear":
        return
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, extra = (base.path.parent, {"gguf_file": base.path.name}) if base.kind == "gguf" else (base.path, {})
    try:
        shapes = AutoConfig.from_pretrained(folder, **extra)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(shapes)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError):
        return  # that it cannot be loaded is told by `Base.model`
    _adapted(model, base, config)


def _adapted(model: Any, base: Base, config: DistillConfig) -> Any:
    """The model behind a LoRA.

    Raises:
        TrainingError: as `check_targets`.
    """
    from peft import LoraConfig, get_peft_model

    targets: Any = config.targets if config.targets == "all-linear" else config.targets.split(",")
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    named = dict(model.named_modules())
    # peft is content with one that it finds.
    wrong = [] if targets == "all-linear" else [one for one in targets if not _ends(named, one)]
    try:
        if not wrong:
            return get_peft_model(model, lora)
    except ValueError:  # there is such a module, of a kind that peft cannot adapt
        wrong = targets
    linear = {name.rpartition(".")[2] for name, module in named.items() if isinstance(module, torch.nn.Linear)}
    raise TrainingError(
        f"targets is {config.targets!r}, but {base.name} has no layer {','.join(wrong)!r} that a LoRA can adapt; name "
        f"some of {', '.join(sorted(linear))}, or all-linear"
    )


def _ends(named: Iterable[str], target: str) -> bool:
    """Whether a module's path ends with the target, which is how peft finds it."""
    return any(name == target or name.endswith(f".{target}") for name in named)
