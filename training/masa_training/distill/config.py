"""The configuration of `masa distill`: a typed object, read from YAML; unknown keys are errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from masa_training.errors import TrainingError
from masa_training.settings import check_known, find_config, overridden, read_settings

PRESETS = Path(__file__).resolve().parent.parent / "configs" / "distill"

SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
"""Those of transformers that need no further settings. Named here, since importing transformers takes seconds."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig:
    """What `masa distill` does. The defaults are the paper's, for Qwen3-4B on one 80 GB GPU (paper/METHOD.md).

    Attributes:
        base: an artifact, a GGUF file or a Hugging Face folder.
        template: chat template for a base that has none ("chatml", "gemma").
        reference: a GGUF of the same model, to prove that a Hugging Face base tokenizes as llama.cpp does.
        method: "full" or "lora".
        rank, alpha, dropout, targets: of the LoRA; targets as in peft.
        start: checkpoint of an earlier LoRA run to begin with, on this or other data; empty begins anew.
        precision: "bf16" computes in bf16 on weights kept in fp32 (full) or bf16 with an fp32 adapter (lora).
        learning_rate, schedule, warmup, weight_decay, clip: AdamW with one of `SCHEDULES`; `warmup` is a share of the
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
    method: str = "full"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str = "all-linear"
    start: str = ""
    precision: str = "bf16"
    learning_rate: float = 1e-5
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    batch_size: int = 4
    row_tokens: int = 8192
    share_prefixes: bool = True
    gradient_checkpointing: bool = False
    epochs: int = 5
    max_steps: int = 0
    context_length: int = 4096
    objective: str = "sft"
    objective_weight: float = 1.0
    objective_beta: float = 2.0
    constrained: float = 0.0
    card: str = "full"
    evaluations: int = 2
    evaluation_samples: int = 200
    patience: int = 3
    seed: int = 0
    threads: int = 0
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        _one_of("method", self.method, ("full", "lora"))
        _one_of("precision", self.precision, ("bf16", "fp32"))
        _one_of("objective", self.objective, ("sft", "contrast", "preference"))
        _one_of("card", self.card, ("full", "short", "none"))
        _one_of("schedule", self.schedule, SCHEDULES)
        for reporter in self.report_to:
            _one_of("report_to", reporter, tuple(REPORTERS))
        for name in ("rank", "alpha", "batch_size", "row_tokens", "epochs", "context_length", "evaluations"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seed", "max_steps", "evaluation_samples", "patience", "threads"):
            if not 0 <= getattr(self, name) < 2**32:  # numpy takes no larger seed
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 2^32")
        for name in ("weight_decay", "clip", "objective_weight", "objective_beta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be a finite number of at least 0")
        if not 0 < self.learning_rate < 1:
            raise TrainingError(f"learning_rate is {self.learning_rate}; it must lie between 0 and 1")
        if not 0 <= self.constrained <= 1:
            raise TrainingError(f"constrained is {self.constrained}; it must lie between 0 and 1")
        for name in ("warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> DistillConfig:
    """The configuration in a YAML file, or the shipped one of that name, with `key=value` overrides.

    Raises:
        TrainingError: for a missing file, an unknown key (with a suggestion) or a value that does not fit.
    """
    path = find_config(name_or_path, PRESETS, "configuration")
    return apply_overrides(make_config(read_settings(path), str(path)), overrides)


def apply_overrides(config: DistillConfig, overrides: Sequence[str]) -> DistillConfig:
    """The configuration with `key=value` overrides, values in YAML.

    Raises:
        TrainingError: for an unknown key or a value that does not fit.
    """
    return make_config(overridden(config.to_dict(), overrides), "--set")


def make_config(values: Mapping[str, Any], where: str) -> DistillConfig:
    """The configuration with these values; `where` names their source in errors.

    Raises:
        TrainingError: as `load_config`.
    """
    kinds = get_type_hints(DistillConfig)
    check_known(values, [f.name for f in fields(DistillConfig)], where)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        checked[key] = _typed(key, value, kinds[key], where)
    return replace(DistillConfig(), **checked)


def _typed(key: str, value: Any, kind: Any, where: str) -> Any:
    if kind is float and isinstance(value, str):
        try:  # YAML reads 1e-5 as a text
            return float(value)
        except ValueError:
            pass
    if kind is float and type(value) is int:
        return float(value)
    allowed = {str: (str,), int: (int,), float: (float,), bool: (bool,), str | None: (str, type(None))}
    if kind in allowed and type(value) in allowed[kind]:
        return value
    if kind == list[str] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    wanted = getattr(kind, "__name__", str(kind))
    raise TrainingError(f"{where}: {key} is {value!r}; it must be of type {wanted}")


def _one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise TrainingError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
