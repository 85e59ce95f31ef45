"""Trackers follow a run: stand-ins for MLflow and Weights & Biases with the calls of the real ones (3.17, 0.31)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

import masa_training.evolution.run as running
from masa.errors import MissingExtraError
from masa.extras import pip_install
from masa.skills import GENERAL
from masa_training.commands.evolve import command
from masa_training.errors import TrainingError
from masa_training.evolution.run import Underway, start_bank
from masa_training.evolution.run_log import Played, RunLog, read_run
from masa_training.evolution.searching import Told
from masa_training.evolution.tracking import SPENT, final_table, open_trackers, parameters_of, round_values
from masa_training.rollouts import Episode, Job
from masa_training.search import Proposal
from tests.training.test_evolution import Reader, config, events

SMALL = {"rounds": 2, "iterations": 1, "watched": 3, "accept": {"pairs": 10}, "test_tasks": 6}


class Metric(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int


class Param(NamedTuple):
    key: str
    value: str


class MlflowException(Exception):  # noqa: N818 - its name there
    pass


class Store:
    """What the stand-in of MLflow keeps."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.broken = False


class MlflowClient:
    store: Store

    def get_run(self, run_id: str) -> Any:
        if run_id not in self.store.runs:
            raise MlflowException(f"Run '{run_id}' not found")
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        if self.store.runs[run_id].get("deleted"):
            raise MlflowException(f"The run {run_id} must be in the 'active' state. Current state is deleted.")
        self.store.runs[run_id]["status"] = status

    def get_experiment_by_name(self, name: str) -> Any:
        found = self.store.experiments.get(name)
        return None if found is None else SimpleNamespace(experiment_id=found)

    def create_experiment(
        self, name: str, artifact_location: str | None = None, tags: dict[str, Any] | None = None
    ) -> str:
        assert name not in self.store.experiments
        self.store.experiments[name] = str(len(self.store.experiments) + 1)
        return self.store.experiments[name]

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: dict[str, Any] | None = None,
        run_name: str | None = None,
    ) -> Any:
        assert experiment_id in self.store.experiments.values()
        name = f"run{len(self.store.runs)}"
        self.store.runs[name] = {
            "name": run_name, "tags": tags, "status": "RUNNING", "params": {}, "metrics": [], "files": {}
        }  # fmt: skip
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[Any] = (),
        synchronous: bool | None = None,
    ) -> None:
        if self.store.broken:
            raise MlflowException("API request failed: 503")
        assert len(params) <= 100 and all(len(param.value) <= 500 for param in params)
        its = self.store.runs[run_id]
        for param in params:
            assert its["params"].setdefault(param.key, param.value) == param.value, "a parameter never changes"
        assert all(isinstance(metric.value, float) and metric.timestamp > 1e12 for metric in metrics)
        its["metrics"] += metrics

    def log_dict(self, run_id: str, dictionary: dict[str, Any], artifact_file: str) -> None:
        self.store.runs[run_id]["files"][artifact_file] = json.loads(json.dumps(dictionary))

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self.store.runs[run_id]["files"][artifact_file] = text

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        assert status in ("FINISHED", "KILLED", "FAILED")
        self.store.runs[run_id]["status"] = status


class WandbRun:
    def __init__(self, id: str) -> None:
        self.id = id
        self.config = self
        self.summary: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self.logged: list[dict[str, Any]] = []
        self.steps: dict[str, str | None] = {}
        self.exit_code: int | None = None

    def update(self, d: Mapping[str, Any], allow_val_change: bool | None = None) -> None:
        assert allow_val_change or not set(d) & set(self.settings)
        self.settings.update(d)

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.steps[name] = step_metric

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        self.logged.append(data)

    def finish(self, exit_code: int | None = None) -> None:
        self.exit_code = exit_code


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Store:
    module: Any = ModuleType("mlflow")
    store = Store()
    monkeypatch.setattr(MlflowClient, "store", store, raising=False)
    module.MlflowClient = MlflowClient
    module.entities = SimpleNamespace(Metric=Metric, Param=Param)
    module.exceptions = SimpleNamespace(MlflowException=MlflowException)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return store


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], WandbRun]]:
    module: Any = ModuleType("wandb")
    begun: list[tuple[dict[str, Any], WandbRun]] = []

    def init(**given: Any) -> WandbRun:
        assert set(given) == {"project", "name", "id", "resume", "dir", "settings"}
        begun.append((given, WandbRun(given["id"] or f"w{len(begun)}")))
        return begun[-1][1]

    module.init = init
    module.Table = lambda columns, data: ("table", columns, data)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return begun


@pytest.fixture(autouse=True)
def _reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(running, "open_model", lambda spec, **options: Reader())
    return


def evolving(folder: Path, *more: str, **changes: Any) -> Result:
    config(folder / "c.yaml", **{**SMALL, **changes})
    return CliRunner().invoke(command, [str(folder / "c.yaml"), "-o", str(folder / "run"), *more])


def test_nothing_is_tracked_unless_asked_for(mlflow: Store, wandb: Any, tmp_path: Path) -> None:
    assert evolving(tmp_path, rounds=1, iterations=0).exit_code == 0
    assert mlflow.runs == {} and wandb == []
    assert not (tmp_path / "run" / "tracking.json").exists()


def test_mlflow_is_told_settings_every_round_and_the_final_test(mlflow: Store, tmp_path: Path) -> None:
    done = evolving(tmp_path, "--track", "mlflow")
    assert done.exit_code == 0, done.output
    (run,) = mlflow.runs.values()
    assert mlflow.experiments == {"masa": "1"} and (run["name"], run["status"]) == ("t", "FINISHED")
    assert run["params"]["accept.pairs"] == "10" and run["params"]["backbone.card.family"] == "Reader"
    found: dict[str, list[tuple[int, float]]] = {}
    for metric in run["metrics"]:
        found.setdefault(metric.key, []).append((metric.step, metric.value))
    said = events(tmp_path / "run")
    verdicts = [event for event in said if event["event"] == "verdict" and event["group"] == GENERAL]
    assert [step for step, _ in found[f"{GENERAL}/reward"]] == [1, 2]
    differences = [(event["round"], event["decision"]["difference"]) for event in verdicts]
    assert found[f"{GENERAL}/difference"] == differences
    accepted = sum(event["decision"]["verdict"] is True for event in verdicts)
    assert found[f"{GENERAL}/accepted"][-1] == (2, accepted)
    assert [step for step, _ in found["comparison/SR"]] == [1]
    used = found[f"{SPENT}/episodes"]
    assert [step for step, _ in used] == [1, 2, 3]
    searched = [event for event in said if event["event"] == "episode" and event["of"][1] != "test"]
    assert used[-1][1] == len(searched) and found[f"{SPENT}/tokens"][-1][1] > 0
    (test,) = (event for event in said if event["event"] == "test")
    rows = {row["arm"]: row for row in test["rows"]}
    assert found["test/evolved/SR"] == [(0, rows["evolved"]["SR"]["estimate"])]
    table = run["files"]["final_test.json"]
    assert [row[0] for row in table["data"]] == ["base", "no-skill", "evolved"]
    assert dict(zip(table["columns"], table["data"][2], strict=True))["SR_low"] == rows["evolved"]["SR"]["low"]
    assert "| evolved |" in run["files"]["final_test.md"]


def test_the_reward_of_a_round_is_the_incumbent_s(mlflow: Store, tmp_path: Path) -> None:
    evolving(tmp_path, "--track", "mlflow", iterations=0, accept={"pairs": 40})
    (run,) = mlflow.runs.values()
    reward = [metric.value for metric in run["metrics"] if metric.key == f"{GENERAL}/reward"]
    rate = [metric.value for metric in run["metrics"] if metric.key == f"{GENERAL}/SR"]
    search = read_run(tmp_path / "run").searches[GENERAL]
    assert search.best and reward[-1] == pytest.approx(search.state.nodes[search.best].mean)
    assert rate == pytest.approx(reward), "without penalty and noise they are the same"


def test_the_success_rate_of_a_tree_is_of_its_own_task_type(tmp_path: Path) -> None:
    settings = config(tmp_path / "c.yaml", **SMALL)
    log = RunLog(tmp_path / "run", settings)
    group = start_bank(settings).group("comparison")
    proposal = Proposal(0, None, 0, group)
    for key in (GENERAL, "comparison"):
        log.search(key, proposal, "one and the same bank")
    for number, kind in enumerate(("comparison", "comparison", "synthesis", "synthesis")):
        episode = Episode(
            job=Job("a", f"t{number}", 0), task_type=kind, outcome="finished", success=kind == "comparison"
        )
        log.episode(Played("one and the same bank", "val", f"t{number}", 0), episode)
    run = Underway(settings, (GENERAL, "comparison"), log, None)  # type: ignore[arg-type]
    assert round_values(run, Told("comparison", proposal))["SR"] == 1.0
    assert round_values(run, Told(GENERAL, proposal))["SR"] == 0.5


def test_a_run_that_goes_on_goes_on_in_its_trackers(mlflow: Store, wandb: Any, tmp_path: Path) -> None:
    both = ["--track", "mlflow", "--track", "wandb"]
    stopped = evolving(tmp_path, *both, budget={"episodes": 20})
    assert "Stopped" in stopped.stderr
    (run,) = mlflow.runs.values()
    assert run["status"] == "KILLED" and run["files"] == {} and wandb[0][1].exit_code == 0
    assert evolving(tmp_path, *both, "--resume").exit_code == 0
    assert list(mlflow.runs) == ["run0"] and run["status"] == "FINISHED"
    steps = [metric.step for metric in run["metrics"] if metric.key == f"{SPENT}/episodes"]
    assert steps == sorted(set(steps)) == [1, 2, 3], "no decision is told twice"
    first, second = wandb
    assert first[0]["id"] is None and second[0]["id"] == first[1].id and second[0]["resume"] == "allow"
    run["deleted"] = True  # is still listed
    assert evolving(tmp_path, *both, "--resume").exit_code == 0
    assert list(mlflow.runs) == ["run0", "run1"]
    mlflow.runs.clear()  # another store
    assert evolving(tmp_path, *both, "--resume").exit_code == 0
    assert len(mlflow.runs) == 1


def test_wandb_counts_rounds_by_group_and_gets_the_table(wandb: Any, tmp_path: Path) -> None:
    assert evolving(tmp_path, "--track", "wandb", "--json").exit_code == 0
    ((given, run),) = wandb
    assert given["project"] == "masa" and given["dir"] == str(tmp_path / "run")
    assert given["settings"] == {"x_disable_meta": True}, "else wandb uploads the command line, keys and all"
    assert run.settings["accept.pairs"] == 10
    assert run.steps[f"{GENERAL}/*"] == f"{GENERAL}/round"
    rounds = [data for data in run.logged if f"{GENERAL}/round" in data]
    assert [data[f"{GENERAL}/round"] for data in rounds] == [1, 2]
    assert all(f"{GENERAL}/reward" in data for data in rounds)
    ((kind, columns, data),) = (its["final_test"] for its in run.logged if "final_test" in its)
    assert kind == "table" and all(len(row) == len(columns) for row in data)
    assert run.summary["ending"] == "finished" and "test/evolved/reward" in run.summary
    assert run.exit_code == 0


def test_a_tracker_that_fails_on_the_way_ends_only_the_tracking(
    mlflow: Store, wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: WandbRun, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(WandbRun, "log", broken)
    done = evolving(tmp_path, "--track", "wandb", "--track", "mlflow")
    assert done.exit_code == 0
    assert done.stderr.count("Warning: wandb: tracking failed (no route to host); the run goes on without it") == 1
    (run,) = mlflow.runs.values()
    assert run["status"] == "FINISHED", "the other one follows to the end"


def test_a_tracker_that_cannot_begin_is_an_error_before_anything_is_played(mlflow: Store, tmp_path: Path) -> None:
    mlflow.broken = True
    failed = evolving(tmp_path, "--track", "mlflow")
    assert isinstance(failed.exception, TrainingError)
    assert str(failed.exception) == (
        "mlflow could not begin to track the run (API request failed: 503), so nothing was played; set it up or "
        "leave out --track mlflow, then give the same command with --resume"
    )
    assert "Warning" not in failed.stderr, "what never began does not fail once more at the end"
    assert [event["event"] for event in events(tmp_path / "run")] == ["run"]
    assert evolving(tmp_path, "--resume").exit_code == 0


def test_a_tracker_that_began_is_ended_where_another_cannot(mlflow: Store, wandb: Any, tmp_path: Path) -> None:
    mlflow.broken = True
    failed = evolving(tmp_path, "--track", "wandb", "--track", "mlflow")
    assert isinstance(failed.exception, TrainingError) and "Warning" not in failed.stderr
    ((_, run),) = wandb
    assert run.exit_code == 1 and run.summary["ending"] == "failed"


def test_a_run_that_breaks_off_is_told_as_failed(mlflow: Store, tmp_path: Path, monkeypatch: Any) -> None:
    def broken(*_: Any) -> None:
        raise TrainingError("the disk is full")

    monkeypatch.setattr(running, "final_test", broken)
    assert isinstance(evolving(tmp_path, "--track", "mlflow").exception, TrainingError)
    (run,) = mlflow.runs.values()
    assert run["status"] == "FAILED" and run["files"] == {}


@pytest.mark.parametrize(("name", "told"), [("mlflow", "MLflow"), ("wandb", "Weights & Biases")])
def test_a_missing_package_is_one_sentence_that_names_the_extra(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    failed = evolving(tmp_path, "--track", name)
    assert isinstance(failed.exception, MissingExtraError)
    assert str(failed.exception) == f'tracking with {told} needs the extra "{name}": {pip_install(name)}'
    assert not (tmp_path / "run").exists()
    with pytest.raises(TrainingError, match="'tensorboard'"):
        open_trackers(["tensorboard"])


def test_keys_are_no_parameters_and_the_rest_is(tmp_path: Path) -> None:
    headers = {"X-API-Key": "sk-2", "more": [{"hf_token": "sk-3", "address": "https://me:sk-4@h/v1"}]}
    options = {"api_key_env": "MY_KEY", "max_tokens": 3, "a": [1], "extra_body": headers}
    backbone = {"name": "R", "spec": "openai:http://h/v1#m", "options": options}
    world = {"mirror": "http://me:sk-5@h/v1"}
    found = parameters_of(config(tmp_path / "c.yaml", backbone=backbone, options=world, budget={"tokens": 5}))
    assert "sk-" not in str(found)
    assert (found["options.mirror"], found["backbone.options.api_key_env"]) == ("http://***@h/v1", "MY_KEY")
    assert (found["backbone.options.max_tokens"], found["budget.tokens"], found["task_types"]) == (
        3,
        5,
        '["comparison"]',
    )


def test_what_is_undefined_is_empty_in_the_table() -> None:
    test = {"rows": [{"arm": "base", "episodes": 0, "missing": 3, "SR": None, "NHR": None, "reward": None}]}
    table = final_table(test)
    assert table.rows == (("base", 0, 3, *[None] * 9),)
    assert "| base | 0 | 3 | – |" in table.to_markdown()
