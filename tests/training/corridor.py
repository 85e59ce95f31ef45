"""A world and a model for tests: a corridor, and a walker that knows the way, or does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from masa.facts import ActionForm, Facts
from masa_training.environments import Split, Step, Task
from masa_training.environments.worker import EnvironmentLostError
from masa_training.models import ModelError, Reply, Request

ACTIONS = ("go left", "go right", "wait")


class Corridor:
    """Rooms in a row; the goal is the last one. Tasks `short-N` have two rooms to go, tasks `long-N` three."""

    name = "corridor"
    description = "a corridor of rooms"
    max_steps = 6
    task_types: tuple[str, ...] = ("short", "long")

    def __init__(self, lose: Callable[[Task], bool] = lambda task: False) -> None:
        self._lose = lose
        self._place = self._goal = 0
        self.closed = False

    def tasks(self, split: Split) -> Sequence[Task]:
        return [
            Task(f"{kind}-{number}", kind, "Reach the last room.", split, {"rooms": rooms})
            for number in range(4)
            for kind, rooms in (("short", 2), ("long", 3))
        ]

    def facts(self) -> Facts:
        return Facts("corridor", tuple(ActionForm(action) for action in ACTIONS), ("Walls do not move.",))

    def reset(self, task: Task, seed: int) -> Step:
        self._task = task
        self._place, self._goal = 0, int(task.payload["rooms"])
        return self._told(changed=True, valid=True)

    def step(self, action: str) -> Step:
        if self._lose(self._task):
            raise EnvironmentLostError("the corridor is gone")
        before = self._place
        self._place += {"go right": 1, "go left": -1}.get(action, 0)
        self._place = max(0, self._place)
        return self._told(changed=self._place != before, valid=action in ACTIONS)

    def close(self) -> None:
        self.closed = True

    def _told(self, *, changed: bool, valid: bool) -> Step:
        there = self._place == self._goal
        return Step(f"You are in room {self._place}.", float(there), there, there, changed, valid, ACTIONS)


class Walker:
    """A model that answers with what `decide` says, or fails with it."""

    name = "walker"

    def __init__(self, decide: Callable[[Request], str | ModelError], *, concurrency: int = 3) -> None:
        self._decide = decide
        self.concurrency = concurrency
        self.asked: list[Request] = []
        self.batches: list[int] = []
        self.closed = False

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        self.batches.append(len(requests))
        self.asked += requests
        return [self._one(request) for request in requests]

    def close(self) -> None:
        self.closed = True

    def _one(self, request: Request) -> Reply | ModelError:
        said = self._decide(request)
        if isinstance(said, ModelError):
            return said
        return Reply(
            text=said,
            prompt_tokens=10,
            completion_tokens=2,
            cached_tokens=0,
            seconds=0.0,
            scores=None,
            finish="stop",
        )
