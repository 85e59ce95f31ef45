"""The downstream study: real rewrites, a real world, a simulated reader that likes numbered steps."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from masa.formats import load_bank
from masa.formats.bank_json import dump_bank, loads_bank
from masa.skills import GENERAL, SkillBank
from masa_training.commands import downstream as commanding
from masa_training.commands.downstream import to_markdown
from masa_training.errors import TrainingError
from masa_training.evaluate.banks.config import BANKS
from masa_training.evaluate.banks.report import plot
from masa_training.evolution.run import evolve
from masa_training.evolution.run_log import read_run
from masa_training.models import ModelError, Reply, Request
from masa_training.rollouts import Episode, Job
from masa_training.rollouts.executors import InProcess
from masa_training.studies.downstream import (
    DownstreamConfig,
    ReaderArms,
    ReaderConfig,
    arms_of,
    load_downstream,
    play,
    report,
    searched_banks,
)

from .test_evolution import OPTIONS, Reader
from .test_evolution import config as evolve_config

TERSE = {"parameter_count": "135M", "weaknesses": "loses the thread in long text"}
ORDER = {"parameter_count": "135M", "weaknesses": "skips steps"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two readers whose runs began with a bank of three skills, and the study of these."""
    folder = tmp_path_factory.mktemp("downstream")
    whole = load_bank(BANKS / "lookup" / "moderate.json")
    small = SkillBank(whole.general[:2], {"comparison": whole.task_specific["comparison"][:1]})
    (folder / "small.json").write_bytes(dump_bank(small))
    for name, rounds in (("one", 3), ("two", 0)):
        settings = evolve_config(
            folder / f"{name}.yaml",
            bank=str(folder / "small.json"),
            rounds=rounds,
            iterations=2,
            test_tasks=6,
            accept={"pairs": 20},
        )
        evolve(settings, folder / name, model=Reader())
    values = {
        "name": "small",
        "environment": "lookup",
        "options": OPTIONS,
        "agent": {"choose": True},
        "tasks": 12,
        "rewriters": {"shipped": "smollm2-135m"},
        "readers": [
            {"name": "one", "spec": f"replay:{__file__}", "card": ORDER, "run": "one"},
            {"name": "two", "spec": f"replay:{__file__}", "card": TERSE, "run": "two"},
        ],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    return folder


def test_banks_of_a_run_are_where_it_began_what_it_found_and_parts_of_that(study: Path) -> None:
    banks = searched_banks(study / "one")
    start = load_bank(study / "small.json")
    assert banks["start"] == start and banks["evolved"] == load_bank(study / "one/banks/evolved.json") != start
    assert banks["one-shot"] not in (start, banks["evolved"])
    for name, general, tree in (
        ("general search only", "evolved", "start"),
        ("task-specific search only", "start", "evolved"),
    ):
        assert banks[name].general == banks[general].general
        assert banks[name].task_specific == banks[tree].task_specific
    assert searched_banks(study / "two")["general search only"] == start, "its general skills were not searched"


def test_a_run_that_is_not_finished_is_refused(study: Path, tmp_path: Path) -> None:
    events = (study / "one/events.jsonl").read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(events) if '"best"' in line)
    (tmp_path / "events.jsonl").write_text("".join(events[:last]))
    with pytest.raises(TrainingError, match="the run is not finished"):
        searched_banks(tmp_path)


@pytest.fixture(scope="module")
def arms(study: Path) -> tuple[DownstreamConfig, list[ReaderArms]]:
    config, folder = load_downstream(str(study / "study.yaml"))
    return config, arms_of(config, folder)


def test_every_rewriter_writes_for_the_right_card_every_wrong_one_and_none(
    arms: tuple[DownstreamConfig, list[ReaderArms]],
) -> None:
    one, two = arms[1]
    assert {"shipped, right card", "shipped, no card", "shipped, card of two"} == set(one.rewrites)
    assert "shipped, card of one" in two.banks
    # The same first bank and the same two cards, each right once.
    assert one.banks["shipped, right card"] == two.banks["shipped, card of one"]
    assert one.banks["shipped, card of two"] == two.banks["shipped, right card"]
    assert one.banks["evolved for two"] == two.banks["evolved"]
    assert all(0 <= share <= 1 for told in one.rewrites.values() for name, share in told.items() if name != "seconds")


def test_episodes_are_played_once_for_every_different_bank_and_never_again(
    study: Path, arms: tuple[DownstreamConfig, list[ReaderArms]], tmp_path: Path
) -> None:
    config, both = arms
    reader = Reader()
    played = play(config, both, tmp_path, InProcess(reader))
    asked = reader.replies
    assert asked and {arm: len(some) for arm, some in played["one"].items()} == dict.fromkeys(both[0].banks, 12)
    again = play(config, both, tmp_path, InProcess(reader))
    assert reader.replies == asked
    told = report(config, both, played, resamples=200)
    assert told["complete"] and told["rows"] == report(config, both, again, resamples=200)["rows"]
    rates = {(row["reader"], row["arm"]): row["SR"]["estimate"] for row in told["rows"]}
    assert rates["one", "evolved"] > rates["one", "start"], "the simulated reader likes what was found"
    found = {(row["reader"], row["what"]): row["estimate"] for row in told["differences"]}
    for name in ("one", "two"):
        difference = rates[name, "evolved"] - rates[name, "start"]
        assert found[name, "evolved − start"] == pytest.approx(difference)
    text = to_markdown(told)
    assert "(PARTIAL)" not in text and "| shipped: right card − wrong cards |" in text
    spent = read_run(study / "one").spent
    assert told["searches"]["one"] == {"episodes": spent.episodes, "minutes": spent.minutes} and spent.episodes > 50
    seconds = both[0].rewrites["shipped, right card"]["seconds"]
    assert seconds > 0 and f"| one | {spent.episodes:,} | {spent.minutes:.1f} | {seconds:.1f} |" in text


def test_a_reader_may_have_a_bank_and_no_search(study: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((study / "study.yaml").read_text())
    readers = [{k: v for k, v in one.items() if k != "run"} for one in values["readers"]]
    readers[0]["bank"], readers[1]["bank"] = str(study / "small.json"), "lookup/concise"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**values, "readers": readers, "tasks": 4}))
    config, folder = load_downstream(str(tmp_path / "study.yaml"))
    one, two = arms_of(config, folder)
    assert one.banks["start"] == (load_bank(study / "small.json"),)
    assert two.banks["start"] == (load_bank(BANKS / "lookup" / "concise.json"),)
    assert set(one.banks) == {"no skills", "start", "facts only", *one.rewrites}
    told = report(config, [one, two], play(config, [one, two], tmp_path / "out", InProcess(Reader())), resamples=200)
    assert told["complete"] and not [row for row in told["differences"] if "evolved" in row["what"]]
    to_markdown(told)
    readers[0]["bank"] = "none.json"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**values, "readers": readers}))
    with pytest.raises(TrainingError, match=r"reader one: no bank .*none.json, and none of that name comes with masa"):
        arms_of(*load_downstream(str(tmp_path / "study.yaml")))


def test_a_reader_with_several_cards_has_the_mean_over_their_banks(study: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((study / "study.yaml").read_text())
    readers = [{**one, "bank": "lookup/concise"} for one in values["readers"]]
    for one in readers:
        del one["run"]
    readers[0]["weaknesses"] = ["skips steps", "loses the thread in long text"]
    readers[1]["weaknesses"] = ["loses the thread in long text"]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**values, "readers": readers, "tasks": 6}))
    config, folder = load_downstream(str(tmp_path / "study.yaml"))
    one, two = arms_of(config, folder)
    for reader, other in ((one, "two"), (two, "one")):
        assert set(reader.rewrites) == {"shipped, right card", "shipped, no card", f"shipped, card of {other}"}
    steps, short = one.banks["shipped, right card"]
    assert two.banks["shipped, right card"] == (short,) == one.banks["shipped, card of two"]
    assert two.banks["shipped, card of one"] == (steps, short)
    # Banks that a test wrote, so that the two differ in what they are worth.
    numbered = load_bank(BANKS / "lookup" / "stepwise.json")
    banks = {**one.banks, "shipped, right card": (numbered, one.banks["start"][0])}
    one = replace(one, banks=banks)
    played = play(config, [one], tmp_path / "out", InProcess(Reader()))
    assert len(played["one"]["shipped, right card"]) == 12
    told = report(config, [one], played, resamples=200)
    rates = {row["arm"]: row["SR"]["estimate"] for row in told["rows"]}
    alone = play(config, [replace(one, banks={"n": (numbered,)})], tmp_path / "alone", InProcess(Reader()))["one"]["n"]
    worth = sum(e.success for e in alone) / len(alone)
    assert worth != rates["start"], "the simulated reader likes numbered steps"
    assert rates["shipped, right card"] == pytest.approx((worth + rates["start"]) / 2)
    (row,) = (row for row in told["rows"] if row["arm"] == "shipped, right card")
    assert row["by_card"] == pytest.approx([worth, rates["start"]])
    text = to_markdown(told)
    assert "2 different of 2" in text
    assert f"| one | shipped, right card | {worth:.0%} | {rates['start']:.0%} |" in text


def _episodes(arm: str, wins: list[int]) -> list[Episode]:
    from dataclasses import fields

    found = []
    for number, won in enumerate(wins):
        values: dict[str, Any] = {
            "job": Job(arm, f"t{number}", 0),
            "task_type": "t",
            "outcome": "finished",
            "success": bool(won),
        }
        blank: dict[str, Any] = {"int": 0, "float": 0.0, "str": "", "bool": False}
        for its in fields(Episode):
            if its.name not in values and str(its.type) in blank:
                values[its.name] = blank[str(its.type)]
        found.append(Episode(**values))
    return found


def test_the_right_card_is_compared_with_the_mean_of_all_wrong_ones() -> None:
    reader = ReaderConfig(name="r", spec="x", run="run", card={})
    config = DownstreamConfig(name="n", environment="lookup", readers=(reader,), rewriters={"v": "a"})
    names = {
        "no skills": [0] * 20,
        "start": [0, 1] * 10,
        "evolved": [1] * 20,
        "v, right card": [1] * 20,
        "v, no card": [0] * 20,
        "v, card of a": [0] * 20,
        "v, card of b": [1, 0] * 10,
    }
    banks = {name: [None if name == "no skills" else SkillBank((), {})] for name in names}
    told = report(
        config,
        [ReaderArms(reader, banks, {})],
        {"r": {name: _episodes(name, wins) for name, wins in names.items()}},
    )
    found = {row["what"]: row for row in told["differences"]}
    assert found["v: right card − wrong cards"]["estimate"] == pytest.approx(0.75)
    assert found["v: right card − wrong cards"]["verdict"] is True
    assert found["v: right card − evolved"]["estimate"] == 0 and found["v: right card − evolved"]["verdict"] is None
    assert found["v: right card − no card"]["estimate"] == 1
    assert told["complete"]


def test_equal_rates_are_no_difference_from_three_wrong_cards() -> None:
    reader = ReaderConfig(name="r", spec="x", run="run", card={})
    config = DownstreamConfig(name="n", environment="lookup", readers=(reader,), rewriters={"v": "a"})
    cards = [f"v, card of {name}" for name in "abc"]
    names = ["no skills", "start", "v, right card", "v, no card", *cards]
    # One of the five banks of every arm succeeds: 0.2 less the mean of three times 0.2 is not 0.
    played = {name: [e for won in (1, 0, 0, 0, 0) for e in _episodes(name, [won] * 20)] for name in names}
    told = report(config, [ReaderArms(reader, {name: [None] for name in names}, {})], {"r": played}, resamples=50)
    (found,) = (row for row in told["differences"] if row["what"] == "v: right card − wrong cards")
    assert found["second"] == cards and found["tasks_differing"] == 0 and found["verdict"] is None


def test_a_task_that_several_readers_played_is_one_cluster() -> None:
    readers = [ReaderConfig(name=name, spec="x", run="run", card={}) for name in ("r", "s")]
    config = DownstreamConfig(name="n", environment="lookup", readers=tuple(readers), rewriters={})
    banks = {name: [SkillBank((), {})] for name in ("no skills", "start", "evolved")}
    wins = {"no skills": [0] * 20, "start": [0] * 20, "evolved": [1, 0] * 10}
    played = {name: _episodes(name, some) for name, some in wins.items()}
    told = report(config, [ReaderArms(one, banks, {}) for one in readers], {"r": played, "s": played})
    alone = next(row for row in told["differences"] if row["what"] == "evolved − start")
    both = next(row for row in told["all_readers"] if row["what"] == "evolved − start")
    assert told["by_backbone"] == [], "all are of one backbone"
    # The second reader is the first again: it says nothing new, and no interval may become narrower by it.
    assert both["tasks"] == 20 and all(both[name] == alone[name] for name in ("estimate", "low", "high", "verdict"))


def test_readers_of_one_backbone_are_told_together() -> None:
    readers = [
        ReaderConfig(name=name, spec=spec, run="run", card={}) for name, spec in (("r", "x"), ("s", "x"), ("t", "y"))
    ]
    config = DownstreamConfig(name="n", environment="lookup", readers=tuple(readers), rewriters={})
    banks = {name: [SkillBank((), {})] for name in ("no skills", "start", "evolved")}
    wins = {"r": [1] * 20, "s": [0] * 20, "t": [1] * 20}
    played = {
        name: {"no skills": _episodes("n", [0] * 20), "start": _episodes("s", [0] * 20), "evolved": _episodes("e", won)}
        for name, won in wins.items()
    }
    told = report(config, [ReaderArms(one, banks, {}) for one in readers], played)
    found = {row["backbone"]: row["estimate"] for row in told["by_backbone"] if row["what"] == "evolved − start"}
    assert found == {"x": 0.5, "y": 1.0}
    assert "| x | evolved − start | +0.50" in to_markdown(told)


def test_a_study_that_was_stopped_is_not_complete() -> None:
    reader = ReaderConfig(name="r", spec="x", run="run", card={})
    config = DownstreamConfig(name="n", environment="lookup", readers=(reader,), rewriters={})
    banks = {name: [SkillBank((), {})] for name in ("no skills", "start", "evolved")}
    for played in ([1] * 3, []):
        episodes = {"no skills": _episodes("a", [1] * 5), "start": _episodes("b", [0] * 5)}
        told = report(config, [ReaderArms(reader, banks, {})], {"r": {**episodes, "evolved": _episodes("c", played)}})
        assert not told["complete"] and "(PARTIAL)" in to_markdown(told)
        picture = plot({"rows": [{**row, "backbone": row["reader"]} for row in told["rows"]]})
        assert picture is not None and (">evolved<" in picture.decode()) == bool(played)


ONE = {"name": "a", "spec": "x", "card": {}, "run": "r"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reader": []}, "unknown setting 'reader'; did you mean 'readers'"),
        ({"readers": []}, "readers is"),
        ({"readers": ["a"]}, r"readers\[0\] is .*; settings"),
        ({"readers": [{"name": "a", "spec": "x", "run": "r"}]}, r"readers\[0\].card is missing"),
        ({"readers": [{"name": "a", "spec": "x", "card": {}}]}, "reader a: it needs run .* or bank, one of the two"),
        ({"readers": [{**ONE, "bank": "b"}]}, "one of the two"),
        ({"readers": [ONE, ONE]}, "two readers are called 'a'"),
        ({"readers": [{**ONE, "wrong": ["b"]}]}, "wrong names 'b'"),
        ({"readers": [{**ONE, "weaknesses": "long"}]}, r"readers\[0\].weaknesses is .*; a list"),
        ({"readers": [{**ONE, "card": 5}]}, r"readers\[0\].card is 5; "),
        ({"readers": [{**ONE, "card": None}]}, r"readers\[0\].card is null; "),
        ({"readers": [{**ONE, "card": {"famly": "A"}}]}, "no field 'famly'; did you mean 'family'"),
        (
            {"readers": [{**ONE, "card": {"num_layers": "A"}}]},
            "card: num_layers of a model card must be a whole",
        ),
        ({"rewriters": ["smollm2-135m"]}, "rewriters is .*; settings"),
        ({"rewriters": {"a": 5}}, "rewriters.a is 5; a text"),
        ({"agent": {"chose": True}}, "agent: unknown setting 'chose'; did you mean 'choose'"),
        ({"agent": {"general": "all"}}, "agent: general is .*; a whole number"),
        ({"options": 3}, "options is 3; settings"),
        ({"environment": 5}, "environment is 5; a text"),
        ({"name": 5}, "name is 5; a text"),
        ({"tasks": "ten"}, "tasks is .*; a whole number"),
        ({"tasks": -3}, "tasks is -3; it must be at least 0"),
        ({"split": "tset"}, "split is .*'train', 'val', 'test'"),
        ({"notes": "hello"}, "notes is .*; a list"),
    ],
)
def test_a_wrong_study_is_refused_in_words(study: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    values = {**yaml.safe_load((study / "study.yaml").read_text()), **change}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(TrainingError, match=message):
        load_downstream(str(tmp_path / "study.yaml"))


def test_a_study_without_tasks_is_refused_before_anything_is_written(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise AssertionError("a rewriter was loaded")

    monkeypatch.setattr("masa_training.studies.downstream.Rewriter.load", none)
    monkeypatch.setattr("masa_training.evaluate.banks.running.choose_tasks", lambda *_: [])
    with pytest.raises(TrainingError, match="lookup: its test split has no tasks"):
        arms_of(*load_downstream(str(study / "study.yaml")))


def test_the_command_plays_reports_and_goes_on(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    monkeypatch.setattr("masa_training.rollouts.executors.make_executor", lambda *_, **__: InProcess(reader))
    arguments = [str(study / "study.yaml"), "-o", str(tmp_path / "out")]
    runner = CliRunner()
    dry = runner.invoke(commanding.command, [*arguments, "--dry-run"])
    assert dry.exit_code == 0 and "one: " in dry.stdout and "12 tasks each" in dry.stdout
    assert not (tmp_path / "out").exists() and not reader.replies
    done = runner.invoke(commanding.command, arguments)
    assert done.exit_code == 0, done.output
    assert "one, start: 12/12 episodes" in done.stderr and "## Differences" in done.stdout
    asked = reader.replies
    told = json.loads(runner.invoke(commanding.command, [*arguments, "--json"]).stdout)
    assert told["complete"] and reader.replies == asked
    assert ">shipped, right card<" in (tmp_path / "out/report.svg").read_text("utf-8")
    banks = json.loads((tmp_path / "out/banks.json").read_text("utf-8"))
    arms = {(row["reader"], row["arm"]): row["banks"] for row in told["rows"]}
    assert {name.removeprefix("facts-") for names in arms.values() for name in names} == {"none", *banks}
    (name,) = arms["one", "shipped, right card"]
    bank = loads_bank(json.dumps(banks[name]).encode())
    assert {group.key for group in bank.groups()} == {GENERAL, "comparison"}
    lost = runner.invoke(commanding.command, [*arguments, "--set", "rewriters.mine=nowhere"])
    assert lost.exit_code != 0 and "nowhere" in str(lost.exception)


class Interrupted(Reader):
    """A reader during whose first reply somebody presses Ctrl-C."""

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        if not self.replies:
            signal.raise_signal(signal.SIGINT)
        return super().reply(requests)


def test_a_study_that_is_cancelled_reports_what_was_played(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Interrupted()
    monkeypatch.setattr("masa_training.rollouts.executors.make_executor", lambda *_, **__: InProcess(reader))
    found = CliRunner().invoke(commanding.command, [str(study / "study.yaml"), "-o", str(tmp_path / "out")])
    assert found.exit_code == 130, found.exception
    assert "Cancelled: the same command goes on." in found.stderr and "(PARTIAL)" in found.stdout
    told = json.loads((tmp_path / "out/report.json").read_text())
    assert not told["complete"] and {row["tasks"] for row in told["rows"]} > {0}
    assert (tmp_path / "out/report.svg").exists()
