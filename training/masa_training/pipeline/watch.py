"""Who watches a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masa_training.evolution.run import Underway
    from masa_training.evolution.searching import Told
    from masa_training.rollouts import Episode


class Watch:
    """Is told what goes on, each stage in the words of its own command; this one listens to nothing."""

    def stage(self, name: str, number: int, of: int, state: str) -> None:
        """A stage comes: "finished" before, "goes on" or "begins"."""

    def episodes(self, done: int, total: int) -> None:
        """Of the profile."""

    def begun(self, underway: Underway) -> None:
        """A search begins."""

    def told(self, told: Told) -> None:
        """What happened in a search."""

    def played(self, episode: Episode) -> None:
        """An episode of a search."""

    def building(self, doing: str, done: int, total: int) -> None:
        """Of the data set."""

    def training(self, event: str, values: Mapping[str, Any]) -> None:
        """An event of training."""

    def line(self, text: str) -> None:
        """What a process says."""

    def ended(self, name: str) -> None:
        """A stage is finished, or was stopped."""
