"""What a training run will do: samples in token ids, laid out in steps, before a weight is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from masa.prompt import PROMPT_VERSION
from masa_training.bases import Base, open_base
from masa_training.checkpoint import read_checkpoint
from masa_training.distill.config import REPORTERS, DistillConfig
from masa_training.distill.packing import Row, epoch_steps, families, rows_of
from masa_training.encoding import Encoded, encode_all, prove_tokenizer
from masa_training.errors import TrainingError

if TYPE_CHECKING:
    from masa_training.dataset.folder import Dataset


@dataclass(frozen=True)
class Schedule:
    """What a run will do, known before a weight is touched.

    `steps` are optimizer updates, `tokens` counts prompts and targets of all epochs as if every sample stood alone,
    `computed` what is left of them after sharing prefixes.
    """

    base: Base
    steps: tuple[tuple[Row, ...], ...]
    steps_per_epoch: int
    validation: tuple[Row, ...]
    samples: int
    tokens: int
    computed: int
    compared: int


def plan(config: DistillConfig, dataset: Dataset) -> Schedule:
    """Encode the data set and lay out every step.

    Raises:
        TrainingError: if something of the data set or the configuration cannot be trained on.
    """
    if dataset.info.prompt_version != PROMPT_VERSION:
        raise TrainingError(
            f"the data set {dataset.info.name}: written with prompt version {dataset.info.prompt_version}, this masa "
            f"trains with {PROMPT_VERSION}; build it again with: masa distill dataset"
        )
    if not dataset.train:
        raise TrainingError(
            f"the data set {dataset.info.name}: it has no training samples; loosen its hold-outs and build it again"
        )
    base = open_base(config.base, config.template)
    if config.context_length > base.context_length:
        raise TrainingError(
            f"context_length is {config.context_length}, but {base.name} was made for {base.context_length} tokens; "
            "lower it"
        )
    if config.start:
        _check_start(base, config)
    compared = 0
    if config.reference:
        reference = open_base(config.reference, config.template or "chatml")
        everything = (*dataset.train, *dataset.validation, *dataset.test)
        compared = prove_tokenizer(everything, base, reference.tokenizer())
    elif base.kind == "hf":
        raise TrainingError(
            f"{base.path}: nothing proves that its tokenizer equals llama.cpp's; "
            "set `reference` to a GGUF of this model"
        )
    form: Any = {"card": config.card, "constrained": config.constrained > 0}
    train = encode_all(dataset.train, base, config.context_length, **form)
    held_out = encode_all(dataset.validation[: config.evaluation_samples], base, config.context_length, **form)
    return lay_out(config, base, train, held_out, compared=compared)


def lay_out(
    config: DistillConfig, base: Base, train: Sequence[Encoded], held_out: Sequence[Encoded], *, compared: int = 0
) -> Schedule:
    """Every step over encoded samples; `compared` texts were proven to have the tokens of llama.cpp.

    Raises:
        TrainingError: if the configuration asks for what the base or this machine does not have.
    """
    from masa_training.distill.model import check_targets

    for reporter in config.report_to:
        if find_spec(REPORTERS[reporter]) is None:
            raise TrainingError(
                f"report_to names {reporter}, whose module {REPORTERS[reporter]} is not installed; install it or leave "
                "it out"
            )
    check_targets(base, config)
    epochs = [
        list(
            epoch_steps(
                train,
                batch_size=config.batch_size,
                row_tokens=config.row_tokens,
                seed=config.seed,
                epoch=epoch,
                share=config.share_prefixes,
                objective=config.objective,
            )
        )
        for epoch in range(config.epochs)
    ]
    steps = [step for epoch in epochs for step in epoch]
    if config.max_steps:
        steps = steps[: config.max_steps]
    return Schedule(
        base=base,
        steps=tuple(steps),
        steps_per_epoch=len(epochs[0]),
        validation=tuple(row for family in families(held_out) for row in rows_of(family, config.row_tokens)),
        samples=len(train),
        tokens=sum(map(len, train)) * config.epochs,
        computed=sum(len(row.tokens) for step in steps for row in step),
        compared=compared,
    )


def _check_start(base: Base, config: DistillConfig) -> None:
    """Make sure that what training begins with fits what it makes.

    Raises:
        TrainingError: naming the first thing that differs.
    """
    before = read_checkpoint(config.start)
    if config.method != "lora" or before.kind != "lora":
        raise TrainingError(f"{config.start}: only a LoRA can go on from a LoRA; leave out `start` for another method")
    if before.base.sha256 != base.sha256:
        raise TrainingError(f"{config.start}: was trained on {before.base.name}, not on {base.name}; give that base")
    for name in ("rank", "alpha", "targets"):
        if before.training.get(name) != getattr(config, name):
            raise TrainingError(
                f"{config.start}: its {name} is {before.training.get(name)!r}, not {getattr(config, name)!r}; "
                f"set {name} to the same"
            )
