"""A study from end to end on a base of random weights: stopped in training, gone on with, measured, reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from masa_training.studies.distillation import Places, make_cell, prepare, run_folder
from masa_training.studies.distillation_cells import cell_path, write_cell
from masa_training.studies.distillation_config import load_study
from masa_training.studies.running import Budget, run_study, write_report
from tests.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.model

DATASET = """
name: few
language: plan
kind: bootstrap
sources: {train_skills: ["{examples}/banks/household.json"], validation_share: 0.2, test_share: 0.25}
bootstrap: {train: 2, validation: 1, test: 2, most_skills: 3}
context_length: 2048
"""
STUDY = """
name: few
question: Does it go on?
measure: {wrong_cards: 1, dtype: float32}
rows:
  - name: tiny
    dataset: few-data.yaml
    distill: smollm2-135m-plan
    settings: {base: "{tiny}", rank: 2, precision: fp32, batch_size: 6, evaluation_samples: 2, report_to: [],
               evaluations: 2, epochs: 1, context_length: 2048}
cells: [tiny/0, tiny/1]
"""


@pytest.fixture(scope="module")
def tiny(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_gguf(smollm2, tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def test_a_cell_stopped_in_training_goes_on_and_is_measured_before_and_after(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text(STUDY)
    (tmp_path / "few-data.yaml").write_text(DATASET)
    study = load_study(str(tmp_path / "few.yaml"))
    places = Places(tmp_path / "work", None, {"tiny": str(tiny)}, 1)
    prepared = prepare(study, study.cells, places)
    seen: list[str] = []

    def event(name: str, values: Any) -> None:
        seen.append(name)

    def perform(budget: Budget) -> Any:
        return lambda cell: make_cell(study, prepared[cell.name], places, budget, report=event, say=seen.append)

    def go(budget: Budget) -> Any:
        wanted = {name: one.configuration for name, one in prepared.items()}
        out = tmp_path / "out"
        return run_study(
            study, study.cells, out, wanted=wanted, perform=perform(budget), budget=budget, say=seen.append
        )

    stopping = Budget(cancelled=lambda: "evaluated" in seen)
    outcome = go(stopping)
    assert outcome.stopped == "tiny-seed0" and outcome.left == ("tiny-seed0", "tiny-seed1")
    assert "finished" not in seen and "(PARTIAL: 0 of 2 cells)" in (tmp_path / "out" / "REPORT.md").read_text()

    seen.clear()
    done = go(Budget(cancelled=lambda: "tiny-seed0: finished" in seen))
    assert done.finished == ("tiny-seed0",) and seen[:2] == ["tiny-seed0: cell 1 of 2", "resumed"]
    file = cell_path(tmp_path / "out", "tiny-seed0")
    found = json.loads(file.read_text())
    assert found["training"]["resumed"] == 1 and found["training"]["steps"] == found["training"]["planned_steps"]
    assert [point["step"] for point in found["curve"]] == sorted({point["step"] for point in found["curve"]})
    assert found["configuration"]["base_sha256"] == prepared["tiny-seed0"].base.sha256
    assert found["dataset"]["synthetic"] and found["configuration"]["dataset"] == "few-data.yaml"
    levels = [found["models"][model]["nll"]["right"]["estimate"] for model in ("base", "trained")]
    assert levels[1] != levels[0] and len(found["clusters"]) == 2
    sentences = [skill.principle for s in prepared["tiny-seed0"].dataset.test for skill in s.request.group.skills]
    assert sentences and not any(sentence in file.read_text() for sentence in sentences), "no text of the data"
    assert (places.work / ".gitignore").read_text() == "*\n"
    assert (run_folder(places.work, prepared["tiny-seed0"]) / "run" / "checkpoint" / "masa.json").is_file()
    assert "(PARTIAL: 1 of 2 cells)" in write_report(study, tmp_path / "out")

    # The work of the cell is lost: what is committed is enough for the table; the data set is the same again.
    again = prepare(study, study.cells, Places(tmp_path / "elsewhere", None, {"tiny": str(tiny)}, 1), write=False)
    assert again["tiny-seed0"].configuration == prepared["tiny-seed0"].configuration
    assert not (tmp_path / "elsewhere").exists()
    write_cell(tmp_path / "out", {**found, "seed": 1, "cell": "tiny-seed1"})
    assert "PARTIAL" not in write_report(study, tmp_path / "out")
