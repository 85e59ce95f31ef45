"""`masa evaluate instrument`: fine-tune a small backbone to have a known preference, for measuring."""

from __future__ import annotations

import json
from pathlib import Path

import click

from masa_training.commands.training import finished, plan_json, plan_told, reporter, stopping, training_options


@click.command(
    "instrument",
    short_help="Make a small model with a known preference, for measuring.",
    epilog="""\b
Examples:
  masa evaluate instrument terse -o runs/terse
  masa evaluate instrument terse -o runs/terse --resume
  masa evaluate instrument terse -o runs/terse --dry-run
  masa evaluate instrument stepwise -o runs/stepwise --set learning_rate=5e-4 --max-minutes 60
  masa evaluate banks lookup --backbone terse=checkpoint:runs/terse/checkpoint --choose
""",
)
@click.argument("config")
@training_options
def command(
    config: str,
    output: Path,
    resume: bool,
    overrides: tuple[str, ...],
    max_minutes: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a measuring instrument, a model with a known preference.

    It likes one wording of skills and is misled by another. CONFIG is a shipped one (terse, stepwise) or a YAML file.
    What an instrument shows says nothing about real
    backbones; it tells whether a search, a teacher or a rewriter finds a preference that is known to be there.
    """
    from masa_training.distill.config import apply_overrides
    from masa_training.instruments import load_instrument
    from masa_training.instruments.run import plan_instrument, train_instrument

    settings = load_instrument(config)
    settings = settings.changed(lambda distill: apply_overrides(distill, overrides))

    def played(done: int, of: int) -> None:
        if not as_json and (done == of or done % 20 == 0):
            click.echo(f"  conversations for {done} of {of} prompts", err=True)

    if dry_run:
        lessons = [plan_instrument(one, progress=played) for one in settings.lessons]
        if as_json:
            click.echo(json.dumps({"instrument": settings.name, "lessons": [plan_json(one) for one in lessons]}))
        else:
            click.echo("\n".join(plan_told(one) for one in lessons))
        return
    with stopping(max_minutes) as stop:
        checkpoint = train_instrument(
            settings,
            output,
            resume=resume,
            report=reporter(as_json),
            progress=played,
            stop=stop,
        )
    backbone = f"{settings.name}=checkpoint:{checkpoint.path}"
    finished(checkpoint, f"masa evaluate banks {next(iter(settings.worlds))} --backbone {backbone} --choose", as_json)
