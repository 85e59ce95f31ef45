"""MLflow. Its own variables say where: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masa.errors import MissingExtraError
from masa_training.evolution.tracking.protocol import Ending, Parameter, Table

_EXPERIMENT = "masa"
_LONGEST = 500
"""Characters of a parameter that every version of MLflow takes."""

_MOST = 100
"""Parameters in one request."""

_STATUS: Mapping[Ending, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MLflow:
    """A run of MLflow, through its client: the module's functions know one run a thread, and trees have threads."""

    name = "mlflow"

    def __init__(self) -> None:
        """Raises MissingExtraError without the package."""
        try:
            self._mlflow: Any = importlib.import_module("mlflow")
        except ImportError:
            raise MissingExtraError("tracking with MLflow", "mlflow") from None
        self._client: Any = None
        self._run = ""

    def begin(self, title: str, parameters: Mapping[str, Parameter], *, folder: Path, known: str | None) -> str:
        self._client = self._mlflow.MlflowClient()
        self._run = self._again(known) or self._new(title, parameters, folder)
        return self._run

    def log(self, group: str, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metric = self._mlflow.entities.Metric
        metrics = [metric(f"{_key(group)}/{_key(name)}", value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def end(self, ending: Ending, values: Mapping[str, float], table: Table | None) -> None:
        now = int(time.time() * 1000)
        if values:
            metric = self._mlflow.entities.Metric
            self._client.log_batch(
                self._run, metrics=[metric(_key(name), value, now, 0) for name, value in values.items()]
            )
        if table is not None:
            rows = {"columns": list(table.columns), "data": [list(row) for row in table.rows]}
            self._client.log_dict(self._run, rows, "final_test.json")
            self._client.log_text(self._run, table.to_markdown(), "final_test.md")
        self._client.set_terminated(self._run, status=_STATUS[ending])

    def _again(self, known: str | None) -> str:
        """The id of the known run, set running; nothing if MLflow does not have it, which may be another store."""
        if known is None:
            return ""
        try:
            self._client.get_run(known)
            self._client.update_run(known, status="RUNNING")  # which it refuses for a run that was deleted
        except self._mlflow.exceptions.MlflowException:
            return ""
        return known

    def _new(self, title: str, parameters: Mapping[str, Parameter], folder: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        run = self._client.create_run(experiment, run_name=title, tags={"masa.folder": str(folder)})
        identifier = str(run.info.run_id)
        param = self._mlflow.entities.Param
        params = [param(_key(name), str(value)[:_LONGEST]) for name, value in parameters.items()]
        for first in range(0, len(params), _MOST):
            self._client.log_batch(identifier, params=params[first : first + _MOST])
        return identifier


def _key(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "_", name)
