"""Running a study: which cells are finished, which come next, and when to stop.

Nothing here knows how a cell is made (`masa_training.studies.distillation` does), so tests can run a study in a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.files import make_folder, write_atomic
from masa_training.errors import TrainingError
from masa_training.studies.distillation_cells import (
    CellResult,
    cell_path,
    differences,
    outdated,
    read_cell,
    read_cells,
    write_cell,
)
from masa_training.studies.distillation_config import Study, StudyCell
from masa_training.studies.distillation_report import to_markdown

REPORT = "REPORT.md"
Perform = Callable[[StudyCell], "CellResult | None"]
"""Makes a cell; None if it was stopped before its end and will go on next time."""


class Budget:
    """When to stop: after some minutes, or when cancelled."""

    def __init__(
        self,
        minutes: float | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._minutes = minutes
        self._end = None if minutes is None else clock() + 60 * minutes
        self.cancelled = cancelled

    def over(self) -> bool:
        """Nothing new is begun, and what runs stops after its step, with a checkpoint."""
        return self.why() is not None

    def why(self) -> str | None:
        """Why nothing more is to be done; None while there is time."""
        if self.cancelled():
            return "cancelled"
        if self._end is not None and self._clock() >= self._end:
            return f"the limit of {self._minutes:g} minutes (--limit-minutes) was reached"
        return None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Cells by what became of them, in the study's order; `stopped` is the one that goes on next time."""

    finished: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    stopped: str | None = None
    left: tuple[str, ...] = ()


def state(folder: Path, cell: StudyCell, wanted: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a cell is finished with this configuration; if it is with another one, the sentence that says so."""
    result = read_cell(cell_path(folder, cell.name))
    if result is None:
        return False, ""
    told = differences(result, wanted)
    return not told, outdated(cell.name, told) if told else ""


def run_study(
    study: Study,
    cells: Sequence[StudyCell],
    folder: Path,
    *,
    wanted: Mapping[str, Mapping[str, Any]],
    perform: Perform,
    budget: Budget,
    say: Callable[[str], None],
) -> Outcome:
    """Make the cells that are not finished, in order, and write the report after each.

    `wanted` has by name of a cell its configuration. A cell whose file is of that configuration is skipped and its file
    not touched; a file of another configuration is replaced once the cell is finished.

    Raises:
        TrainingError: if a result cannot be read, or a cell cannot be made; finished ones are kept.
    """
    make_folder(folder)
    finished: list[str] = []
    skipped: list[str] = []
    for number, cell in enumerate(cells):
        done, sentence = state(folder, cell, wanted[cell.name])
        if done:
            skipped.append(cell.name)
            say(f"{cell.name}: finished before")
            continue
        if budget.over():
            return _outcome(study, folder, finished, skipped, None, cells[number:], wanted)
        say(sentence or f"{cell.name}: cell {number + 1} of {len(cells)}")
        result = perform(cell)
        if result is None:
            return _outcome(study, folder, finished, skipped, cell.name, cells[number:], wanted)
        write_cell(folder, result)
        finished.append(cell.name)
        write_report(study, folder)
        say(f"{cell.name}: finished")
    return _outcome(study, folder, finished, skipped, None, (), wanted)


def write_report(study: Study, folder: Path) -> str:
    """Write REPORT.md, computed from the files of the cells alone, and return it.

    Raises:
        TrainingError: if there is no such folder, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder; give the one that the study's results are in")
    text = to_markdown(study, read_cells(folder, study), where=folder)
    write_atomic(folder / REPORT, text.encode("utf-8"))
    return text


def _outcome(
    study: Study,
    folder: Path,
    finished: Sequence[str],
    skipped: Sequence[str],
    stopped: str | None,
    open_: Sequence[StudyCell],
    wanted: Mapping[str, Mapping[str, Any]],
) -> Outcome:
    write_report(study, folder)
    left = tuple(cell.name for cell in open_ if not state(folder, cell, wanted[cell.name])[0])
    return Outcome(tuple(finished), tuple(skipped), stopped, left)
