"""`masa evaluate`: is it any good? Banks, rewriters, and the method itself."""

from __future__ import annotations

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


class _InOrder(click.Group):
    """Lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group("evaluate", cls=_InOrder, short_help="Measure banks, rewriters and the method.")
def command() -> None:
    """Measure what a bank, a rewriter or a part of the method is worth, with intervals.

    `banks` plays skill banks in an environment, `rewriter` scores a rewriter on held-out samples, `cards` shows what
    it writes for different backbones. The others are studies: a grid of experiments that goes on another day and ends
    in one table.
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
