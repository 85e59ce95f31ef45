"""Where a run stands at this moment, for the live view: computed from what it has recorded, in steps."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from masa.skills import GENERAL, Group
from masa_training.bank_groups import WHOLE
from masa_training.evolution.config import BudgetConfig
from masa_training.evolution.ledger import Played
from masa_training.evolution.views.drawings import states
from masa_training.search import State

if TYPE_CHECKING:
    from masa_training.evolution.run import Underway


@dataclass(frozen=True, slots=True)
class Row:
    """The search for one group.

    Attributes:
        state: "waiting", "searching" or "done".
        round, rounds: the last one begun, and how many there are at most.
        node: the newest candidate, and how many of its episodes are evaluated.
        incumbent: number of the best node so far; `sr` and `reward` are its means over deciding episodes.
        start: mean reward of the first node.
        accepted, rejected, indecisive, failed: how the rounds went.
    """

    key: str
    state: str
    round: int
    rounds: int
    node: int | None = None
    episodes: int = 0
    incumbent: int | None = None
    sr: float | None = None
    reward: float | None = None
    start: float | None = None
    accepted: int = 0
    rejected: int = 0
    indecisive: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Used:
    """One thing that a budget can limit; a limit of 0 is none."""

    name: str
    used: float
    limit: float

    @property
    def left(self) -> float | None:
        """None without a limit."""
        return max(0.0, self.limit - self.used) if self.limit else None


class Standing:
    """Follows a run; may be asked from any thread."""

    def __init__(self, underway: Underway) -> None:
        self._run = underway
        self._lock = threading.Lock()
        self._states: dict[str, State[Group]] = defaultdict(State)
        self._won: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        self._seen = 0
        self._missing: list[Played] = []
        self.tested = 0
        """Episodes of the final test that are played."""

    def rows(self) -> list[Row]:
        """One for each group, in the order of the run."""
        with self._lock:
            self._count()
            return [self._row(key) for key in self._run.groups]

    def used(self) -> list[Used]:
        """What a budget can limit, limited or not."""
        limits, spent = self._run.meter.limits, self._run.meter.spent()
        names = [limit.name for limit in fields(BudgetConfig)]
        return [Used(name, float(getattr(spent, name)), float(getattr(limits, name))) for name in names]

    def _row(self, key: str) -> Row:
        folder, config = self._run.folder, self._run.config
        state = self._states[key]
        for event in folder.searches.get(key, [])[len(state.events) :]:
            state.add(event)
        rounds = config.most_rounds(key)
        done = key in folder.best
        if not state.nodes:
            return Row(key, "waiting", 0, rounds)
        best, newest = state.nodes[state.best], state.nodes[-1]
        counts = states(state.nodes)
        return Row(
            key,
            "done" if done else "searching",
            state.round,
            rounds,
            newest.number,
            len(newest.rewards),
            best.number,
            self._sr(key, folder.banks.get((key, best.number))),
            best.mean,
            state.nodes[0].mean,
            counts["accepted"],
            counts["rejected"],
            counts["indecisive"],
            len(state.failures),
        )

    def _count(self) -> None:
        # A copy in one step: another thread adds episodes meanwhile.
        played = list(self._run.folder.episodes.items())
        again = [(key, self._run.folder.episodes[key]) for key in self._missing]
        self._missing = []
        for key, episode in (*again, *played[self._seen :]):
            if episode.outcome != "finished":
                self._missing.append(key)
            elif key.split == "val":
                for of in (episode.task_type, GENERAL, WHOLE):
                    self._won[key.bank, of][0] += episode.success
                    self._won[key.bank, of][1] += 1
            self.tested += key.split == "test" and episode.outcome == "finished"
        self._seen = len(played)

    def _sr(self, key: str, bank: str | None) -> float | None:
        if bank is None or (bank, key) not in self._won:
            return None
        won, played = self._won[bank, key]
        return won / played
