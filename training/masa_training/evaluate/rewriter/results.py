"""The results of an evaluation: one JSON object a line, kept as they come, so that a killed run goes on.

A line has all scores of a sample, or what was written for it: a kill leaves a sample whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from masa.files import make_folder, parse_json, read_text, write_atomic
from masa_training.append_only import append_records, whole_lines
from masa_training.errors import TrainingError

ROWS, SETTINGS = "results.jsonl", "evaluation.json"
FORMAT = 2
_READABLE = (1, 2)
"""Format 1 had a line for every score."""

Row = Mapping[str, Any]


class Results:
    """The rows of a results folder, or, without a folder, of memory only.

    A row has `model` and `sample`; a score row `variant`, `arms`, `nll`, `tokens` and `hits`; a generation row
    `generated`. All score rows of a sample are added together.
    """

    def __init__(
        self, folder: str | PathLike[str] | None, settings: Mapping[str, Any], *, resume: bool = False
    ) -> None:
        """Open a folder for these settings, which are written with the first rows: a run that fails before claims none.

        Raises:
            TrainingError: if it holds results and `resume` is off, or results of other settings.
            WriteError: if the folder cannot be made.
        """
        self.settings = dict(settings)
        self.rows: list[Row] = []
        self._path: Path | None = None
        self._claimed = False
        if folder is not None:
            where = make_folder(folder)
            self._path = where / ROWS
            if self._path.exists() or (where / SETTINGS).exists():
                self._continue(where, resume)
                self._claimed = True
        self._scored = {(row["model"], row["sample"]) for row in self.rows if "variant" in row}
        self._generated = {(row["model"], row["sample"]) for row in self.rows if "generated" in row}

    def scored(self, model: str, sample: str) -> bool:
        return (model, sample) in self._scored

    def generated(self, model: str, sample: str) -> bool:
        return (model, sample) in self._generated

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows and wait until the disk has them.

        Raises:
            TrainingError: if they cannot be written; what was written before stays.
        """
        added = list(rows)
        if self._path is not None:
            self._append(self._path, added)
        self.rows += added
        self._scored |= {(row["model"], row["sample"]) for row in added if "variant" in row}
        self._generated |= {(row["model"], row["sample"]) for row in added if "generated" in row}

    def _append(self, path: Path, rows: Sequence[Row]) -> None:
        if not self._claimed:
            record = {"format": FORMAT, **self.settings}
            write_atomic(path.with_name(SETTINGS), (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
            self._claimed = True
        append_records(path, _lines(rows))

    def _continue(self, where: Path, resume: bool) -> None:
        assert self._path is not None
        if not resume:
            raise TrainingError(
                f"{where}: holds results already; add --resume to go on with them, or give another folder"
            )
        try:
            before = parse_json(read_text(where / SETTINGS))
            version = before.pop("format")
        except (ValueError, KeyError, AttributeError):
            raise TrainingError(f"{where / SETTINGS}: not a record of an evaluation; give another folder") from None
        differing = [name for name in self.settings if before.get(name) != self.settings[name]]
        if version not in _READABLE or differing:
            what = ", ".join(differing) or f"format {version}"
            raise TrainingError(
                f"{where}: holds results of another evaluation (differing: {what}); give another folder"
            )
        try:
            read = [row for line in whole_lines(self._path) for row in _rows(parse_json(line))]
            self.rows = [row for row in read if row["model"] and row["sample"]]
        except (ValueError, KeyError, TypeError):
            raise TrainingError(f"{self._path}: a line is no result; delete the folder and evaluate again") from None


def _lines(rows: Sequence[Row]) -> list[Row]:
    """Rows as lines: the scores of a sample under `scores` of one line, whatever else as it is."""
    lines: list[Row] = []
    scores: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "variant" not in row:
            lines.append(row)
            continue
        model, sample = row["model"], row["sample"]
        if (model, sample) not in scores:
            lines.append({"model": model, "sample": sample, "scores": scores.setdefault((model, sample), [])})
        scores[model, sample].append({name: value for name, value in row.items() if name not in ("model", "sample")})
    return lines


def _rows(line: Row) -> list[Row]:
    """The rows of a line; one of format 1 is its own row."""
    if "scores" not in line:
        return [line]
    return [{"model": line["model"], "sample": line["sample"], **score} for score in line["scores"]]
