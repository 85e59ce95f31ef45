"""The examples: our own bank, skill folder and facts are sound, and the agent that embeds masa runs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

from masa.edits import available_edits
from masa.facts import load_facts
from masa.formats import load_bank
from masa.formats.bank_json import dump_bank
from masa.formats.skill_md import load_skill_folder, validate_skill_folder
from masa.markdown import protected_spans


@pytest.fixture(scope="module")
def examples(repository: Path) -> Path:
    return repository / "examples"


def load(path: Path) -> ModuleType:
    """The script at `path` as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_our_bank_is_sound_and_gives_the_rewriter_something_to_do(examples: Path) -> None:
    path = examples / "banks" / "household.json"
    bank = load_bank(path)
    facts = load_facts(examples / "facts" / "household.yaml")
    assert dump_bank(bank) == path.read_bytes()
    assert len(bank.general) == 6 and list(bank.task_specific) == ["fetch", "clean", "warm", "tidy"]
    assert all(3 <= len(group) <= 6 for group in bank.groups()) and len(bank.common_mistakes) == 3
    skills = [skill for group in bank.groups() for skill in group.skills]
    assert len({skill.skill_id for skill in skills}) == len(skills)
    assert all(skill.when_to_apply and skill.title for skill in skills)
    offered = {edit for skill in skills for edit in available_edits(skill, facts)}
    assert {"shorten", "steps", "condition-action", "syntax", "example", "warn"} <= offered


def test_our_skill_folder_follows_the_specification(examples: Path) -> None:
    for folder in (examples / "skills").iterdir():
        assert validate_skill_folder(folder) == []
        group = next(group for group in load_skill_folder(folder).groups() if len(group))
        spans = {span for skill in group.skills for span in protected_spans(skill.text)}
        assert any("scripts/report.py" in span for span in spans) and any("https://" in span for span in spans)


def test_the_script_of_our_skill_folder_does_what_the_skill_says(examples: Path, tmp_path: Path) -> None:
    script = examples / "skills" / "pantry-report" / "scripts" / "report.py"
    inventory = tmp_path / "pantry.csv"
    head = "item,amount,unit,minimum,expires\n"
    inventory.write_text(head + "milk,0.5,l,1,2026-03-04\nrice,2,kg,1,\njam,1,jar,1,2026-02-01\n")
    found = load(script).findings(inventory, date(2026, 3, 1), 7)
    assert found == ["BUY milk 0.5 l", "USE milk until 2026-03-04", "BAD jam since 2026-02-01"]
    inventory.write_text(head + "milk,much,l,1,\n")
    run = subprocess.run([sys.executable, str(script), str(inventory)], capture_output=True, text=True)
    assert run.returncode == 2 and "line 2" in run.stderr


@pytest.fixture(scope="module")
def agent(examples: Path) -> ModuleType:
    return load(examples / "agent.py")


@pytest.mark.parametrize(
    ("task", "actions"),
    [
        ("fetch", "go to cupboard; open cupboard; take plate; go to table; put plate on table"),
        (
            "clean",
            "go to cupboard; open cupboard; take mug; go to sink; wash mug with sink; go to table; put mug on table",
        ),
        (
            "warm",
            "go to fridge; open fridge; take soup; go to microwave; heat soup with microwave; go to table; "
            "put soup on table",
        ),
    ],
)
def test_every_task_of_the_agents_kitchen_can_be_solved(agent: ModuleType, task: str, actions: str) -> None:
    kitchen = agent.Kitchen(*agent.TASKS[task])
    for action in actions.split("; "):
        assert not kitchen.done
        assert action in kitchen.actions()
        kitchen.act(action)
    assert kitchen.done


def test_the_kitchen_refuses_what_is_impossible(agent: ModuleType) -> None:
    kitchen = agent.Kitchen(*agent.TASKS["clean"])
    before = kitchen.observation()
    kitchen.act("wash mug with sink")
    kitchen.act("take mug")
    assert kitchen.observation() == before
    kitchen.act("go to cupboard")
    assert "take mug" not in kitchen.actions()  # it is closed


def test_the_bank_covers_the_agents_tasks(agent: ModuleType, examples: Path) -> None:
    assert set(agent.TASKS) <= set(load_bank(examples / "banks" / "household.json").task_specific)


@pytest.mark.model
def test_the_agent_adapts_its_skills_and_acts(
    agent: ModuleType, examples: Path, smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = json.loads((examples / "banks" / "household.json").read_bytes())
    bank["general_skills"] = bank["general_skills"][:2]
    small = tmp_path / "bank.json"
    small.write_text(json.dumps(bank))
    assert agent.main(["--task", "fetch", "--steps", "2", "--bank", str(small), "--model", str(smollm2)]) == 0
    said = capsys.readouterr().out
    assert "Skills general_skills:" in said and "Skills fetch:" in said and "tidy" not in said
    steps = [line for line in said.splitlines() if line[:2] in ("1.", "2.")]
    assert len(steps) == 2 and all("→ You stand at" in step for step in steps)
