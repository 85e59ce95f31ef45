"""Studies: which cells run, what is kept, and what makes a result no longer count."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from masa.cli.application import root
from masa.errors import MasaError
from masa_training.distill.config import DistillConfig
from masa_training.errors import TrainingError
from masa_training.settings import config_names
from masa_training.studies.distillation_cells import cell_path, differences, fingerprint, read_cell, write_cell
from masa_training.studies.distillation_config import SHIPPED, Study, StudyCell, base_path, load_study
from masa_training.studies.running import Budget, Outcome, run_study, write_report
from tests.training.study_results import STUDY, result, study, wanted


class Maker:
    """Makes results without training, and notes for which cells it was asked; dies or stops at one of them."""

    def __init__(self, study: Study, *, die: str = "", stop: str = "") -> None:
        self.study, self.die, self.stop = study, die, stop
        self.asked: list[str] = []

    def __call__(self, cell: StudyCell) -> Any:
        self.asked.append(cell.name)
        if cell.name == self.die:
            raise KeyboardInterrupt
        return None if cell.name == self.stop else result(self.study, cell)


def run(
    made: Study, folder: Path, maker: Maker, budget: Budget | None = None, said: list[str] | None = None
) -> Outcome:
    return run_study(
        made,
        made.cells,
        folder,
        wanted=wanted(made),
        perform=maker,
        budget=budget or Budget(),
        say=(said if said is not None else []).append,
    )


@pytest.mark.parametrize("name", config_names(SHIPPED))
def test_shipped_studies_can_be_loaded_and_every_cell_trained(name: str) -> None:
    made = load_study(name)
    assert made.config.name == name and made.cells
    for cell in made.cells:
        assert made.settings(cell).seed == cell.seed
        assert json.loads(json.dumps(made.declared(cell))) == made.declared(cell)


def test_the_text_study_has_two_seeds_of_both_bases_and_of_every_remedy_the_most_important_first() -> None:
    made = load_study("text-primary")
    names = [cell.name for cell in made.cells]
    assert names[:2] == ["smollm2-135m-seed0", "smollm2-135m-seed1"]
    seeds = {row.name: {c.seed for c in made.cells if c.row is row} for row in made.config.rows}
    assert all(seeds[row.name] == {0, 1} for row in made.config.rows if row.part in ("primary", "remedies"))
    objectives = {made.settings(c).objective for c in made.cells}
    assert objectives == {"sft", "contrast", "preference"} and {made.settings(c).card for c in made.cells} >= {"short"}
    assert all(made.settings(c).epochs == 5 and made.settings(c).patience for c in made.cells)


def test_after_a_kill_between_cells_finished_ones_are_skipped_and_their_files_not_touched(tmp_path: Path) -> None:
    made = study(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "out", Maker(made, die="one-seed1"))
    first = cell_path(tmp_path / "out", "one-seed0")
    before = (first.read_bytes(), first.stat().st_mtime_ns)
    report = (tmp_path / "out" / "REPORT.md").read_text()
    assert "(PARTIAL: 1 of 3 cells)" in report and "Missing: one-seed1, two-seed0" in report

    maker, said = Maker(made), list[str]()
    outcome = run(made, tmp_path / "out", maker, said=said)
    assert maker.asked == ["one-seed1", "two-seed0"]
    assert outcome == Outcome(("one-seed1", "two-seed0"), ("one-seed0",))
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before and "one-seed0: finished before" in said
    assert "PARTIAL" not in (tmp_path / "out" / "REPORT.md").read_text()


def test_a_changed_configuration_makes_a_cell_count_no_more_and_run_again(tmp_path: Path) -> None:
    made = study(tmp_path)
    run(made, tmp_path / "out", Maker(made))
    changed = study(tmp_path, STUDY.replace("epochs: 3", "epochs: 2"))
    old = cell_path(tmp_path / "out", "one-seed0").read_bytes()
    report = write_report(changed, tmp_path / "out")
    assert "(PARTIAL: 1 of 3 cells)" in report
    assert "one-seed0: its result is of another configuration (epochs was 3, is 2); it has to be run again." in report

    maker, said = Maker(changed, stop="one-seed1"), list[str]()
    outcome = run(changed, tmp_path / "out", maker, said=said)
    assert maker.asked == ["one-seed0", "one-seed1"] and any("epochs was 3, is 2" in line for line in said)
    assert cell_path(tmp_path / "out", "one-seed0").read_bytes() != old
    assert outcome.stopped == "one-seed1" and outcome.left == ("one-seed1",)
    kept = read_cell(cell_path(tmp_path / "out", "one-seed1"))
    assert kept is not None and kept["configuration"]["epochs"] == 3, "replaced only once the new one is finished"


def test_other_data_or_another_base_make_a_cell_run_again(tmp_path: Path) -> None:
    made = study(tmp_path)
    other = result(made, made.cells[0])
    for key in ("dataset_sha256", "base_sha256"):
        told = differences(other, {**wanted(made)["one-seed0"], key: "e" * 64})
        assert len(told) == 1 and told[0].startswith(f"{key} was ") and len(told[0]) < 80


def test_a_setting_that_is_new_invalidates_a_result_only_where_it_is_used(tmp_path: Path) -> None:
    made = study(tmp_path)
    old = result(made, made.cells[0])
    del old["configuration"]["objective_beta"]
    now = wanted(made)["one-seed0"]
    assert differences(old, now) == []
    assert differences(old, {**now, "objective_beta": 0.5}) == ["objective_beta was 2.0, is 0.5"]
    assert fingerprint(now) == fingerprint(old["configuration"]) != fingerprint({**now, "objective_beta": 0.5})
    assert DistillConfig().objective_beta == 2.0


def test_the_seed_and_the_machine_are_no_part_of_a_configuration(tmp_path: Path) -> None:
    made = study(tmp_path)
    assert made.declared(made.cells[0]) == made.declared(made.cells[1])
    assert made.settings(made.cells[0], threads=7).threads == 7
    assert "threads" not in made.declared(made.cells[0]) and made.settings(made.cells[1]).seed == 1
    less_memory = study(
        tmp_path, STUDY.replace("epochs: 3", "epochs: 3, row_tokens: 512, gradient_checkpointing: true")
    )
    assert less_memory.declared(less_memory.cells[0]) == made.declared(made.cells[0])


def test_no_cell_is_begun_after_the_limit(tmp_path: Path) -> None:
    made = study(tmp_path)
    now = [0.0]
    budget = Budget(10, clock=lambda: now[0])

    class Slow(Maker):
        def __call__(self, cell: StudyCell) -> Any:
            now[0] += 6 * 60
            return super().__call__(cell)

    maker = Slow(made)
    outcome = run(made, tmp_path / "out", maker, budget)
    assert maker.asked == ["one-seed0", "one-seed1"] and outcome.left == ("two-seed0",) and outcome.stopped is None
    assert budget.over() and not Budget().over() and Budget(cancelled=lambda: True).over()


def test_a_cell_keeps_its_name_and_place(tmp_path: Path) -> None:
    made = study(tmp_path)
    path = write_cell(tmp_path, result(made, made.cells[0]))
    assert path == tmp_path / "cells" / "one-seed0.json"
    found = read_cell(path)
    assert found == json.loads(json.dumps(result(made, made.cells[0])))
    assert read_cell(tmp_path / "cells" / "none.json") is None
    moved = path.rename(path.with_name("one-seed1.json"))
    with pytest.raises(TrainingError, match="holds the cell one-seed0"):
        read_cell(moved)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "not a result of a study"),
        ("[]", "not a result of a study"),
        ('{"format": 9}', "format 9, this masa reads 1"),
        ('{"format": 1, "study": "x"}', "'cell' is missing or damaged"),
    ],
)
def test_a_damaged_result_is_named_in_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    made = study(tmp_path)
    path = cell_path(tmp_path / "out", "one-seed0")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(MasaError, match=sentence) as caught:
        run(made, tmp_path / "out", Maker(made))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("one/1", "on/1", "the cell on/1 is of no row; did you mean one?"),
        ("one/1", "one", "not written as ROW/SEED"),
        ("one/1", "one/0", "the cell one-seed0 is listed twice"),
        (", two/0", "", "the row two has no cell"),
        ("[one/0, one/1, two/0]", "[]", "no cells"),
        ("name: two", "name: one", "two rows are called one"),
        ("name: two", "name: ../two", "rows[1].name is"),
        ("question:", "questions:", "unknown setting 'questions'; did you mean 'question'?"),
        ("epochs: 3", "epoch: 3", "row one: unknown setting 'epoch'; did you mean 'epochs'?"),
        ("epochs: 3", "epochs: 0", "epochs is 0"),
        ("epochs: 3", "seed: 3", "row one sets seed"),
        (
            "distill: smollm2-135m-text, settings",
            "distill: smollm2-135m-tex, settings",
            "did you mean 'smollm2-135m-text'",
        ),
        ("rows:", "measure: {wrong_cards: 0}\nrows:", "wrong_cards is 0"),
        ("rows:", "measure: {split: all}\nrows:", 'measure.split is "all"'),
        ("rows:", "measure: {dtype: int8}\nrows:", 'measure.dtype is "int8"'),
        ("rows:", "negligible: -1\nrows:", "negligible is -1"),
        (STUDY, "{", "not YAML"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(tmp_path: Path, before: str, after: str, sentence: str) -> None:
    assert before in STUDY
    with pytest.raises(MasaError) as caught:
        study(tmp_path, STUDY.replace(before, after))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_cells_are_chosen_by_name_or_pattern_in_the_order_of_the_study(tmp_path: Path) -> None:
    made = study(tmp_path)

    def chosen(*patterns: str) -> Sequence[str]:
        return [cell.name for cell in made.select(patterns)]

    assert chosen() == ["one-seed0", "one-seed1", "two-seed0"]
    assert chosen("two-*", "one-seed0") == ["one-seed0", "two-seed0"] and chosen("*-seed0") == chosen(
        "two-*", "*-seed0"
    )
    with pytest.raises(TrainingError, match=r"--only one-sed1: .* no such cell; did you mean one-seed1"):
        made.select(["one-sed1"])


def test_the_file_of_a_base_is_given_or_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"")
    monkeypatch.delenv("MASA_GEMMA", raising=False)
    with pytest.raises(TrainingError, match=r"--base-path gemma=FILE"):
        base_path("{gemma}", {}, "a")
    assert base_path("{gemma}", {"gemma": str(file)}, "a") == str(file)
    monkeypatch.setenv("MASA_GEMMA", str(file))
    assert base_path("{gemma}", {}, "a") == str(file) and base_path("smollm2-135m", {}, "a") == "smollm2-135m"
    with pytest.raises(TrainingError, match="no such file"):
        base_path("{gemma}", {"gemma": str(tmp_path / "none")}, "a")


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.delenv("MASA_GEMMA", raising=False)
    monkeypatch.delenv("MASA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(root, ["evaluate", "distillation", *map(str, words)])


def test_the_report_is_made_again_from_the_files_alone(invoke: Any, tmp_path: Path) -> None:
    made = study(tmp_path)
    run(made, tmp_path / "out", Maker(made, stop="two-seed0"))
    (tmp_path / "out" / "REPORT.md").unlink()
    told: Result = invoke("boxes.yaml", "-o", "out", "--report")
    assert told.exit_code == 0, told.output
    assert "(PARTIAL: 2 of 3 cells)" in told.stdout and not (tmp_path / "out" / "work").exists()
    assert (tmp_path / "out" / "REPORT.md").read_text() == told.stdout.removesuffix("\n")
    as_json: Result = invoke("boxes.yaml", "-o", "out", "--report", "--json")
    assert json.loads(as_json.stdout)["missing"] == ["two-seed0"] and json.loads(as_json.stdout)["partial"]
    nowhere: Result = invoke("boxes.yaml", "-o", "none", "--report")
    assert nowhere.exit_code == 1 and "no such folder" in nowhere.output


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["text-primry", "-o", "out"], 1, "did you mean 'text-primary'?"),
        (["text-primary", "-o", "out", "--only", "gemma-*"], 1, "--base-path gemma=FILE"),
        (["text-primary", "-o", "out", "--base-path", "gemma"], 2, "NAME=FILE"),
        (["text-primary", "-o", "out", "--report", "--dry-run"], 2, "exclude each other"),
        (["text-primary", "-o", "out", "--limit-minutes", "-1"], 2, "limit-minutes"),
    ],
)
def test_wrong_use_is_told_before_anything_is_done(
    invoke: Any, tmp_path: Path, words: list[str], code: int, sentence: str
) -> None:
    told: Result = invoke(*words)
    assert told.exit_code == code and sentence in told.output and "Traceback" not in told.output
    assert not (tmp_path / "out").exists()
