"""What a run may use and has used: the reasons to stop that are no mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

from masa_training.evolution.config import BudgetConfig
from masa_training.evolution.run_folder import RunFolder, Spent

CANCELLED = "cancelled"
"""Why a run ended that was told to."""


class Meter:
    """What a run has spent, over all its sessions, against its budget."""

    def __init__(self, limits: BudgetConfig, folder: RunFolder, cancelled: Callable[[], bool]) -> None:
        self.limits = limits
        self._folder = folder
        self._cancelled = cancelled

    def spent(self) -> Spent:
        """Up to now."""
        return replace(self._folder.spent, minutes=self._folder.minutes())

    def over(self) -> str | None:
        """A reason to stop, or None."""
        if self._cancelled():
            return CANCELLED
        spent = self.spent()
        for limit in fields(BudgetConfig):
            most = getattr(self.limits, limit.name)
            if most and getattr(spent, limit.name) >= most:
                return f"the budget of {most:g} {limit.name} is spent"
        return None
