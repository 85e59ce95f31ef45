"""Progress of a rewrite, as its callback sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from masa.provenance import GroupResult

if TYPE_CHECKING:
    from masa.decoding import Tick


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a rewrite stands, after every prompt and step.

    `groups` of `total` are finished (`cached` of them from the cache), `running` are being decoded; `tokens` were
    written and `prompt_tokens` of about `prompt_total` read in `seconds`. `finished` is the group that has just
    ended, if one has.
    """

    groups: int
    total: int
    cached: int
    running: int
    prompt_tokens: int
    prompt_total: int
    tokens: int
    seconds: float
    finished: GroupResult | None = None


class Tracker:
    """Turns the loop's ticks and finished groups into `Progress`."""

    def __init__(self, total: int, callback: Callable[[Progress], None] | None) -> None:
        self._callback = callback
        self._state = Progress(0, total, 0, 0, 0, 0, 0, 0.0)

    def expect(self, prompt_tokens: int) -> None:
        self._state = replace(self._state, prompt_total=prompt_tokens)

    def tick(self, tick: Tick) -> None:
        self._state = replace(
            self._state,
            running=tick.running,
            prompt_tokens=tick.prompt_tokens,
            tokens=tick.tokens,
            seconds=tick.seconds,
            finished=None,
        )
        self._report()

    def finish(self, result: GroupResult) -> None:
        state = self._state
        self._state = replace(
            state,
            groups=state.groups + 1,
            cached=state.cached + result.cached,
            running=max(0, state.running - 1),
            finished=result,
        )
        self._report()

    def _report(self) -> None:
        if self._callback:
            self._callback(self._state)
