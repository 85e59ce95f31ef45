"""The configuration of `masa distill`: a typed object, read from YAML; unknown keys are errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, field
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from masa_training.errors import TrainingError
from masa_training.settings import (
    CONFIGS,
    Amount,
    Number,
    Positive,
    Share,
    find_config,
    make,
    overridden,
    read_yaml,
    settings,
)

PRESETS = CONFIGS / "distill"

Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]
"""Those of transformers that need no further settings. Named here, since importing transformers takes seconds."""
SCHEDULES: tuple[str, ...] = get_args(Schedule)

REPORTERS = {
    "azure_ml": "azureml",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet_ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""Where transformers can report, and the module that each needs."""


Small = Annotated[int, Field(ge=0, lt=2**32)]
"""numpy takes no larger seed."""
Part = Annotated[Number, Field(ge=0, lt=1)]


@settings
class DistillConfig:
    """What `masa distill` does. The defaults are the paper's, for Qwen3-4B on one 80 GB GPU (arXiv 2605.30723).

    Attributes:
        base: an artifact, a GGUF file or a Hugging Face folder.
        template: chat template for a base that has none ("chatml", "gemma").
        reference: a GGUF of the same model, to prove that a Hugging Face base tokenizes as llama.cpp does.
        method: "full" or "lora".
        rank, alpha, dropout, targets: of the LoRA; targets as in peft.
        start: checkpoint of an earlier LoRA run to begin with, on this or other data; empty begins anew.
        precision: "bf16" computes in bf16 on weights kept in fp32 (full) or bf16 with an fp32 adapter (lora);
            in fp32 on a CPU that has no bf16 and emulates it.
        learning_rate, schedule, warmup, weight_decay, clip: AdamW with one `Schedule`; `warmup` is a share of the
            steps, gradients are cut to the norm `clip` (0: never).
        batch_size: samples per optimizer update and process.
        row_tokens: most tokens computed in one forward pass; memory grows with it.
        share_prefixes: compute what samples of one group have in common once.
        epochs: passes over the training samples; `max_steps` above 0 ends earlier, all processes together.
        context_length: samples longer than this are an error, never cut.
        objective: "sft", "contrast" or "preference" (see `packing.OBJECTIVES`), the last two weighted by
            `objective_weight`, with the sharpness `objective_beta`.
        constrained: plan language, the share of the loss that is taken among the tokens that constrained decoding
            admits, which is how a plan is chosen on the device; the rest is taken among all tokens.
        card: "full", "short" or "none": how much of the card the rewriter reads.
        evaluations: how often per epoch the held-out NLL is measured on the validation samples (at most
            `evaluation_samples` of them) and a checkpoint is kept.
        patience: evaluations without a better NLL before training stops, and the weights with the best are kept; 0
            never stops early and keeps the last.
        report_to: where transformers reports, besides events.jsonl; of `REPORTERS`.
        threads: CPU threads; 0 takes all cores.
    """

    base: str = "Qwen3-4B"
    template: str | None = None
    reference: str | None = None
    method: Literal["full", "lora"] = "full"
    rank: Positive = 16
    alpha: Positive = 32
    dropout: Part = 0.0
    targets: str = "all-linear"
    start: str = ""
    precision: Literal["bf16", "fp32"] = "bf16"
    learning_rate: Annotated[Number, Field(gt=0, lt=1)] = 1e-5
    schedule: Schedule = "cosine"
    warmup: Part = 0.1
    weight_decay: Amount = 0.0
    clip: Amount = 1.0
    batch_size: Positive = 4
    row_tokens: Positive = 8192
    share_prefixes: bool = True
    gradient_checkpointing: bool = False
    epochs: Positive = 5
    max_steps: Small = 0
    context_length: Positive = 4096
    objective: Literal["sft", "contrast", "preference"] = "sft"
    objective_weight: Amount = 1.0
    objective_beta: Amount = 2.0
    constrained: Share = 0.0
    card: Literal["full", "short", "none"] = "full"
    evaluations: Positive = 2
    evaluation_samples: Small = 200
    patience: Small = 3
    seed: Small = 0
    threads: Small = 0
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        for reporter in self.report_to:
            if reporter not in REPORTERS:
                raise TrainingError(f"report_to is {reporter!r}; it must be one of {', '.join(REPORTERS)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> DistillConfig:
    """The configuration in a YAML file, or the shipped one of that name, with `key=value` overrides.

    Raises:
        TrainingError: for a missing file, an unknown key (with a suggestion) or a value that does not fit.
    """
    path = find_config(name_or_path, PRESETS, "configuration")
    return apply_overrides(make(DistillConfig, read_yaml(path), str(path)), overrides)


def apply_overrides(config: DistillConfig, overrides: Sequence[str]) -> DistillConfig:
    """The configuration with `key=value` overrides, values in YAML.

    Raises:
        TrainingError: for an unknown key or a value that does not fit.
    """
    return make(DistillConfig, overridden(config.to_dict(), overrides), "--set")
