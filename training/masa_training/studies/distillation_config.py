"""The configuration of a distillation study: its rows, and its cells in order of importance.

A *row* of the table is one experiment: a data set, a training configuration and changed settings. A *cell of the
study* is a row with one seed; its name is `ROW-seedN`. Cells are run in the order in which they are listed, so that
whatever time allows is what matters most.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from masa.errors import near_misses
from masa_training.distill.config import DistillConfig, load_config
from masa_training.errors import TrainingError
from masa_training.settings import CONFIGS, Amount, Positive, find_config, make, read_yaml, settings

SHIPPED = CONFIGS / "studies"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
"""It becomes a file's: small letters, digits, points and hyphens."""
_PLACEHOLDER = re.compile(r"\{([a-z0-9_]+)\}")
_ELSEWHERE = ("base", "reference", "threads", "report_to", "seed", "row_tokens", "gradient_checkpointing")
"""Settings that are told apart otherwise (the base by its checksum) or change no number beyond rounding: what fits a
machine must not make results of another count no more."""


@settings
class Measure:
    """How every cell is measured, before and after training alike.

    Attributes:
        split: which samples are scored.
        wrong_cards: most wrong cards a sample, and as many of its tree; where there are more, a seeded choice.
        limit: so many samples, spread over all clusters; None for all.
        write: also let the rewriter write every group (validity, plans exactly right, F1 of edits).
        dtype: what the model computes with.
        seed: of the choice of samples and cards and of the bootstrap; the same for all cells, so that they are paired.
    """

    split: Literal["train", "validation", "test"] = "test"
    wrong_cards: Positive = 8
    limit: Positive | None = None
    write: bool = False
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    seed: int = 0


@settings
class Row:
    """One experiment.

    Attributes:
        label: how the table calls it.
        dataset: a shipped configuration of `masa distill dataset`, or a YAML file beside the study's.
        distill: a shipped configuration of `masa distill`, or a YAML file beside the study's.
        settings: what is changed in it. A `base` such as `{gemma}` is a file that the user names.
        part: the table it belongs to.
        note: a sentence for the report.
    """

    name: Name
    dataset: str
    distill: str
    label: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    part: str = "primary"
    note: str = ""


@dataclass(frozen=True, slots=True)
class StudyCell:
    """A row with one seed."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row.name}-seed{self.seed}"


@settings
class StudyConfig:
    """A study. `cells` are written `ROW/SEED`; an advantage below `negligible` (nats per token) is none."""

    name: Name
    question: str
    rows: tuple[Row, ...]
    cells: tuple[str, ...]
    measure: Measure = Measure()
    negligible: Amount = 0.01
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """A checked configuration: `cells` in order of importance, `folder` the one that relative paths start at."""

    config: StudyConfig
    cells: tuple[StudyCell, ...]
    folder: Path
    spec: str

    def beside(self, name: str) -> str:
        """A YAML file's path seen from the study's folder; other names as they are."""
        return str(self.folder / name) if name.endswith((".yaml", ".yml")) else name

    def settings(self, cell: StudyCell, *, base: str | None = None, threads: int = 0) -> DistillConfig:
        """The training configuration of a cell; `base` replaces what its base is called."""
        preset = load_config(self.beside(cell.row.distill)).to_dict()
        changed = {**preset, **cell.row.settings, "seed": cell.seed}
        if base is not None:
            changed["base"] = base
        if threads:
            changed["threads"] = threads
        return make(DistillConfig, changed, f"{self.spec}: row {cell.row.name}")

    def declared(self, cell: StudyCell) -> dict[str, Any]:
        """Everything that the study says of a cell but its seed, flat, as JSON values; without looking at any file."""
        settings = self.settings(cell).to_dict()
        told: dict[str, Any] = {
            "dataset": cell.row.dataset,
            "base": settings["base"],
            **{key: value for key, value in settings.items() if key not in _ELSEWHERE},
        }
        return told | {f"measure.{key}": value for key, value in asdict(self.config.measure).items()}

    def select(self, patterns: Sequence[str]) -> tuple[StudyCell, ...]:
        """The cells that any of the patterns (`smollm2-*`) names, in the study's order; all without patterns.

        Raises:
            TrainingError: if a pattern names none.
        """
        names = [cell.name for cell in self.cells]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                near = near_misses(pattern, names)
                hint = f"did you mean {near[0]}?" if near else f"its cells are {', '.join(names)}"
                raise TrainingError(f"--only {pattern}: the study {self.config.name} has no such cell; {hint}")
        return tuple(c for c in self.cells if not patterns or any(fnmatchcase(c.name, p) for p in patterns))


def load_study(spec: str) -> Study:
    """The study in a YAML file, or the shipped one of that name.

    Raises:
        TrainingError: if there is none, it cannot be read, a key is unknown or missing, a value does not fit, a row
            cannot be trained, or cells name no row or come twice.
    """
    path = find_config(spec, SHIPPED, "study")
    config = make(StudyConfig, read_yaml(path), str(path))
    study = Study(config, _cells(config, str(path)), path.parent, spec)
    _check(config, str(path))
    for cell in study.cells:
        study.settings(cell)
    return study


def _check(config: StudyConfig, where: str) -> None:
    used = {text.rpartition("/")[0] for text in config.cells}
    for row in config.rows:
        if row.name not in used:
            raise TrainingError(f"{where}: the row {row.name} has no cell; list one ({row.name}/0) or remove the row")
        for key in ("seed", "threads"):
            if key in row.settings:
                raise TrainingError(f"{where}: row {row.name} sets {key}; the list of cells or the command line does")


def _cells(config: StudyConfig, where: str) -> tuple[StudyCell, ...]:
    rows: dict[str, Row] = {}
    for row in config.rows:
        if rows.setdefault(row.name, row) is not row:
            raise TrainingError(f"{where}: two rows are called {row.name}; rename one")
    if not config.cells or not rows:
        raise TrainingError(f"{where}: no cells, so there is nothing to do; list some as ROW/SEED")
    found: list[StudyCell] = []
    for text in config.cells:
        name, slash, seed = text.rpartition("/")
        if not slash or not re.fullmatch(r"[0-9]{1,9}", seed):
            raise TrainingError(
                f"{where}: the cell {text!r} is not written as ROW/SEED, such as {config.rows[0].name}/0"
            )
        if name not in rows:
            near = near_misses(name, rows)
            hint = f"did you mean {near[0]}?" if near else f"the rows are {', '.join(rows)}"
            raise TrainingError(f"{where}: the cell {text} is of no row; {hint}")
        found.append(StudyCell(rows[name], int(seed)))
    names = [cell.name for cell in found]
    for name in names:
        if names.count(name) > 1:
            raise TrainingError(f"{where}: the cell {name} is listed twice; remove one")
    return tuple(found)


def base_path(base: str, given: Mapping[str, str], cell: str) -> str:
    """What a base is called on this machine: `{name}` is the file given for it, or that of the variable MASA_NAME.

    Raises:
        TrainingError: if neither is there, or there is no such file.
    """
    match = _PLACEHOLDER.fullmatch(base)
    if not match:
        return base
    name = match[1]
    variable = f"MASA_{name.upper()}"
    path = given.get(name) or os.environ.get(variable)
    if not path:
        raise TrainingError(
            f"cell {cell}: its base {base} is not set; give --base-path {name}=FILE or {variable}, or choose other "
            "cells with --only"
        )
    if not Path(path).expanduser().exists():
        raise TrainingError(f"{path}: no such file; correct --base-path {name} or {variable}")
    return str(Path(path).expanduser().resolve())
