"""What a search writes its record to: the run's folder, or, on another machine, whatever passes it on to that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from masa.skills import Group
from masa_training.rollouts import Episode
from masa_training.search import Event


class Played(NamedTuple):
    """Which episode it is: of which bank, for what, of which task, with which seed."""

    bank: str
    split: str
    task: str
    seed: int


class Ledger(Protocol):
    """The record of a run as its searches see it. What is in it already is neither asked nor played again."""

    episodes: dict[Played, Episode]
    searches: dict[str, list[Event[Group]]]

    def episode(self, played: Played, episode: Episode, *, told: bool | None = None) -> None:
        """Keep an episode as it was; `told` is the outcome that the search hears, where that may be another one."""
        ...

    def search(self, key: str, event: Event[Group], bank: str | None = None) -> None:
        """Keep an event of the search for a group; `bank` is the fingerprint of the bank that plays for a new node."""
        ...

    def rewrite(self, key: str, values: Mapping[str, Any]) -> None:
        """Keep what the teacher said of a rewrite."""
        ...

    def tick(self) -> None:
        """Keep how long this session worked since the last tick."""
        ...
