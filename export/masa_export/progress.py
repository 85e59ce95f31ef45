"""Who is told how far an export is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Watch:
    """`stage` is told every new step, `step` how far it is (what, done, total)."""

    stage: Callable[[str], None] = lambda text: None
    step: Callable[[str, int, int], None] = lambda text, done, total: None
