"""Trials: the same tasks for every arm, nothing played twice, numbers that can be checked by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from masa.skills import Skill, SkillBank
from masa_training.agents import AgentConfig
from masa_training.append_only import writing
from masa_training.environments import Task
from masa_training.errors import TrainingError
from masa_training.evaluate.banks import running
from masa_training.evaluate.banks.config import Backbone, Trial, choose_tasks, jobs_of, option
from masa_training.evaluate.banks.report import report, to_csv, to_markdown
from masa_training.models import Request
from masa_training.rollouts import Arm, Episode, Job, Player, WorkerSpec
from masa_training.rollouts.executors import InProcess
from tests.training.corridor import Corridor, Walker

BANK = SkillBank((Skill("g1", "Right", "Walk to the right."),), {})
ARMS = (Arm(name="no-skill"), Arm(name="good", bank=BANK), Arm(name="random", random=True))


def trial(**changes: object) -> Trial:
    values: dict[str, object] = {
        "environment": "corridor",
        "arms": ARMS,
        "backbones": (Backbone("walker", "scripted"),),
        "agent": AgentConfig(choose=True),
        "tasks": 0,
        "seeds": 2,
    }
    return Trial(**{**values, **changes})  # type: ignore[arg-type]


class Here:
    """An executor that plays in the corridor: the backbone goes right if a skill tells it to, else it waits."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.played: list[Job] = []
        self._stop_after = stop_after

    def run(self, spec: WorkerSpec, jobs: Sequence[Job], *, cancel: object) -> Iterator[Episode]:
        def decide(request: Request) -> str:
            return "go right" if "to the right" in request.messages[0].content else "wait"

        for episode in Player(spec, model=Walker(decide), make_environment=Corridor).play(jobs):
            if len(self.played) == self._stop_after:
                raise KeyboardInterrupt
            self.played.append(episode.job)
            yield episode


@pytest.fixture(autouse=True)
def corridor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "open_environment", lambda name, **options: Corridor())


def test_all_arms_play_the_same_tasks_and_seeds(tmp_path: Path) -> None:
    episodes = running.run(trial(), Here(), tmp_path / "out")
    assert {name: len(some) for name, some in episodes.items()} == {"": 16, "walker": 32}
    by_arm = {
        arm: {(e.job.task, e.job.seed) for e in episodes["walker"] if e.job.arm == arm} for arm in ("no-skill", "good")
    }
    assert by_arm["no-skill"] == by_arm["good"] == {(e.job.task, e.job.seed) for e in episodes[""]}


def test_a_trial_that_was_killed_goes_on_and_ends_with_the_same_report(tmp_path: Path) -> None:
    whole = running.run(trial(), Here(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        running.run(trial(), Here(stop_after=21), tmp_path / "killed")
    with pytest.raises(TrainingError, match="is not empty"):
        running.run(trial(), Here(), tmp_path / "killed")
    rest = Here()
    again = running.run(trial(), rest, tmp_path / "killed", resume=True)
    assert len(rest.played) == 48 - 21, "nothing is played twice"

    def told(episodes: dict[str, list[Episode]]) -> dict[str, object]:
        return report(trial(), episodes, complete=True, resamples=50)

    assert told(again) == told(whole)


def test_two_cannot_play_into_one_folder(tmp_path: Path) -> None:
    with writing(tmp_path / "out"), pytest.raises(TrainingError, match="another masa works in it"):
        running.run(trial(), Here(), tmp_path / "out", resume=True)
    assert len(running.run(trial(), Here(), tmp_path / "out")["walker"]) == 32, "the lock is no content"


def test_a_backbone_that_cannot_be_opened_is_told_before_anything_is_played(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nosuch\.gguf"):
        running.run(trial(backbones=(Backbone("n", str(tmp_path / "nosuch.gguf")),)), InProcess(), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("events.jsonl"))


def test_another_backbone_can_be_added_but_no_arm_changed(tmp_path: Path) -> None:
    running.run(trial(), Here(), tmp_path / "out")
    more = trial(backbones=(Backbone("walker", "scripted"), Backbone("second", "scripted")))
    here = Here()
    episodes = running.run(more, here, tmp_path / "out", resume=True)
    assert len(here.played) == 32 and set(episodes) == {"", "walker", "second"}
    with pytest.raises(TrainingError, match="other settings"):
        running.run(trial(agent=AgentConfig()), Here(), tmp_path / "out", resume=True)


def test_the_numbers_are_those_counted_by_hand(tmp_path: Path) -> None:
    one = trial(penalty=0.5)
    episodes = running.run(one, Here(), None)
    told = report(one, episodes, complete=True, resamples=50)
    rows = {row["arm"]: row for row in told["rows"]}
    assert rows["good"]["SR"]["estimate"] == 1.0 and rows["good"]["NHR"]["estimate"] == 0.0
    assert rows["no-skill"]["SR"]["estimate"] == 0.0 and rows["no-skill"]["NHR"]["estimate"] == 1.0
    assert rows["no-skill"]["reward"]["estimate"] == -0.5
    assert rows["good"]["steps"] == 2.5 and rows["good"]["skills"] == 1
    assert rows["good"]["by_type"].keys() == {"short", "long"}
    assert 0 < rows["random"]["SR"]["estimate"] < 1 and rows["random"]["backbone"] is None
    (difference,) = told["differences"]
    assert difference["difference"]["estimate"] == 1.5 and difference["against"] == "no-skill"
    json.dumps(told, allow_nan=False)


def test_where_no_skills_are_an_arm_every_bank_is_compared_with_them() -> None:
    """Also where the first arm is a bank: better than a bad bank is not yet better than none."""
    bank = next(arm for arm in ARMS if arm.name == "good").bank
    none = next(arm for arm in ARMS if arm.name == "no-skill")
    one = trial(arms=(Arm(name="bad", bank=bank), none, Arm(name="good", bank=bank)))
    told = report(one, running.run(one, Here(), None), complete=True, resamples=20)
    found = [(row["arm"], row["against"]) for row in told["differences"]]
    assert found == [("no-skill", "bad"), ("good", "bad"), ("good", "no-skill")]
    assert "and against no skills" in to_markdown(told)


def test_missing_episodes_lower_the_coverage_and_nothing_else() -> None:
    one = trial(arms=ARMS[:2])
    episodes = running.run(one, Here(), None)
    gone = [
        replace(e, outcome="missing", success=False, steps=0) if e.job.arm == "good" and e.job.seed == 0 else e
        for e in episodes["walker"]
    ]
    told = report(one, {"walker": gone}, complete=False, resamples=50)
    (good,) = (row for row in told["rows"] if row["arm"] == "good")
    assert (good["episodes"], good["missing"], good["SR"]["estimate"]) == (8, 8, 1.0)
    assert told["differences"][0]["tasks"] == 8
    assert "(PARTIAL)" in to_markdown(told)


def test_an_arm_against_itself_reports_false_accepts() -> None:
    one = trial(seeds=4)
    episodes = running.run(one, Here(), None)
    told = report(one, episodes, complete=True, resamples=50, aa="good")
    (row,) = told["a_a"]
    assert row["false_accept_rate"] == 0.0 and row["tasks"] == 8, "it always wins: no difference to accept"
    assert "false-accept rate" in to_markdown(told)


def test_the_csv_has_a_line_an_arm() -> None:
    one = trial()
    text = to_csv(report(one, running.run(one, Here(), None), complete=True, resamples=50))
    rows = list(csv.DictReader(io.StringIO(text)))
    arms = [("", "random"), ("walker", "no-skill"), ("walker", "good")]
    assert [(row["backbone"], row["arm"]) for row in rows] == arms
    assert float(rows[2]["SR"]) == 1.0


def test_tasks_are_chosen_evenly_by_type_and_a_larger_number_adds_to_them() -> None:
    tasks = [Task(f"{kind}{n}", kind, "", "val") for kind, count in (("a", 10), ("b", 3)) for n in range(count)]
    few, more = choose_tasks(tasks, 4), choose_tasks(tasks, 9)
    assert [t.type for t in few].count("a") == 2
    assert {t.id for t in few} < {t.id for t in more} and [t.type for t in more].count("b") == 3
    assert choose_tasks(tasks, 0) == tasks
    assert len(jobs_of(trial(), ["x", "y"], few)) == 2 * 2 * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "valid"}, "no split is called 'valid'"),
        ({"penalty": 2.0}, "λ is 2.0"),
        ({"arms": (ARMS[0], ARMS[0])}, "two of the arms are called 'no-skill'"),
        ({"arms": ()}, "no arm to play"),
        ({"backbones": ()}, "there is no backbone"),
    ],
)
def test_a_trial_that_makes_no_sense_is_refused_in_words(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        trial(**changes)


def test_the_variable_of_a_key_is_no_setting_of_a_trial_and_a_key_is_refused() -> None:
    spec = "openai:http://h/v1#m"
    (told,) = (
        trial(backbones=(Backbone("b", spec, {"api_key_env": "KEY", "timeout": 3}),)).settings()["backbones"].values()
    )
    assert told == [spec, {"timeout": 3}]
    with pytest.raises(TrainingError, match="options has api_key"):
        Backbone("b", spec, {"api_key": "sk-1"})
    with pytest.raises(TrainingError, match="user name or password"):
        Backbone("b", spec, {"endpoints": ["http://me:sk-1@h/v1"]})


def test_options_are_json_or_text() -> None:
    assert option("size=3") == ("size", 3) and option("name=x y") == ("name", "x y")
    with pytest.raises(TrainingError, match="write it as key=value"):
        option("size")
