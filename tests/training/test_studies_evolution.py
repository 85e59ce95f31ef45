"""Studies of evolution: noise that is told and never recorded as truth, cards that only the teacher sees, one table."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import masa_training.evolution.run as running
from masa.cards import shipped_cards
from masa.skills import GENERAL
from masa_training.commands.evaluate import command
from masa_training.errors import TrainingError
from masa_training.evolution import EvolveConfig
from masa_training.evolution.playing import FeedbackNoise
from masa_training.evolution.run import evolve
from masa_training.evolution.run_log import Played, RunLog
from masa_training.evolution.views.report import write_report
from masa_training.models import ModelError, Reply, Request
from masa_training.rollouts import Episode, Job
from masa_training.studies import evolutions_report
from masa_training.studies import running as studies_running
from masa_training.studies.evolutions import card_study, most_unlike, noise_study, perturbed, standing, unlike
from masa_training.studies.evolutions_report import to_markdown
from masa_training.teacher import Asked, OperatorTeacher, Rewrite
from tests.training.teacher_server import stepwise
from tests.training.test_evolution import Reader, config, events, searched
from tests.training.test_models_openai import MODELS, Server

SMALL = {"rounds": 2, "iterations": 0, "watched": 3, "accept": {"pairs": 20}, "test_tasks": 12}
CARD = {"family": "Reader", "num_layers": 3, "weaknesses": "reads no tables", "context_window": 512}
STEPWISE = "lookup/stepwise"


class Forgetful(Reader):
    """A reader that can be told to stop everything after so many replies."""

    left = math.inf
    asked: Callable[[], object] = staticmethod(lambda: None)

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        self.asked()
        self.left -= len(requests)
        if self.left <= 0:
            self.left = math.inf
            raise KeyboardInterrupt
        return super().reply(requests)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Forgetful:
    """The backbone of every run, which goes on living when a run closes it."""
    found = Forgetful()
    monkeypatch.setattr(running, "open_model", lambda spec, **options: found)
    monkeypatch.setattr(evolutions_report, "study_report", partial(evolutions_report.study_report, resamples=50))
    return found


def small(path: Path, **changes: Any) -> EvolveConfig:
    return config(path, **{**SMALL, **changes})


def study(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)))


def played(number: int, split: str = "val") -> Played:
    return Played("bank", split, f"task-{number}", number % 3)


def episode(number: int = 0, *, success: bool = True, outcome: str = "finished") -> Episode:
    return Episode(job=Job("a", f"task-{number}", 0), task_type="t", outcome=outcome, success=success)  # type: ignore[arg-type]


# --- noise ----------------------------------------------------------------------------------------------


def flipped(probability: float, seed: int = 0, count: int = 4000) -> set[int]:
    noise = FeedbackNoise(probability, seed)
    return {n for n in range(count) if not noise.told(played(n), episode(n)).success}


@pytest.mark.parametrize("probability", [0.1, 0.3])
def test_as_many_outcomes_are_flipped_as_asked_the_same_ones_every_time(probability: float) -> None:
    found = flipped(probability)
    spread = math.sqrt(probability * (1 - probability) / 4000)
    assert abs(len(found) / 4000 - probability) < 4 * spread
    assert found == flipped(probability)
    other = flipped(probability, seed=1)
    assert abs(len(found & other) / 4000 - probability**2) < 0.03, "another seed flips others"


def test_what_is_flipped_at_one_level_is_flipped_at_every_higher_one() -> None:
    assert flipped(0.0) == set() and flipped(1.0) == set(range(4000))
    assert flipped(0.1) < flipped(0.2) < flipped(0.3)


def test_two_banks_on_one_task_are_told_wrongly_independently_of_each_other() -> None:
    noise = FeedbackNoise(0.5, 0)
    both = [
        [noise.told(played(n)._replace(bank=bank), episode(n)).success for n in range(2000)] for bank in ("one", "two")
    ]
    assert 0.45 < sum(a == b for a, b in zip(*both, strict=True)) / 2000 < 0.55


def test_the_final_test_and_missing_episodes_are_never_flipped() -> None:
    noise = FeedbackNoise(1.0, 0)
    assert noise.told(played(0, "test"), episode()).success
    missing = episode(outcome="missing", success=False)
    assert noise.told(played(0), missing) == missing
    told = noise.told(played(0), episode())
    flipped = replace(episode(), success=False, reward=1 - episode().reward)
    assert told == flipped, "nothing but success and reward is another"


class Seeing:
    """The offline teacher, and the outcomes that it was shown."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str, int], bool] = {}

    def rewrite(self, asked: Asked) -> Rewrite:
        for one in asked.seen:
            self.seen[one.episode.job.arm, one.task.id, one.episode.job.seed] = one.episode.success
        return OperatorTeacher().rewrite(asked)


def test_a_search_hears_the_flipped_outcomes_and_the_record_keeps_the_truth(reader: Forgetful, tmp_path: Path) -> None:
    teacher = Seeing()
    settings = small(tmp_path / "c.yaml", feedback_noise=0.4, noise_seed=3, rounds=1, penalty=0.0)
    evolve(settings, tmp_path / "run", teacher=teacher)
    noise = FeedbackNoise(0.4, 3)
    told: dict[Played, bool] = {}
    for event in events(tmp_path / "run"):
        if event["event"] == "episode":
            which = Played(*event["of"])
            assert ("told" in event) == (which.split != "test")
            if which.split != "test":
                told[which] = event["told"]
                right = noise.told(which, episode(success=event["success"])).success
                assert event["told"] is right
    assert 0 < sum(told.values()) < len(told)
    for (bank, task, seed), success in teacher.seen.items():
        assert told[Played(bank, "train", task, seed)] is success
    # Node 0 plays the deciding tasks in order; its rewards are what was told.
    (first,) = {event["bank"] for event in events(tmp_path / "run") if event.get("node") == 0 and "bank" in event}
    rewards = [
        reward
        for event in events(tmp_path / "run")
        if event["event"] == "evaluation" and event["node"] == 0
        for reward in event["rewards"]
    ]
    heard = [success for which, success in told.items() if which.bank == first and which.split == "val"]
    assert sum(rewards) == sum(heard) and len(rewards) == len(heard)
    assert "with probability 0.4" in write_report(tmp_path / "run").read_text("utf-8"), "the report says so"


class Unnumbering:
    """A teacher that writes steps as prose, which the reader does not like."""

    def rewrite(self, asked: Asked) -> Rewrite:
        skills = (replace(skill, principle=re.sub(r"(?m)^\d+\. ", "", skill.principle)) for skill in asked.group.skills)
        return Rewrite(group=replace(asked.group, skills=tuple(skills)))


def test_feedback_that_is_always_wrong_takes_the_worse_bank_and_the_test_says_so(
    reader: Forgetful, tmp_path: Path
) -> None:
    found = []
    for noise in (0.0, 1.0):
        settings = small(tmp_path / "c.yaml", feedback_noise=noise, rounds=1, bank=STEPWISE, accept={"pairs": 60})
        found.append(evolve(settings, tmp_path / f"{noise:g}", teacher=Unnumbering()))
    right, wrong = (its.searches[GENERAL] for its in found)
    assert (right["accepted"], wrong["accepted"]) == (0, 1)
    (row,) = (row for row in found[1].test["differences"] if (row["arm"], row["against"]) == ("evolved", "base"))
    assert row["difference"]["estimate"] < 0


def test_a_noisy_run_that_is_killed_goes_on_as_if_it_had_not_been(reader: Forgetful, tmp_path: Path) -> None:
    settings = small(tmp_path / "c.yaml", feedback_noise=0.3)
    whole = evolve(settings, tmp_path / "whole")
    reader.left = 40
    with pytest.raises(KeyboardInterrupt):
        evolve(settings, tmp_path / "run")
    assert evolve(settings, tmp_path / "run", resume=True).bank == whole.bank
    assert searched(tmp_path / "run") == searched(tmp_path / "whole")


@pytest.mark.parametrize("changes", [{"feedback_noise": -0.1}, {"feedback_noise": 1.5}, {"teacher_card": 3}])
def test_wrong_settings_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=r"(feedback_noise|teacher_card) is"):
        small(tmp_path / "c.yaml", **changes)


# --- the study of noise ---------------------------------------------------------------------------------


def test_the_study_says_what_it_would_play_plays_it_goes_on_and_tells(reader: Forgetful, tmp_path: Path) -> None:
    small(tmp_path / "c.yaml")
    folder = tmp_path / "study"
    arguments = ["feedback-noise", tmp_path / "c.yaml", "-o", folder, "--noise", "0", "--noise", "0.3", "--runs", "2"]
    planned = json.loads(study(*arguments, "--dry-run", "--json").stdout)
    names = ["t/noise-0-0", "t/noise-0.3-0", "t/noise-0.3-1"]
    assert [row["cell"] for row in planned["cells"]] == names, "without noise nothing is drawn, so once is enough"
    assert planned["left"] == {"episodes": 3 * (20 + 2 * 23), "test_episodes": 3 * 36, "teacher_requests": 0}
    assert not folder.exists()

    reader.left = 150  # dies in the second cell
    dead = study(*arguments)
    assert isinstance(dead.exception, KeyboardInterrupt | SystemExit)
    told = json.loads(study(*arguments, "--report", "--json").stdout)
    states = {cell["cell"]: cell["state"] for row in told["experiments"][0]["rows"] for cell in row["cells"]}
    assert list(states.values()) == ["finished", "goes on", "to do"], states
    assert not told["complete"] and told["missing"] == names[1:]
    assert "(PARTIAL)" in (folder / "report.md").read_text("utf-8")

    assert study(*arguments).exit_code == 1, "without --resume nothing is continued"
    done = study(*arguments, "--resume", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (
        told["complete"] and told["left"] == {} and told == {**told, **json.loads((folder / "report.json").read_text())}
    )
    clean, noisy = told["experiments"][0]["rows"]
    assert (clean["runs"], clean["finished"], noisy["runs"], noisy["finished"]) == (1, 1, 2, 2)
    assert clean["over_first"] is None and noisy["over_first"]["tasks"] == 12
    assert clean["proposals"] == clean["accepted"] + clean["rejected"] + clean["indecisive"] + clean["failed"] == 2
    arms = {row["arm"]: row["SR"]["estimate"] for row in clean["cells"][0]["test"]["rows"]}
    assert clean["SR"]["estimate"] == arms["evolved"]
    assert clean["over_start"]["estimate"] == pytest.approx(arms["evolved"] - arms["base"])
    for cell in noisy["cells"]:
        again = {row["arm"]: row["SR"]["estimate"] for row in cell["test"]["rows"]}
        assert (again["base"], again["no-skill"]) == (arms["base"], arms["no-skill"]), "the test is not flipped"
    assert all(len({tuple(e["of"]) for e in its}) == len(its) for its in map(partial(_played, folder), names))

    before = reader.replies
    text = study(*arguments, "--resume")
    assert reader.replies == before, "finished runs are not begun again"
    assert "| flipped |" in text.stdout and "| 30% | 2 of 2 |" in text.stdout and "PARTIAL" not in text.stdout


def _played(folder: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in events(folder / name) if event["event"] == "episode"]


def test_true_differences_of_accepted_edits_are_told_beside_what_the_search_saw(
    reader: Forgetful, tmp_path: Path
) -> None:
    settings = small(tmp_path / "c.yaml", bank=STEPWISE, rounds=1, accept={"pairs": 60})
    made = noise_study([settings], [0.0, 1.0])
    for cell in made.cells:
        (tmp_path / "study" / cell.name).parent.mkdir(parents=True, exist_ok=True)
        evolve(cell.config, tmp_path / "study" / cell.name, teacher=Unnumbering())
    (tmp_path / "study" / "study.json").write_text('{"format": 1, "study": "feedback-noise"}')
    told = evolutions_report.study_report(made, tmp_path / "study", resamples=20)
    (wrong,) = told["experiments"][0]["rows"][1]["cells"]
    (edit,) = wrong["accepted_edits"]
    assert wrong["accepted_no_better"] == 1
    assert edit["told"] > 0 and edit["true"] == pytest.approx(-edit["told"])


def test_a_study_in_the_folder_is_not_mixed_with_another(reader: Forgetful, tmp_path: Path) -> None:
    settings = small(tmp_path / "c.yaml", rounds=1)
    arguments = ["feedback-noise", tmp_path / "c.yaml", "-o", tmp_path / "study", "--noise", "0", "-q"]
    assert study(*arguments).exit_code == 0
    other = study(*arguments, "--resume", "--set", "rounds=2")
    assert "its run has another rounds; give the settings" in str(other.exception)
    card = study("card-perturbation", tmp_path / "c.yaml", "-o", tmp_path / "study", "--resume", "--teacher", "openai:http://x/v1#m",
                 "--set", "backbone.card=Qwen3-4B")  # fmt: skip
    assert "holds the study feedback-noise, not card" in str(card.exception)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("x")
    full = study("feedback-noise", tmp_path / "c.yaml", "-o", tmp_path / "letters")
    assert "is not empty and holds no study" in str(full.exception)
    with pytest.raises(TrainingError, match="are called 't'"):
        noise_study([settings, settings])
    with pytest.raises(TrainingError, match="give each of them once"):
        noise_study([settings], [0.1, 0.1])
    with pytest.raises(TrainingError, match="give each of them once"):
        noise_study([settings], [0.1, 0.10000001])  # one folder
    assert standing(noise_study([settings], [0.5]).cells[0], tmp_path / "study") == "to do", "levels may be added"


def test_a_study_of_several_experiments_stops_when_its_time_is_up(reader: Forgetful, tmp_path: Path) -> None:
    small(tmp_path / "a.yaml", name="a")
    small(tmp_path / "b.yaml", name="b")
    stopped = study("feedback-noise", tmp_path / "a.yaml", tmp_path / "b.yaml", "-o", tmp_path / "s", "--noise", "0",
                    "--limit-minutes", "0", "--json")  # fmt: skip
    assert stopped.exit_code == 0, stopped.output
    assert json.loads(stopped.stdout)["left"] == {"a/noise-0-0": "not begun", "b/noise-0-0": "not begun"}
    assert reader.replies == 0


def test_a_run_that_the_limit_stops_says_so_and_how_to_go_on(
    reader: Forgetful, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tmp_path / "c.yaml", rounds=1)
    now = [0.0]
    monkeypatch.setattr(studies_running, "Budget", partial(studies_running.Budget, clock=lambda: now[0]))
    reader.asked = lambda: now.__setitem__(0, now[0] + 60.0)
    arguments = ("feedback-noise", tmp_path / "c.yaml", "-o", tmp_path / "s", "--noise", "0", "--noise", "0.1")
    stopped = study(*arguments, "--limit-minutes", "3")
    assert stopped.exit_code == 0, stopped.output
    assert "t/noise-0-0: stopped, the limit of 3 minutes (--limit-minutes) was reached" in stopped.stderr
    last = stopped.stderr.strip().splitlines()[-1]
    assert last == (
        "Stopped, the limit of 3 minutes (--limit-minutes) was reached: 2 runs not finished; the same command with "
        "--resume continues."
    )
    assert "ancelled" not in stopped.output
    assert study(*arguments, "--resume", "-q").exit_code == 0


# --- the study of the card ------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(stepwise, MODELS)
    yield found
    found.close()


def shown_card(body: dict[str, Any]) -> str:
    return str(body["messages"][1]["content"]) if body["messages"][0]["role"] == "system" else ""


def test_only_the_teacher_is_told_another_card(reader: Forgetful, server: Server, tmp_path: Path) -> None:
    backbone = {"name": "Reader-1B", "spec": f"replay:{__file__}", "card": CARD}
    small(tmp_path / "c.yaml", rounds=1, backbone=backbone)
    folder = tmp_path / "study"
    arguments = [
        "card-perturbation",
        tmp_path / "c.yaml",
        "-o",
        folder,
        "--teacher",
        f"openai:{server.url}#m",
        "--other",
        "Qwen3-4B",
    ]
    assert json.loads(study(*arguments, "--dry-run", "--json").stdout)["left"]["teacher_requests"] == 4 * 6
    done = study(*arguments)
    assert done.exit_code == 0, done.output
    asked = {}
    for name in ("true", "perturbed", "empty", "other"):
        (begun,) = [event for event in events(folder / f"t/{name}-0") if event["event"] == "run"]
        assert begun["card"] == CARD, "the record keeps the backbone's own card"
        asked[name] = begun["teacher_card"]
    assert asked["true"] == CARD and asked["empty"] == {}
    assert asked["other"]["family"] == "Qwen3"
    assert len(unlike(CARD, asked["perturbed"])) == 2, "half of four fields"
    questions = [text for body in server.requests if (text := shown_card(body))]
    assert sum("weaknesses: reads no tables" in text for text in questions) >= 2
    assert any("family: Qwen3" in text for text in questions)
    assert any("family:" not in text for text in questions), "an empty card shows nothing"
    assert "| card |" in done.stdout and "other (Qwen3-4B): other than the true card in family" in done.stdout
    told = json.loads((folder / "report.json").read_text())
    assert [row["condition"] for row in told["experiments"][0]["rows"]] == ["true", "perturbed", "empty", "other"]


@pytest.mark.parametrize("content", ["", "- a\n", "teacher: 3\n"])
def test_a_damaged_configuration_of_a_run_is_told_in_words(tmp_path: Path, content: str) -> None:
    settings = small(tmp_path / "c.yaml")
    RunLog(tmp_path / "run", settings)
    (tmp_path / "run" / "config.yaml").write_text(content)
    with pytest.raises(TrainingError, match=r"config\.yaml: damaged"):
        RunLog(tmp_path / "run", settings, resume=True)


def test_the_report_says_what_is_wrong_in_the_card_of_every_run(tmp_path: Path) -> None:
    backbone = {"name": "R", "spec": "", "card": shipped_cards()["Qwen3-4B"].fields()}
    made = card_study([small(tmp_path / "c.yaml", backbone=backbone, teacher="openai:http://x/v1#m")], runs=2)
    (tmp_path / "study.json").write_text('{"format": 1, "study": "card"}')
    told = evolutions_report.study_report(made, tmp_path)
    truth, drawn, _, other = told["experiments"][0]["rows"]
    assert truth["wrong_fields"] == [[], []]
    first, second = drawn["wrong_fields"]
    cards = [cell.config.teacher_card for cell in made.cells if cell.condition == "perturbed"]
    assert [first, second] == [unlike(backbone["card"], card) for card in cards] and first != second  # type: ignore
    text = to_markdown(told)
    assert f"true card in {', '.join(first)} (run 0); {', '.join(second)} (run 1)." in text
    assert f"other ({other['model']}): other than the true card in {', '.join(other['wrong_fields'][0])}." in text


def test_a_perturbed_card_is_wrong_in_as_many_fields_as_asked_each_run_in_others() -> None:
    card = shipped_cards()["Qwen3-4B"].fields()
    drawn = [perturbed(card, 0.5, seed) for seed in range(8)]
    for its in drawn:
        assert list(its) == list(card), "the same fields in the same order"
        assert len(unlike(card, its)) == round(0.5 * len(card))
        assert all(type(its[name]) is type(card[name]) for name in card)
    assert len({str(its) for its in drawn}) == 8
    assert perturbed(card, 0.5, 3) == drawn[3]
    assert len(unlike(card, perturbed(card, 1.0, 0))) == len(card)
    assert len(unlike(card, perturbed(card, 0.01, 0))) == 1, "at least one"


def test_the_other_model_is_the_one_that_differs_most() -> None:
    card = shipped_cards()["Qwen3-4B"].fields()
    most = len(unlike(card, most_unlike(card)))
    assert most == max(len(unlike(card, its.fields())) for its in shipped_cards().values()) > 10


REFUSED: list[tuple[dict[str, Any], str, Callable[[EvolveConfig], object]]] = [
    ({}, "its backbone has no card", lambda settings: card_study([settings])),
    ({"backbone": {"name": "R", "spec": "", "card": CARD}}, "the teacher operators reads no card",
     lambda settings: card_study([settings])),
    ({}, "the share of wrong fields is 0", lambda settings: card_study([settings], share=0)),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message", "make"), REFUSED)
def test_a_study_that_could_show_nothing_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str, make: Callable[[EvolveConfig], object]
) -> None:
    changes = {"backbone": {"name": "R", "spec": "", "card": {}}, **changes}
    with pytest.raises(TrainingError, match=message):
        make(small(tmp_path / "c.yaml", **changes))
