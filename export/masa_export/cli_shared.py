"""What the sub-commands of `masa export` share: options, progress, and how results read."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean
from masa.cli.progress import interrupt_line, show_line

if TYPE_CHECKING:
    from masa_export.progress import Watch

FILE = click.Path(path_type=Path)
_EVERY = 0.1

Command = Callable[..., None]

base_option = click.option("--base", metavar="MODEL", help="The base if it has moved: GGUF, folder or rewriter.")


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


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as JSON holds it, paths as texts."""
    return dict(json.loads(json.dumps(asdict(value), default=str)))


def under(table: str, lines: Sequence[str]) -> str:
    """A report: a table of `masa.cli.output`, which is clean already and bold, then lines."""
    return "\n".join([table, *map(clean, lines)])
