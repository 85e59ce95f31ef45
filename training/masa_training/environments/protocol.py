"""What an environment is: tasks by split and type, and episodes that are reset by seed and advance by one action.

An environment object plays one episode at a time and shares no state with any other object, so that as many run side
by side as there are objects. It is made anew in every worker process from its name and options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from masa.facts import Facts

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""Tasks whose episodes the teacher may see, tasks that decide on a candidate, and tasks that are touched once."""


@dataclass(frozen=True, slots=True)
class Task:
    """One problem of an environment.

    Attributes:
        id: unique in the environment, the same on every machine; it names the task in events.
        type: the task type, as skill banks name it.
        goal: what the agent is told to achieve.
        split: the split it belongs to.
        payload: what the environment needs to set the task up, JSON values only.
        tools: names of the environment's tools that the agent is told for it; empty where it is told all.
    """

    id: str
    type: str
    goal: str
    split: Split
    payload: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What the environment answers to an action, or to `reset`.

    Attributes:
        observation: what the agent reads.
        reward: of the episode so far, from 0 to 1; environments without partial success have 0 and 1 only.
        done: whether the episode has ended, by success or otherwise; the step limit is not the environment's.
        success: whether the goal is reached.
        changed: whether the action changed the state of the world or gave new information; False means that
            "nothing happened", which NHR counts. True after `reset`.
        valid: whether the environment understood the action.
        admissible: the actions that it would understand now, in a fixed order; None where they cannot be listed.
    """

    observation: str
    reward: float = 0.0
    done: bool = False
    success: bool = False
    changed: bool = True
    valid: bool = True
    admissible: tuple[str, ...] | None = None


class Environment(Protocol):
    """One episode at a time.

    Attributes:
        name: as users call it.
        description: what kind of world it is, for prompts: half a sentence.
        max_steps: actions after which an episode ends without success.
        task_types: all types of its tasks, in a fixed order.
    """

    name: str
    description: str
    max_steps: int
    task_types: tuple[str, ...]

    def tasks(self, split: Split) -> Sequence[Task]:
        """All tasks of a split in a fixed order, the same on every machine.

        Raises:
            TrainingError: if its data are missing; the message says which download or setting brings them.
        """
        ...

    def facts(self) -> Facts:
        """The action forms and rules of the interface, generated, never written for one task."""
        ...

    def reset(self, task: Task, seed: int) -> Step:
        """Begin an episode, whatever went before. The same task and seed give the same episode.

        Raises:
            TrainingError: if the task cannot be set up.
        """
        ...

    def step(self, action: str) -> Step:
        """Take one action. An action that is not understood is answered, never raised."""
        ...

    def close(self) -> None:
        """Release what the environment holds. Calling it twice is allowed."""
        ...


class HasTools(Protocol):
    """An environment whose actions are calls of tools. Agents are told them, and write calls."""

    def tools(self) -> Sequence[Mapping[str, Any]]:
        """The tools, always the same, as `masa_training.environments.tool_calls` describes them."""
        ...


class Solvable(Protocol):
    """An environment that knows how its tasks are solved. Tests, instruments and worked examples need it."""

    def solution(self, task: Task, seed: int) -> Sequence[str]:
        """Actions that reach the goal, taken one after the other from `reset(task, seed)`."""
        ...
