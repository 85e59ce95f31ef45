"""A running search on a terminal: one line for each group, what is left of the budget, decisions as they fall."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from masa.cli.output import clean, duration
from masa_training.bank_groups import named
from masa_training.evolution.views.numbers import amount
from masa_training.evolution.views.standing import Row, Standing, Used
from masa_training.tables import NOTHING

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

    from masa_training.evolution.run import Underway

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

    def _drawn(self) -> Group | str:
        from rich.console import Group
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
        return Group(*parts)


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
