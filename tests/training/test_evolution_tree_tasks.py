"""Trees as tasks of a cluster: the same traces, in the folder here, whatever is lost, stopped or killed on the way."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import masa_training.evolution.run as running
from masa_training.errors import TrainingError
from masa_training.evolution import EvolveConfig
from masa_training.evolution import trees as evolution_trees
from masa_training.evolution.run import Evolved, evolve
from masa_training.evolution.run_log import RunLog
from masa_training.evolution.trees import TreeWork, fits_a_task, tree_events
from masa_training.models import Message, Request
from masa_training.rollouts.executors import InProcess, Ray
from masa_training.teacher import TeacherConfig, TeacherError
from tests.training.test_evolution import Reader, events
from tests.training.test_evolution_trees import TYPES, by_group, several
from tests.training.test_models_openai import MODELS, Answer, Server, completion

CLUSTER = Ray("ray://head:10001", 4)


class RayError(Exception):
    pass


class RayTaskError(RayError):
    cause: BaseException


class Stream:
    """What a task has said; everything passes through pickle, as between machines."""

    def __init__(self, work: TreeWork, lose_after: int) -> None:
        self.items: Iterator[Any] = tree_events(pickle.loads(pickle.dumps(work)))
        self.left = lose_after
        self.cancelled = False

    def __next__(self) -> bytes:
        self.left -= 1
        return b"" if self.left < 0 else pickle.dumps(next(self.items))


class Cluster:
    """Stands in for the package ray, with the calls that a tree's task needs; `lose` says after how many items a
    task's worker is lost."""

    def __init__(self, lose: Callable[[int], int] = lambda number: 10**9) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.streams: list[Stream] = []
        self.options: dict[str, Any] = {}
        self._lose = lose

    def is_initialized(self) -> bool:
        return True

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        self.options = options

        def begin(work: TreeWork) -> Stream:
            self.streams.append(Stream(work, self._lose(len(self.streams))))
            return self.streams[-1]

        return lambda function: SimpleNamespace(remote=begin)

    def wait(self, streams: list[Stream], **_: Any) -> tuple[list[Stream], list[Stream]]:
        return streams, []

    def get(self, reference: bytes) -> Any:
        if not reference:
            raise RayError("the worker died")
        return pickle.loads(reference)

    def cancel(self, stream: Stream) -> None:
        stream.cancelled = True
        stream.items.close()  # type: ignore[attr-defined]


def trees(path: Path, **changes: Any) -> EvolveConfig:
    """Only trees, so that nothing but them is played on the cluster."""
    return several(path, **{"rounds": 0, **changes})


@pytest.fixture(scope="module", autouse=True)
def untested() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "final_test", lambda *given: {"rows": []})
        patch.setattr(evolution_trees, "open_model", lambda spec, **options: Reader())
        yield


@pytest.fixture(scope="module")
def alone(untested: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evolved, Path]:
    folder = tmp_path_factory.mktemp("alone")
    return evolve(trees(folder / "c.yaml"), folder / "run", model=Reader(), trees=1), folder / "run"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setitem(sys.modules, "ray", found)
    return found


def played(folder: Path) -> list[tuple[Any, ...]]:
    return [tuple(event["of"]) for event in events(folder) if event["event"] == "episode"]


def test_trees_as_tasks_come_to_the_traces_that_they_come_to_alone(
    alone: tuple[Evolved, Path], cluster: Cluster, tmp_path: Path
) -> None:
    told: list[str] = []
    counted: list[str] = []
    evolved = evolve(
        trees(tmp_path / "c.yaml"),
        tmp_path / "run",
        executor=CLUSTER,
        told=lambda what: told.append(what.group),
        progress=lambda episode: counted.append(episode.job.task),
    )
    assert len(cluster.streams) == len(TYPES), "a task each"
    assert cluster.options == {"num_cpus": 1, "max_retries": 0, "num_returns": "streaming"}
    assert by_group(tmp_path / "run") == by_group(alone[1]) and evolved.bank == alone[0].bank
    assert evolved.ended == "" and evolved.searches == alone[0].searches
    assert sorted(played(tmp_path / "run")) == sorted(played(alone[1]))
    assert len(counted) == alone[0].episodes and set(told) == set(TYPES)
    rewrites = [sum(e["event"] == "rewrite" for e in events(folder)) for folder in (tmp_path / "run", alone[1])]
    assert rewrites[0] == rewrites[1] > 0


@pytest.mark.parametrize("rounds", [0, 1])
def test_the_teacher_of_tasks_is_opened_there_and_not_here(
    rounds: int, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here: list[str] = []

    @contextmanager
    def opening(settings: TeacherConfig) -> Iterator[Any]:
        here.append("opened")
        with evolution_trees.opened_teacher(settings) as teacher:
            yield teacher
        here.append(f"closed before {len(cluster.streams)} tasks")

    monkeypatch.setattr(running, "opened_teacher", opening)
    monkeypatch.setattr(Ray, "run", lambda self, spec, jobs, cancel: InProcess(Reader()).run(spec, jobs, cancel=cancel))
    changes = {"rounds": rounds, "task_types": TYPES[:1], "iterations": 1, "accept": {"pairs": 10}}
    evolved = evolve(trees(tmp_path / "c.yaml", **changes), tmp_path / "run", executor=CLUSTER)
    assert evolved.ended == "" and len(cluster.streams) == 1
    assert here == (["opened", "closed before 0 tasks"] if rounds else []), "the general skills are searched for here"


def test_a_worker_that_is_lost_costs_what_had_not_come_back(
    alone: tuple[Evolved, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = Cluster(lambda number: 12 if number < len(TYPES) else 10**9)
    monkeypatch.setitem(sys.modules, "ray", cluster)
    evolved = evolve(trees(tmp_path / "c.yaml"), tmp_path / "run", executor=CLUSTER)
    assert len(cluster.streams) == 2 * len(TYPES), "each begun a second time"
    assert by_group(tmp_path / "run") == by_group(alone[1]) and evolved.bank == alone[0].bank
    assert len(set(played(tmp_path / "run"))) == len(played(tmp_path / "run")), "nothing is played twice"


def test_workers_that_are_lost_again_and_again_are_an_error_with_everything_kept(
    alone: tuple[Evolved, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", Cluster(lambda number: 3))
    with pytest.raises(TrainingError, match=r"workers of the tree \w+ were lost 3 times \(RayError\)"):
        evolve(trees(tmp_path / "c.yaml"), tmp_path / "run", executor=CLUSTER)
    evolve(trees(tmp_path / "c.yaml"), tmp_path / "run", resume=True, model=Reader())
    assert by_group(tmp_path / "run") == by_group(alone[1]), "another executor goes on with it"


def test_a_budget_stops_the_tasks_and_a_larger_one_goes_on(
    alone: tuple[Evolved, Path], cluster: Cluster, tmp_path: Path
) -> None:
    most = alone[0].episodes // 2
    stopped = evolve(trees(tmp_path / "c.yaml", budget={"episodes": most}), tmp_path / "run", executor=CLUSTER)
    assert f"{most} episodes is spent" in stopped.ended and all(stream.cancelled for stream in cluster.streams)
    assert stopped.episodes <= most + len(TYPES), "what comes after the limit is not taken any more"
    evolved = evolve(trees(tmp_path / "c.yaml"), tmp_path / "run", resume=True, executor=CLUSTER)
    assert by_group(tmp_path / "run") == by_group(alone[1]) and evolved.bank == alone[0].bank


def test_a_record_that_cannot_be_written_ends_the_task_while_the_cluster_is_there(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise TrainingError("the disk is full")

    monkeypatch.setattr(RunLog, "episode", full)
    with pytest.raises(TrainingError, match="the disk is full") as failed:
        evolve(trees(tmp_path / "c.yaml", task_types=TYPES[:1]), tmp_path / "run", executor=CLUSTER)
    assert failed.tb is not None and all(stream.cancelled for stream in cluster.streams), "not once it is forgotten"


def test_a_tree_that_cannot_go_on_says_why(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(spec: str, **options: Any) -> Any:
        raise TrainingError("models/none.gguf: no such file")

    monkeypatch.setattr(evolution_trees, "open_model", missing)
    with pytest.raises(TrainingError, match="no such file"):
        evolve(trees(tmp_path / "c.yaml"), tmp_path / "run", executor=CLUSTER)


def test_a_teacher_that_keeps_files_here_is_asked_here() -> None:
    assert fits_a_task(TeacherConfig()) and fits_a_task(TeacherConfig(model="openai:http://h/v1#m"))
    assert not fits_a_task(TeacherConfig(model="recorded:teacher.jsonl"))
    assert not fits_a_task(TeacherConfig(record="teacher.jsonl"))


def test_a_task_that_is_given_up_lets_its_search_end(alone: tuple[Evolved, Path], tmp_path: Path) -> None:
    """Whoever stops listening does not leave a thread that plays for ever."""
    config = trees(tmp_path / "c.yaml", task_types=TYPES[:1])
    works: list[TreeWork] = []

    class Catching(Cluster):
        def remote(self, **options: Any) -> Callable[[Any], Any]:
            def begin(work: TreeWork) -> Any:
                works.append(work)
                raise TeacherError("caught")

            return lambda function: SimpleNamespace(remote=begin)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", Catching())
        with pytest.raises(TrainingError, match="caught"):
            evolve(config, tmp_path / "run", executor=CLUSTER)
    items = tree_events(works[0])
    assert next(items)[0] == "search"
    items.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name == f"masa-tree-{TYPES[0]}":
            thread.join(20)
            assert not thread.is_alive()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")
def test_trees_on_a_local_ray_cluster_find_the_same(alone: tuple[Evolved, Path], tmp_path: Path) -> None:
    reader = Reader()

    def answer(body: dict[str, Any]) -> Answer:
        candidates = tuple(body["structured_outputs"]["choice"])
        messages = tuple(Message(one["role"], one["content"]) for one in body["messages"])
        return completion(
            reader._one(Request(messages, candidates=candidates)).text,
            usage={"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102},
        )

    server = Server(answer, MODELS)
    try:
        backbone = {
            "name": "Reader-1B",
            "spec": f"openai:{server.url}#m",
            "options": {"constraint": "structured_outputs"},
            "card": {"family": "Reader"},
        }
        settings = trees(tmp_path / "c.yaml", backbone=backbone)
        evolved = evolve(settings, tmp_path / "run", executor=Ray())
    finally:
        server.close()
    assert by_group(tmp_path / "run") == by_group(alone[1]) and evolved.bank == alone[0].bank
    assert json.dumps(evolved.searches) == json.dumps(alone[0].searches)
