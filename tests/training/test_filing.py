"""The environment `filing`: its papers, its episodes, its reward."""

from __future__ import annotations

import hashlib
import json

import pytest

from masa_training.environments import SPLITS, Step, Task, open_environment
from masa_training.environments.contract import check_environment
from masa_training.environments.filing import Filing
from masa_training.environments.solutions import unsolved
from masa_training.errors import TrainingError
from masa_training.models.scripted import ScriptedModel
from masa_training.rollouts import Arm, Job, Player, WorkerSpec


@pytest.fixture
def world() -> Filing:
    return Filing()


def find(world: Filing, type_: str, commands: int = 1) -> Task:
    """The first task of a type that takes so many commands."""
    return next(t for t in world.tasks("val") if t.type == type_ and len(t.payload["commands"]) == commands)


def play(world: Filing, task: Task, *commands: str) -> Step:
    step = world.reset(task, 0)
    for command in commands:
        step = world.step(command)
    return step


def test_it_keeps_the_contract() -> None:
    assert check_environment("filing", episodes=12) == []


@pytest.mark.parametrize("difficulty", [0, 0.3, 1])
def test_every_task_is_solved(difficulty: float) -> None:
    world = Filing(difficulty=difficulty)
    goals = []
    for split in SPLITS:
        tasks = world.tasks(split)
        assert {t: sum(task.type == t for task in tasks) for t in world.task_types} == dict.fromkeys(
            world.task_types, 100
        )
        assert list(unsolved(world, tasks)) == []
        goals += [task.goal for task in tasks]
    assert len(set(goals)) == len(goals)


def test_tasks_are_the_same_on_every_machine(world: Filing) -> None:
    told = [[task.id, task.goal, dict(task.payload)] for split in SPLITS for task in world.tasks(split)]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    # Whoever changes the papers on purpose changes this; results before and after cannot be compared.
    assert digest[:16] == "affb63cdc7e42fe7"


def test_splits_share_no_firm_person_or_thing(world: Filing) -> None:
    named: list[set[str]] = []
    for split in SPLITS:
        commands = [c for task in world.tasks(split) for c in task.payload["commands"] if c.startswith("file")]
        parts = {part for command in commands for part in command.split()[2].split("_")}
        named.append({part for part in parts if part.isalpha()})
    assert sum(map(len, named)) == len(set().union(*named)) > 40


def test_harder_papers_take_more_commands() -> None:
    lengths = [sum(len(task.payload["commands"]) for task in Filing(difficulty=d).tasks("test")) for d in (0, 0.15, 1)]
    assert lengths == sorted(lengths) and lengths[0] == 600 and lengths[2] == 900


def test_the_reward_is_the_share_that_is_right(world: Filing) -> None:
    task = find(world, "bill")
    (command,) = task.payload["commands"]
    verb, drawer, name = command.split()
    assert play(world, task, command.upper()).success
    wrong = play(world, task, f"{verb} {drawer} other")
    assert (wrong.success, wrong.done, wrong.reward) == (False, True, 2 / 3)
    assert play(world, task, f"{verb} attic {name}").reward == 2 / 3
    assert play(world, task, "discard").reward == 0


def test_a_name_with_blanks_is_another_name(world: Filing) -> None:
    task = find(world, "letter")
    (command,) = task.payload["commands"]
    step = play(world, task, command.replace("_", " "))
    assert step.valid and step.reward == 2 / 3


def test_more_is_said_to_be_done_until_it_is(world: Filing) -> None:
    task = find(world, "post", 2)
    first, second = task.payload["commands"]
    assert "More" in play(world, task, first).observation
    again = world.step(first)
    assert (again.changed, again.valid, again.done) == (False, True, False)
    assert world.step(second).success
    assert play(world, task, second, first).success
    half = play(world, task, first, "label red")
    assert half.done and half.reward == 0.75


@pytest.mark.parametrize("action", ["", "file car", "file cellar x", "pass", "pass karl", "label pink", "discard it"])
def test_what_is_not_understood_changes_nothing_and_says_why(world: Filing, action: str) -> None:
    task = find(world, "advert")
    step = play(world, task, action)
    assert (step.valid, step.changed, step.done) == (False, False, False) and "discard" in step.observation


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": True}, {"difficulty": 2}, {"difficulty": "hard"}])
def test_options_out_of_range_are_one_sentence(options: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match="give a"):
        open_environment("filing", **options)


def test_foreign_tasks_are_refused(world: Filing) -> None:
    with pytest.raises(TrainingError, match="from the environment itself"):
        world.reset(Task("x", "bill", "?", "val"), 0)


def test_an_agent_is_told_the_commands_in_every_arm(world: Filing) -> None:
    model = ScriptedModel(lambda request: "<discard>")
    spec = WorkerSpec(environment="filing", split="val", model="", arms={"none": Arm(name="none")})
    jobs = [Job("none", task.id, 0) for task in world.tasks("val")[:12]]
    episodes = list(Player(spec, model=model, make_environment=Filing).play(jobs))
    told = model.seen[0].messages[0].content
    assert all(form.form in told and f"<action>{form.example}</action>" in told for form in world.facts().actions)
    assert all(episode.turns[0].action == "discard" and episode.turns[0].valid for episode in episodes)
