"""What the sub-commands of `masa export` share: options, progress, and how a table of artifacts reads."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from masa.cli.output import clean, duration, size
from masa.cli.progress import interrupt_line, show_line

if TYPE_CHECKING:
    from masa_export.logits import Likeness
    from masa_export.progress import Watch

MEASURED = ("type", "size", "KL", "same best", "time", "artifact")
"""The head of a table whose rows are `measured_row`."""

_EVERY = 0.1

Command = Callable[..., None]


def artifact_options(folder: str) -> Callable[[Command], Command]:
    """Options of a command that makes artifacts of a checkpoint, in `folder` of it unless --output is given."""
    options = (
        click.option(
            "-o",
            "--output",
            metavar="DIR",
            type=click.Path(),
            help=f"Where the artifacts go. [default: CHECKPOINT/{folder}]",
        ),
        click.option("--name", metavar="NAME", help="What their names begin with. [default: base and language]"),
        click.option("--version", default="0.1.0", show_default=True, metavar="TEXT", help="Version in the manifests."),
        click.option("--licence", metavar="TEXT", help="Licence in the manifests. [default: the base's, if it tells]"),
        base_option,
        click.option("--force", is_flag=True, help="Make again, and replace, what is there."),
    )

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def base_option(command: Command) -> Command:
    """--base, for a checkpoint whose base has moved."""
    made: Command = click.option(
        "--base", metavar="MODEL", help="The base, where it is not where it was trained: GGUF, folder or rewriter."
    )(command)
    return made


def output_options(command: Command) -> Command:
    """--json and --quiet."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else."),
    ):
        command = option(command)
    return command


@contextmanager
def watching(silent: bool) -> Iterator[Watch]:
    """Tells stages and progress on stderr: a live line on a terminal, which goes at the end, else a line a stage."""
    from masa_export.progress import Watch

    live = sys.stderr.isatty()
    shown = 0.0

    def stage(text: str) -> None:
        if not silent and live:
            show_line(text)
        elif not silent:
            click.echo(clean(text), err=True)

    def step(text: str, done: int, total: int) -> None:
        nonlocal shown
        if not silent and live and time.monotonic() - shown >= _EVERY:
            shown = time.monotonic()
            show_line(f"{text} {100 * done // max(total, 1)} %")

    try:
        yield Watch(stage, step)
    finally:
        interrupt_line()


def measured_row(
    kind: str, size_: int, found: Likeness | None, seconds: float | None, folder: object, *, kept: bool
) -> tuple[str, ...]:
    """A row of an artifact; what was not measured is left empty."""
    return (
        kind,
        size(size_),
        "" if found is None else f"{found.divergence:.2g}",
        "" if found is None else f"{100 * found.equal:.0f} %",
        "" if seconds is None else duration(seconds),
        f"{folder}{' (kept)' if kept else ''}",
    )


def logits_told(what: str, found: Likeness) -> str:
    """One sentence on how far logits are from the checkpoint's."""
    return (
        f"{what} against the checkpoint in transformers, logits: {found.error:.2g} (rms), {found.difference:.2g} at "
        f"most; same best token at {100 * found.equal:.0f} % of {found.positions} positions"
    )


def licence_told(licence: str) -> list[str]:
    """What to do where nobody told a licence."""
    from masa_export.source import UNKNOWN_LICENCE

    if licence != UNKNOWN_LICENCE:
        return []
    return ["The base tells no licence, so the manifests say unknown; give it with --licence"]


def under(table: str, lines: Sequence[str]) -> str:
    """A report: a table of `masa.cli.output`, which is clean already and bold, then lines."""
    return "\n".join([table, *map(clean, lines)])
