"""Searches that decide on the environment's reward, where success is out of reach."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from masa_training.environments import SPLITS
from masa_training.environments.assistant import Assistant
from masa_training.environments.tool_calls import Call
from masa_training.evolution.playing import FeedbackNoise
from masa_training.evolution.run import evolve
from masa_training.evolution.run_log import Played
from masa_training.models import ModelError, Reply, Request
from masa_training.rollouts import Episode, Job
from tests.training.test_evolution import config, events


class Clerk:
    """A backbone that never finds the right list, and writes the day right where its skills are numbered steps."""

    name = "clerk"
    concurrency = 8

    def __init__(self) -> None:
        world = Assistant()
        self._asked = {task.goal: task.payload["calls"][-1] for split in SPLITS for task in world.tasks(split)}

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        return [Reply(self._call(request), 100, 20, 0, 0.0) for request in requests]

    def _call(self, request: Request) -> str:
        goal = request.messages[1].content.rpartition("Task: ")[2].partition("\n")[0]
        wanted: dict[str, Any] = self._asked[goal]
        numbered = re.search(r"^1\. ", request.messages[1].content, re.MULTILINE)
        wrong = {"list": "white"} if numbered else {"list": "white", "day": "Someday"}
        return Call(wanted["name"], {**wanted["arguments"], **wrong}).text

    def close(self) -> None:
        pass


@pytest.mark.parametrize("score", ["success", "reward"])
def test_a_search_finds_by_the_reward_what_success_does_not_show(score: str, tmp_path: Path) -> None:
    settings = config(
        tmp_path / "c.yaml",
        environment="assistant",
        options={},
        bank="assistant/moderate",
        agent={},
        score=score,
        rounds=0,
        iterations=4,
        task_types=["reminder"],
        accept={"pairs": 20},
        test_tasks=12,
    )
    evolve(settings, tmp_path / "run", model=Clerk())
    found = events(tmp_path / "run")
    (best,) = (event["best"] for event in found if event["event"] == "ended")
    (test,) = (event for event in found if event["event"] == "test")
    assert not any(event["success"] for event in found if event["event"] == "episode")
    assert (best != 0) == (score == "reward")
    assert test["score"] == score


def test_noise_turns_the_reward_round_with_the_success() -> None:
    episode = Episode(job=Job("a", "t", 0), task_type="x", outcome="finished", reward=0.25)
    told = FeedbackNoise(1.0, 0).told(Played("a", "val", "t", 0), episode)
    assert told.success and told.reward == 0.75
