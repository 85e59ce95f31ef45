"""`masa env`: what it prints, writes and returns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from masa.cli.application import Root
from masa.errors import MissingExtraError
from masa.extras import pip_install
from masa.facts import load_facts
from masa_training import environments
from masa_training.commands import env as command_module
from masa_training.environments.contract import RULES
from masa_training.environments.registry import class_in_file, template_source
from masa_training.environments.template import Template
from masa_training.errors import TrainingError

Cli = Callable[..., Result]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MASA_DATA", raising=False)
    root = Root(name="masa")
    monkeypatch.setattr(root, "get_command", lambda ctx, name: command_module.command)

    def run(*arguments: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(root, ["env", *arguments], input=typed)

    return run


def test_list_shows_what_opens_and_why_the_rest_does_not(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(name: str) -> Template:
        if name == "corridor":
            return Template()
        raise MissingExtraError(f"the environment {name}", "alfworld")

    monkeypatch.setattr(environments, "environment_names", lambda: ("corridor", "kitchen"))
    monkeypatch.setattr(environments, "open_environment", opened)
    told = cli("list")
    assert told.exit_code == 0
    assert "corridor         8  visit, fetch" in told.stdout
    assert "corridor: a corridor of numbered rooms" in told.stdout
    assert "".join(pip_install("alfworld").split()) in "".join(told.stdout.split()), "wrapped or not"
    first, second = json.loads(cli("list", "--json").stdout)["environments"]
    assert (first["task_types"], first["max_steps"], first["problem"]) == (["visit", "fetch"], 8, "")
    assert second["max_steps"] is None and "alfworld" in second["problem"]


def test_the_new_environment_works_as_it_is_written(cli: Cli, tmp_path: Path) -> None:
    written = cli("new", "tea_house")
    assert written.exit_code == 0 and "masa env check tea_house.py" in written.stdout
    source = (tmp_path / "tea_house.py").read_text()
    assert 'tea_house = "your_package.tea_house:TeaHouse"' in source
    assert "emplate" not in source.replace("from the template", "")
    checked = cli("check", "tea_house.py")
    assert checked.exit_code == 0, checked.output
    assert checked.stdout.count("ok  ") == len(RULES) and "keeps the contract" in checked.stdout


def test_new_overwrites_only_when_told(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("precious")
    refused = cli("new", "mine")
    assert refused.exit_code == 1 and "exists already" in refused.stderr
    assert (tmp_path / "mine.py").read_text() == "precious"
    assert cli("new", "mine", "--force").exit_code == 0
    assert cli("new", "mine", "-o", "no/such/folder.py").exit_code == 1


@pytest.mark.parametrize("name", ["lookup", "My-World", "class", "1st", ""])
def test_a_name_that_is_taken_or_no_word_is_refused(name: str) -> None:
    with pytest.raises(TrainingError):
        template_source(name)


def test_check_reports_findings_and_exits_with_1(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from masa_training.environments.template import Template\n"
        "class Bad(Template):\n    def tasks(self, split):\n        return []\n"
    )
    told = cli("check", "bad.py")
    assert told.exit_code == 1
    assert "BROKEN  No task is in two splits" in told.stdout and "- The split train has no tasks." in told.stdout
    result = cli("check", "bad.py", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["ok"] is False
    assert found["findings"][0] == {"rule": "splits", "sentence": "The split train has no tasks."}


def test_check_passes_options_and_the_data_folder_on(cli: Cli, tmp_path: Path) -> None:
    done = cli("check", "lookup", "--option", "size=60", "--option", "passages=1", "--episodes", "1", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["ok"] is True
    assert "sise" in cli("check", "lookup", "--option", "sise=60").stderr
    assert cli("check", "lookup", "--option", "size").exit_code == 2
    missing = cli("check", "search_qa", "--data-dir", str(tmp_path))
    assert missing.exit_code == 1 and f"{tmp_path}/searchqa/nq/questions.jsonl is missing" in missing.stderr


def test_solve_counts_solutions_that_succeed_and_names_the_others(cli: Cli, tmp_path: Path) -> None:
    done = cli("solve", "lookup", "--split", "val", "--option", "size=60")
    assert done.exit_code == 0
    solved, of = re.search(r"lookup, val: (\d+) of (\d+) solutions succeed", done.stdout).groups()  # type: ignore[union-attr]
    assert solved == of != "0"
    (tmp_path / "hasty.py").write_text(
        "from masa_training.environments.lookup import Lookup\n"
        "class Hasty(Lookup):\n    def solution(self, task, seed):\n        return ['answer nobody']\n"
    )
    result = cli("solve", "hasty.py", "--option", "size=60", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1 and len(found["unsolved"]) == found["tasks"] > 0
    assert found["unsolved"][0]["reason"] == "1 actions end without success: That is wrong."
    (tmp_path / "plain.py").write_text(template_source("plain").replace("def solution", "def other"))
    assert "knows no solutions" in cli("solve", "plain.py").stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [("x = 1", "there are none"), ("1/0", "ZeroDivisionError"), ("def f(:", "SyntaxError"), (None, "no such file")],
)
def test_a_file_without_an_environment_is_the_users_mistake(tmp_path: Path, source: str | None, message: str) -> None:
    path = tmp_path / "some.py"
    if source is not None:
        path.write_text(source)
    with pytest.raises(TrainingError, match=message):
        class_in_file(path)


def test_a_person_plays_by_number_and_by_word(cli: Cli) -> None:
    cli("new", "walk")
    task = "train-3"  # lamp in room 1, to be brought to room 4
    won = cli("play", "walk.py", "--task", task, typed="7\ngo to room 4\n")
    assert won.exit_code == 0, won.output
    assert "Goal: Bring the lamp to room 4." in won.stdout and "   7 take lamp" in won.stdout
    assert "Success after 2 actions; nothing happened after 0; reward 1." in won.stdout
    lost = cli("play", "walk.py", "--task", task, typed="dance\n" * 20)
    assert "No success after 8 actions; nothing happened after 8; reward 0." in lost.stdout
    stopped = cli("play", "walk.py", "--task", task, typed="7\nquit\n")
    assert stopped.exit_code == 0 and "No success after 1 action;" in stopped.stdout
    assert cli("play", "walk.py", "--task", task, typed="").exit_code == 0


def test_play_says_when_no_task_fits(cli: Cli) -> None:
    result = cli("play", "lookup", "--type", "riddle")
    assert result.exit_code == 1 and "there are direct_retrieval, entity_attribute_lookup" in result.stderr


def test_facts_with_worked_examples_are_what_a_rewrite_reads(cli: Cli, tmp_path: Path) -> None:
    done = cli("facts", "assistant", "--examples", "2", "-o", "facts.yaml")
    assert done.exit_code == 0, done.output
    facts = load_facts(tmp_path / "facts.yaml")
    environment = environments.open_environment("assistant")
    assert facts.actions == environment.facts().actions and facts.rules == environment.facts().rules
    assert len(facts.examples) == 2 * len(environment.task_types)
    requests = {task.goal for task in environment.tasks("train")}
    held_out = {task.goal for split in ("val", "test") for task in environment.tasks(split)} - requests
    for example in facts.examples:
        request, *calls = example.split("\n")
        assert any(goal in request for goal in requests) and not any(goal in request for goal in held_out)
        assert calls and calls[-1].startswith("{")  # it ends with what has to be done, not with an answer


def test_facts_without_examples_go_to_stdout(cli: Cli) -> None:
    done = cli("facts", "lookup")
    assert done.exit_code == 0 and "search {" in done.output and "examples: []" in done.output
