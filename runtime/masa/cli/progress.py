"""Live progress on stderr, and Ctrl-C that lets finished work be kept."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, duration, size, width

if TYPE_CHECKING:
    from masa.cards import ModelCard
    from masa.progress import Progress
    from masa.rewriter import Rewriter
    from masa.skills import SkillBank

_EVERY = 0.1
_EVERY_LINE = 30.0
"""Seconds between lines where there is no terminal to update one on."""
_PROMPT_SHARE = 4.0
"""Reading a prompt token costs about this many times less than writing one; for the estimate only."""

# One live line at a time, process wide, since there is one terminal.
_shown: list[str] = []


def interrupt_line() -> None:
    """Clear the live line, so that something else can be written."""
    if _shown:
        _shown.clear()
        click.echo("\r\x1b[K", nl=False, err=True, color=True)


def show_line(text: str) -> None:
    """Replace the live line."""
    _shown[:] = [text]
    click.echo("\r\x1b[K" + clean(text)[: width() - 1], nl=False, err=True, color=True)


class RewriteProgress:
    """The callback of a rewrite: one live line on a terminal, else a line per finished group and every half minute."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        finished = progress.finished
        if finished is not None and not self._live:
            cached = ", from the cache" if finished.cached else ""
            click.echo(clean(f"{progress.groups}/{progress.total} {finished.key}: {finished.status}{cached}"), err=True)
        due = time.monotonic() - self._last >= (_EVERY if self._live else _EVERY_LINE)
        if due or (self._live and finished is not None):
            self._last = time.monotonic()
            if self._live:
                show_line(line(progress))
            else:
                click.echo(clean(line(progress)), err=True)

    def message(self, text: str) -> None:
        """Say what goes on before the first group."""
        if not self._quiet:
            if self._live:
                show_line(text)
            else:
                click.echo(clean(text), err=True)

    def close(self) -> None:
        interrupt_line()


_LONG = 12_000
"""Characters to read from which the time that a rewrite takes is told before it begins: some ten seconds."""


def tell_time(rewriter: Rewriter, bank: SkillBank, card: ModelCard, request: Mapping[str, Any]) -> None:
    """Say how long a rewrite will take at most, unless it will not take long or its results are in the cache."""
    waiting = rewriter.pending(bank, card, **request)
    if sum(len(skill.text) for key in waiting for skill in bank.group(key).skills) < _LONG:
        return
    estimate = rewriter.estimate(bank, card, **{**request, "only": waiting})
    interrupt_line()
    click.echo(f"At most about {duration(estimate.seconds)}; Ctrl-C keeps what is finished.", err=True)


def line(progress: Progress) -> str:
    """`Rewriting 2/5 groups · reading 63 % · 140 tokens · 48 tokens/s · 9 s left`."""
    parts = [f"Rewriting {progress.groups}/{progress.total} groups"]
    if progress.prompt_total > 0 and progress.prompt_tokens < progress.prompt_total:
        parts.append(f"reading {100 * progress.prompt_tokens // progress.prompt_total} %")
    if progress.tokens:
        parts.append(f"{progress.tokens:,} tokens")
        speed = progress.tokens / max(progress.seconds, 1e-3)
        parts.append(f"{speed:.0f} tokens/s" if speed >= 10 else f"{speed:.1f} tokens/s")
    left = remaining(progress)
    if left is not None:
        parts.append(f"{duration(left)} left")
    return " · ".join(parts)


def remaining(progress: Progress) -> float | None:
    """Seconds until the end, guessed from what has been read and written; None before there is a basis."""
    decoded = progress.groups - progress.cached
    open_groups = progress.total - progress.groups
    if open_groups <= 0 or not progress.prompt_tokens or progress.seconds < 0.5:
        return None
    # Work in units of prompt tokens. A group that is not finished is taken to write what the others wrote.
    done = progress.prompt_tokens + _PROMPT_SHARE * progress.tokens
    if decoded > 0:
        per_group = progress.tokens / (decoded + 0.5 * progress.running)
    else:
        per_group = max(24.0, 2.0 * progress.tokens / max(progress.running, 1))
    ahead = max(0, progress.prompt_total - progress.prompt_tokens)
    ahead_tokens = max(0.0, per_group * (decoded + open_groups) - progress.tokens)
    return (ahead + _PROMPT_SHARE * ahead_tokens) * progress.seconds / done


class Download:
    """The callback of a pull: one live line on a terminal, else a line per file."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = 0.0
        self._told = ""
        self._begun = time.monotonic()

    def __call__(self, done: int, total: int, name: str) -> None:
        if name != self._told:
            self._told, self._begun = name, time.monotonic()
            if not self._live:
                click.echo(clean(f"fetching {name} ({size(total)})"), err=True)
        if self._live and (done >= total or time.monotonic() - self._last >= _EVERY):
            self._last = time.monotonic()
            speed = done / max(time.monotonic() - self._begun, 1e-3)
            left = f" · {duration((total - done) / speed)} left" if 0 < done < total else ""
            share = 100 * done // max(total, 1)
            show_line(f"Fetching {name} {share} % · {size(done)} of {size(total)}{left}")

    def close(self) -> None:
        interrupt_line()


class Interrupts:
    """What Ctrl-C has done so far; call it to ask whether to stop."""

    def __init__(self, kept: str) -> None:
        self.cancelled = False
        self._kept = kept

    def __call__(self) -> bool:
        return self.cancelled

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.cancelled:
            raise KeyboardInterrupt
        self.cancelled = True
        interrupt_line()
        click.echo(f"\nStopping; {self._kept}. Ctrl-C again to abort.", err=True)


@contextmanager
def interrupts(kept: str = "finished groups are kept") -> Iterator[Interrupts]:
    """Let the first Ctrl-C (or SIGTERM) only be noted; a second one raises KeyboardInterrupt.

    `kept` tells the person what is not lost.
    """
    noted = Interrupts(kept)
    if threading.current_thread() is not threading.main_thread():
        yield noted  # only the main thread may set handlers
        return
    former: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            former[number] = signal.signal(number, noted.handle)
        yield noted
    finally:
        for caught, handler in former.items():
            signal.signal(caught, handler)
