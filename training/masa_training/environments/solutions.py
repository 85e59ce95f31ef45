"""Playing what an environment says solves its tasks, and showing it as worked examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from masa.facts import Facts
from masa_training.environments.protocol import Environment, Task
from masa_training.errors import TrainingError


def unsolved(
    environment: Environment, tasks: Iterable[Task], *, seed: int = 0, progress: Callable[[Task], None] | None = None
) -> Iterator[tuple[Task, str]]:
    """The tasks whose solution does not succeed within the environment's step limit, and why not.

    Raises:
        TypeError: if the environment knows no solutions.
    """
    solution = getattr(environment, "solution", None)
    if solution is None:
        raise TypeError(f"{environment.name} knows no solutions")
    for task in tasks:
        actions = list(solution(task, seed))
        step = environment.reset(task, seed)
        for action in actions[: environment.max_steps]:
            if step.done:
                break
            step = environment.step(action)
        if not step.success:
            longer = f", of which {environment.max_steps} are allowed" if len(actions) > environment.max_steps else ""
            yield task, f"{len(actions)} actions{longer} end without success: {step.observation}"
        if progress:
            progress(task)


def first_of_each_type(tasks: Iterable[Task], each: int) -> list[Task]:
    """The first `each` tasks of every type."""
    taken: Counter[str] = Counter()
    first = []
    for task in tasks:
        if taken[task.type] < each:
            taken[task.type] += 1
            first.append(task)
    return first


def facts_with_examples(environment: Environment, each: int) -> Facts:
    """The facts of the environment, with the first `each` tasks of every type of the split `train` solved as worked
    examples: the request, the actions, and what these showed. For 0 the facts are as they are.

    Raises:
        TrainingError: if examples are wanted of an environment that knows no solutions.
    """
    facts = environment.facts()
    if not each:
        return facts
    solution = getattr(environment, "solution", None)
    if solution is None:
        raise TrainingError(f"{environment.name}: knows no solutions, so it has no worked examples; leave them out")
    examples = []
    for task in first_of_each_type(environment.tasks("train"), each):
        actions = list(solution(task, 0))
        lines = [f"Request: {task.goal} ({environment.reset(task, 0).observation})"]
        for place, action in enumerate(actions, start=1):
            step = environment.step(action)
            lines.append(action)
            if place < len(actions) and step.observation:
                lines.append(f"-> {step.observation}")
        examples.append("\n".join(lines))
    return replace(facts, examples=tuple(examples))
