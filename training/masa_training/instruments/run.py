"""Training an instrument: its conversations, then a run as `masa distill` makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from masa_training.bases import open_base
from masa_training.checkpoint import RECORD, Checkpoint
from masa_training.distill.run import Report, train
from masa_training.distill.run_folder import Source, check_same
from masa_training.distill.schedule import Schedule, lay_out
from masa_training.errors import TrainingError
from masa_training.instruments.config import InstrumentConfig
from masa_training.instruments.conversations import conversations


def train_instrument(
    config: InstrumentConfig,
    folder: Path,
    *,
    resume: bool = False,
    report: Report | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Train in `folder`, or go on there; the checkpoint plays as `checkpoint:FOLDER` (`masa_training.models`).

    What it learns before (`config.after`) is a run of its own in `folder/before`, which comes first.

    Raises:
        StoppedError: if `stop()` ended it before its time; go on with `resume`.
        TrainingError: as `masa_training.distill.run.train` and `conversations`, or if what it learned before was
            trained in another way.
    """
    before = folder.resolve() / "before"
    config = _started(config, folder)

    def planning() -> Schedule:
        # By now the folder is ours: what it holds of earlier lessons is of an instrument with these conversations.
        if config.after is not None and not _learned(config.after, before):
            train_instrument(config.after, before, resume=resume, report=report, progress=progress, stop=stop)
        return plan_instrument(config, progress=progress)

    return train(
        config.distill,
        _source(config),
        planning,
        folder,
        resume=resume,
        report=report,
        stop=stop,
    )


def _source(config: InstrumentConfig) -> Source:
    return Source(
        name=f"instrument-{config.name}",
        sha256=config.sha256,
        language="action",
        summary=f"An instrument for measuring: likes {config.likes} skills and is misled by {config.dislikes} ones.",
        synthetic=True,
        licence="Apache-2.0",
    )


def _started(config: InstrumentConfig, folder: Path) -> InstrumentConfig:
    """As it is trained in this folder: from what it learned before."""
    if config.after is None:
        return config
    return replace(config, distill=replace(config.distill, start=str(folder.resolve() / "before" / "checkpoint")))


def _learned(config: InstrumentConfig, folder: Path) -> bool:
    """Whether this lesson is finished in the folder.

    The hash of an instrument is of its conversations: how earlier lessons were trained is told by their own folders.

    Raises:
        TrainingError: if the folder, or one of the lessons before it, was trained in another way.
    """
    if not (folder / "checkpoint" / RECORD).is_file():
        return False
    check_same(folder, _started(config, folder).distill, _source(config))
    if config.after is not None:
        _learned(config.after, folder / "before")
    return True


def plan_instrument(
    config: InstrumentConfig, *, progress: Callable[[int, int], None] = lambda done, of: None
) -> Schedule:
    """Play and encode the conversations, and lay out every step."""
    from masa_training.models.transformers import chat_format

    settings = config.distill
    base = open_base(settings.base, settings.template or "chatml")
    chat = chat_format(base, settings.template)
    samples = list(conversations(config, chat, "train", progress=progress))
    held_out = list(conversations(config, chat, "val"))
    longest = max((*samples, *held_out), key=len)
    if len(longest) > settings.context_length:
        raise TrainingError(
            f"conversation {longest.id} has {len(longest)} tokens, the context is {settings.context_length}; raise "
            "`context_length`"
        )
    return lay_out(settings, base, samples, held_out)
