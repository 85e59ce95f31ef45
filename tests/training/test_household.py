"""The environment `household`: generated games, whether they can be solved, and what counts as a change."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("textworld", reason='the extra alfworld is not installed: pip install "masa-skills[alfworld]"')
pytest.importorskip("alfworld", reason='the extra alfworld is not installed: pip install "masa-skills[alfworld]"')

from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.environments import SPLITS, Task
from masa_training.environments.alfworld_interface import domain
from masa_training.environments.contract import check_environment
from masa_training.environments.household import Household
from masa_training.environments.household_games import LAMP, generate, holds, problem
from masa_training.environments.solutions import unsolved
from masa_training.environments.textworld_compile import UnsolvableError, compiled
from masa_training.errors import TrainingError

TYPES = Household.task_types


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("games"))


@pytest.fixture
def small(cache: str) -> Iterator[Household]:
    household = Household(receptacles=2, objects=1, tasks=3, cache=cache)
    yield household
    household.close()


def first(household: Household, type_: str) -> Task:
    return next(task for task in household.tasks("test") if task.type == type_)


@pytest.mark.parametrize("receptacles", [2, 8])
def test_the_plan_of_every_type_wins(receptacles: int, cache: str) -> None:
    household = Household(receptacles=receptacles, tasks=1, cache=cache)
    tasks = household.tasks("val")
    assert {task.type for task in tasks} == set(TYPES)
    assert list(unsolved(household, tasks)) == []


def test_it_keeps_the_contract(cache: str) -> None:
    assert (
        check_environment("household", {"receptacles": 2, "objects": 1, "tasks": 3, "cache": cache}, episodes=3) == []
    )


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(TYPES), st.integers(2, 8), st.integers(0, 8), st.integers(0, 10_000))
def test_a_household_is_as_large_as_asked_and_its_goal_can_be_reached_but_does_not_hold(
    type_: str, receptacles: int, objects: int, number: int
) -> None:
    household = generate(type_, receptacles, objects, number)
    assert household == generate(type_, receptacles, objects, number)
    assert len(household.receptacles) == receptacles
    things = [thing for _, contents in household.receptacles for thing in contents]
    wanted = 2 if type_ == "pick_two_obj_and_place" else 1
    assert things.count(household.thing) == wanted
    assert wanted <= len(things) <= wanted + objects + (type_ == "look_at_obj_in_light")
    assert all(holds(its, thing) or thing == LAMP for its, contents in household.receptacles for thing in contents)
    assert household.thing.lower() in household.goal and household.target.lower() in household.goal
    if type_ == "look_at_obj_in_light":
        assert things.count(LAMP) == 1
    else:
        there = [contents for its, contents in household.receptacles if its == household.target]
        assert there and holds(household.target, household.thing)
        assert all(household.thing not in contents for contents in there)
    needed = {"heat": "Microwave", "cool": "Fridge", "clean": "SinkBasin"}.get(type_)
    assert needed is None or needed in {its for its, _ in household.receptacles}


def test_the_same_number_gives_the_same_game_on_every_machine() -> None:
    texts = "\n".join(problem(generate(type_, 4, 4, 7)) + generate(type_, 4, 4, 7).goal for type_ in TYPES)
    # Were this another one, the ids of tasks in stored results would name other games.
    assert (
        hashlib.sha256(texts.encode()).hexdigest() == "0855ba08a828b02a1c5f5695f90c0c68718e5e890b11495d533fcb591411c3dd"
    )


def test_splits_are_full_and_share_no_household(cache: str) -> None:
    household = Household(receptacles=3, tasks=20, cache=cache)
    seen: dict[object, str] = {}
    for split in SPLITS:
        tasks = household.tasks(split)
        assert len(tasks) == 20 * len(TYPES) and {task.type for task in tasks[: len(TYPES)]} == set(TYPES)
        for task in tasks:
            its = generate(task.type, 3, 3, task.payload["number"])
            content = (its.type, its.thing, its.target, tuple(sorted(its.receptacles)))
            assert content not in seen and its.split == split == task.split and its.goal == task.goal
            seen[content] = split


def test_more_tasks_keep_the_ids_of_fewer(cache: str) -> None:
    few, many = (Household(receptacles=3, tasks=count, cache=cache).tasks("val") for count in (2, 5))
    assert {task.id for task in few} < {task.id for task in many}


def test_a_change_is_another_world_or_something_new_to_read(small: Household) -> None:
    task = first(small, "clean")
    assert small.reset(task, 0).changed
    assert small.step("inventory").changed and not small.step("inventory").changed
    assert small.step("go to sinkbasin 1").changed
    assert small.step("look").changed and not small.step("look").changed
    again = small.step("examine sinkbasin 1")
    assert again.valid and not again.changed  # it was seen on arrival
    nothing = small.step("open sinkbasin 1")
    assert (nothing.observation, nothing.valid, nothing.changed) == ("Nothing happens.", False, False)
    take = next(action for action in nothing.admissible or () if action.startswith("take "))
    assert small.step(take).changed
    clean = next(action for action in small.step("inventory").admissible or () if action.startswith("clean "))
    assert small.step(clean).changed and not small.step(clean).changed  # clean is clean


def test_switching_a_lamp_counts_once(small: Household) -> None:
    task = first(small, "look_at_obj_in_light")
    small.reset(task, 0)
    *way, use = [action for action in small.solution(task, 0) if not action.startswith("take ")]
    for action in way:
        small.step(action)
    assert use.startswith("use ") and small.step(use).changed and not small.step(use).changed


def test_the_end_is_the_end(small: Household) -> None:
    task = first(small, "heat")
    step = small.reset(task, 0)
    assert not step.done and step.reward == 0
    for action in small.solution(task, 0):
        step = small.step(action)
    assert step.done and step.success and step.reward == 1
    after = small.step("go to microwave 1")
    assert after.done and after.success and not after.changed and not after.valid


def test_two_objects_take_turns_without_noticing_each_other(cache: str) -> None:
    alone, one, two = (Household(receptacles=3, tasks=2, cache=cache) for _ in range(3))
    tasks = one.tasks("train")[:2]
    rng = random.Random(4)
    expected: list[list[object]] = []
    scripts = []
    for task in tasks:
        step, steps, actions = alone.reset(task, 0), [], []
        for _ in range(8):
            actions.append(rng.choice(step.admissible or ()))
            step = alone.step(actions[-1])
            steps.append(step)
            if step.done:
                break
        expected.append(list(steps))
        scripts.append(actions)
    one.reset(tasks[0], 0)
    two.reset(tasks[1], 0)
    found: list[list[object]] = [[], []]
    for turn in range(8):
        for world, its, script in ((one, 0, scripts[0]), (two, 1, scripts[1])):
            if turn < len(script):
                found[its].append(world.step(script[turn]))
    assert found == expected
    for world in (alone, one, two):
        world.close()


def test_closing_one_leaves_the_other_playing(cache: str) -> None:
    one, two = (Household(receptacles=2, objects=1, tasks=3, cache=cache) for _ in range(2))
    task = one.tasks("test")[0]
    one.reset(task, 0)
    two.reset(task, 0)
    one.close()
    one.close()
    for action in one.solution(task, 0):
        step = two.step(action)
    assert step.success
    with pytest.raises(RuntimeError, match="before reset"):
        one.step("look")
    assert one.reset(task, 0).admissible


def test_options_out_of_range_are_refused_in_one_sentence() -> None:
    for option, value in (("receptacles", 1), ("receptacles", 9), ("tasks", 0), ("max_steps", True), ("objects", -1)):
        with pytest.raises(TrainingError, match=f"household: {option} is {value!r}; give a whole number"):
            Household(**{option: value})  # type: ignore[arg-type]


def test_a_task_of_something_else_is_refused(small: Household) -> None:
    with pytest.raises(TrainingError, match="task x: is not one of household"):
        small.reset(Task("x", "heat", "?", "test"), 0)


def test_a_damaged_or_unwritable_cache_costs_time_only(tmp_path: Path) -> None:
    pddl = problem(generate("heat", 2, 0, 1))
    folder = tmp_path / "games"
    first_time = compiled(domain(), pddl, where="it", cache=folder)
    (file,) = folder.glob("*/*.json.gz")
    file.write_bytes(file.read_bytes()[:100])
    from masa_training.environments import textworld_compile

    textworld_compile._memory.clear()
    assert compiled(domain(), pddl, where="it", cache=folder) == first_time
    textworld_compile._memory.clear()
    assert compiled(domain(), pddl, where="it", cache=folder) == first_time  # from the file that was mended
    textworld_compile._memory.clear()
    (tmp_path / "occupied").write_text("")
    assert compiled(domain(), pddl, where="it", cache=tmp_path / "occupied") == first_time


def test_what_is_no_game_or_has_no_plan_is_refused(tmp_path: Path) -> None:
    pddl = problem(generate("heat", 2, 0, 1))
    with pytest.raises(TrainingError, match=r"^it: its PDDL cannot be translated"):
        compiled(domain(), pddl[: len(pddl) // 2], where="it", cache=tmp_path)
    cold = pddl.replace("(heatable", "(coolable")
    with pytest.raises(UnsolvableError, match=r"^it: the planner found no plan"):
        compiled(domain(), cold, where="it", cache=tmp_path, plan=True)


def test_the_facts_name_every_form_that_a_game_offers(small: Household) -> None:
    forms = {form.form.split()[0] for form in small.facts().actions}
    offered: set[str] = {"look", "inventory", "help"}
    for type_ in ("clean", "look_at_obj_in_light"):
        step = small.reset(first(small, type_), 0)
        for action in small.solution(first(small, type_), 0):
            offered |= {its.split()[0] for its in step.admissible or ()}
            step = small.step(action)
    assert {"go", "take", "move", "examine", "clean", "use"} <= offered <= forms | {"help"}
