"""How often and how fast a server may be asked: retries with backoff, and limits per minute."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Retries:
    """When to try again.

    Attributes:
        attempts: tries in all.
        first: seconds before the second try at most; doubled for every further one, up to `longest`. The wait is
            drawn evenly from half of that to all of it, so that clients that failed together do not return together.
        patience: most seconds that a server's Retry-After may ask for; a server that asks for more is not waited for.
    """

    attempts: int = 6
    first: float = 1.0
    longest: float = 60.0
    patience: float = 300.0

    def wait(self, failed: int, asked: float | None, draw: Callable[[], float] = random.random) -> float | None:
        """Seconds to wait after `failed` tries, where the server asked for `asked`; None to give up."""
        if failed >= self.attempts or (asked is not None and asked > self.patience):
            return None
        own = min(self.longest, self.first * 2.0 ** (failed - 1)) * (0.5 + 0.5 * draw())
        return own if asked is None else max(asked, 0.0) + 0.1 * own


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110: a number or a date); None for none or nonsense."""
    if not value:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0)


class RateLimit:
    """At most so many requests and so many tokens begun within any 60 seconds; None is no limit."""

    def __init__(
        self,
        requests: int | None = None,
        tokens: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._tokens = tokens
        self._clock = clock
        self._lock = threading.Lock()
        self._begun: deque[list[float]] = deque()  # time, tokens

    def enter(self, tokens: int, sleep: Callable[[float], None]) -> Callable[[int], None]:
        """Wait until a request of about `tokens` tokens may begin. Returns what to call with its true number.

        A request that is larger than the limit alone is let through when nothing else ran for a minute.
        """
        while True:
            with self._lock:
                wait = self._wait(tokens)
                if wait <= 0:
                    entry = [self._clock(), float(tokens)]
                    self._begun.append(entry)
                    return lambda true: self._correct(entry, true)
            sleep(wait)

    def _wait(self, tokens: int) -> float:
        now = self._clock()
        while self._begun and self._begun[0][0] <= now - _MINUTE:
            self._begun.popleft()
        waits = [0.0]
        if self._requests is not None and len(self._begun) >= self._requests:
            waits.append(self._begun[len(self._begun) - self._requests][0] + _MINUTE - now)
        if self._tokens is not None:
            over = sum(entry[1] for entry in self._begun) + tokens - self._tokens
            for begun, used in self._begun:
                if over <= 0:
                    break
                over -= used
                waits.append(begun + _MINUTE - now)
        return max(waits)

    def _correct(self, entry: list[float], tokens: int) -> None:
        with self._lock:
            entry[1] = float(tokens)
