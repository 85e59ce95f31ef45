"""A training run: checks, training that survives kill -9, and the checkpoint it leaves.

Run folder: `config.yaml`, `events.jsonl` (append-only), `checkpoints/` (transformers' own, for resuming),
`tensorboard/`, and at the end `checkpoint/`, which `masa export adapter` and `masa evaluate-rewriter` read.
"""

from __future__ import annotations

import errno
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.prompt import PROMPT_VERSION
from masa_training.checkpoint import Checkpoint, write_checkpoint
from masa_training.distill.config import DistillConfig
from masa_training.distill.planning import Plan, plan
from masa_training.distill.run_folder import Source, claim, last_checkpoint
from masa_training.errors import TrainingError

if TYPE_CHECKING:
    from masa_training.dataset.folder import Dataset
    from masa_training.distill.trainer import HeldOut

Report = Callable[[str, Mapping[str, Any]], None]
"""Told of every event: its name and its values."""


class StoppedError(TrainingError):
    """A run was stopped before its end, with a checkpoint to go on from."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(f"{folder}: stopped after step {step}; go on with --resume")
        self.step = step


def distill(
    config: DistillConfig,
    dataset: Dataset,
    folder: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Train a rewriter on a data set: `train` with the plan that follows from the two."""
    info = dataset.info
    source = Source(info.name, info.sha256, info.language, info.summary, info.synthetic, info.licence)
    return train(config, source, lambda: plan(config, dataset), folder, resume=resume, report=report, stop=stop)


def train(
    config: DistillConfig,
    source: Source,
    planning: Callable[[], Plan],
    folder: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Take the planned steps in `folder`, or go on there, and leave a checkpoint.

    The plan is made once the folder is ours, and must be the same whenever a run goes on. `stop` is asked after every
    step; once it is true, a checkpoint for resuming is kept and StoppedError raised.

    Raises:
        StoppedError: if it was stopped before its end.
        TrainingError: if the folder holds another run, the run is already finished, or memory or the disk ran out.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainingArguments, set_seed
    from transformers.utils import logging as chatter

    from masa_training.distill.events import EventCallback, EventLog, StopCallback
    from masa_training.distill.model import trainable
    from masa_training.distill.trainer import Steps, StepTrainer

    claim(folder, config, source, resume)
    chatter.set_verbosity_error()
    if config.threads:
        torch.set_num_threads(config.threads)
    planned = planning()
    events = EventLog(folder / "events.jsonl", report)
    before = last_checkpoint(folder / "checkpoints")
    events.write(
        "resumed" if before else "started",
        steps=len(planned.steps),
        samples=planned.samples,
        tokens=planned.tokens,
        computed_tokens=planned.computed,
        tokenizer_texts_compared=planned.compared,
        checkpoint=before.name if before else None,
    )
    set_seed(config.seed)
    every = max(1, math.ceil(planned.steps_per_epoch / config.evaluations))
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        logging_dir=str(folder / "tensorboard"),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        max_steps=len(planned.steps),
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_ratio=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip,
        bf16=config.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps" if planned.validation else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=bool(planned.validation and config.patience),
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=max(1, min(10, every)),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=config.report_to or "none",
        seed=config.seed,
        data_seed=config.seed,
        dataloader_num_workers=0,
        remove_unused_columns=False,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    model = trainable(planned.base, config)
    stopping = StopCallback(stop)
    trainer: Any = StepTrainer(
        config=config,
        validation=planned.validation,
        model=model,
        args=arguments,
        train_dataset=Steps(planned.steps),
        eval_dataset=Steps(()),
        callbacks=[EventCallback(events), stopping],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if arguments.load_best_model_at_end:
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    # peft looks for a config.json beside a GGUF, which has none.
    warnings.filterwarnings("ignore", message="Could not find a config file")
    warnings.filterwarnings("ignore", message="mtime may not be reliable")
    began = time.monotonic()
    try:
        if planned.validation and before is None:
            first = trainer.held_out_nll(planned.validation)
            events.write("evaluated", step=0, nll=first.nll, **_constrained(config, first))
        trainer.train(resume_from_checkpoint=str(before) if before else None)
        if stopping.stopped and trainer.state.global_step < len(planned.steps):
            raise StoppedError(folder, trainer.state.global_step)
        last = trainer.held_out_nll(planned.validation) if planned.validation else None
    except (RuntimeError, MemoryError, OSError, SafetensorError) as error:
        if _disk_full(error):
            raise TrainingError(
                f"{folder}: the disk is full at step {trainer.state.global_step}; free some space, then go on with "
                "--resume from the last checkpoint"
            ) from None
        if not _out_of_memory(error):
            raise
        raise TrainingError(
            f"memory ran out at step {trainer.state.global_step}; lower row_tokens (now {config.row_tokens}) or set "
            "gradient_checkpointing: true, then go on with --resume"
        ) from None
    metrics = {
        "steps": trainer.state.global_step,
        "validation_nll_before": _nll_before(folder / "events.jsonl"),
        "validation_nll": last.nll if last else None,
        **_constrained(config, last),
    }
    checkpoint = _finish(trainer, config, source, planned, folder / "checkpoint", metrics)
    events.write("finished", seconds=round(time.monotonic() - began, 1), **metrics)
    return checkpoint


def _nll_before(events: Path) -> float | None:
    """The NLL before the first step, which a run that was resumed measured when it began."""
    from masa_training.distill.events import read_events

    found = (e.get("nll") for e in read_events(events) if e.get("event") == "evaluated" and e.get("step") == 0)
    return next(found, None)


def _constrained(config: DistillConfig, held_out: HeldOut | None) -> dict[str, float]:
    return {"constrained_nll": held_out.constrained} if held_out and config.constrained else {}


def _finish(
    trainer: Any, config: DistillConfig, source: Source, planned: Plan, folder: Path, metrics: Mapping[str, Any]
) -> Checkpoint:
    """Write weights and record under another name, then give the folder its name."""
    unfinished = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    trainer.save_model(str(unfinished))
    for leftover in ("training_args.bin", "README.md"):
        (unfinished / leftover).unlink(missing_ok=True)
    base = planned.base
    record = Checkpoint(
        path=unfinished,
        kind=config.method,
        base={
            "name": base.name,
            "spec": config.base,
            "path": str(base.path),
            "kind": base.kind,
            "sha256": base.sha256,
        },
        language=source.language,
        prompt_version=PROMPT_VERSION,
        template=base.template,
        context_length=base.context_length,
        dataset={key: value for key, value in asdict(source).items() if key != "language"},
        training=config.to_dict(),
        metrics=metrics,
    )
    write_checkpoint(record)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    from masa_training.checkpoint import read_checkpoint

    return read_checkpoint(folder)


def _disk_full(error: BaseException) -> bool:
    text = str(error).lower()
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    # torch and safetensors wrap the system's error in their own.
    return full or "no space left" in text or "pytorchstreamwriter failed writing" in text


def _out_of_memory(error: BaseException) -> bool:
    import torch

    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text
