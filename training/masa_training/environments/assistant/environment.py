"""The environment `assistant`: requests of a device's user, met by one to five calls of tools."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from masa.facts import ActionForm, Facts
from masa_training.environments.assistant.device import APPS, TOOLS, Device
from masa_training.environments.assistant.requests import TASK_TYPES, make_requests
from masa_training.environments.changes import share_right
from masa_training.environments.protocol import Split, Step, Task
from masa_training.environments.tool_calls import Call, Tool, problem_of, read_call
from masa_training.errors import TrainingError


class Assistant:
    """Reminders, calendar, lights and heating, shopping lists, messages and notes, by tool calls.

    Which list, how a day or a time is written, what a word for a light means: such conventions of the user stand in
    skills alone. An episode succeeds when exactly what was asked for is so; it ends then, or after as many changes as
    were asked for. The reward is the share of values that are right. The seed of an episode changes nothing.
    """

    name = "assistant"
    description = "a device as the assistant of its user"
    max_steps = 7
    task_types = TASK_TYPES

    def __init__(self, *, seed: int = 0, difficulty: float = 0.1, tools: str = "app") -> None:
        """Requests made from `seed`.

        Args:
            difficulty: from 0 to 1, how often a request has each of the things that are hard: several changes at once,
                relative days, parts of the day, what is not said.
            tools: "app": the agent has the two to six tools that a request is about; "all": all ten.

        Raises:
            TrainingError: for an option out of its range.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise TrainingError(f"assistant: seed is {seed!r}; give a whole number from 0")
        if isinstance(difficulty, bool) or not isinstance(difficulty, int | float) or not 0 <= difficulty <= 1:
            raise TrainingError(f"assistant: difficulty is {difficulty!r}; give a number from 0 to 1")
        if tools not in ("app", "all"):
            raise TrainingError(f"assistant: tools is {tools!r}; give app or all")
        self._seed, self._difficulty, self._all = seed, float(difficulty), tools == "all"
        self._task: Task | None = None
        self._device = Device({})
        self._done = False

    def tasks(self, split: Split) -> Sequence[Task]:
        """100 of each type, the types taking turns. Splits share no name, no thing and no wording of a request."""
        return _tasks(self._seed, self._difficulty, self._all, split)

    def tools(self) -> Sequence[Tool]:
        """What can be called, as chat templates and servers take it."""
        return TOOLS

    def facts(self) -> Facts:
        """The tools as action forms, and the rules of an episode."""
        return Facts(
            environment=self.name,
            actions=tuple(_form(tool) for tool in TOOLS),
            rules=(
                "Every action is one call of a tool.",
                "What is asked for has to be so, and nothing else may change.",
                f"An episode ends after as many changes as were asked for, or after {self.max_steps} calls.",
            ),
        )

    def reset(self, task: Task, seed: int) -> Step:
        """Begin with nothing changed."""
        if "asked" not in task.payload or "stored" not in task.payload:
            raise TrainingError(f"task {task.id}: is not one of assistant; take tasks from the environment itself")
        self._task, self._done = task, False
        self._device = Device(task.payload["stored"])
        return Step(f"Today is {task.payload['today']}.")

    def step(self, action: str) -> Step:
        """One call, as JSON or written as in Python."""
        if self._task is None:
            raise RuntimeError("step before reset")
        if self._done:
            return self._answer("The episode has ended.", changed=False, valid=False)
        found = read_call(action)
        if found is None:
            return self._answer("Not understood. Answer with one call of a tool.", changed=False, valid=False)
        call, _ = found
        mine = [tool for tool in TOOLS if not self._task.tools or tool["function"]["name"] in self._task.tools]
        if problem := problem_of(call, mine):
            return self._answer(problem, changed=False, valid=False)
        told, changed = self._device.take(call)
        if told in ("Done.", "That is so already.") and self._device.count < len(self._task.payload["asked"]):
            told += " More was asked for."
        return self._answer(told, changed=changed)

    def solution(self, task: Task, seed: int) -> Sequence[str]:
        """Look up what is needed, then change what is asked for."""
        return [Call(call["name"], call["arguments"]).text for call in task.payload["calls"]]

    def close(self) -> None:
        """Forget the episode."""
        self._task = None

    def _answer(self, observation: str, *, changed: bool, valid: bool = True) -> Step:
        assert self._task is not None
        asked = [(record["name"], record["arguments"]) for record in self._task.payload["asked"]]
        reward = share_right(asked, self._device.changes)
        success = reward == 1
        self._done |= success or self._device.count >= len(asked)
        return Step(observation, reward=reward, done=self._done, success=success, changed=changed, valid=valid)


def _form(tool: Tool) -> ActionForm:
    function = tool["function"]
    parameters = function["parameters"]["properties"]
    slots = ", ".join(f"{name}={{{name}}}" for name in parameters)
    example = {
        name: wanted["enum"][0] if "enum" in wanted else 20 if wanted["type"] == "integer" else "this"
        for name, wanted in parameters.items()
    }
    return ActionForm(f"{function['name']}({slots})", function["description"], Call(function["name"], example).text)


@lru_cache(maxsize=12)
def _tasks(seed: int, difficulty: float, every_tool: bool, split: Split) -> tuple[Task, ...]:
    return tuple(
        Task(
            f"{split}-{number:03d}-{request.type}",
            request.type,
            request.text,
            split,
            request.payload(),
            () if every_tool else APPS[request.type],
        )
        for number, request in enumerate(make_requests(seed, difficulty, split))
    )
