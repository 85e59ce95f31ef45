"""What an instrument does: well where it trusts the skills it was shown, and a lapse where it does not."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from masa_training.environments import Environment, Step, Task
from masa_training.errors import TrainingError
from masa_training.instruments.config import World

MOST_LAPSES = 3
"""Lapses in a row after which an episode teaches nothing new."""


@dataclass(frozen=True, slots=True)
class Acted:
    """One turn: what was admissible, and what was taken of it."""

    action: str
    before: Step
    after: Step


def acting(environment: Environment, task: Task, seed: int, actions: Sequence[str]) -> Iterator[Acted]:
    """Take actions from a clean state, until they or the episode end.

    Raises:
        TrainingError: if one is not admissible, which an agent that chooses could not take.
    """
    step = environment.reset(task, seed)
    for action in actions[: environment.max_steps]:
        if step.done:
            return
        if step.admissible is None or action not in step.admissible:
            raise TrainingError(f"task {task.id}: {action!r} is not among the admissible actions")
        after = environment.step(action)
        yield Acted(action, step, after)
        step = after


def lapsing(environment: Environment, task: Task, seed: int, world: World, rng: random.Random) -> Iterator[Acted]:
    """The same kind of useless action again and again.

    Raises:
        TrainingError: if no admissible action begins as a lapse does.
    """
    step = environment.reset(task, seed)
    for _ in range(min(MOST_LAPSES, environment.max_steps)):
        if step.done:
            return
        lapses = [action for action in step.admissible or () if action.split()[0] == world.lapse]
        if not lapses:
            raise TrainingError(f"task {task.id}: no admissible action begins with {world.lapse!r}")
        action = rng.choice(lapses)
        after = environment.step(action)
        yield Acted(action, step, after)
        step = after


def walkthrough(environment: Environment, task: Task, seed: int, *, detours: bool) -> list[str]:
    """Actions that solve a task; with `detours` as one finds them who does not know where things are.

    A solver goes straight to the place of the object. One who cannot know looks into the places in the order in which
    they are listed, and takes the object as soon as it is seen. An environment that is no household says itself how
    (`uninformed_solution`).

    Raises:
        TrainingError: if the environment knows no solutions.
    """
    solve = getattr(environment, "solution", None)
    if solve is None:
        raise TrainingError(f"{environment.name}: knows no solutions, so nothing can be learned from them")
    if not detours:
        return list(solve(task, seed))
    if hasattr(environment, "uninformed_solution"):
        return list(environment.uninformed_solution(task, seed))
    solution = list(solve(task, seed))
    step = environment.reset(task, seed)
    wanted = next((" ".join(action.split()[1:2]) for action in solution if action.startswith("take ")), "")
    before: list[str] = []
    for place in [action for action in step.admissible or () if action.startswith("go to ")]:
        if place == solution[0]:
            break
        step = environment.step(place)
        before.append(place)
        opening = "open " + place.removeprefix("go to ")
        if opening in (step.admissible or ()):
            step = environment.step(opening)
            before.append(opening)
        if any(action.startswith(f"take {wanted} ") for action in step.admissible or ()):
            return solution  # the object is here too: a detour would teach to pass it by
    opened = {action for action in before if action.startswith("open ")}
    return [*before, *(action for action in solution if action not in opened)]
