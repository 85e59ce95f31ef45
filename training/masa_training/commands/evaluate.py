"""`masa evaluate`: is it any good? Banks, rewriters, and the method itself."""

from __future__ import annotations

from difflib import get_close_matches

import click

from masa_training.commands import (
    banks,
    cards,
    distillation,
    downstream,
    evolution_studies,
    granularity,
    instrument,
    rewriter,
)


class _Evaluate(click.Group):
    """Lists its commands in the order in which they were added; an environment alone is short for `banks`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not get_close_matches(args[0], self.commands, n=1, cutoff=0.8):
            args = ["banks", *args]
        return super().resolve_command(ctx, args)


@click.group(
    "evaluate",
    cls=_Evaluate,
    short_help="Measure banks, rewriters and the method.",
    epilog="\b\nExamples:\n"
    "  masa evaluate banks lookup --backbone smollm2-135m --choose --bank lookup/concise --tasks 4\n"
    "  masa evaluate cards examples/banks/household.json --backbone Qwen3-4B --backbone examples/card.yaml\n"
    "  masa evaluate granularity lookup --backbone smollm2-135m --stepwise --dry-run",
)
def command() -> None:
    """Measure what a bank, a rewriter or a part of the method is worth, with intervals.

    `banks` plays skill banks in an environment (`masa evaluate lookup` is short for `masa evaluate banks lookup`),
    `rewriter` scores a rewriter on held-out samples, `cards` shows what it writes for different backbones. The others
    are studies: a grid of experiments that goes on another day and ends in one table.
    """


for its in (
    banks.command,
    rewriter.command,
    cards.command,
    granularity.command,
    downstream.command,
    distillation.command,
    evolution_studies.feedback_noise,
    evolution_studies.card,
    instrument.command,
):
    command.add_command(its)
