"""The environment `alfworld`: games from both forms on disk; generated ones are the twins of the real ones."""

from __future__ import annotations

import hashlib
import json
import lzma
import random
from pathlib import Path

import pytest

pytest.importorskip("textworld", reason='the extra alfworld is not installed: pip install "masa-skills[alfworld]"')
pytest.importorskip("alfworld", reason='the extra alfworld is not installed: pip install "masa-skills[alfworld]"')

from masa_training.environments.alfworld import AlfWorld
from masa_training.environments.alfworld_interface import TASK_TYPES, domain, grammar
from masa_training.environments.contract import check_environment
from masa_training.environments.household import Household
from masa_training.environments.household_games import generate, problem
from masa_training.environments.solutions import unsolved
from masa_training.errors import TrainingError

SPLITS = {"train": 0, "valid_train": 1, "valid_seen": 2}
THEIRS = {ours: theirs for theirs, ours in TASK_TYPES.items()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def games(cache: Path) -> dict[str, list[dict[str, object]]]:
    """Small games in ALFWorld's terms: two a split."""
    household = Household(receptacles=2, objects=1, tasks=3, cache=str(cache / "games"))
    made: dict[str, list[dict[str, object]]] = {}
    for split, name in (("train", "train"), ("valid_train", "val"), ("valid_seen", "test")):
        made[split] = [
            {
                "game": f"{THEIRS[task.type]}-{number}/trial_{split}_{number}",
                "task_type": THEIRS[task.type],
                "pddl_params": {},
                "task": f"Your task is to: {task.goal}",
                "walkthrough": list(household.solution(task, 0)) if number else [],
                "pddl_problem": problem(generate(task.type, 2, 1, task.payload["number"])),
                "anns": [],
            }
            for number, task in enumerate(household.tasks(name)[2:4])  # type: ignore[arg-type]
        ]
    return made


@pytest.fixture(scope="module")
def compressed(games: dict[str, list[dict[str, object]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compressed")
    (root / "alfworld").mkdir()
    common = {"pddl_domain": domain(), "grammar": grammar().replace("Your task is to: UNKNOWN GOAL.", "@@TASK@@")}
    (root / "alfworld" / "common.json").write_text(json.dumps(common))
    for split, lines in games.items():
        with lzma.open(root / "alfworld" / f"{split}.jsonl.xz", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    return root


@pytest.fixture(scope="module")
def folder(games: dict[str, list[dict[str, object]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("downloaded")
    for split, lines in games.items():
        for line in lines:
            write_game(root / "json_2.1.1" / split, line)
    return root


def write_game(split: Path, line: dict[str, object], **more: object) -> Path:
    place = split / str(line["game"])
    place.mkdir(parents=True)
    task = str(line["task"]).removeprefix("Your task is to: ").removesuffix(".")
    game = {
        "pddl_domain": domain(),
        "grammar": grammar().replace("UNKNOWN GOAL", task),
        "pddl_problem": line["pddl_problem"],
        "solvable": True,
        "walkthrough": line["walkthrough"],
    }
    (place / "game.tw-pddl").write_text(json.dumps({**game, **more}))
    (place / "traj_data.json").write_text(json.dumps({"task_type": line["task_type"]}))
    return place


@pytest.mark.parametrize("form", ["compressed", "folder"])
def test_every_walkthrough_wins_and_a_game_without_one_is_planned(
    form: str, request: pytest.FixtureRequest, cache: Path
) -> None:
    data: Path = request.getfixturevalue(form)
    world = AlfWorld(data_dir=str(data), cache=str(cache))
    for split in ("train", "val", "test"):
        tasks = world.tasks(split)
        assert len(tasks) == 2 and all(task.split == split for task in tasks)
        assert list(unsolved(world, tasks)) == []
    assert world.max_steps == 50


def test_both_forms_give_the_same_tasks_and_the_same_text(compressed: Path, folder: Path, cache: Path) -> None:
    one, two = (AlfWorld(data_dir=str(data), cache=str(cache)) for data in (compressed, folder))
    for split in ("train", "val", "test"):
        assert list(one.tasks(split)) == list(two.tasks(split))
    task = one.tasks("test")[0]
    assert one.reset(task, 0) == two.reset(task, 1)


def test_it_keeps_the_contract(compressed: Path, cache: Path) -> None:
    options = {"data_dir": str(compressed), "cache": str(cache), "max_steps": 12}
    assert check_environment("alfworld", options, episodes=2) == []


def test_data_are_found_by_the_environment_variables(
    compressed: Path, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASA_DATA", str(compressed))
    assert len(AlfWorld(cache=str(cache)).tasks("test")) == 2
    monkeypatch.delenv("MASA_DATA")
    monkeypatch.setenv("ALFWORLD_DATA", str(folder))
    assert len(AlfWorld(cache=str(cache)).tasks("test")) == 2


def test_missing_data_name_the_download(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no games in .*nowhere; run alfworld-download, or point .*MASA_DATA"):
        AlfWorld(data_dir=str(tmp_path / "nowhere")).tasks("test")
    (tmp_path / "json_2.1.1" / "train").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"json_2\.1\.1 has train and no valid_unseen"):
        AlfWorld(data_dir=str(tmp_path), test="valid_unseen", cache=str(tmp_path)).tasks("test")
    with pytest.raises(TrainingError, match="test is 'unseen'; there are valid_seen"):
        AlfWorld(test="unseen")


def test_without_valid_train_a_tenth_of_train_is_val(
    games: dict[str, list[dict[str, object]]], tmp_path: Path, cache: Path
) -> None:
    line = games["train"][1]
    for number in range(30):
        write_game(tmp_path / "json_2.1.1" / "train", {**line, "game": f"a-{number}/trial_{number}"})
    world = AlfWorld(data_dir=str(tmp_path), cache=str(cache))
    val, train = ({task.id for task in world.tasks(split)} for split in ("val", "train"))
    assert len(val | train) == 30 and not val & train
    assert val == {id_ for id_ in val | train if int(hashlib.sha256(id_.encode()).hexdigest(), 16) % 10 == 0} != set()
    assert world.reset(world.tasks("val")[0], 0).admissible


def test_games_that_cannot_be_played_are_not_listed(
    games: dict[str, list[dict[str, object]]], tmp_path: Path, cache: Path
) -> None:
    split = tmp_path / "json_2.1.1" / "valid_seen"
    line = games["valid_seen"][1]
    write_game(split, {**line, "game": "good/trial"})
    write_game(split, {**line, "game": "unsolved/trial"}, solvable=False)
    write_game(split, {**line, "game": "AppleSliced/trial"})
    write_game(split, {**line, "game": "other/trial", "task_type": "pick_and_place_with_movable_recep"})
    world = AlfWorld(data_dir=str(tmp_path), cache=str(cache))
    assert [task.id for task in world.tasks("test")] == ["good/trial"]
    write_game(split, {**line, "game": "later/trial"})
    assert len(AlfWorld(data_dir=str(tmp_path), cache=str(cache)).tasks("test")) == 2  # the list is not a stale one


@pytest.mark.parametrize("form", ["compressed", "folder"])
def test_valid_unseen_alone_is_the_test_split_and_what_is_missing_is_named(
    form: str,
    games: dict[str, list[dict[str, object]]],
    compressed: Path,
    tmp_path: Path,
    cache: Path,
) -> None:
    if form == "folder":
        for line in games["valid_seen"]:
            write_game(tmp_path / "json_2.1.1" / "valid_unseen", line)
    else:
        (tmp_path / "alfworld").mkdir()
        for name, copy in (("common.json", "common.json"), ("valid_seen.jsonl.xz", "valid_unseen.jsonl.xz")):
            (tmp_path / "alfworld" / copy).write_bytes((compressed / "alfworld" / name).read_bytes())
    world = AlfWorld(data_dir=str(tmp_path), cache=str(cache))
    tasks = world.tasks("test")
    assert len(tasks) == 2 and {task.payload["split"] for task in tasks} == {"valid_unseen"}
    assert world.reset(tasks[0], 0).admissible
    for split in ("train", "val"):
        with pytest.raises(TrainingError, match="has valid_unseen and no train"):
            world.tasks(split)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="has valid_unseen and no valid_seen"):
        AlfWorld(data_dir=str(tmp_path), test="valid_seen", cache=str(cache)).tasks("test")


def test_games_without_their_trajectories_are_read_and_what_is_damaged_is_named(
    games: dict[str, list[dict[str, object]]], tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = tmp_path / "json_2.1.1" / "valid_seen"
    line = games["valid_seen"][1]
    for name in (f"{line['task_type']}-Mug-None-Shelf-1/trial_1", "nameless/trial_2", "cut/trial_3"):
        write_game(split, {**line, "game": name})
    for trajectory in split.glob("[np]*/*/traj_data.json"):
        trajectory.unlink()
    (split / "cut" / "trial_3" / "game.tw-pddl").write_text("{")
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        world = AlfWorld(data_dir=str(tmp_path), cache=str(cache))
        (task,) = world.tasks("test")
        assert task.id.endswith("trial_1") and task.type == TASK_TYPES[str(line["task_type"])]
        assert len([record for record in caplog.records if record.name.startswith("masa")]) == 2
        assert "cut" in caplog.text and "nameless" in caplog.text and "traj_data.json" in caplog.text
    assert world.reset(task, 0).admissible
    for game in split.glob("*/*/game.tw-pddl"):
        game.unlink()
    (split / "raw" / "trial").mkdir(parents=True)
    (split / "raw" / "trial" / "traj_data.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"traj_data\.json and no game\.tw-pddl"):
        AlfWorld(data_dir=str(tmp_path), cache=str(cache)).tasks("test")


def test_the_rules_tell_of_receptacles_at_one_place(shared_data: Path, tmp_path: Path) -> None:
    """What the rule says, played: beside a receptacle another cannot be gone to, but used."""
    world = AlfWorld(data_dir=str(shared_data), cache=str(tmp_path))
    rule = next(rule for rule in world.facts().rules if "beside" in rule)
    assert "Nothing happens" in rule
    for task in world.tasks("test")[:20]:
        step = world.reset(task, 0)
        places = [action for action in step.admissible if action.startswith("go to ")]
        for place in places:
            world.reset(task, 0)
            there = world.step(place)
            beside = [other for other in places if other not in there.admissible and other != place]
            if beside:
                name = beside[0].removeprefix("go to ")
                assert any(name in action for action in there.admissible), "it can be used from here"
                assert world.step(beside[0]).observation == "Nothing happens."
                return
    pytest.fail("no game with two receptacles at one place")


def test_damaged_games_are_refused_in_one_sentence(
    games: dict[str, list[dict[str, object]]], tmp_path: Path, cache: Path
) -> None:
    place = write_game(tmp_path / "json_2.1.1" / "valid_seen", games["valid_seen"][1])
    world = AlfWorld(data_dir=str(tmp_path), cache=str(cache))
    (task,) = world.tasks("test")
    (place / "game.tw-pddl").write_text("{")
    with pytest.raises(TrainingError, match=r"game\.tw-pddl: is damaged .*"):
        world.reset(task, 0)
    (place / "game.tw-pddl").write_text(
        json.dumps({"pddl_domain": domain(), "grammar": grammar(), "pddl_problem": "("})
    )
    with pytest.raises(TrainingError, match=r"its PDDL cannot be translated .*"):
        world.reset(task, 0)
    (place / "game.tw-pddl").write_text("{}")
    with pytest.raises(TrainingError, match="holds no game"):
        world.reset(task, 0)


def test_a_damaged_archive_is_refused_and_a_damaged_cache_mended(compressed: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    world = AlfWorld(data_dir=str(compressed), cache=str(cache))
    tasks = world.tasks("test")
    (kept,) = (cache / "alfworld").glob("valid_seen-*.zip")
    kept.write_bytes(kept.read_bytes()[:50])
    assert AlfWorld(data_dir=str(compressed), cache=str(cache)).tasks("test") == tasks
    broken = tmp_path / "alfworld"
    broken.mkdir()
    (broken / "common.json").write_text("{}")
    whole = (compressed / "alfworld" / "valid_seen.jsonl.xz").read_bytes()
    (broken / "valid_seen.jsonl.xz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match=r"valid_seen\.jsonl\.xz: is damaged after line .*"):
        AlfWorld(data_dir=str(tmp_path), cache=str(cache)).tasks("test")


def test_real_games_are_listed_by_split_and_some_walkthroughs_win(shared_data: Path, tmp_path: Path) -> None:
    world = AlfWorld(data_dir=str(shared_data), cache=str(tmp_path))
    val, test = world.tasks("val"), world.tasks("test")
    assert (len(val), len(test)) == (200, 140) and not {task.id for task in val} & {task.id for task in test}
    assert {task.type for task in test} == set(world.task_types)
    assert list(unsolved(world, random.Random(0).sample(list(test), 3))) == []
