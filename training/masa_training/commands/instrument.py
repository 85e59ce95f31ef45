"""`masa instrument`: fine-tune a small backbone to have a known preference, for measuring."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import click

from masa.cli.progress import interrupts
from masa_training.commands.training import plan_told, reporter


@click.command(
    "instrument",
    epilog="""\b
Examples:
  masa instrument terse -o runs/terse
  masa instrument terse -o runs/terse --resume
  masa instrument terse -o runs/terse --dry-run
  masa instrument stepwise -o runs/stepwise --set learning_rate=5e-4 --max-minutes 60
  masa evaluate lookup --backbone terse=checkpoint:runs/terse/checkpoint --choose
""",
)
@click.argument("config")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Run folder.")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, after a kill too.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the training; repeatable."
)
@click.option("--max-minutes", type=click.FloatRange(min=0), help="Stop after so long, to go on with --resume.")
@click.option("--dry-run", is_flag=True, help="Play the conversations, say what would be done, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and events as JSON lines on stderr.")
def command(
    config: str,
    output: Path,
    resume: bool,
    overrides: tuple[str, ...],
    max_minutes: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a measuring instrument: a small backbone that likes one wording of skills and is misled by another.

    CONFIG is a shipped one (terse, stepwise) or a YAML file. What an instrument shows says nothing about real
    backbones; it tells whether a search, a teacher or a rewriter finds a preference that is known to be there.
    """
    from masa_training.distill.config import apply_overrides
    from masa_training.instruments import load_instrument
    from masa_training.instruments.run import plan_instrument, train_instrument

    settings = load_instrument(config)
    settings = replace(settings, distill=apply_overrides(settings.distill, overrides))

    def played(done: int, of: int) -> None:
        if not as_json and (done == of or done % 20 == 0):
            click.echo(f"  conversations for {done} of {of} prompts", err=True)

    if dry_run:
        click.echo(plan_told(plan_instrument(settings, progress=played), as_json))
        return
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    with interrupts("a checkpoint is kept, --resume goes on from it") as noted:
        checkpoint = train_instrument(
            settings,
            output,
            resume=resume,
            report=reporter(as_json),
            progress=played,
            stop=lambda: noted() or (end is not None and time.monotonic() >= end),
        )
    if as_json:
        click.echo(json.dumps({"checkpoint": str(checkpoint.path), **checkpoint.metrics}))
    else:
        click.echo(f"checkpoint: {checkpoint.path}")
        world = next(iter(settings.worlds))
        click.echo(f"next: masa evaluate {world} --backbone {settings.name}=checkpoint:{checkpoint.path} --choose")
