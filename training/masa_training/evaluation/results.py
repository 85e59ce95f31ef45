"""The results of an evaluation: one JSON object a line, kept as they come, so that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from masa.files import make_folder, read_text, write_atomic
from masa_training.errors import TrainingError
from masa_training.journal import append_lines, whole_lines

ROWS, SETTINGS = "results.jsonl", "evaluation.json"
FORMAT = 1

Row = Mapping[str, Any]


class Results:
    """The rows of a results folder, or, without a folder, of memory only.

    A row has `model` and `sample`; a score row `variant`, `arms`, `nll`, `tokens` and `hits`; a generation row
    `generated`. All score rows of a sample are added together.
    """

    def __init__(
        self, folder: str | PathLike[str] | None, settings: Mapping[str, Any], *, resume: bool = False
    ) -> None:
        """Open a folder for these settings.

        Raises:
            TrainingError: if it holds results and `resume` is off, or results of other settings.
        """
        self.settings = dict(settings)
        self.rows: list[Row] = []
        self._path: Path | None = None
        if folder is not None:
            where = make_folder(folder)
            self._path = where / ROWS
            if self._path.exists() or (where / SETTINGS).exists():
                self._continue(where, resume)
            else:
                record = {"format": FORMAT, **self.settings}
                write_atomic(where / SETTINGS, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
        self._scored = {(row["model"], row["sample"]) for row in self.rows if "variant" in row}
        self._generated = {(row["model"], row["sample"]) for row in self.rows if "generated" in row}

    def scored(self, model: str, sample: str) -> bool:
        return (model, sample) in self._scored

    def generated(self, model: str, sample: str) -> bool:
        return (model, sample) in self._generated

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows and wait until the disk has them."""
        added = list(rows)
        self.rows += added
        self._scored |= {(row["model"], row["sample"]) for row in added if "variant" in row}
        self._generated |= {(row["model"], row["sample"]) for row in added if "generated" in row}
        if self._path is not None:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in added)
            append_lines(self._path, text)

    def _continue(self, where: Path, resume: bool) -> None:
        assert self._path is not None
        if not resume:
            raise TrainingError(
                f"{where}: holds results already; add --resume to go on with them, or give another folder"
            )
        try:
            before = json.loads(read_text(where / SETTINGS))
            version = before.pop("format")
        except (ValueError, KeyError, AttributeError):
            raise TrainingError(f"{where / SETTINGS}: not a record of an evaluation; give another folder") from None
        differing = [name for name in self.settings if before.get(name) != self.settings[name]]
        if version != FORMAT or differing:
            what = ", ".join(differing) or f"format {version}"
            raise TrainingError(
                f"{where}: holds results of another evaluation (differing: {what}); give another folder"
            )
        try:
            read = [json.loads(line) for line in whole_lines(self._path)]
            self.rows = [row for row in read if row["model"] and row["sample"]]
        except (ValueError, KeyError, TypeError):
            raise TrainingError(f"{self._path}: a line is no result; delete the folder and evaluate again") from None
