"""Playing what an environment says solves its tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from masa_training.environments.protocol import Environment, Task


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
