"""The environment `template`: a corridor of rooms, one of which holds a lamp.

A working environment to start from; `masa env new NAME` copies it. Replace the world, keep the class. To make it known,
put this into the pyproject.toml of the package that brings it, and install the package:

    [project.entry-points."masa.environments"]
    template = "your_package.template:Template"

Then `masa env check template` plays it and says in what it breaks the contract; before that, give it the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from masa.facts import ActionForm, Facts
from masa_training.environments import Split, Step, Task

ROOMS = 6


class Template:
    """Everything that an episode changes lives in the object, so that many can play side by side."""

    name = "template"
    description = "a corridor of numbered rooms, one of which holds a lamp"
    max_steps = 8
    task_types = ("visit", "fetch")

    def __init__(self) -> None:
        """Options are keyword arguments here; users give them with --option KEY=VALUE."""
        self._task: Task | None = None
        self._room = 1
        self._holding = False
        self._seen: set[int] = set()
        self._done = False

    def tasks(self, split: Split) -> Sequence[Task]:
        """Generated here; read from files elsewhere. The same task must never be in two splits."""
        turn = ("train", "val", "test").index(split)
        tasks = []
        for number in range(turn, ROOMS * ROOMS, 3):
            lamp, target = number // ROOMS + 1, number % ROOMS + 1
            if target != 1:
                payload = {"lamp": lamp, "target": target}
                type_ = "visit" if lamp == target else "fetch"
                goal = f"Go to room {target}." if type_ == "visit" else f"Bring the lamp to room {target}."
                tasks.append(Task(f"{split}-{number}", type_, goal, split, payload))
        return tasks

    def facts(self) -> Facts:
        """What a newcomer has to know about the actions, true for every task."""
        return Facts(
            environment=self.name,
            actions=(
                ActionForm("go to room {number}", "walks there and looks around", "go to room 2"),
                ActionForm("take lamp", "picks up the lamp, where there is one", "take lamp"),
            ),
            rules=(f"There are {ROOMS} rooms.", "What you hold comes with you."),
        )

    def reset(self, task: Task, seed: int) -> Step:
        """Set everything that an episode changes. Where something is drawn, draw it from the seed."""
        self._task, self._room, self._holding, self._seen, self._done = task, 1, False, {1}, False
        return self._answer(self._look())

    def step(self, action: str) -> Step:
        """`changed` is True when the world is another one afterwards, or the agent learned something new."""
        if self._task is None:
            raise RuntimeError("step before reset")
        before = (self._room, self._holding, len(self._seen))
        if action not in self._actions():
            return self._answer("Nothing happens.", changed=False, valid=False)
        if action == "take lamp":
            found = self._room == self._task.payload["lamp"] and not self._holding
            self._holding |= found
            told = "You take the lamp." if found else "There is nothing to take."
        else:
            self._room = int(action.split()[-1])
            self._seen.add(self._room)
            told = self._look()
        self._done = self._room == self._task.payload["target"] and (self._task.type == "visit" or self._holding)
        return self._answer(told, changed=before != (self._room, self._holding, len(self._seen)))

    def solution(self, task: Task, seed: int) -> Sequence[str]:
        """Optional: how a task is solved. With it, the check knows that success can be reached."""
        fetch = [f"go to room {task.payload['lamp']}", "take lamp"] if task.type == "fetch" else []
        return [*fetch, f"go to room {task.payload['target']}"]

    def close(self) -> None:
        """Nothing to release."""

    def _actions(self) -> tuple[str, ...]:
        return (*(f"go to room {number}" for number in range(1, ROOMS + 1)), "take lamp")

    def _look(self) -> str:
        assert self._task is not None
        lamp = self._room == self._task.payload["lamp"] and not self._holding
        return f"You are in room {self._room}." + (" There is a lamp." if lamp else "")

    def _answer(self, observation: str, *, changed: bool = True, valid: bool = True) -> Step:
        return Step(
            observation,
            reward=float(self._done),
            done=self._done,
            success=self._done,
            changed=changed,
            valid=valid,
            admissible=self._actions(),
        )
