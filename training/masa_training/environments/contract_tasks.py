"""What the contract says of an environment's description and tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from masa_training.environments.protocol import SPLITS, Environment, Split, Task
from masa_training.errors import TrainingError

Found = Callable[[str, str], None]
"""Notes a violation: the rule, and a sentence."""


def describes(first: Environment, found: Found) -> None:
    """Name, description, step limit and task types."""
    for attribute in ("name", "description"):
        value = getattr(first, attribute, None)
        if not isinstance(value, str) or not value.strip():
            found("description", f"{attribute} is {value!r}; it must be a text.")
    limit, types = getattr(first, "max_steps", None), getattr(first, "task_types", None)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        found("description", f"max_steps is {limit!r}; it must be a whole number of at least 1.")
    if not isinstance(types, tuple) or not types or len(set(types)) != len(types):
        found("description", f"task_types is {types!r}; it must be a tuple of different names.")


def tasks_by_split(first: Environment, second: Environment, found: Found) -> dict[Split, Sequence[Task]]:
    """All tasks of the first object, once they are compared with those of the second and with each other.

    Raises:
        TrainingError: as the environment raises it where its data are missing.
    """
    tasks: dict[Split, Sequence[Task]] = {}
    ids: dict[str, Split] = {}
    contents: dict[str, Task] = {}
    for split in SPLITS:
        try:
            tasks[split] = list(first.tasks(split))
            again = [list(first.tasks(split)), list(second.tasks(split))]
        except TrainingError:
            raise
        except Exception as error:
            found("tasks", f"tasks({split!r}) raises {type(error).__name__} ({error}).")
            continue
        if not tasks[split]:
            found("splits", f"The split {split} has no tasks.")
        if any(its != tasks[split] for its in again):
            found("tasks", f"tasks({split!r}) are not the same every time.")
        for task in tasks[split]:
            _complete(task, split, first, found)
            if task.id in ids:
                rule = "tasks" if ids[task.id] == split else "splits"
                found(rule, f"The id {task.id} occurs twice, in {ids[task.id]} and {split}.")
            ids[task.id] = split
            content = f"{task.type}\n{task.goal}\n{_json(task)}"
            other = contents.setdefault(content, task)
            if other.split != split:
                found("splits", f"{other.id} of {other.split} and {task.id} of {split} are the same task.")
    return tasks


def _complete(task: Task, split: Split, first: Environment, found: Found) -> None:
    if task.split != split:
        found("tasks", f"Task {task.id} of {split} says that its split is {task.split}.")
    if task.type not in first.task_types:
        found("tasks", f"Task {task.id} has the type {task.type!r}, which task_types does not list.")
    if not task.id or not task.goal.strip():
        found("tasks", f"Task {task.id!r} of {split} has no id or no goal.")
    if _json(task) is None:
        found("tasks", f"The payload of task {task.id} is not made of JSON values.")


def _json(task: Task) -> str | None:
    try:
        text = json.dumps(task.payload, sort_keys=True, allow_nan=False)
        return text if json.loads(text) == task.payload else None
    except (TypeError, ValueError):
        return None
