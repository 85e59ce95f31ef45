"""Executors: the same episodes wherever they are played, and a killed worker loses none."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from masa.skills import Skill, SkillBank
from masa_training.agents import AgentConfig
from masa_training.environments import open_environment
from masa_training.errors import TrainingError
from masa_training.rollouts import Arm, Episode, Job, WorkerSpec
from masa_training.rollouts.executors import Executor, InProcess, Processes, Ray, make_executor

SPEC = WorkerSpec(
    environment="lookup",
    options={"size": 60},
    split="val",
    model="",
    arms={"random": Arm(name="random", random=True)},
    slots=4,
)


def jobs(count: int = 24) -> list[Job]:
    tasks = open_environment("lookup", size=60).tasks("val")[:count]
    return [Job("random", task.id, seed) for task in tasks for seed in (0, 1)]


def played(executor: Executor, some: Sequence[Job]) -> dict[Job, tuple[bool, tuple[object, ...], str]]:
    episodes = list(executor.run(SPEC, some, cancel=lambda: False))
    assert len({e.job for e in episodes}) == len(episodes)
    return {e.job: (e.success, e.turns, e.outcome) for e in episodes}


def test_processes_give_the_same_episodes_as_this_process() -> None:
    some = jobs()
    assert played(Processes(2), some) == played(InProcess(), some)


def test_a_worker_killed_with_signal_9_loses_no_episode() -> None:
    some = jobs()
    found: list[Episode] = []
    running: Iterator[Episode] = Processes(2).run(SPEC, some, cancel=lambda: False)
    for episode in running:
        found.append(episode)
        if len(found) in (3, 4, 20):  # twice while others speak, for a killed one must not silence them
            victim = next(p for p in multiprocessing.active_children() if p.pid)
            os.kill(victim.pid or 0, signal.SIGKILL)
    assert sorted(e.job for e in found) == sorted(some)
    assert {e.outcome for e in found} == {"finished"}
    expected = played(InProcess(), some)
    assert {e.job: (e.success, e.turns, e.outcome) for e in found} == expected
    assert not multiprocessing.active_children()


def test_jobs_whose_workers_always_die_are_missing() -> None:
    some = jobs(2)
    found: list[Episode] = []
    running = Processes(1).run(replace(SPEC, attempts=1), some, cancel=lambda: False)
    for episode in running:
        found.append(episode)
        for victim in multiprocessing.active_children():
            os.kill(victim.pid or 0, signal.SIGKILL)
    assert sorted(e.job for e in found) == sorted(some)
    missing = [e for e in found if e.outcome == "missing"]
    assert all("exit code -9" in e.reason for e in missing)
    assert {e.outcome for e in found} <= {"finished", "missing"}


def test_workers_that_cannot_open_anything_say_why() -> None:
    spec = WorkerSpec(environment="lookup", options={"size": 1}, split="val", model="", arms=SPEC.arms)
    with pytest.raises(TrainingError, match="size"):
        list(Processes(2).run(spec, jobs(2), cancel=lambda: False))
    assert not multiprocessing.active_children()


def test_cancelling_leaves_no_process() -> None:
    found: list[Episode] = []
    for episode in Processes(2).run(SPEC, jobs(), cancel=lambda: len(found) >= 5):
        found.append(episode)
    assert 5 <= len(found) < len(jobs())
    assert not multiprocessing.active_children()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")
def test_a_local_ray_cluster_gives_the_same_episodes_as_this_process() -> None:
    some = jobs(6)
    try:
        episodes = played(Ray(count=2), some)
    except TrainingError as error:
        # Ray gives a raylet 30 fixed seconds to come up; a machine too slow for that says nothing about masa.
        if "timed out during startup" not in str(error):
            raise
        pytest.skip(f"this machine is too busy for Ray: {error}")
    assert episodes == played(InProcess(), some)


@pytest.mark.parametrize(("address", "attempts"), [("", 3), ("127.0.0.1:6379", 1)])
def test_a_local_ray_cluster_that_does_not_come_up_is_started_again(
    monkeypatch: pytest.MonkeyPatch, address: str, attempts: int
) -> None:
    starts: list[object] = []

    def init(**options: object) -> None:
        starts.append(options)
        raise Exception("The current node timed out during startup.")

    fake = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", fake)
    with pytest.raises(TrainingError, match=r"timed out during startup.*ray start --head"), Ray(address).connected():
        pass
    assert len(starts) == attempts


def test_executors_have_names() -> None:
    assert make_executor("in-process") == InProcess()
    assert make_executor("processes", workers=3) == Processes(3)
    assert make_executor("ray", address="auto") == Ray("auto")
    with pytest.raises(TrainingError, match="'threads'"):
        make_executor("threads")


def test_a_spec_can_go_to_another_process() -> None:
    import pickle

    bank = SkillBank((Skill("g1", "T", "Text."),), {})
    spec = WorkerSpec(
        environment="lookup", split="val", model="m", arms={"b": Arm(name="b", bank=bank)}, agent=AgentConfig(window=2)
    )
    assert pickle.loads(pickle.dumps(spec)) == spec
