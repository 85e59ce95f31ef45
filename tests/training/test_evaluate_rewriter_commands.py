"""The commands of the evaluation, on a checkpoint of random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from masa.cards import ModelCard
from masa.cli.application import root
from masa.rewriter import Rewriter
from masa.skills import SkillBank
from masa_training.evaluate.cards import plan_table, table_json, table_markdown
from tests.support import ScriptedBackend
from tests.training.evaluation_samples import PLANS, artifact, card_reader, group, sample, samples, written
from tests.training.tiny_checkpoint import tiny_base, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoint")
    return tiny_checkpoint(folder / "tiny", tiny_base(folder / "base"))


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Call a command through the root, which turns errors into sentences."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(root, ["evaluate", *(str(word) for word in words)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "boxes", samples(2)[:4])


def test_a_checkpoint_is_evaluated_beside_its_base(invoke: Any, checkpoint: Path, data: Path) -> None:
    ask = ("rewriter", checkpoint, data, "--dtype", "float32", "--device", "cpu", "--wrong-cards", "1")
    result: Result = invoke(*ask, "--compare-base", "-o", "out", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert {path.name for path in Path("out").iterdir()} == {
        "evaluation.json",
        "results.jsonl",
        "report.json",
        "report.md",
    }
    report = json.loads(Path("out/report.json").read_text())
    trained, base = report["models"]["trained"], report["models"]["base"]
    assert trained["nll"]["right"]["estimate"] != base["nll"]["right"]["estimate"]
    assert trained["generation"]["valid"]["estimate"] == 1, "constrained decoding parses whatever the weights"
    assert not report["partial"] and "| trained | base |" in result.output

    again: Result = invoke(*ask, "-o", "out")
    assert again.exit_code == 1 and "--resume" in again.output and "Traceback" not in again.output
    resumed: Result = invoke(*ask, "--compare-base", "-o", "out", "--resume", "--json")
    assert resumed.exit_code == 0
    assert json.loads(resumed.stdout)["models"]["base"]["nll"] == base["nll"]


def test_a_dry_run_tells_the_work_and_leaves_nothing(invoke: Any, checkpoint: Path, data: Path) -> None:
    result: Result = invoke("rewriter", checkpoint, data, "--dry-run", "--json", "--limit", "3")
    assert result.exit_code == 0, result.output
    work = json.loads(result.stdout)["trained"]
    assert work["samples"] == 3 and work["forward_passes"] > work["cards"] > 3 and work["tokens_written"] > 0
    assert not Path("evaluations").exists()
    told: Result = invoke("rewriter", checkpoint, data, "--dry-run", "--no-generate")
    assert "forward passes" in told.output and "to write" not in told.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nothing-like-this", "DATA"), "no rewriter"),
        ((".", "DATA"), "neither a checkpoint"),
        (("CHECKPOINT", "nowhere"), "no data set"),
        (("CHECKPOINT", "DATA", "--split", "dev"), "no split 'dev'"),
        (("CHECKPOINT", "DATA", "--split", "train"), "empty"),
    ],
)
def test_bad_input_is_one_sentence(
    invoke: Any, checkpoint: Path, data: Path, words: tuple[str, ...], sentence: str
) -> None:
    places = {"CHECKPOINT": checkpoint, "DATA": data}
    result: Result = invoke("rewriter", *(places.get(word, word) for word in words))
    assert result.exit_code == 1, result.output
    assert sentence in result.output and "bug of masa" not in result.output


def test_a_command_that_failed_leaves_its_folder_to_the_corrected_one(
    invoke: Any, checkpoint: Path, data: Path
) -> None:
    ask = ("--no-generate", "--dtype", "float32", "--wrong-cards", "1", "-o", "out")
    unknown: Result = invoke("rewriter", checkpoint, data, *ask, "--device", "foo")
    assert unknown.exit_code == 1 and len(unknown.stderr.strip().splitlines()) == 1
    assert "device 'foo': cannot be used on this machine" in unknown.stderr and "give cpu, cuda" in unknown.stderr
    long = sample(1, 1)
    long = replace(long, request=replace(long.request, card={**long.request.card, "strengths": "patience " * 9000}))
    too_long: Result = invoke("rewriter", checkpoint, written(Path("long"), [sample(0, 0), long]), *ask)
    assert too_long.exit_code == 1 and "tokens under the cards of this evaluation" in too_long.stderr
    corrected: Result = invoke("rewriter", checkpoint, data, *ask, "--device", "cpu")
    assert corrected.exit_code == 0, corrected.output


def test_a_checkpoint_of_the_other_language_is_refused(invoke: Any, checkpoint: Path, data: Path) -> None:
    other = tiny_checkpoint(data.parent / "text", checkpoint.parent / "base", language="text")
    result: Result = invoke("rewriter", other, data)
    assert result.exit_code == 1 and "writes the text language" in result.output


def test_the_table_tells_a_rewriter_that_reads_cards_from_one_that_does_not() -> None:
    banks = {"one": SkillBank((), {"sorting": group(0).skills}), "two": SkillBank(group(1).skills, {})}
    cards = {f"Reader{n}": ModelCard(family=f"Reader{n}") for n in range(3)}
    seen: list[tuple[int, int]] = []
    with Rewriter(artifact(), lambda: ScriptedBackend(card_reader)) as rewriter:
        table = plan_table(rewriter, banks, cards, on_entry=lambda entry, done, total: seen.append((done, total)))
    assert seen == [(n, 6) for n in range(1, 7)]
    assert table.groups == (("one", "sorting"), ("two", "general_skills")) and table.cards == tuple(cards)
    assert table.distinct("one", "sorting") == 3 and table.share("valid") == table.varied() == 1
    assert table.outputs("one", "sorting")["Reader1"].result.raw == PLANS[1]
    text = table_markdown(table, "liking")
    assert "6 rewrites of 2 groups" in text and "1 keep; 2 emphasise; + warn loop" in text
    with Rewriter(artifact(), lambda: ScriptedBackend(lambda _: PLANS[0])) as rewriter:
        same = plan_table(rewriter, banks, cards)
    assert same.varied() == 0 and same.distinct("two", "general_skills") == 1
    assert table_json(same)["groups_with_different_outputs"] == 0


def test_cards_are_compared_from_the_command_line(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    skills = [{"skill_id": s.skill_id, "title": s.title, "principle": s.principle} for s in group(0).skills]
    bank = tmp_path / "bank.json"
    bank.write_text(json.dumps({"general_skills": skills, "task_specific_skills": {"sorting": skills}}))
    ask = ("cards", bank, "--rewriter", checkpoint, "--backbone", "Qwen3-4B", "--backbone", "Qwen3-8B")
    result: Result = invoke(*ask, "-o", "cards.md", "--json")
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert table["valid"] == 1 and len(table["groups"]) == 2
    assert all(len(entry["outputs"]) == 2 for entry in table["groups"])
    assert "| bank | group |" in Path("cards.md").read_text()
    missing: Result = invoke(*ask, "--only", "nonsense")
    assert missing.exit_code == 1 and "no group 'nonsense'" in missing.output
    single: Result = invoke("cards", bank, "--rewriter", checkpoint, "--backbone", "Qwen3-4B")
    assert single.exit_code == 2 and "two different" in single.output
