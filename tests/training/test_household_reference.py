"""masa's engine against TextWorld's own environment: the same texts, the same admissible commands, the same end."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("textworld", reason='the extra alfworld is not installed: pip install "masa-skills[alfworld]"')
pytest.importorskip("alfworld", reason='the extra alfworld is not installed: pip install "masa-skills[alfworld]"')

from masa_training.environments import open_environment
from masa_training.environments.alfworld_data import find_games
from masa_training.environments.alfworld_interface import domain, grammar, name_entities
from masa_training.environments.household_games import generate, problem
from masa_training.environments.textworld_compile import compiled
from masa_training.environments.textworld_engine import Engine, game


def compare(data: dict[str, Any], way: list[str], tmp_path: Path) -> None:
    """Some steps of the way, mixed with random commands, nonsense and repetitions, then the whole way."""
    translated = compiled(data["pddl_domain"], data["pddl_problem"], where="it", cache=tmp_path / "cache")
    engine, its = Engine(), game(translated, data["grammar"], name_entities)
    answers = [engine.start(its)]
    actions: list[str] = []
    rng = random.Random(1)
    todo = list(way[:-1])
    while len(actions) < 14:
        luck = rng.random()
        action = todo.pop(0) if todo and luck < 0.5 else rng.choice([*answers[-1].commands, "fly", *actions[-1:]])
        actions.append(action)
        answers.append(engine.act(action))
    for name, content in (("game.tw-pddl", data), ("actions.json", actions)):
        (tmp_path / name).write_text(json.dumps(content))
    script = Path(__file__).with_name("textworld_reference.py")
    told = subprocess.run(
        [sys.executable, script, tmp_path / "game.tw-pddl", tmp_path / "actions.json"],
        stdout=subprocess.PIPE, check=True, timeout=300,
    )  # fmt: skip
    expected = json.loads(told.stdout)
    assert answers[0].text in expected[0][0]  # which also has the welcome and the task
    for number, (answer, (feedback, won, commands)) in enumerate(zip(answers, expected, strict=True)):
        assert number == 0 or answer.text == feedback
        assert (answer.won, list(answer.commands)) == (won, commands)
    engine.close()


@pytest.mark.parametrize("type_", ["cool", "look_at_obj_in_light"])
def test_a_generated_game_plays_as_on_textworld(type_: str, tmp_path: Path) -> None:
    task = next(its for its in open_environment("household", receptacles=5, tasks=1).tasks("val") if its.type == type_)
    world = open_environment("household", receptacles=5, tasks=1, cache=str(tmp_path / "cache"))
    way = list(world.solution(task, 0))  # type: ignore[attr-defined]
    pddl = problem(generate(type_, 5, 5, task.payload["number"]))
    data = {"pddl_domain": domain(), "grammar": grammar(), "pddl_problem": pddl, "solvable": True, "walkthrough": way}
    compare(data, way, tmp_path)


def test_a_game_of_alfworld_plays_as_on_textworld(shared_data: Path, tmp_path: Path) -> None:
    games = find_games(str(shared_data), tmp_path / "unpacked")
    listed = next(its for its in games.list("valid_seen") if its.type == "pick_heat_then_place_in_recep")
    file = games.read("valid_seen", listed.id)
    data = {"pddl_domain": file.domain, "grammar": file.grammar, "pddl_problem": file.problem}
    compare({**data, "walkthrough": list(file.walkthrough)}, list(file.walkthrough), tmp_path)
