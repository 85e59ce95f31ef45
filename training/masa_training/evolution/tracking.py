"""Following a run in MLflow or Weights & Biases: only where it is asked for, and never what a run depends on.

A tracker that fails is left out with a warning, and nothing is read back from it but the identifier of its run, which a
resumed run continues. Where they write is said by their own variables: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME,
WANDB_PROJECT, WANDB_MODE.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from masa.errors import FormatError, MasaError, MissingExtraError
from masa.files import parse_json, read_text, write_atomic
from masa_training.bank_groups import climbs
from masa_training.errors import TrainingError
from masa_training.evolution.config import BudgetConfig, EvolveConfig
from masa_training.evolution.run import Evolved, Underway
from masa_training.evolution.searching import Told
from masa_training.search import Evaluation, Proposal, Verdict

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


RECORD = "tracking.json"
SPENT = "spent"
"""The group under which a tracker finds what the whole run has used."""

_SECRET = ("api_key", "apikey", "authorization", "password", "secret", "token")
"""How the names of settings end that are not told: "max_tokens" and "api_key_env" are."""

_SIGNED_IN = re.compile(r"(?<=://)[^/@\s]+@")
_FIGURES = ("SR", "NHR", "reward")


def open_trackers(names: Iterable[str]) -> list[Tracker]:
    """The trackers of these names, each once.

    Raises:
        MissingExtraError: if a package is not installed.
        TrainingError: for an unknown name.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in TRACKERS:
            raise TrainingError(f"no tracker is called {name!r}; there are {', '.join(TRACKERS)}")
        found.append(TRACKERS[name]())
    return found


class Tracking:
    """Follows one run; its methods are the callbacks of `evolve`. A context, which ends the runs of the trackers."""

    def __init__(self, trackers: Sequence[Tracker], warn: Callable[[str], None] = lambda text: None) -> None:
        self._trackers = list(trackers)
        self._warn = warn
        self._run: Underway | None = None
        self._evolved: Evolved | None = None

    def begun(self, underway: Underway) -> None:
        """Begin, or go on where the folder's record says.

        Raises:
            TrainingError: if a tracker cannot begin; nothing was played yet. Those that had begun are ended.
        """
        self._run = underway
        record = underway.log.path / RECORD
        known = _known(record)
        parameters = parameters_of(underway.config)
        wanted, self._trackers = self._trackers, []
        for tracker in wanted:
            try:
                known[tracker.name] = tracker.begin(
                    underway.config.name, parameters, folder=underway.log.path, known=known.get(tracker.name)
                )
            except MasaError:
                raise
            except Exception as error:
                raise TrainingError(
                    f"{tracker.name} could not begin to track the run ({_short(error)}), so nothing was played; set it "
                    f"up or leave out --track {tracker.name}, then give the same command with --resume"
                ) from error
            self._trackers.append(tracker)
        if self._trackers:
            write_atomic(record, (json.dumps(known) + "\n").encode())

    def told(self, told: Told) -> None:
        """Log the state of a group after a decision or a failed proposal, and what the run has used."""
        event = told.event
        if not _ends_round(event) or not self._trackers or self._run is None:
            return
        values = round_values(self._run, told)
        spent = self._run.meter.spent()
        used = {its.name: float(getattr(spent, its.name)) for its in fields(BudgetConfig)}
        # All decisions of all sessions, so that the steps of a run that goes on go on, too.
        searches = [search.state.events for search in self._run.log.run.searches.values()]
        decisions = sum(_ends_round(its) for events in searches for its in list(events))
        self._each(lambda tracker: tracker.log(told.group, event.round, values))
        self._each(lambda tracker: tracker.log(SPENT, decisions, used))

    def ended(self, evolved: Evolved) -> None:
        """What the run came to, for the end."""
        self._evolved = evolved

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is None:
            return
        found = self._evolved
        ending: Ending = "failed" if found is None else "stopped" if found.ended else "finished"
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            ending = "stopped"
        table = final_table(found.test) if found is not None and found.test else None
        values = final_values(found.test) if found is not None and found.test else {}
        self._each(lambda tracker: tracker.end(ending, values, table))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                self._warn(f"{tracker.name}: tracking failed ({_short(error)}); the run goes on without it")


def round_values(run: Underway, told: Told) -> dict[str, float]:
    """Counts of a group's search up to now, the incumbent's mean reward and SR, the candidate's, their difference.

    Rewards are as the search was told them; SR is of the true outcomes. What is undefined is left out.
    """
    search = run.log.run.searches[told.group]
    events, counts = list(search.state.events), search.in_numbers()
    values: dict[str, float | None] = {key: float(number) for key, number in counts.items() if key != "finished"}
    best = 0
    for event in events:
        if isinstance(event, Verdict) and event.decision.verdict is True:
            best = event.node
    values["reward"] = _mean(events, best)
    values["SR"] = _success_rate(run, told.group, best)
    if isinstance(told.event, Verdict):
        values["candidate_reward"] = _mean(events, told.event.node)
        values["candidate_SR"] = _success_rate(run, told.group, told.event.node)
        values["difference"] = told.event.decision.difference
    return {key: value for key, value in values.items() if value is not None and math.isfinite(value)}


def parameters_of(config: EvolveConfig) -> dict[str, Parameter]:
    """The configuration, flat (`accept.rule`); what looks like a key or a password is left out."""
    return dict(_flat("", _told(json.loads(json.dumps(config.to_dict())))))


def final_table(test: Mapping[str, Any]) -> Table:
    """The final test as a table: rates and rewards with their 95 % intervals."""
    bounds = [f"{name}{end}" for name in _FIGURES for end in ("", "_low", "_high")]
    rows = []
    for row in test["rows"]:
        found = [(row[name] or {}).get(key) for name in _FIGURES for key in ("estimate", "low", "high")]
        rows.append((row["arm"], row["episodes"], row["missing"], *found))
    return Table(("arm", "episodes", "missing", *bounds), tuple(rows))


def final_values(test: Mapping[str, Any]) -> dict[str, float]:
    """The estimates of the final test by arm, such as `test/evolved/SR`."""
    return {
        f"test/{row['arm']}/{name}": float(row[name]["estimate"])
        for row in test["rows"]
        for name in _FIGURES
        if row[name] and row[name]["estimate"] is not None
    }


def _ends_round(event: object) -> bool:
    return isinstance(event, Verdict) or (isinstance(event, Proposal) and event.node is None)


def _told(value: Any) -> Any:
    """A value without what looks like a key or a password, however deep it lies."""
    if isinstance(value, dict):
        names = {key: str(key).lower().replace("-", "_") for key in value}
        return {key: _told(its) for key, its in value.items() if not names[key].endswith(_SECRET)}
    if isinstance(value, list):
        return [_told(its) for its in value]
    return _SIGNED_IN.sub("***@", value) if isinstance(value, str) else value


def _flat(name: str, value: Any) -> Iterable[tuple[str, Parameter]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, str | int | float | bool):
        yield name, value
    else:
        yield name, json.dumps(value, ensure_ascii=False)


def _mean(events: Iterable[object], node: int) -> float | None:
    known = [
        reward
        for event in events
        if isinstance(event, Evaluation) and event.node == node
        for reward in event.rewards
        if reward is not None
    ]
    return math.fsum(known) / len(known) if known else None


def _success_rate(run: Underway, group: str, node: int) -> float | None:
    bank = run.log.run.searches[group].banks.get(node)
    # A copy in one step: other threads add episodes meanwhile.
    some = [e for key, e in list(run.log.episodes.items()) if key.bank == bank and key.split == "val"]
    # Every tree begins with the bank that the others begin with, which plays tasks of all types.
    finished = [e.success for e in some if e.outcome == "finished" and (climbs(group) or group == e.task_type)]
    return sum(finished) / len(finished) if finished else None


def _known(record: Path) -> dict[str, str]:
    """By tracker the id of this run there; nothing where that is lost, and then a run is begun anew."""
    if not record.is_file():
        return {}
    try:
        found = parse_json(read_text(record))
        return {str(name): str(its) for name, its in found.items()}
    except (ValueError, AttributeError, FormatError):
        return {}


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


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


TRACKERS: Mapping[str, Callable[[], Tracker]] = {"mlflow": MLflow, "wandb": WandB}
