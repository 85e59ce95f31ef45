"""What commands that train share: their options, the plan of a dry run, how far training is, and its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.progress import interrupts

if TYPE_CHECKING:
    from masa_training.checkpoint import Checkpoint
    from masa_training.distill.schedule import Schedule

_OPTIONS = (
    click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Run folder."),
    click.option("--resume", is_flag=True, help="Continue the run in the folder, also after a kill."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeatable."),
    click.option(
        "--max-minutes", type=click.FloatRange(min=0), help="Stop after this many minutes; --resume continues."
    ),
    click.option("--dry-run", is_flag=True, help="Check everything and say what would be done."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, events as JSON lines on stderr."),
)


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every command that trains: output, resume, overrides, max_minutes, dry_run and as_json."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextmanager
def stopping(max_minutes: float | None) -> Iterator[Callable[[], bool]]:
    """Whether to stop: after Ctrl-C, which is noted meanwhile, or when the time is up."""
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    with interrupts("a checkpoint is kept, --resume continues from it") as noted:
        yield lambda: noted() or (end is not None and time.monotonic() >= end)


def finished(checkpoint: Checkpoint, following: str, as_json: bool) -> None:
    """Tell where the checkpoint is and which command comes next, or the checkpoint's figures as JSON."""
    if as_json:
        click.echo(json.dumps({"checkpoint": str(checkpoint.path), **checkpoint.metrics}))
    else:
        click.echo(f"checkpoint: {checkpoint.path}")
        click.echo(f"next: {following}")


def plan_json(planned: Schedule) -> dict[str, Any]:
    """What a run would do, as JSON values."""
    return {
        "base": planned.base.name,
        "samples": planned.samples,
        "steps": len(planned.steps),
        "steps_per_epoch": planned.steps_per_epoch,
        "tokens": planned.tokens,
        "computed_tokens": planned.computed,
        "tokenizer_texts_compared": planned.compared,
    }


def plan_told(planned: Schedule) -> str:
    """What a run would do, for a person."""
    steps = f"{len(planned.steps)} steps ({planned.steps_per_epoch} an epoch)"
    return (
        f"{planned.samples} samples, {steps} on {planned.base.name}\n"
        f"{planned.tokens:,} tokens, {planned.computed:,} after sharing prefixes"
    )


def reporter(as_json: bool) -> Callable[[str, Mapping[str, Any]], None]:
    """Tells events of a run on stderr, as lines for a person or as JSON lines."""
    return _as_json if as_json else _Lines()


def _as_json(event: str, values: Mapping[str, Any]) -> None:
    click.echo(json.dumps({"event": event, **values}), err=True)


class _Lines:
    """Tells a person how far training is, a line an event."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: int | None = None

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        if event in ("started", "resumed"):
            self._first = None  # an instrument's lessons follow one another, each with a pace of its own
            source = f" from {values['checkpoint']}" if values.get("checkpoint") else ""
            precision = f", in {values['precision']}" if "precision" in values else ""
            click.echo(f"{event}{source}: {values['samples']} samples, {values['steps']} steps{precision}", err=True)
        elif event == "evaluated":
            click.echo(f"  step {values['step']}: held-out NLL {values['nll']:.4f} nats per target token", err=True)
        elif event == "trained":
            step, total = values["step"], values["of"]
            if self._first is None:
                self._first, self._began = step, time.monotonic()
            elapsed = time.monotonic() - self._began
            left = elapsed / (step - self._first) * (total - step) if step > self._first else None
            ending = f", about {left / 60:.0f} min left" if left is not None else ""
            speed = values.get("tokens_per_second", 0)
            click.echo(f"  step {step}/{total}: loss {values['loss']:.4f}, {speed:.0f} tokens/s{ending}", err=True)
        elif event == "finished":
            click.echo(f"finished after {values['seconds'] / 60:.1f} min", err=True)
