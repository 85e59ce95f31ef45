"""The sub-commands of the workstation side, found by `masa.cli.plugins`.

Nothing heavy is imported here: the commands are listed where the extra `training` is missing, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import click

from masa_training.commands import (
    compare_cards,
    dataset,
    distill,
    env,
    evaluate,
    evaluate_rewriter,
    evolve,
    instrument,
    pipeline,
    profile,
    study,
)

commands: Mapping[str, click.Command] = {
    "compare-cards": compare_cards.command,
    "dataset": dataset.command,
    "distill": distill.command,
    "instrument": instrument.command,
    "evolve": evolve.command,
    "env": env.command,
    "evaluate": evaluate.command,
    "evaluate-rewriter": evaluate_rewriter.command,
    "pipeline": pipeline.command,
    "profile": profile.command,
    "study": study.command,
}
