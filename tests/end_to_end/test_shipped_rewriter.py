"""The rewriter that ships: trained, small, and it reads the model card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from masa.artifact import load_artifact
from masa.cards import ModelCard
from masa.formats import load_bank
from masa.provenance import RewriteResult
from masa.rewriter import Rewriter
from masa.skills import SkillBank

pytestmark = pytest.mark.model

CARDS = {
    "steps": ModelCard(
        family="Invented", variant="70B", parameter_count="70B", base_or_instruct="instruct", weaknesses="skips steps"
    ),
    "large": ModelCard(family="Invented", variant="70B", parameter_count="70B", base_or_instruct="instruct"),
    "repeats": ModelCard(
        family="Invented",
        variant="70B",
        parameter_count="70B",
        base_or_instruct="instruct",
        weaknesses="once blocked, it stays blocked by retrying without variation",
    ),
}


def rewritten(bank: SkillBank) -> dict[str, RewriteResult]:
    with Rewriter.load(cache=False) as rewriter:
        return {name: rewriter.rewrite(bank, card) for name, card in CARDS.items()}


def test_it_is_trained_and_small_enough_to_ship(smollm2: Path) -> None:
    artifact = load_artifact("smollm2-135m")
    assert artifact.trained and artifact.adapter_path is not None
    assert artifact.adapter_path.stat().st_size <= 12e6
    assert artifact.training_data is not None and artifact.training_data.synthetic
    readme = (artifact.path / "README.md").read_text("utf-8")
    assert "synthetic" in readme and artifact.adapter_path.name in readme


def test_different_readers_get_different_plans(smollm2: Path, repository: Path) -> None:
    results = rewritten(load_bank(repository / "examples" / "banks" / "household.json"))
    plans = {name: [group.raw for group in result.groups] for name, result in results.items()}
    groups = len(plans["steps"])
    differing = sum(one != other for one, other in zip(plans["steps"], plans["repeats"], strict=True))
    assert differing > groups / 2
    assert not any(plans["large"]), "nothing is asked for a card without weaknesses"
    warned = [sum("+ warn loop" in plan for plan in plans[name]) for name in ("large", "repeats")]
    assert warned[0] == 0 and warned[1] > groups / 2, "a weakness that was never worded so in training is acted on"


def test_readers_of_one_size_get_what_their_weaknesses_ask_for(smollm2: Path, repository: Path) -> None:
    """Wordings of the test split: training never saw them. That `limit` serves a reader of wordy text was found by a
    search; the bootstrap rules say `shorten`."""
    whole = load_bank(repository / "training/masa_training/configs/banks/lookup/moderate.json")
    bank = SkillBank((), {key: whole.task_specific[key] for key in ("direct_retrieval", "comparison")})
    tiny = ModelCard(family="Invented", variant="135M", parameter_count="135M", base_or_instruct="instruct")
    asked: dict[str, set[str]] = {}
    with Rewriter.load(cache=False) as rewriter:
        for words in ("goes astray whenever the briefing is wordy", "bypasses necessary intermediate stages"):
            result = rewriter.rewrite(bank, replace(tiny, weaknesses=words))
            asked[words] = {word for group in result.groups for word in group.raw.split() if word.isalpha()}
    shorter, numbered = asked.values()
    assert "limit" in shorter and "steps" not in shorter
    assert "steps" in numbered and not numbered & {"limit", "shorten"}
