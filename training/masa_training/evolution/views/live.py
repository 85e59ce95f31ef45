"""A running search on a terminal: one line for each group, what is left of the budget, decisions as they fall."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from masa.cli.output import clean, duration
from masa.skills import GENERAL
from masa_training.bank_groups import WHOLE, named
from masa_training.evolution.config import BudgetConfig
from masa_training.evolution.run_log import Played
from masa_training.evolution.views.drawings import states
from masa_training.evolution.views.numbers import amount
from masa_training.tables import NOTHING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

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
        search = self._run.log.run.searches[key]
        state, rounds = search.state, self._run.config.most_rounds(key)
        if not state.nodes:
            return Row(key, "waiting", 0, rounds)
        best, newest = state.nodes[state.best], state.nodes[-1]
        counts = states(state.nodes)
        return Row(
            key,
            "done" if search.finished else "searching",
            state.round,
            rounds,
            newest.number,
            len(newest.rewards),
            best.number,
            self._sr(key, search.banks.get(best.number)),
            best.mean,
            state.nodes[0].mean,
            counts["accepted"],
            counts["rejected"],
            counts["indecisive"],
            len(state.failures),
        )

    def _count(self) -> None:
        # A copy in one step: another thread adds episodes meanwhile.
        played = list(self._run.log.episodes.items())
        again = [(key, self._run.log.episodes[key]) for key in self._missing]
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


_EACH_SECOND = 2
_AROUND = 7
"""Lines of the view that are not groups."""


class LiveView:
    """Draws a run on a terminal until it is closed."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._standing: Standing | None = None
        self._name = ""
        self._played = 0
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._live = Live(
            get_renderable=self._drawn,
            console=console,
            refresh_per_second=_EACH_SECOND,
            transient=True,
            redirect_stdout=False,  # results may go into a file meanwhile
        )

    def begun(self, underway: Underway) -> None:
        """Begin to draw."""
        self._standing = Standing(underway)
        self._name = underway.config.name
        self._began = time.monotonic()
        self._live.start()

    def played(self) -> None:
        """One more episode."""
        with self._lock:
            self._played += 1

    def line(self, text: str) -> None:
        """Write a line that stays, above the view."""
        from rich.text import Text

        self._console.print(Text(clean(text)), soft_wrap=True)

    def close(self) -> None:
        """Take the view away; twice is allowed."""
        self._live.stop()

    def _drawn(self) -> RenderableType:
        from rich.console import Group as Stack
        from rich.text import Text

        if self._standing is None:
            return ""
        rows = self._standing.rows()
        room = max(3, self._console.size.height - _AROUND)
        shown, hidden = fitting(rows, room)
        parts: list[Table | Text] = [_table(clean(self._name), shown)]
        if hidden:
            parts.append(Text(f"{hidden} more groups", style="dim"))
        if self._standing.tested:
            parts.append(Text(f"final test: {self._standing.tested:,} episodes"))
        seconds = time.monotonic() - self._began
        parts.append(Text(used_line(self._standing.used(), self._played, seconds)))
        return Stack(*parts)


def fitting(rows: list[Row], room: int) -> tuple[list[Row], int]:
    """The rows that fit, those that are searched before the others, in their order; and how many are left out."""
    if len(rows) <= room:
        return rows, 0
    urgent = sorted(range(len(rows)), key=lambda place: (rows[place].state != "searching", place))[:room]
    return [rows[place] for place in sorted(urgent)], len(rows) - room


def used_line(used: list[Used], played: int, seconds: float) -> str:
    """`episodes 120, 380 left · minutes 3.1 · 0.72 episodes/s · 2 min 40 s`."""
    parts = []
    for one in used:
        if one.name == "minutes" and not one.limit:
            continue
        if one.used or one.limit:
            left = "" if one.left is None else f", {amount(one.left)} left"
            parts.append(f"{one.name.replace('_', ' ')} {amount(one.used)}{left}")
    if played and seconds > 0:
        parts.append(f"{played / seconds:.2f} episodes/s")
    return " · ".join([*parts, duration(seconds)])


def cells(row: Row) -> list[str]:
    """A row in words: group, state, round, node, SR, R, how the candidates fared."""
    name = named(row.key)
    if row.state == "waiting":
        return [clean(name), row.state, f"0/{row.rounds}", *[NOTHING] * 4]
    reward = NOTHING if row.reward is None else f"{row.reward:.3f}"
    if row.start is not None and row.incumbent:
        reward = f"{row.start:.3f} → {reward}"
    fared = f"{row.accepted} / {row.rejected} / {row.indecisive}" + (f", {row.failed} failed" if row.failed else "")
    node = f"{row.node} ({row.episodes} episodes)" if row.state == "searching" else f"{row.incumbent}"
    return [
        clean(name),
        row.state,
        f"{row.round}/{row.rounds}",
        node,
        NOTHING if row.sr is None else f"{row.sr:.0%}",
        reward,
        fared,
    ]


def _table(name: str, rows: list[Row]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(f"masa evolve: {name}"), title_justify="left", pad_edge=False)
    for column in ("group", "", "round", "node", "best SR", "best R", "accepted / rejected / indecisive"):
        table.add_column(column, no_wrap=True)
    styles = {"searching": "bold", "waiting": "dim", "done": ""}
    for row in rows:
        table.add_row(*(Text(cell.replace("\n", " ")) for cell in cells(row)), style=styles[row.state])
    return table
