"""What `masa profile MODEL --probe` does; the runtime alone is enough for it."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.loading import api_key, resolve_card
from masa.cli.output import clean, count, duration, table, write_json
from masa.cli.progress import interrupt_line, interrupts, show_line

if TYPE_CHECKING:
    from masa.cards import ModelCard
    from masa.probing import Probe

CANCELLED = 130
_EVERY_LINE = 30.0


def probe_model(
    model: str,
    *,
    card: str | None,
    api_key_env: str | None,
    output: str | None,
    seed: int,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Ask a model the exercises and write its card; see the command's help."""
    from masa.chat import check_chat, open_chat
    from masa.exercises import exercises
    from masa.probing import probe, with_probe, write_card

    asked = len({exercise.prompt for exercise in exercises(seed)})
    check_chat(model)
    if dry_run:
        told = (
            f"{count(asked, 'question')} of about 60 tokens, 16 of them of 350; at most 64 tokens are written for each"
        )
        write_json({"questions": asked}) if as_json else click.echo(told)
        return
    before = resolve_card(model, None, card, api_key_env)
    folder = Path(output or f"profiles/{re.sub(r'[^A-Za-z0-9._-]+', '-', before.name)}")
    chat = open_chat(model, api_key=api_key(api_key_env))
    progress = Asked("questions", quiet=quiet or as_json)
    try:
        with interrupts("the answers so far are kept, --resume continues from them") as cancel:
            found = probe(chat, folder, seed=seed, resume=resume, progress=progress, cancel=cancel)
    finally:
        progress.close()
        chat.close()
    if found is None:
        click.echo("Cancelled: the same command with --resume continues.", err=True)
        click.get_current_context().exit(CANCELLED)
    command = f"masa profile {shlex.quote(model)} --probe" + (f" --seed {seed}" if seed else "")
    measured = with_probe(before, found, command)
    path = write_card(measured, found, folder, command)
    if as_json:
        write_json({**found.to_json(), "card": {"path": str(path), **measured.fields()}})
    elif not quiet:
        click.echo(_text(found, measured, path))


class Asked:
    """How many questions are answered: one live line on a terminal, else a line every half minute."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        self._what, self._quiet, self._live = what, quiet, sys.stderr.isatty()
        self._begun = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if self._quiet or not (self._live or done == total or now - self._last >= _EVERY_LINE):
            return
        self._last = now
        new = done - self._first
        left = f" · {duration((total - done) * (now - self._begun) / new)} left" if new > 2 and done < total else ""
        line = f"{done:,}/{total:,} {self._what}{left}"
        show_line(line) if self._live else click.echo(line, err=True)

    def close(self) -> None:
        interrupt_line()


def _text(found: Probe, card: ModelCard, path: Path) -> str:
    from masa.exercises import WORDS

    rows = [
        (WORDS[trait].about, form if form != "plain" else "", str(rate)) for (trait, form), rate in found.rates.items()
    ]
    lines = [table(rows, ("exercise", "form", "right (95 % interval)")), ""]
    lines.append(f"weaknesses: {card.weaknesses or 'none shown'}")
    lines.append(f"strengths: {clean(card.strengths or 'none shown')}")
    if not any(rate.right for (trait, form), rate in found.rates.items() if (trait, form) == ("length", "short")):
        lines.append("It repeats not even one word when asked to: no form of a skill will help such a model.")
    lines.append(f"{duration(found.seconds)}; card: {clean(str(path))}")
    return "\n".join(lines)


def given_elsewhere(context: click.Context, allowed: set[str]) -> list[str]:
    """The options on the command line that are not among `allowed`, as a person wrote them."""
    from click.core import ParameterSource

    found: list[Any] = [
        parameter
        for parameter in context.command.params
        if parameter.name not in allowed
        and context.get_parameter_source(parameter.name or "") == ParameterSource.COMMANDLINE
    ]
    return [parameter.opts[0] for parameter in found]
