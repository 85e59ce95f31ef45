"""Trees side by side: each comes to the trace that it comes to alone, whatever stops, fails or dies meanwhile."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import masa_training.evolution.run as running
from masa.skills import GENERAL
from masa_training.commands.evolve import command
from masa_training.errors import TrainingError
from masa_training.evolution import EvolveConfig, load_evolve
from masa_training.evolution.run import Evolved, evolve
from masa_training.evolution.trees import held, shared, side_by_side, trees_at_a_time
from masa_training.models import ModelError, Reply
from masa_training.rollouts.executors import InProcess, Processes, Ray
from masa_training.teacher import Asked, OperatorTeacher, Rewrite
from tests.training.teacher_server import stepwise
from tests.training.test_evolution import Reader, config, events, searched
from tests.training.test_models_openai import Answer, Server

TYPES = ["comparison", "direct_retrieval", "multi_hop_reasoning"]
SERVER = {"name": "Reader-1B", "spec": "openai:http://localhost:1/v1#reader", "card": {"family": "Reader"}}


def several(path: Path, **changes: Any) -> EvolveConfig:
    values = {"task_types": TYPES, "rounds": 1, "iterations": 2, "watched": 3, "accept": {"pairs": 15}}
    return config(path, **{**values, "backbone": SERVER, **changes})


def by_group(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What each search did, in its order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in searched(folder):
        found.setdefault(event.get("group", ""), []).append(event)
    return found


class Meeting(Reader):
    """A reader that notes how many threads ask it at the same time, and lets them meet once."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.busiest = self._here = 0
        self._parties = parties
        self._change = threading.Condition()

    def reply(self, requests: Any) -> list[Reply | ModelError]:
        with self._change:
            self._here += 1
            self.busiest = max(self.busiest, self._here)
            self._change.notify_all()
            if threading.current_thread().name.startswith("masa-tree"):
                self._change.wait_for(lambda: self.busiest >= self._parties, timeout=5)
        try:
            return super().reply(requests)
        finally:
            with self._change:
                self._here -= 1


@pytest.fixture(scope="module", autouse=True)
def untested() -> Iterator[None]:
    """The final test says nothing about trees, and its intervals take longer than they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "final_test", lambda *given: {"rows": []})
        yield


@pytest.fixture(scope="module")
def alone(untested: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evolved, Path]:
    folder = tmp_path_factory.mktemp("alone")
    return evolve(several(folder / "c.yaml"), folder / "run", model=Reader(), trees=1), folder / "run"


def test_trees_side_by_side_come_to_the_traces_that_they_come_to_alone(
    alone: tuple[Evolved, Path], tmp_path: Path
) -> None:
    reader = Meeting(len(TYPES))
    evolved = evolve(several(tmp_path / "c.yaml"), tmp_path / "run", model=reader)
    assert reader.busiest == len(TYPES), "the trees of a backbone behind a server are searched together"
    assert by_group(tmp_path / "run") == by_group(alone[1])
    assert evolved.bank == alone[0].bank
    played = [tuple(event["of"]) for event in events(tmp_path / "run") if event["event"] == "episode"]
    assert len(set(played)) == len(played) == alone[0].episodes


@pytest.mark.parametrize("share", [0.35, 0.6])
def test_trees_that_are_killed_go_on_as_if_they_had_not_been(
    alone: tuple[Evolved, Path], tmp_path: Path, share: float
) -> None:
    left = 1 + int(share * alone[0].episodes)

    def die(_: object) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolve(several(tmp_path / "c.yaml"), tmp_path / "run", model=Reader(), progress=die)
    # How a run is executed is no part of it: it goes on with another number of trees.
    evolved = evolve(several(tmp_path / "c.yaml"), tmp_path / "run", resume=True, model=Reader(), trees=2)
    assert by_group(tmp_path / "run") == by_group(alone[1]) and evolved.bank == alone[0].bank
    played = [tuple(event["of"]) for event in events(tmp_path / "run") if event["event"] == "episode"]
    assert len(set(played)) == len(played)


def test_a_budget_stops_all_trees_and_a_larger_one_goes_on(alone: tuple[Evolved, Path], tmp_path: Path) -> None:
    most = alone[0].episodes // 2
    settings = several(tmp_path / "c.yaml", budget={"episodes": most})
    stopped = evolve(settings, tmp_path / "run", model=Reader())
    assert f"{most} episodes is spent" in stopped.ended and not stopped.test
    assert stopped.episodes <= most + 8 * len(TYPES), "what was under way ends, nothing more begins"
    evolved = evolve(several(tmp_path / "c.yaml"), tmp_path / "run", resume=True, model=Reader())
    assert by_group(tmp_path / "run") == by_group(alone[1]) and evolved.bank == alone[0].bank


class Refusing(OperatorTeacher):
    """Fails in one tree in a way that no search can go on from."""

    def rewrite(self, asked: Asked) -> Rewrite:
        if asked.group.key == TYPES[1]:
            raise TrainingError("the disk is full")
        return super().rewrite(asked)


def test_a_tree_that_cannot_go_on_stops_the_others_with_everything_kept(
    alone: tuple[Evolved, Path], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="the disk is full"):
        evolve(several(tmp_path / "c.yaml"), tmp_path / "run", model=Reader(), teacher=Refusing())
    assert not any(thread.name.startswith("masa-tree") for thread in threading.enumerate())
    evolve(several(tmp_path / "c.yaml"), tmp_path / "run", resume=True, model=Reader())
    assert by_group(tmp_path / "run") == by_group(alone[1])


def test_every_tree_has_the_same_frozen_bank_around_it(alone: tuple[Evolved, Path]) -> None:
    roots = {
        event["group"]: event["bank"]
        for event in events(alone[1])
        if event["event"] == "proposal" and event["round"] == 0
    }
    assert len({roots[name] for name in TYPES}) == 1
    best = [event for event in events(alone[1]) if event["event"] == "ended" and event["group"] == GENERAL]
    number = best[0]["best"]
    banks = [
        e["bank"]
        for e in events(alone[1])
        if e["event"] == "proposal" and e["group"] == GENERAL and e["node"] == number
    ]
    assert banks == [roots[TYPES[0]]], "the general skills are those that were found"


def test_how_many_trees_are_searched_at_a_time() -> None:
    server, local = SERVER["spec"], "llama:small.gguf"
    assert isinstance(server, str)
    assert trees_at_a_time(0, 6, server, None) == trees_at_a_time(9, 6, server, None) == 6
    assert trees_at_a_time(2, 6, server, None) == trees_at_a_time(2, 6, local, Processes(4)) == 2
    assert trees_at_a_time(0, 6, local, None) == trees_at_a_time(0, 6, local, InProcess()) == 1
    with pytest.raises(TrainingError, match=r"llama:small\.gguf"):
        trees_at_a_time(2, 6, local, None)
    assert shared(Processes(16), 6) == Processes(2) and shared(Processes(2), 6) == Processes(1)
    assert shared(Ray("auto", 8), 3) == Ray("auto", 2) and shared(Ray("auto"), 6) == Ray("auto")
    assert shared(None, 6) is None


def test_no_more_trees_are_searched_at_a_time_than_there_are_workers() -> None:
    for executor in (Ray("auto", 4), Processes(4)):
        assert trees_at_a_time(0, 6, "llama:small.gguf", executor) == 4
        assert trees_at_a_time(9, 6, "llama:small.gguf", executor) == 4
        assert trees_at_a_time(3, 6, "llama:small.gguf", executor) == 3
    assert trees_at_a_time(0, 6, "llama:small.gguf", Ray("auto")) == 6, "which a cluster schedules by itself"


def test_answers_come_in_the_order_of_the_questions_and_an_error_stops_those_that_wait() -> None:
    halt = threading.Event()
    assert side_by_side([lambda n=n: n for n in range(20)], 4, halt) == list(range(20))  # type: ignore[misc]
    begun: list[int] = []

    def call(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise ValueError("first")
        halt.wait(5)

    with pytest.raises(ValueError, match="first"):
        side_by_side([lambda n=n: call(n) for n in range(50)], 2, halt)  # type: ignore[misc]
    assert halt.is_set() and len(begun) < 50


@pytest.mark.parametrize(
    ("name", "groups"),
    [("alfworld", "pick_and_place"), ("webshop", "apparel"), ("search", "multi_hop_reasoning")],
)
def test_the_paper_s_experiments_can_be_estimated(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, groups: str
) -> None:
    if name == "alfworld":
        pytest.importorskip("textworld")
    monkeypatch.setenv("MASA_DATA", str(shared_data))
    done = CliRunner().invoke(command, [f"{name}-qwen3-4b", "-o", str(tmp_path / "run"), "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["groups"][groups]["candidates"] == told["groups"][GENERAL]["candidates"] == 10
    assert told["groups"][GENERAL]["episodes"] == 100 + 10 * (100 + 30)
    settings = load_evolve(f"{name}-qwen3-4b")
    assert settings.accept.acceptance().name == "strict" and settings.exploration == 1.4 and settings.shown == 5


@pytest.mark.parametrize("name", ["alfworld", "webshop", "search"])
def test_the_paper_s_experiments_run_two_rounds_against_servers(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "alfworld":
        pytest.importorskip("textworld")
    monkeypatch.setenv("MASA_DATA", str(shared_data))
    monkeypatch.setenv("DEEPSEEK_API_KEY", "key")
    server = Server(stepwise, Answer({"object": "list", "data": []}))
    few = ["rounds=2", "iterations=2", "accept.pairs=4", "watched=2", "test_tasks=3", "options.max_steps=2"]
    addresses = [
        f"backbone.spec=openai:{server.url}#Qwen/Qwen3-4B",
        f"teacher.model=openai:{server.url}#deepseek-v4-pro",
    ]
    arguments = [part for override in (*few, *addresses) for part in ("--set", override)]
    try:
        done = CliRunner().invoke(command, [f"{name}-qwen3-4b", "-o", str(tmp_path / "run"), "--json", *arguments])
    finally:
        server.close()
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["ended"] == "" and Path(told["report"]).is_file()
    assert {its["proposals"] for its in told["searches"].values()} == {2}
    played = [body for body in server.requests if body["model"] == "Qwen/Qwen3-4B"]
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in played)
    assert any(body["model"] == "deepseek-v4-pro" for body in server.requests)


class Cluster:
    """Stands in for the package ray: how often it was joined and left."""

    def __init__(self, *, joined: bool = False, there: bool = True) -> None:
        self.joined, self.there = joined, there
        self.calls: list[str] = []

    def is_initialized(self) -> bool:
        return self.joined

    def init(self, **options: Any) -> None:
        if not self.there:
            raise ConnectionError("refused")
        self.calls.append(f"init {options['address']}")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def test_trees_on_ray_share_one_connection_that_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = Cluster(), Cluster(joined=True)
    monkeypatch.setitem(sys.modules, "ray", ours)
    with held(Ray("ray://head:10001")):
        assert ours.calls == ["init ray://head:10001"]
    assert ours.calls[1:] == ["shutdown"]
    monkeypatch.setitem(sys.modules, "ray", theirs)
    with held(Ray()), held(Processes(2)), held(None):
        assert theirs.calls == []
    assert theirs.calls == [], "a connection that was there before stays"
    monkeypatch.setitem(sys.modules, "ray", Cluster(there=False))
    with pytest.raises(TrainingError, match="no cluster at head"), held(Ray("head")):
        pass
