"""A training run: checks, training that survives kill -9, and the checkpoint it leaves.

Run folder: `config.yaml`, `events.jsonl` (append-only), `checkpoints/` (transformers' own, for resuming),
`tensorboard/`, and at the end `checkpoint/`, which `masa export adapter` and `masa evaluate rewriter` read.

Started as several processes, all plan and train; the main one alone writes what is not transformers' own.
"""

from __future__ import annotations

import errno
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.files import parse_json
from masa.prompt import PROMPT_VERSION
from masa_training.append_only import writing
from masa_training.checkpoint import BaseNote, Checkpoint, DatasetNote, read_checkpoint, write_checkpoint
from masa_training.distill.config import DistillConfig
from masa_training.distill.run_folder import EVENTS, Source, claim, last_checkpoint, release
from masa_training.distill.schedule import Schedule, plan
from masa_training.errors import TrainingError

if TYPE_CHECKING:
    from masa_training.dataset.folder import Dataset
    from masa_training.distill.events import EventLog, StopCallback
    from masa_training.distill.trainer import HeldOut

Report = Callable[[str, Mapping[str, Any]], None]
"""Told of every event: its name and its values."""


class StoppedError(TrainingError):
    """A run was stopped before its end, with a checkpoint to go on from."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(f"{folder}: stopped after step {step}; continue with --resume")
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
    planning: Callable[[], Schedule],
    folder: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Take the planned steps in `folder`, or go on there, and leave a checkpoint.

    The plan is made once the folder is ours, and must be the same whenever a run goes on; where it, or what follows
    before the first step, fails, the folder is given back. `stop` is asked after every step; once it is true, a
    checkpoint for resuming is kept and StoppedError raised.

    Raises:
        StoppedError: if it was stopped before its end.
        TrainingError: if the folder holds another run, the run is already finished, or memory or the disk ran out.
    """
    import torch
    from transformers.utils import logging as chatter

    from masa_training.distill import processes
    from masa_training.distill.events import EventLog, StopCallback

    claimed = begun = False
    held = ExitStack()

    def begin() -> None:
        nonlocal claimed
        held.callback(give_back)  # once nobody holds the folder
        held.enter_context(writing(folder))
        claimed = claim(folder, config, source, resume, processes=processes.count())
        last_checkpoint(folder / "checkpoints")  # what a kill left unfinished is gone before the others look

    def give_back() -> None:
        if claimed and not begun:
            release(folder)

    with held:
        processes.first(begin)
        chatter.set_verbosity_error()
        if config.threads:
            torch.set_num_threads(config.threads)
        events = EventLog(folder / EVENTS, report)
        stopping = StopCallback(stop)
        before = last_checkpoint(folder / "checkpoints")
        planned = planning()
        trainer = _trainer(config, planned, folder, before, events, stopping)
        begun = True
        return _train(trainer, planned, folder, before, config=config, source=source, events=events, stopping=stopping)


def _train(
    trainer: Any,
    planned: Schedule,
    folder: Path,
    before: Path | None,
    *,
    config: DistillConfig,
    source: Source,
    events: EventLog,
    stopping: StopCallback,
) -> Checkpoint:
    """Take the steps that are left after the checkpoint `before`, and keep the weights."""
    from safetensors import SafetensorError

    from masa_training.distill import processes
    from masa_training.distill.trainer import updates

    steps = trainer.args.max_steps
    # peft looks for a config.json beside a GGUF, which has none.
    warnings.filterwarnings("ignore", message="Could not find a config file")
    warnings.filterwarnings("ignore", message="mtime may not be reliable")
    began = time.monotonic()
    try:
        events.write(
            "resumed" if before else "started",
            steps=updates(len(planned.steps), processes.count()),
            samples=planned.samples,
            tokens=planned.tokens,
            computed_tokens=planned.computed,
            precision="bf16" if trainer.args.bf16 else "fp32",
            tokenizer_texts_compared=planned.compared,
            checkpoint=before.name if before else None,
        )
        if planned.validation and before is None:
            first = trainer.held_out_nll(planned.validation)
            events.write("evaluated", step=0, nll=first.nll, **_constrained(config, first))
        trainer.train(resume_from_checkpoint=str(before) if before else None)
        if stopping.stopped and trainer.state.global_step < steps:
            raise StoppedError(folder, trainer.state.global_step)
        last = trainer.held_out_nll(planned.validation) if planned.validation else None
        metrics = {
            "steps": trainer.state.global_step,
            "kept_step": _kept_step(trainer),
            "validation_nll_before": _nll_before(folder / EVENTS),
            "validation_nll": last.nll if last else None,
            **_constrained(config, last),
        }
        checkpoint = _finish(trainer, config, source, planned, folder / "checkpoint", metrics)
        events.write("finished", seconds=round(time.monotonic() - began, 1), **metrics)
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
            "gradient_checkpointing: true, then continue with --resume"
        ) from None
    return checkpoint


def _trainer(
    config: DistillConfig,
    planned: Schedule,
    folder: Path,
    before: Path | None,
    events: EventLog,
    stopping: StopCallback,
) -> Any:
    """What takes the planned steps, or those that are left after the checkpoint `before`."""
    import torch
    from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, set_seed

    from masa_training.distill import processes
    from masa_training.distill.events import BestCallback, EventCallback
    from masa_training.distill.model import in_bf16, trainable
    from masa_training.distill.trainer import Arguments, Steps, StepTrainer, updates

    set_seed(config.seed)
    together = processes.count()
    steps = planned.steps
    choose = bool(planned.validation and config.patience)
    if choose and before is not None and (ended := _ended_early(before, config.patience)):
        steps = steps[: ended * together]
    every = max(1, math.ceil(updates(planned.steps_per_epoch, together) / config.evaluations))
    arguments = Arguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        max_steps=updates(len(steps), together),
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=math.ceil(updates(len(steps), together) * config.warmup),
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip,
        bf16=in_bf16(config),
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps" if planned.validation else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=choose,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        # How many evaluations were no better, which a run that goes on must not forget.
        restore_callback_states_from_checkpoint=True,
        logging_steps=max(1, min(10, every)),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[name for name in config.report_to if name != "tensorboard"] or "none",
        seed=config.seed,
        data_seed=config.seed,
        dataloader_num_workers=0,
        remove_unused_columns=False,
    )
    trainer: Any = StepTrainer(
        config=config,
        validation=planned.validation,
        model=trainable(planned.base, config),
        args=arguments,
        train_dataset=Steps(steps, together),
        eval_dataset=Steps(()),
        callbacks=[EventCallback(events), stopping],
    )
    if "tensorboard" in config.report_to and processes.main():
        trainer.add_callback(_tensorboard(folder / "tensorboard"))
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if choose:
        trainer.add_callback(BestCallback())
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    return trainer


def _tensorboard(folder: Path) -> Any:
    """Writes the curves into `folder`; transformers 4 and 5 are told of such a folder in different ways."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations.integration_utils import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(folder)))


def _ended_early(checkpoint: Path, patience: int) -> int:
    """The step at which a run lost its patience, if this checkpoint is of that step; otherwise 0."""
    state = parse_json((checkpoint / "trainer_state.json").read_text("utf-8"))
    attributes = state["stateful_callbacks"].get("EarlyStoppingCallback", {}).get("attributes", {})
    worse = attributes.get("early_stopping_patience_counter", 0)
    return int(state["global_step"]) if worse >= patience else 0


def _kept_step(trainer: Any) -> int:
    """The step after which the weights were as they are kept."""
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    return int(best.rpartition("-")[2]) if best else int(trainer.state.global_step)


def _nll_before(events: Path) -> float | None:
    """The NLL before the first step, which a run that was resumed measured when it began."""
    from masa_training.distill.events import read_events

    found = (e.get("nll") for e in read_events(events) if e.get("event") == "evaluated" and e.get("step") == 0)
    return next(found, None)


def _constrained(config: DistillConfig, held_out: HeldOut | None) -> dict[str, float]:
    return {"constrained_nll": held_out.constrained} if held_out and config.constrained else {}


def _finish(
    trainer: Any, config: DistillConfig, source: Source, planned: Schedule, folder: Path, metrics: Mapping[str, Any]
) -> Checkpoint:
    """Write weights and record under another name, then give the folder its name."""
    from masa_training.distill import processes

    unfinished = folder.with_name(folder.name + ".tmp")
    if processes.main():
        shutil.rmtree(unfinished, ignore_errors=True)
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(unfinished))  # by all processes, each of which may hold a part; the main one writes
    base = planned.base
    record = Checkpoint(
        path=unfinished,
        kind=config.method,
        base=BaseNote(base.name, config.base, str(base.path), base.kind, base.sha256),
        language=source.language,
        prompt_version=PROMPT_VERSION,
        template=base.template,
        context_length=base.context_length,
        dataset=DatasetNote(
            source.name, source.sha256, source.summary, synthetic=source.synthetic, licence=source.licence
        ),
        training=config.to_dict(),
        metrics=metrics,
    )

    def name_it() -> None:
        for leftover in ("training_args.bin", "README.md"):
            (unfinished / leftover).unlink(missing_ok=True)
        write_checkpoint(record)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)

    processes.first(name_it)
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
