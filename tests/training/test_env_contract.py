"""The contract check: it passes what is right, and names each way in which an environment is wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from masa.facts import Facts
from masa_training.environments import Split, Step, Task
from masa_training.environments.contract import RULES, check_environment, check_made
from masa_training.environments.template import Template
from masa_training.errors import TrainingError


def test_the_template_keeps_the_contract() -> None:
    for seed in range(3):
        assert check_made(Template, episodes=8, seed=seed) == []


def test_lookup_keeps_the_contract() -> None:
    seen: list[tuple[int, int]] = []
    found = check_environment(
        "lookup", {"size": 60}, episodes=2, progress=lambda done, total: seen.append((done, total))
    )
    assert found == []
    assert seen == [(number, 2) for number in range(3)]


def test_an_unknown_environment_is_the_users_mistake() -> None:
    with pytest.raises(TrainingError, match="did you mean lookup"):
        check_environment("lokup")


class NoName(Template):
    name = ""


class NoLimit(Template):
    max_steps = 0


class TypesAsList(Template):
    task_types = ["visit", "fetch"]  # noqa: RUF012


class SameIdTwice(Template):
    def tasks(self, split: Split) -> Sequence[Task]:
        return [replace(task, id=f"{split}-same") for task in super().tasks(split)]


class TasksOfTrainInTest(Template):
    def tasks(self, split: Split) -> Sequence[Task]:
        if split != "test":
            return super().tasks(split)
        return [replace(task, id=f"again-{task.id}", split="test") for task in super().tasks("train")]


class EmptySplit(Template):
    def tasks(self, split: Split) -> Sequence[Task]:
        return [] if split == "val" else super().tasks(split)


class UnknownType(Template):
    task_types = ("visit", "carry")


class WrongSplit(Template):
    def tasks(self, split: Split) -> Sequence[Task]:
        return [replace(task, split="train") for task in super().tasks(split)]


class PayloadThatIsNoJson(Template):
    def tasks(self, split: Split) -> Sequence[Task]:
        return [replace(task, payload={**task.payload, "rooms": (1, 2)}) for task in super().tasks(split)]


class TasksInAnotherOrderEachTime(Template):
    turn = itertools.count()

    def tasks(self, split: Split) -> Sequence[Task]:
        return list(super().tasks(split))[:: 1 if next(self.turn) % 2 else -1]


class TasksThatRaise(Template):
    def tasks(self, split: Split) -> Sequence[Task]:
        raise OSError("disk")


class NoFacts(Template):
    def facts(self) -> Facts:
        return Facts(environment=self.name)


class KeepsTheLamp(Template):
    def reset(self, task: Task, seed: int) -> Step:
        holding = self._holding
        super().reset(task, seed)
        self._holding = holding
        return self._answer(self._look())


class BeginsWithReward(Template):
    def reset(self, task: Task, seed: int) -> Step:
        return replace(super().reset(task, seed), reward=0.5)


class ResetThatRaises(Template):
    def reset(self, task: Task, seed: int) -> Step:
        raise KeyError("lamp")


class StepsAsInGym(Template):
    def step(self, action: str) -> Any:
        step = super().step(action)
        return step.observation, step.reward, step.done, {}


class CountsAllSteps(Template):
    count = 0

    def step(self, action: str) -> Step:
        self.count += 1
        step = super().step(action)
        return replace(step, observation=f"{self.count}: {step.observation}")


class DependsOnTheObject(Template):
    made = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.made)

    def step(self, action: str) -> Step:
        step = super().step(action)
        return replace(step, observation=f"{step.observation} Lamp {self.number}.")


class OneRoomForAll(Template):
    shared: ClassVar[dict[str, int]] = {"room": 1}

    @property
    def _room(self) -> int:
        return self.shared["room"]

    @_room.setter
    def _room(self, value: int) -> None:
        self.shared["room"] = value


class GenerousReward(Template):
    def step(self, action: str) -> Step:
        step = super().step(action)
        return replace(step, reward=2.0 * step.reward)


class SuccessThatGoesOn(Template):
    def step(self, action: str) -> Step:
        return replace(super().step(action), done=False)


class OffersTooMuch(Template):
    def _answer(self, observation: str, *, changed: bool = True, valid: bool = True) -> Step:
        step = super()._answer(observation, changed=changed, valid=valid)
        return replace(step, admissible=(*(step.admissible or ()), "fly", "fly home"))


class OffersTwice(Template):
    def _actions(self) -> tuple[str, ...]:
        return (*super()._actions(), "take lamp")


class RaisesOnNonsense(Template):
    def step(self, action: str) -> Step:
        if action in self._actions():
            return super().step(action)
        raise ValueError("what?")


class UnderstandsEverything(Template):
    def step(self, action: str) -> Step:
        return replace(super().step(action), valid=True)


class NonsenseMoves(Template):
    def step(self, action: str) -> Step:
        step = super().step(action)
        if not step.valid:
            self._holding = True
        return step


class AlwaysChanged(Template):
    def step(self, action: str) -> Step:
        step = super().step(action)
        return replace(step, changed=step.valid)


class NeverChanged(Template):
    def step(self, action: str) -> Step:
        return replace(super().step(action), changed=False)


class TakingIsNoChange(Template):
    def step(self, action: str) -> Step:
        step = super().step(action)
        return replace(step, changed=step.changed and action != "take lamp")


class NeverSucceeds(Template):
    solution = None

    def step(self, action: str) -> Step:
        return replace(super().step(action), success=False, reward=0.0)


class SolutionThatFails(Template):
    def solution(self, task: Task, seed: int) -> Sequence[str]:
        return ["take lamp"]


class SolutionThatIsTooLong(Template):
    max_steps = 2


class NonsenseWins(Template):
    def step(self, action: str) -> Step:
        return replace(super().step(action), success=True, done=True)


class ClosesOnce(Template):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed")
        self.closed = True


class ClosesAll(Template):
    open = {"yes": True}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.open["yes"] = True

    def reset(self, task: Task, seed: int) -> Step:
        if not self.open["yes"]:
            raise RuntimeError("closed")
        return super().reset(task, seed)

    def close(self) -> None:
        self.open["yes"] = False


@pytest.mark.parametrize(
    ("broken", "rule", "words"),
    [
        (NoName, "description", "name is ''"),
        (NoLimit, "description", "max_steps is 0"),
        (TypesAsList, "description", "must be a tuple"),
        (SameIdTwice, "tasks", "train-same occurs twice"),
        (TasksOfTrainInTest, "splits", "are the same task"),
        (EmptySplit, "splits", "The split val has no tasks"),
        (UnknownType, "tasks", "the type 'fetch', which task_types does not list"),
        (WrongSplit, "tasks", "says that its split is train"),
        (PayloadThatIsNoJson, "tasks", "not made of JSON values"),
        (TasksInAnotherOrderEachTime, "tasks", "not the same every time"),
        (TasksThatRaise, "tasks", "raises OSError"),
        (NoFacts, "facts", "no action form"),
        (KeepsTheLamp, "reset", "by the object that just played it"),
        (BeginsWithReward, "reset", "begins with done, success or a reward"),
        (ResetThatRaises, "reset", "reset raises KeyError"),
        (StepsAsInGym, "steps", "gives a tuple instead of a Step"),
        (CountsAllSteps, "reset", "differs: observation after"),
        (DependsOnTheObject, "seeds", "by another object"),
        (OneRoomForAll, "separate", "while another object plays"),
        (GenerousReward, "steps", "The reward is 2.0"),
        (SuccessThatGoesOn, "steps", "the episode is not done"),
        (OffersTooMuch, "admissible", "which is then not understood"),
        (OffersTwice, "admissible", "or one twice"),
        (RaisesOnNonsense, "nonsense", "raises ValueError (what?)"),
        (UnderstandsEverything, "nonsense", "is called valid"),
        (NonsenseMoves, "nonsense", "is answered otherwise after nonsense"),
        (AlwaysChanged, "changed", "the same answer again and again"),
        (NeverChanged, "changed", "No action ever changed anything"),
        (TakingIsNoChange, "changed", "without the actions that changed nothing"),
        (NeverSucceeds, "success", "No episode of 8 was a success"),
        (SolutionThatFails, "success", "does not reach success"),
        (SolutionThatIsTooLong, "success", "more than the limit of 2"),
        (NonsenseWins, "success", "Nonsense alone is a success"),
        (ClosesOnce, "close", "close() raises RuntimeError"),
        (ClosesAll, "close", "reset raises RuntimeError"),
    ],
)
def test_each_violation_is_told_in_a_sentence(broken: Callable[[], Template], rule: str, words: str) -> None:
    findings = check_made(broken, episodes=8)
    assert any(words in finding.sentence for finding in findings if finding.rule == rule), findings
    assert all(finding.rule in RULES and finding.sentence.endswith(".") for finding in findings)
    assert [list(RULES).index(finding.rule) for finding in findings] == sorted(
        list(RULES).index(finding.rule) for finding in findings
    )
    assert max(sum(its.rule == one for its in findings) for one in RULES) <= 3


def test_missing_data_are_told_as_they_are() -> None:
    class WithoutData(Template):
        def tasks(self, split: Split) -> Sequence[Task]:
            raise TrainingError("bring the data")

    with pytest.raises(TrainingError, match="bring the data"):
        check_made(WithoutData)
