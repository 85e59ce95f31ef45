"""Playing episodes for the contract check: traces, the same trace again, and how two of them differ."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from masa_training.environments.protocol import Environment, Step, Task

NONSENSE = ("xyzzy 17", "", "   ", "\n\n", "]]}{<action>", "über \u0000 \U0001f600", "word " * 500)
"""Actions that no environment understands."""

_TEXT = 60


class BrokenError(Exception):
    """An environment raised where it must not; the message says what it was asked, `rule` what that violates."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Trace:
    """An episode that was played: `steps` has the answer to the reset, then one for each action."""

    task: Task
    seed: int
    actions: tuple[str, ...]
    steps: tuple[Step, ...]


def asked(rule: str, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call to the environment.

    Raises:
        BrokenError: for whatever it raises.
    """
    try:
        return call(*arguments)
    except Exception as error:
        raise BrokenError(rule, f"{what} raises {type(error).__name__} ({_short(str(error))})") from error


def begin(environment: Environment, task: Task, seed: int) -> Step:
    """The answer to a reset."""
    return _as_step("reset", "reset", asked("reset", "reset", environment.reset, task, seed))


def act(environment: Environment, action: str) -> Step:
    """The answer to an action."""
    rule, what = "nonsense" if action in NONSENSE else "steps", f"the action {_short(repr(action))}"
    return _as_step(rule, what, asked(rule, what, environment.step, action))


def _as_step(rule: str, what: str, answer: object) -> Step:
    if not isinstance(answer, Step):
        raise BrokenError(rule, f"{what} gives a {type(answer).__name__} instead of a Step")
    return answer


def play(
    environment: Environment, task: Task, seed: int, rng: random.Random, *, most: int, known: Sequence[str] = ()
) -> Trace:
    """An episode of at most `most` actions: some of a known way, then random ones, repetitions and nonsense."""
    steps = [begin(environment, task, seed)]
    actions: list[str] = []
    way = list(known[: rng.randint(0, len(known))])
    while not steps[-1].done and len(actions) < most:
        choices = steps[-1].admissible or tuple(known)
        luck = rng.random()
        if way and luck < 0.7:
            action = way.pop(0)
        elif actions and luck < 0.8:
            action = rng.choice(actions)
        elif choices and luck < 0.95:
            action = rng.choice(choices)
        else:
            action = rng.choice(NONSENSE)
        actions.append(action)
        steps.append(act(environment, action))
    return Trace(task, seed, tuple(actions), tuple(steps))


def replay(environment: Environment, trace: Trace) -> Trace:
    """The same actions again."""
    return follow(environment, trace.task, trace.seed, trace.actions)


def follow(environment: Environment, task: Task, seed: int, actions: Sequence[str]) -> Trace:
    """Given actions, until the episode ends."""
    steps = [begin(environment, task, seed)]
    taken = []
    for action in actions:
        if steps[-1].done:
            break
        taken.append(action)
        steps.append(act(environment, action))
    return Trace(task, seed, tuple(taken), tuple(steps))


def alternate(first: Environment, second: Environment, one: Trace, two: Trace) -> tuple[Trace, Trace]:
    """Two traces again, their actions taking turns."""
    mine, theirs = [begin(first, one.task, one.seed)], [begin(second, two.task, two.seed)]
    for number in range(max(len(one.actions), len(two.actions))):
        for environment, trace, steps in ((first, one, mine), (second, two, theirs)):
            if number < len(trace.actions) and not steps[-1].done:
                steps.append(act(environment, trace.actions[number]))
    return (
        Trace(one.task, one.seed, one.actions[: len(mine) - 1], tuple(mine)),
        Trace(two.task, two.seed, two.actions[: len(theirs) - 1], tuple(theirs)),
    )


def difference(first: Trace, second: Trace, *, ignore: Sequence[str] = ()) -> str:
    """Where two traces first differ, as half a sentence; empty if nowhere. Their actions are the same."""
    for number, (one, two) in enumerate(zip(first.steps, second.steps, strict=False)):
        where = f"after {_short(repr(first.actions[number - 1]))}" if number else "after reset"
        for field in fields(Step):
            mine, theirs = getattr(one, field.name), getattr(two, field.name)
            if field.name not in ignore and mine != theirs:
                return f"{field.name} {where} is {_short(repr(theirs))} instead of {_short(repr(mine))}"
    if len(first.steps) != len(second.steps):
        return f"the episode has {len(second.actions)} actions instead of {len(first.actions)}"
    return ""


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
