"""The contract of an environment, checked from outside: what every part of masa that plays episodes relies on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from masa.facts import Facts
from masa_training.environments.protocol import SPLITS, Environment, Split, Step, Task
from masa_training.environments.registry import open_environment
from masa_training.errors import TrainingError

RULES: Mapping[str, str] = {
    "description": "It has a name, a description, a step limit and task types.",
    "tasks": "Tasks are complete, unique and the same every time.",
    "splits": "No task is in two splits, and no split is empty.",
    "facts": "The interface facts name at least one action form.",
    "reset": "A reset begins a clean episode, whatever went before.",
    "seeds": "The same task, seed and actions give the same episode.",
    "separate": "Objects side by side share nothing.",
    "steps": "Every step is consistent: reward from 0 to 1, success ends the episode.",
    "admissible": "Every admissible action is understood.",
    "nonsense": "Nonsense is answered, not understood, and changes nothing.",
    "changed": "`changed` is False when nothing happened, and only then.",
    "success": "Success can be reached within the step limit, and can be missed.",
    "close": "Closing twice is allowed and leaves other objects alone.",
}
"""What is checked, in this order."""

_LONGEST = 15
_TRIED = 5
_PER_RULE = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation: the rule of `RULES`, and a sentence that says what was seen."""

    rule: str
    sentence: str


def check_environment(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    episodes: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Every violation that `episodes` episodes of the environment called `name` bring to light.

    Raises:
        TrainingError: for an unknown name, options that do not fit, or missing data.
        MissingExtraError: if the environment needs an extra that is not installed.
    """
    chosen = dict(options or {})
    return check_made(lambda: open_environment(name, **chosen), episodes=episodes, seed=seed, progress=progress)


def check_made(
    make: Callable[[], Environment],
    *,
    episodes: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """As `check_environment`, for whatever `make` makes: a new object each time."""
    check = _Check(make(), make(), random.Random(seed), episodes)
    try:
        return check.run(progress or (lambda done, total: None))
    finally:
        for environment in (check.first, check.second):
            try:
                environment.close()
            except Exception:
                continue  # `close` was checked already; here it only cleans up


class _Check:
    """Two objects of an environment, and what was found so far."""

    def __init__(self, first: Environment, second: Environment, rng: random.Random, episodes: int) -> None:
        self.first, self.second = first, second
        self._rng = rng
        self._episodes = episodes
        self._findings: list[Finding] = []
        self._examples: tuple[str, ...] = ()
        self._changed = self._succeeded = self._missed = False

    def run(self, progress: Callable[[int, int], None]) -> list[Finding]:
        describes(self.first, self._found)
        if self._findings:
            return self._findings  # everything else builds on these
        tasks = tasks_by_split(self.first, self.second, self._found)
        self._facts()
        chosen = self._choose(tasks)
        done: list[Trace] = []
        for number, task in enumerate(chosen):
            progress(number, len(chosen))
            try:
                done.append(self._episode(task, done[-1] if done else None))
            except BrokenError as error:
                self._found(error.rule, f"In task {task.id}, {error}.")
        if done:
            self._over_all(done)
        progress(len(chosen), len(chosen))
        self._closes(done)
        order = list(RULES)
        return sorted(self._findings, key=lambda finding: order.index(finding.rule))

    def _found(self, rule: str, sentence: str) -> None:
        finding = Finding(rule, sentence)
        if finding not in self._findings and sum(its.rule == rule for its in self._findings) < _PER_RULE:
            self._findings.append(finding)

    def _facts(self) -> None:
        try:
            facts = asked("facts", "facts()", self.first.facts)
        except BrokenError as error:
            self._found("facts", f"{error}.")
            return
        if not isinstance(facts, Facts) or not facts.actions:
            self._found("facts", "facts() names no action form.")
        else:
            self._examples = tuple(form.example for form in facts.actions if form.example)

    def _choose(self, tasks: Mapping[Split, Sequence[Task]]) -> list[Task]:
        """Tasks of different types and splits first."""
        several = [task for its in tasks.values() for task in its]
        self._rng.shuffle(several)
        seen: dict[tuple[str, str], int] = {}
        turns = []
        for task in several:
            key = (task.type, task.split)
            turns.append(seen.get(key, 0))
            seen[key] = turns[-1] + 1
        order = sorted(range(len(several)), key=lambda number: turns[number])
        return [several[number] for number in order[: self._episodes]]

    def _known(self, task: Task, seed: int) -> Sequence[str]:
        solution = getattr(self.first, "solution", None)
        return list(asked("success", "solution", solution, task, seed)) if solution else ()

    def _episode(self, task: Task, before: Trace | None) -> Trace:
        """One task: played, and played again in every way that must make no difference."""
        seed = self._rng.randrange(1000)
        known = self._known(task, seed)
        # Without a list of actions or a solution, the examples of the facts are all that can be tried.
        usual = known or self._examples
        most = min(self.first.max_steps, _LONGEST)
        trace = play(self.first, task, seed, self._rng, most=most, known=usual)
        self._consistent(trace)
        self._same("reset", trace, replay(self.first, trace), "played again by the object that just played it")
        self._same("seeds", trace, replay(self.second, trace), "played again by another object")
        if before is not None:
            mine, theirs = alternate(self.first, self.second, trace, before)
            told = "played while another object plays another task"
            self._same("separate", trace, mine, told)
            self._same("separate", before, theirs, told)
        self._without_idle(trace)
        for length in {0, len(trace.actions) // 2}:
            self._tried(trace, length, usual)
        self._nonsense(trace)
        self._solved(task, seed, known)
        self._missed_by_nonsense(task, seed)
        return trace

    def _consistent(self, trace: Trace) -> None:
        start = trace.steps[0]
        if start.done or start.success or start.reward or not start.changed or not start.valid:
            self._found(
                "reset", f"Task {trace.task.id} begins with done, success or a reward, or not changed and valid."
            )
        if not start.observation.strip():
            self._found("reset", f"Task {trace.task.id} begins with an empty observation.")
        for action, step in zip(("reset", *trace.actions), trace.steps, strict=True):
            told = f"in task {trace.task.id}, after {action[:60]!r}"
            if not 0 <= step.reward <= 1:
                self._found("steps", f"The reward is {step.reward} {told}; it must lie between 0 and 1.")
            if step.success and not step.done:
                self._found("steps", f"Success is reached {told}, but the episode is not done.")
            if not step.valid and step.changed:
                self._found("steps", f"The action is not understood {told}, but changed is True.")
        self._changed |= any(step.changed for step in trace.steps[1:])
        self._succeeded |= any(step.success for step in trace.steps)

    def _same(self, rule: str, trace: Trace, other: Trace, told: str, *, ignore: Sequence[str] = ()) -> None:
        found = difference(trace, other, ignore=ignore)
        if found:
            self._found(rule, f"Task {trace.task.id} with seed {trace.seed}, {told}, differs: {found}.")

    def _without_idle(self, trace: Trace) -> None:
        """Actions that changed nothing, left out, must not be missed."""
        kept = [number for number, step in enumerate(trace.steps) if number == 0 or step.changed]
        if len(kept) == len(trace.steps):
            return
        actions = [trace.actions[number - 1] for number in kept[1:]]
        expected = Trace(trace.task, trace.seed, tuple(actions), tuple(trace.steps[number] for number in kept))
        shorter = follow(self.second, trace.task, trace.seed, actions)
        told = "played without the actions that changed nothing"
        # The list of actions may recall what was looked at last.
        self._same("changed", expected, shorter, told, ignore=("admissible",))

    def _tried(self, trace: Trace, length: int, usual: Sequence[str]) -> None:
        """Some actions after the first `length` of a trace, each taken three times in a row."""
        task, before = trace.task, trace.actions[:length]
        offered = trace.steps[length].admissible
        if trace.steps[length].done:
            return
        if offered is not None and (not offered or len(set(offered)) != len(offered)):
            self._found("admissible", f"Task {task.id} offers no action, or one twice, after {length} actions.")
        choices = tuple(usual) if offered is None else offered
        for action in self._rng.sample(choices, min(_TRIED, len(choices))):
            follow(self.second, task, trace.seed, before)
            answers = [act(self.second, action)]
            if offered is not None and not answers[0].valid:
                self._found("admissible", f"Task {task.id} offers {action!r}, which is then not understood.")
            while not answers[-1].done and len(answers) < 3:
                answers.append(act(self.second, action))
            # Who gets the same answer again and again has neither changed anything nor learned anything.
            if len(answers) == 3 and not answers[2].done and answers[2] == answers[1] and answers[2].changed:
                told = f"In task {task.id}, {action!r} gives the same answer again and again, but changed is True."
                self._found("changed", told)

    def _nonsense(self, trace: Trace) -> None:
        """At the start of the episode: what it answers, and that the episode goes on as if nothing had been."""
        follow(self.second, trace.task, trace.seed, ())
        for action in NONSENSE:
            step = act(self.second, action)
            if step.valid or step.changed or step.done:
                self._found("nonsense", f"{action[:20]!r} is called valid, changed something or ended the episode.")
                return
        if trace.actions:
            after, expected = act(self.second, trace.actions[0]), trace.steps[1]
            if (after.observation, after.success) != (expected.observation, expected.success):
                told = f"In task {trace.task.id}, {trace.actions[0][:60]!r} is answered otherwise after nonsense."
                self._found("nonsense", told)

    def _solved(self, task: Task, seed: int, known: Sequence[str]) -> None:
        if not known:
            return
        trace = follow(self.second, task, seed, known)
        end = trace.steps[-1]
        self._succeeded |= end.success
        if not end.success:
            self._found("success", f"The solution of task {task.id} does not reach success.")
        elif len(trace.actions) > self.second.max_steps:
            self._found(
                "success",
                f"The solution of task {task.id} takes {len(trace.actions)} actions, more than the limit of "
                f"{self.second.max_steps}.",
            )
        self._without_idle(trace)
        if not all(step.valid for step in trace.steps):
            self._found("success", f"The solution of task {task.id} has an action that is not understood.")

    def _missed_by_nonsense(self, task: Task, seed: int) -> None:
        step: Step = begin(self.second, task, seed)
        for _ in range(min(self.second.max_steps, _LONGEST)):
            if step.done:
                break
            step = act(self.second, NONSENSE[0])
        self._missed |= not step.success

    def _over_all(self, done: Sequence[Trace]) -> None:
        if not self._succeeded:
            self._found(
                "success",
                f"No episode of {len(done)} was a success; add a method solution(task, seed), or check more episodes.",
            )
        if not self._missed:
            self._found("success", "Nonsense alone is a success in every task.")
        if not self._changed:
            self._found("changed", "No action ever changed anything.")

    def _closes(self, done: Sequence[Trace]) -> None:
        try:
            for _ in range(2):
                asked("close", "close()", self.first.close)
            if done:
                self._same("close", done[-1], replay(self.second, done[-1]), "played after another object was closed")
        except BrokenError as error:
            self._found("close", f"{error}.")


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
