"""What an experiment tracker is to a run of evolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Ending = Literal["finished", "stopped", "failed"]
"""Complete; over budget or cancelled, to go on some day; broken off by an error."""

Parameter = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Table:
    """The final test: a row for each arm. Cells are texts, numbers, or None where a number is undefined."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]

    def to_markdown(self) -> str:
        """One line a row."""
        from masa_training.tables import table

        return "\n".join(table(self.columns, [[_text(cell) for cell in row] for row in self.rows], left=1)) + "\n"


class Tracker(Protocol):
    """One run in one tracker. Called from several threads, one at a time; whatever it raises ends only the tracking."""

    name: str

    def begin(self, title: str, parameters: Mapping[str, Parameter], *, folder: Path, known: str | None) -> str:
        """Begin the run, or go on with the one of the id `known`, as far as the tracker still has it; returns the id.

        `folder` is the run's, for files that the tracker keeps on this machine.
        """
        ...

    def log(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Figures of a group of skills after a round, or of the whole run."""
        ...

    def end(self, ending: Ending, values: Mapping[str, float], table: Table | None) -> None:
        """The last figures, and the final test where it was played. Nothing follows."""
        ...


def _text(cell: str | float | None) -> str:
    if cell is None:
        return "–"
    return cell if isinstance(cell, str) else f"{cell:.3f}" if isinstance(cell, float) else str(cell)
