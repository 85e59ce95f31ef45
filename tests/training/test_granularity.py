"""`masa evaluate granularity`: numbers checked by hand, honest verdicts, and the command from the outside."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import masa_training.models
from masa.cli import root
from masa.skills import Skill, SkillBank
from masa_training.commands.granularity import to_markdown
from masa_training.environments.lookup import Lookup
from masa_training.errors import TrainingError
from masa_training.evaluate.banks import running
from masa_training.evaluate.banks.config import Backbone, Trial
from masa_training.models import Request
from masa_training.models.scripted import ScriptedModel
from masa_training.rollouts import Arm, Episode, Job
from masa_training.statistics import Interval
from masa_training.studies import granularity
from masa_training.studies.granularity import comparison, make_arms, shipped_banks, study

Wins = Callable[[str, str, int], bool]
"""Whether a backbone (empty for the random policy) wins with an arm at the task of that number."""


def bank(text: str, *, ids: str = "g1") -> SkillBank:
    return SkillBank((Skill(ids, "Look", text),), {"kind": (Skill("t1", "Go", text),)})


def trial(backbones: tuple[str, ...] = ("a", "b"), **changes: object) -> Trial:
    values: dict[str, object] = {
        "environment": "corridor",
        "arms": (
            Arm(name="none"),
            Arm(name="short", bank=bank("Look there.")),
            Arm(name="long", bank=bank("Look there, and there, and everywhere.")),
            Arm(name="random", random=True),
        ),
        "backbones": tuple(Backbone(name, "scripted") for name in backbones),
        "tasks": 0,
    }
    return Trial(**{**values, **changes})  # type: ignore[arg-type]


def episodes(of: Trial, wins: Wins, tasks: int = 20) -> dict[str, list[Episode]]:
    return {
        backbone: [
            Episode(
                job=Job(arm, f"t{n}", 0), task_type="kind", outcome="finished", steps=2, success=wins(backbone, arm, n)
            )
            for arm in spec.arms
            for n in range(tasks)
        ]
        for backbone, spec in of.parts()
    }


def opposite(backbone: str, arm: str, number: int) -> bool:
    """`a` wins 15 of 20 tasks with short and 5 without; `b` likes long as much and short not at all."""
    if arm == {"a": "short", "b": "long"}.get(backbone):
        return number < 15
    return number < (2 if arm == "random" else 0 if (backbone, arm) == ("b", "short") else 5)


def test_the_numbers_are_those_counted_by_hand() -> None:
    told = study(trial(), episodes(trial(), opposite), complete=True, resamples=200)
    rates = {(row["backbone"], row["arm"]): row["SR"]["estimate"] for row in told["rows"]}
    assert (
        rates["a", "short"] == rates["b", "long"] == 0.75
        and rates["a", "none"] == 0.25
        and rates[None, "random"] == 0.1
    )
    first, second = told["backbones"]
    assert (first["best"], second["best"]) == ("short", "long")
    assert first["over_none"]["short"]["estimate"] == pytest.approx(0.5) and first["beats_none"] is True
    assert first["over_none"]["long"]["estimate"] == 0 and first["over_none"]["long"]["verdict"] is None
    assert second["over_none"]["short"]["estimate"] == pytest.approx(-0.25)
    assert first["none_over_random"]["estimate"] == pytest.approx(0.15)
    assert told["level"] == pytest.approx(1 - 0.05 / 3)
    json.dumps(told, allow_nan=False)


def test_opposite_preferences_are_shown_and_equal_ones_are_not() -> None:
    (found,) = study(trial(), episodes(trial(), opposite), complete=True, resamples=200)["preferences"]
    assert found["best"] == ["short", "long"] and found["opposite"] is True
    assert [side["estimate"] for side in found["own_over_foreign"]] == pytest.approx([0.5, 0.75])
    assert found["interaction"]["estimate"] == pytest.approx(1.25) and found["interaction"]["verdict"] is True
    same = study(trial(), episodes(trial(), lambda _, arm, n: opposite("a", arm, n)), complete=True, resamples=200)
    assert same["preferences"] == []
    assert "No two backbones differ in what is best for them" in to_markdown(same)


def test_every_two_wordings_are_compared_and_so_are_the_backbones() -> None:
    pairs = study(trial(), episodes(trial(), opposite), complete=True, resamples=200)["pairs"]
    (found,) = pairs["pairs"]
    assert found["wordings"] == ["short", "long"] and pairs["level"] == pytest.approx(0.95)
    estimates = {name: one["estimate"] for name, one in found["differences"].items()}
    assert estimates == pytest.approx({"a": -0.5, "b": 0.75})
    assert found["apart"]["a − b"]["estimate"] == pytest.approx(-1.25) and found["apart"]["a − b"]["verdict"] is False


def test_a_study_by_reward_compares_rewards() -> None:
    graded = trial(score="reward")
    half = {
        backbone: [replace(e, reward=1.0 if e.success else 0.5) for e in some]
        for backbone, some in episodes(graded, opposite).items()
    }
    told = study(graded, half, complete=True, resamples=200)
    assert told["backbones"][0]["over_none"]["short"]["estimate"] == pytest.approx(0.25)
    text = to_markdown(told)
    assert "Mean reward" in text and "87.5%" in text


def test_a_bank_that_hurts_is_told_even_when_it_is_the_best() -> None:
    def wins(backbone: str, arm: str, number: int) -> bool:
        return arm == "none" or number < (10 if arm == "short" else 5)

    (one,) = study(trial(("a",)), episodes(trial(("a",)), wins), complete=True, resamples=200)["backbones"]
    assert one["best"] == "short" and one["beats_none"] is False
    text = to_markdown(study(trial(("a",)), episodes(trial(("a",)), wins), complete=True, resamples=200))
    assert "no: it is worse" in text


def test_few_tasks_that_differ_give_no_verdict() -> None:
    few = comparison({"t1": 1.0, "t2": 1.0, "t3": 1.0}, level=0.98)
    assert few["low"] > 0 and few["verdict"] is None, "a sign test of three tasks could not reject"
    assert comparison({f"t{n}": 1.0 for n in range(7)}, level=0.98)["verdict"] is True
    assert comparison({}, level=0.98)["estimate"] is None


def test_rounding_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    off = 0.2 - (0.2 + 0.2 + 0.2) / 3
    told = comparison({f"t{n}": off for n in range(20)}, level=0.95)
    assert off != 0 and told["tasks_differing"] == told["low"] == told["high"] == 0 and told["verdict"] is None
    values = {f"t{n}": -0.2 for n in range(20)}
    for high, verdict in ((-1.4e-18, None), (-0.001, False)):
        interval = Interval(-0.03, -0.06, high, 20)
        monkeypatch.setattr(granularity, "cluster_bootstrap", lambda *_, its=interval, **__: its)
        assert comparison(values, level=0.95)["verdict"] is verdict


def found_something(seed: int, *, level: float, resamples: int) -> bool:
    """Whether any of four banks that are all worth nothing is said to help or to hurt."""
    rng = random.Random(seed)
    arms = [[float(rng.random() < 0.4) for _ in range(50)] for _ in range(5)]
    differences = [{str(n): a - b for n, (a, b) in enumerate(zip(arm, arms[0], strict=True))} for arm in arms[1:]]
    return any(comparison(some, level=level, resamples=resamples)["verdict"] is not None for some in differences)


def test_picking_the_best_of_four_worthless_banks_seldom_finds_something() -> None:
    corrected = [found_something(seed, level=1 - 0.05 / 5, resamples=200) for seed in range(60)]
    plain = [found_something(seed, level=0.95, resamples=60) for seed in range(60)]
    assert sum(corrected) <= 0.08 * 60 < sum(plain)


def test_missing_episodes_and_unplayed_backbones_are_no_failures() -> None:
    of = trial()
    played = episodes(of, opposite)
    played["a"] = [
        replace(e, outcome="missing", success=False) if e.job.arm == "short" and int(e.job.task[1:]) >= 15 else e
        for e in played["a"]
    ]
    played["b"] = []
    told = study(of, played, complete=False, resamples=200)
    first, second = told["backbones"]
    assert first["over_none"]["short"]["tasks"] == 15 and second["best"] is None and second["beats_none"] is None
    text = to_markdown(told)
    assert "(PARTIAL)" in text and "5 missing" in text and "| b | – | – | – |" in text


def test_a_bank_played_on_the_easy_tasks_only_is_not_the_best_for_that() -> None:
    of = trial(("a",))
    played = episodes(of, lambda backbone, arm, n: n < (12 if arm == "long" else 10))
    played["a"] = [e for e in played["a"] if e.job.arm != "short" or int(e.job.task[1:]) < 10]
    told = study(of, played, complete=False, resamples=200)
    assert told["backbones"][0]["best"] == "long", "short has the higher rate, and no gain on the tasks that it played"


def test_banks_of_other_skills_are_not_called_granularities_of_one() -> None:
    of = trial()
    assert study(of, episodes(of, opposite), complete=True, resamples=200)["same_skills"] is True
    other = trial(arms=(*of.arms[:2], Arm(name="long", bank=bank("Look.", ids="g9")), of.arms[3]))
    told = study(other, episodes(other, opposite), complete=True, resamples=200)
    assert told["same_skills"] is False and "do not hold the same skills" in to_markdown(told)


def test_the_table_marks_the_best_and_what_differs() -> None:
    text = to_markdown(study(trial(), episodes(trial(), opposite), complete=True, resamples=200))
    row = next(line for line in text.splitlines() if line.startswith("| a |"))
    none, short, long = row.strip("| ").split(" | ")[1:]
    assert short.startswith("**75.0% [") and short.endswith("** \\*")
    assert none.startswith("25.0% [") and not long.endswith("*")
    assert "Random policy: 10.0% [" in text and "| yes |" in text


def test_banks_ship_for_four_environments() -> None:
    assert list(shipped_banks("lookup")) == ["concise", "moderate", "detailed"]
    assert list(shipped_banks("lookup", stepwise=True))[-1] == "stepwise"
    assert list(shipped_banks("assistant", stepwise=True))[-2:] == ["stepwise", "examples"]
    assert shipped_banks("alfworld") == shipped_banks("household")
    assert all(
        path.is_file()
        for name in ("assistant", "filing", "lookup", "household")
        for path in shipped_banks(name, stepwise=True).values()
    )
    with pytest.raises(TrainingError, match=r"'webshop'"):
        shipped_banks("webshop")


def test_the_names_of_arms_without_a_bank_are_refused() -> None:
    for name in ("none", "random"):
        with pytest.raises(TrainingError, match=f"{name!r} is an arm without a bank"):
            make_arms({name: shipped_banks("lookup")["concise"]})


SMALL = ("--option", "size=60", "--tasks", "12")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["evaluate", "granularity", *arguments])


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedModel]:
    """A model that solves what it is asked where the skills in its prompt are numbered, else answers anything."""
    world = Lookup(size=60)
    solutions: Mapping[str, list[str]] = {task.goal: list(world.solution(task, 0)) for task in world.tasks("val")}
    opened: list[ScriptedModel] = []

    def script(request: Request) -> str:
        assert request.candidates is not None, "small models choose unless told otherwise"
        goal = request.messages[1].content.rpartition("Task: ")[2].partition("\n")[0]
        if "\n2. " in "".join(message.content for message in request.messages[:2]):
            return solutions[goal][len(request.messages) // 2 - 1]
        return request.candidates[-1]

    def open_model(spec: str, **options: object) -> ScriptedModel:
        opened.append(ScriptedModel(script))
        return opened[-1]

    monkeypatch.setattr(masa_training.models, "open_model", open_model)
    monkeypatch.setattr(running, "open_model", open_model)
    monkeypatch.setattr(granularity, "study", partial(study, resamples=50))
    return opened


def test_a_study_is_played_told_resumed_and_added_to(reader: list[ScriptedModel], tmp_path: Path) -> None:
    arguments = ("lookup", "--backbone", "one=x.gguf", "--stepwise", *SMALL, "-o", str(tmp_path / "out"))
    found = run(*arguments, "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    rates = {(row["backbone"], row["arm"]): row["SR"]["estimate"] for row in told["rows"]}
    assert rates["one", "stepwise"] == 1.0 and rates["one", "none"] == rates["one", "detailed"] < 1
    assert told["complete"] and told["same_skills"] and told["backbones"][0]["best"] == "stepwise"
    assert [one["granularity"] for one in told["banks"]] == ["concise", "moderate", "detailed", "stepwise"]
    assert {"report.json", "report.csv", "report.md"} <= {path.name for path in (tmp_path / "out").iterdir()}

    opened = len(reader)
    assert run(*arguments).exit_code == 1
    again = json.loads(run(*arguments, "--resume", "--json").stdout)
    assert again["rows"] == told["rows"] and len(reader) == opened, "nothing is played twice"
    more = run(*arguments, "--backbone", "two=y.gguf", "--resume")
    assert more.exit_code == 0 and len(reader) > opened
    assert "| two |" in more.stdout and "Results: " in more.stdout and "No two backbones differ" in more.stdout


SERVED = "openai:http://127.0.0.1:9/v1#m"
"""A server that nobody runs: a plan asks nothing."""


def test_a_dry_run_says_what_would_be_played(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    arguments = ("lookup", "--backbone", f"x={SERVED}", *SMALL, "--seeds", "2", "--dry-run", "-o", out)
    told = json.loads(run(*arguments, "--json").stdout)
    assert told["environment"] == "lookup" and told["parts"][1]["arms"] == ["none", "concise", "moderate", "detailed"]
    assert told["episodes"] == 12 * 2 * 5 and not (tmp_path / "out").exists()
    own = str(shipped_banks("lookup")["concise"])
    assert "x: none, mine (48 episodes)" in run(*arguments, "--bank", f"mine={own}").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lookup",), "there is no backbone; name one with --backbone"),
        (("lookup", "--backbone", "nomodel", "--dry-run"), "nomodel: no such model"),
        (("lookup", "--backbone", SERVED, "--bank", "a=examples/skills", "--dry-run"), "`masa check` compares"),
        (("webshop", "--backbone", "x"), "no banks ship for 'webshop'"),
        (("lookup", "--backbone", "x", "--bank", "a=missing.json"), "missing.json: no such file"),
        (("lookup", "--backbone", "x", "--bank", "a=1.json", "--bank", "a=2.json"), "two of the banks are called 'a'"),
        (("lookup", "--backbone", "x", "--backbone", "y=openai:http://h/v1#m"), "say --choose or --write for all"),
        (("lookup", "--backbone", "x", "--temperature", "-1"), "--temperature is -1.0"),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = run(*arguments, "-q", "-o", str(tmp_path / "out"))
    assert result.exit_code == 1 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_stepwise_and_own_banks_exclude_each_other() -> None:
    result = run("lookup", "--backbone", "x", "--bank", "a=a.json", "--stepwise")
    assert result.exit_code == 2 and "--bank stepwise=FILE" in result.stderr
