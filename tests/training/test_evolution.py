"""Evolution in a real world with a simulated reader: it finds what that likes, and can be stopped anywhere."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import masa_training.evolution.run as running
from masa.edits import apply_plan
from masa.formats import load_bank
from masa.skills import GENERAL
from masa_training.bank_groups import WHOLE
from masa_training.commands.evolve import command
from masa_training.dataset.runs import read_runs
from masa_training.environments import SPLITS, open_environment
from masa_training.environments.solutions import first_of_each_type
from masa_training.errors import TrainingError
from masa_training.evaluate.banks.config import BANKS
from masa_training.evolution import EvolveConfig, evolve_names, load_evolve
from masa_training.evolution.run import Evolved, estimate, evolve
from masa_training.evolution.run_log import CONFIG, EVENTS, read_run
from masa_training.evolution.views.markdown import to_markdown
from masa_training.evolution.views.numbers import by_type
from masa_training.evolution.views.report import write_report
from masa_training.instruments.config import wording_of
from masa_training.models import ModelError, Reply, Request
from masa_training.teacher import Asked, OperatorTeacher, Rewrite, TeacherError

OPTIONS = {"size": 60}


class Reader:
    """A backbone that solves a task the more often, the more of the skills in its prompt are numbered steps."""

    name = "reader"
    concurrency = 8

    def __init__(self) -> None:
        world = open_environment("lookup", **OPTIONS)
        self._solutions = {task.goal: list(world.solution(task, 0)) for split in SPLITS for task in world.tasks(split)}  # type: ignore[attr-defined]
        self.replies = 0

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        return [self._one(request) for request in requests]

    def close(self) -> None:
        pass

    def _one(self, request: Request) -> Reply:
        self.replies += 1
        assert request.candidates
        system = request.messages[0].content
        shown = system.count("### ")
        liked = len(re.findall(r"^1\. ", system, re.MULTILINE)) / shown if shown else 0.0
        goal = request.messages[1].content.rpartition("Task: ")[2].partition("\n")[0]
        turn = sum(message.role == "assistant" for message in request.messages)
        luck = zlib.crc32(f"{goal}".encode()) / 2**32
        wrong = next(text for text in request.candidates if text.startswith("answer "))
        action = self._solutions[goal][turn] if luck < 0.15 + 0.75 * self.liked(liked) else wrong
        return Reply(action, 100, 2, 0, 0.0)

    def liked(self, numbered: float) -> float:
        """How far the backbone likes skills of which this share is numbered, 0 to 1."""
        return numbered


def config(path: Path, **changes: Any) -> EvolveConfig:
    values = {
        "name": "t",
        "environment": "lookup",
        "options": OPTIONS,
        "backbone": {"name": "Reader-1B", "spec": f"replay:{__file__}", "card": {"family": "Reader"}},
        "bank": "lookup/moderate",
        "agent": {"choose": True},
        "rounds": 3,
        "iterations": 3,
        "task_types": ["comparison"],
        "watched": 4,
        "accept": {"pairs": 40},
        "test_tasks": 40,
        **changes,
    }
    path.write_text(yaml.safe_dump(values))
    return load_evolve(str(path))


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / EVENTS).read_text("utf-8").split("\n") if line]


def searched(folder: Path) -> list[dict[str, Any]]:
    """What a search did and found: all but the order in which single episodes ended and how long they took."""
    return [event for event in events(folder) if event["event"] not in ("episode", "spent", "rewrite")]


def killed(settings: EvolveConfig, folder: Path, reader: Reader, *, after: int) -> None:
    """A run that somebody interrupts once so many episodes are played."""
    left = after

    def die(_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolve(settings, folder, model=reader, progress=die)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evolved, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return evolve(config(folder / "c.yaml"), folder / "run", model=Reader()), folder / "run"


def test_it_finds_the_wording_that_the_backbone_likes(whole: tuple[Evolved, Path]) -> None:
    evolved, _ = whole
    assert evolved.ended == ""
    wordings = Counter(wording_of(skill) for skill in evolved.bank.general)
    assert wordings["stepwise"] > len(evolved.bank.general) / 2
    better, beyond_none = [row for row in evolved.test["differences"] if row["arm"] == "evolved"]
    assert (better["against"], beyond_none["against"]) == ("base", "no-skill")
    assert better["verdict"] is True and better["difference"]["low"] > 0
    assert load_bank(evolved.path).general == evolved.bank.general
    numbers = evolved.searches[GENERAL]
    assert numbers["accepted"] >= 1 and numbers["finished"]
    assert numbers["proposals"] == numbers["failed"] + numbers["accepted"] + numbers["rejected"] + numbers["indecisive"]


def test_nothing_is_played_twice_and_test_tasks_only_at_the_end(whole: tuple[Evolved, Path]) -> None:
    said = events(whole[1])
    played = [tuple(event["of"]) for event in said if event["event"] == "episode"]
    assert len(set(played)) == len(played)
    splits = [split for _, split, _, _ in played]
    assert splits.count("test") == 3 * 40
    assert set(splits[: -3 * 40]) == {"train", "val"}
    assert {kind for _, kind, task, _ in played} == set(SPLITS)


def test_data_sets_read_the_run(whole: tuple[Evolved, Path]) -> None:
    found = read_runs(whole[1])
    (cell,) = [cell for cell in found.cells if cell.cell.group == GENERAL]
    assert cell.cell.backbone == "Reader-1B" and cell.card == {"family": "Reader"}
    assert cell.evolved.skills == whole[0].bank.general
    assert any(intermediate.plan is not None for intermediate in cell.intermediates)


@pytest.mark.parametrize("share", [0.0, 0.11, 0.43, 0.72, 0.96])
def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(
    whole: tuple[Evolved, Path], tmp_path: Path, share: float
) -> None:
    settings = config(tmp_path / "c.yaml")
    killed(settings, tmp_path / "run", Reader(), after=1 + int(share * whole[0].episodes))
    with (tmp_path / "run" / EVENTS).open("a") as file:
        file.write('{"event": "episode", "of": ["torn')
    evolved = evolve(settings, tmp_path / "run", resume=True, model=Reader())
    assert searched(tmp_path / "run") == searched(whole[1])
    assert evolved.test["rows"] == whole[0].test["rows"] and evolved.bank == whole[0].bank
    played = [tuple(event["of"]) for event in events(tmp_path / "run") if event["event"] == "episode"]
    assert len(set(played)) == len(played)


@pytest.mark.parametrize("bank_rounds", [0, 1])
def test_a_run_that_is_killed_around_the_end_of_a_search_says_it_once(tmp_path: Path, bank_rounds: int) -> None:
    settings = config(tmp_path / "c.yaml", bank_rounds=bank_rounds, test_tasks=2)
    evolve(settings, tmp_path / "whole", model=Reader())
    lines = (tmp_path / "whole" / EVENTS).read_text("utf-8").splitlines(keepends=True)
    kinds = [json.loads(line)["event"] for line in lines]
    ends = [i for i, kind in enumerate(kinds) if kind == "ended"]
    assert len(ends) >= 2
    for cut in (ends[0], ends[0] + 1, ends[-1]):
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        shutil.copy(tmp_path / "whole" / CONFIG, folder / CONFIG)
        (folder / EVENTS).write_text("".join(lines[:cut]), "utf-8")
        evolve(settings, folder, resume=True, model=Reader())
        assert searched(folder) == searched(tmp_path / "whole"), cut


def test_a_finished_run_that_goes_on_plays_nothing(whole: tuple[Evolved, Path], tmp_path: Path) -> None:
    reader = Reader()
    again = evolve(config(tmp_path / "c.yaml"), whole[1], resume=True, model=reader)
    assert reader.replies == 0
    assert again.bank == whole[0].bank and again.test["rows"] == whole[0].test["rows"]


@pytest.mark.parametrize(
    ("budget", "reason"),
    [({"episodes": 30}, "30 episodes"), ({"tokens": 4000}, "4000 tokens"), ({"minutes": 1e-6}, "1e-06 minutes")],
)
def test_a_budget_stops_the_run_with_everything_kept_and_a_larger_one_goes_on(
    whole: tuple[Evolved, Path], tmp_path: Path, budget: dict[str, float], reason: str
) -> None:
    stopped = evolve(config(tmp_path / "c.yaml", budget=budget), tmp_path / "run", model=Reader())
    assert reason in stopped.ended and not stopped.test
    assert stopped.episodes < 60
    evolved = evolve(config(tmp_path / "c.yaml"), tmp_path / "run", resume=True, model=Reader())
    assert evolved.ended == "" and searched(tmp_path / "run") == searched(whole[1])


class Wayward:
    """A teacher that fails in turns, and else repeats what was tried or makes a group too large."""

    def __init__(self) -> None:
        self.asked = 0

    def rewrite(self, asked: Asked) -> Rewrite:
        self.asked += 1
        if self.asked % 2:
            raise TeacherError("the server timed out")
        return Rewrite(group=asked.original, note="nothing new")


def test_a_teacher_without_ideas_does_not_end_the_run(tmp_path: Path) -> None:
    evolved = evolve(config(tmp_path / "c.yaml"), tmp_path / "run", model=Reader(), teacher=Wayward())
    assert evolved.ended == ""
    assert evolved.searches[GENERAL]["failed"] == evolved.searches[GENERAL]["proposals"] == 3
    problems = [event["problem"] for event in events(tmp_path / "run") if event["event"] == "proposal"]
    assert "the server timed out" in problems and "the same as node 0" in problems


class Watching:
    """The offline teacher, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def rewrite(self, asked: Asked) -> Rewrite:
        self.asked.append(asked)
        return OperatorTeacher().rewrite(asked)


def test_the_teacher_sees_training_episodes_with_their_turns_and_what_was_refused(tmp_path: Path) -> None:
    teacher = Watching()
    evolve(config(tmp_path / "c.yaml", growth=1.5), tmp_path / "run", model=Reader(), teacher=teacher)
    for asked in teacher.asked:
        assert len(asked.seen) == 4
        assert all(one.task.split == "train" and one.episode.turns for one in asked.seen)
        assert asked.card == {"family": "Reader"} and asked.facts is not None
    trees = [asked for asked in teacher.asked if asked.group.task_type == "comparison"]
    assert trees and all(one.task.type == "comparison" for asked in trees for one in asked.seen)
    assert any(asked.refused for asked in teacher.asked)
    assert all(reason for asked in teacher.asked for _, reason in asked.refused)


def test_the_teacher_does_not_watch_the_tasks_that_its_examples_solve(tmp_path: Path) -> None:
    seen: set[str] = set()

    class Watcher:
        def rewrite(self, asked: Asked) -> Rewrite:
            assert asked.facts is not None and len(asked.facts.examples) == len(solved)
            seen.update(watched.task.id for watched in asked.seen)
            raise TeacherError("no idea")

    world = open_environment("lookup", **OPTIONS)
    solved = {task.id for task in first_of_each_type(world.tasks("train"), 2)}
    assert solved
    evolve(config(tmp_path / "c.yaml", examples=2, rounds=1), tmp_path / "run", model=Reader(), teacher=Watcher())
    assert seen and not seen & solved


def test_another_run_in_the_folder_is_refused(whole: tuple[Evolved, Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds a run already"):
        evolve(config(tmp_path / "c.yaml"), whole[1], model=Reader())
    with pytest.raises(TrainingError, match="its run has another rounds"):
        evolve(config(tmp_path / "c.yaml", rounds=2), whole[1], resume=True, model=Reader())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    with pytest.raises(TrainingError, match="is not empty and holds no run"):
        evolve(config(tmp_path / "c.yaml"), tmp_path / "full", model=Reader())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bank": "lookup/modest"}, "bank 'lookup/modest' is not here"),
        ({"task_types": ["comparisons"]}, "task type 'comparisons': the bank or lookup has none; there are direct"),
        ({"rounds": 0, "iterations": 0}, "leave nothing to search for"),
        ({"accept": {"rule": "guess"}}, "accept.rule is \"guess\"; it must be one of 'sequential'"),
        ({"accept": {"pair": 3}}, "unknown setting 'accept.pair'; did you mean 'pairs'"),
        ({"rounds": "many"}, 'rounds is "many"; a whole number'),
        ({"teacher": "llm"}, "teacher is 'llm'; it must be one of operators"),
        ({"backbone": {"name": "x"}}, "backbone.spec is missing"),
        ({"penalty": 2}, "penalty is 2; it must be at most 1"),
        (
            {"backbone": {"name": "x", "spec": "openai:http://h/v1#m", "options": {"api_key": "sk-1"}}},
            "backbone: options has api_key.*name that in the option api_key_env",
        ),
        ({"backbone": {"name": "x", "spec": "openai:http://me:sk-1@h/v1#m"}}, "carries a user name or password"),
        ({"backbone": {"name": "x", "spec": "y", "options": ["a"]}}, "backbone.options is .*; settings"),
        ({"teacher": {"model": "openai:http://me:sk-1@h/v1#m"}}, "teacher: the server's address carries a user name"),
    ],
)
def test_a_wrong_configuration_is_refused_in_words(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message) as refused:
        evolve(config(tmp_path / "c.yaml", **changes), tmp_path / "run", model=Reader())
    assert "sk-1" not in str(refused.value)


def test_a_teacher_on_the_command_line_replaces_the_file_s_with_its_settings(tmp_path: Path) -> None:
    elsewhere = {"model": "openai:http://far/v1#m", "api_key_env": "FAR_KEY", "episodes": 3}
    config(tmp_path / "c.yaml", teacher=elsewhere)
    where = str(tmp_path / "c.yaml")
    near = load_evolve(where, ["teacher.attempts=7"], teacher="openai:http://near/v1#n").teacher_config()
    assert (near.model, near.attempts) == ("openai:http://near/v1#n", 7)
    assert near.api_key_env == "" and near.episodes == 8, "a key of another server is not sent"
    assert load_evolve(where).teacher_config().api_key_env == "FAR_KEY"
    with pytest.raises(TrainingError, match="teacher is 'llm'"):
        load_evolve(where, teacher="llm")


def test_a_run_goes_on_whether_its_teacher_was_named_in_the_file_or_on_the_command_line(
    whole: tuple[Evolved, Path], tmp_path: Path
) -> None:
    config(tmp_path / "c.yaml")
    reader = Reader()
    evolve(load_evolve(str(tmp_path / "c.yaml"), teacher="operators"), whole[1], resume=True, model=reader)
    assert reader.replies == 0
    with pytest.raises(TrainingError, match="its run has another teacher"):
        evolve(load_evolve(str(tmp_path / "c.yaml"), teacher="recorded:f"), whole[1], resume=True, model=reader)


def test_a_run_goes_on_that_was_begun_before_a_setting_existed(whole: tuple[Evolved, Path], tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(whole[1], folder)
    values = yaml.safe_load((folder / "config.yaml").read_text())
    del values["feedback_noise"], values["teacher_card"], values["noise_seed"]
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    assert evolve(config(tmp_path / "c.yaml"), folder, resume=True, model=Reader()).bank == whole[0].bank
    with pytest.raises(TrainingError, match="feedback_noise"):
        evolve(config(tmp_path / "c.yaml", feedback_noise=0.1), folder, resume=True, model=Reader())


class AllOrNothing(Reader):
    """Numbered steps help it only where nearly every skill that it is shown is numbered: no group alone makes a
    difference. One general skill has a condition for all it says, which `steps` leaves whole."""

    def liked(self, numbered: float) -> float:
        return float(numbered > 0.85)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evolved, Path]:
    folder = tmp_path_factory.mktemp("together")
    settings = config(folder / "c.yaml", bank_rounds=4)
    return evolve(settings, folder / "run", model=AllOrNothing()), folder / "run"


def test_where_groups_only_matter_together_the_whole_bank_has_to_move(
    together: tuple[Evolved, Path], tmp_path: Path
) -> None:
    alone = evolve(config(tmp_path / "c.yaml"), tmp_path / "run", model=AllOrNothing())
    assert all(its["accepted"] == 0 for its in alone.searches.values()), "the plateau is one"
    evolved, folder = together
    assert evolved.searches[WHOLE]["accepted"] == 1 and next(iter(evolved.searches)) == WHOLE
    others = [s.skill_id for group in evolved.bank.groups() for s in group.skills if wording_of(s) != "stepwise"]
    assert others == ["lkg_004"]
    better, _ = [row for row in evolved.test["differences"] if row["arm"] == "evolved"]
    assert better["verdict"] is True
    text = to_markdown(read_run(folder), "t")
    assert "| whole_bank | hill climbing | 1 |" in text and "(PARTIAL)" not in text
    assert "whole bank" in (write_report(folder)).read_text("utf-8")
    assert by_type(read_run(folder))


def test_a_move_of_the_whole_bank_teaches_every_group_s_plan(together: tuple[Evolved, Path]) -> None:
    """Also of groups that were not searched on their own, and through the search that went on from it."""
    found = read_runs(together[1])
    cells = {cell.cell.group: cell for cell in found.cells}
    assert set(cells) == {group.key for group in together[0].bank.groups()}
    for key, cell in cells.items():
        first = cell.intermediates[0]
        assert first.plan is not None and first.group == load_bank(BANKS / "lookup" / "moderate.json").group(key)
        assert apply_plan(first.group, first.plan, cell.facts).group == together[0].bank.group(key) == cell.evolved


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_a_run_that_is_killed_around_the_whole_bank_goes_on(
    together: tuple[Evolved, Path], tmp_path: Path, share: float
) -> None:
    settings = config(tmp_path / "c.yaml", bank_rounds=4)
    killed(settings, tmp_path / "run", AllOrNothing(), after=1 + int(share * together[0].episodes))
    evolved = evolve(settings, tmp_path / "run", resume=True, model=AllOrNothing())
    assert searched(tmp_path / "run") == searched(together[1])
    assert evolved.bank == together[0].bank


def test_a_bank_whose_skills_cannot_be_told_apart_is_not_moved_as_a_whole(tmp_path: Path) -> None:
    value = json.loads((BANKS / "lookup" / "moderate.json").read_text("utf-8"))
    value["general_skills"][1]["skill_id"] = value["general_skills"][0]["skill_id"]
    (tmp_path / "twice.json").write_text(json.dumps(value))
    settings = config(tmp_path / "c.yaml", bank=str(tmp_path / "twice.json"), bank_rounds=1)
    with pytest.raises(TrainingError, match="bank_rounds to 0"):
        evolve(settings, tmp_path / "run", model=Reader())


@pytest.mark.parametrize("name", evolve_names())
def test_every_shipped_experiment_loads(name: str) -> None:
    assert load_evolve(name, ["budget.episodes=5"]).budget.episodes == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.spec=nomodel", "nomodel: no such model"),
        ("backbone.card=nocard", "nocard: neither a file nor a shipped model card"),
        ("teacher.model=llama:nomodel", "nomodel: no such model"),
        ("teacher.words=nowords", 'no rewriter "nowords"'),
        ("teacher.model=recorded:none.jsonl", "none.jsonl"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(tmp_path: Path, override: str, message: str) -> None:
    config(tmp_path / "c.yaml")
    arguments = [str(tmp_path / "c.yaml"), "-o", str(tmp_path / "run"), "--dry-run", "--set", override]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 1 and message in str(done.exception), done.output


def test_a_bank_without_skills_for_a_task_of_the_test_is_refused_before_the_search(tmp_path: Path) -> None:
    """It would be found out at the end, after hours."""
    value = json.loads((BANKS / "lookup" / "moderate.json").read_text("utf-8"))
    kind = next(iter(value["task_specific_skills"]))
    value |= {"general_skills": [], "task_specific_skills": {kind: value["task_specific_skills"][kind]}}
    (tmp_path / "one.json").write_text(json.dumps(value))
    settings = config(tmp_path / "c.yaml", bank=str(tmp_path / "one.json"), task_types=[kind])
    reader = Reader()
    for begin in (estimate, lambda settings: evolve(settings, tmp_path / "run", model=reader)):
        with pytest.raises(TrainingError, match="none of the bank's skills is shown"):
            begin(settings)
    assert not (tmp_path / "run").exists()


def test_the_command_tells_what_it_would_play_plays_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "open_model", lambda spec, **options: Reader())
    config(tmp_path / "c.yaml", rounds=1, iterations=1, test_tasks=8, accept={"pairs": 10})
    arguments = [str(tmp_path / "c.yaml"), "-o", str(tmp_path / "run")]
    runner = CliRunner()
    told = json.loads(runner.invoke(command, [*arguments, "--dry-run", "--json"]).stdout)
    assert told["groups"][GENERAL]["episodes"] == 10 + 10 + 4 and told["test_episodes"] == 24
    assert not (tmp_path / "run").exists()
    stopped = runner.invoke(command, [*arguments, "--set", "budget.episodes=12"])
    assert stopped.exit_code == 0 and "Stopped: the budget of 12 episodes is spent" in stopped.stderr
    done = runner.invoke(command, [*arguments, "--resume"])
    assert done.exit_code == 0, done.output
    assert "general_skills node 1 against 0:" in done.stderr and "comparison: " in done.stdout
    again = json.loads(runner.invoke(command, [*arguments, "--resume", "--json"]).stdout)
    assert again["ended"] == "" and again["test"]["complete"] is True
    assert again["episodes"] <= told["episodes"] + told["test_episodes"]
