"""Weights & Biases. Its own variables say where and whether at all: WANDB_PROJECT, WANDB_MODE=offline, …"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masa.errors import MissingExtraError
from masa_training.evolution.tracking.protocol import Ending, Parameter, Table

_PROJECT = "masa"


class WandB:
    """A run of Weights & Biases. Each group counts its own rounds, which trees reach in any order."""

    name = "wandb"

    def __init__(self) -> None:
        """Raises MissingExtraError without the package."""
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError:
            raise MissingExtraError("tracking with Weights & Biases", "wandb") from None
        self._run: Any = None
        self._groups: set[str] = set()

    def begin(self, title: str, parameters: Mapping[str, Parameter], *, folder: Path, known: str | None) -> str:
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=title,
            id=known,
            resume="allow",
            dir=str(folder),
            # It would upload the command line, and --set may have given a key there.
            settings={"x_disable_meta": True},
        )
        # A run that goes on may have another budget.
        self._run.config.update(dict(parameters), allow_val_change=True)
        return str(self._run.id)

    def log(self, group: str, step: int, values: Mapping[str, float]) -> None:
        if group not in self._groups:
            self._groups.add(group)
            self._run.define_metric(f"{group}/round")
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/round")
        self._run.log({f"{group}/round": step, **{f"{group}/{name}": value for name, value in values.items()}})

    def end(self, ending: Ending, values: Mapping[str, float], table: Table | None) -> None:
        if table is not None:
            rows = [list(row) for row in table.rows]
            self._run.log({"final_test": self._wandb.Table(columns=list(table.columns), data=rows)})
        self._run.summary.update({**values, "ending": ending})
        self._run.finish(exit_code=1 if ending == "failed" else 0)
