"""The main job on real weights: whole banks, both languages, no socket, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from masa.cards import ModelCard
from masa.edits import PlannedGroup
from masa.formats import load_bank
from masa.formats.bank_json import dump_bank, loads_bank
from masa.guard import check
from masa.provenance import RewriteResult
from masa.rewriter import Rewriter
from masa.sampling import Sampling
from masa.skills import SkillBank

pytestmark = pytest.mark.model

CARD = ModelCard(family="Qwen3", variant="4B", parameter_count="4B", weaknesses="loops on long instructions")
STATUSES = {"rewritten", "edited", "merged", "kept", "dropped", "fell back"}


def account(bank: SkillBank, result: RewriteResult, only: list[str] | None = None) -> None:
    """Every promise that a result makes about itself."""
    assert loads_bank(dump_bank(result.bank)) == result.bank
    assert [group.key for group in result.groups] == (only or [g.key for g in bank.groups() if len(g)])
    assert result.bank.common_mistakes == bank.common_mistakes
    for group in result.groups:
        assert [fate.number for fate in group.fates] == list(range(1, len(group.source) + 1))
        assert {fate.status for fate in group.fates} <= STATUSES
        made_of = {place for fate in group.fates for place in fate.outputs} | set(group.added)
        assert made_of == set(range(len(group.output)))
        if group.status == "fell back":
            assert group.output is group.source and group.reason
        else:
            sources = tuple(
                tuple(fate.number for fate in group.fates if place in fate.outputs)
                for place in range(len(group.output))
            )
            gone = tuple(fate.number for fate in group.fates if not fate.outputs)
            limited = tuple(fate.number for fate in group.fates if any(edit.startswith("limit") for edit in fate.edits))
            plan = PlannedGroup(group.output, sources, gone, limited) if result.language == "plan" else None
            assert check(group.source, group.output, plan=plan) == ()


@pytest.fixture(scope="module")
def example(repository: Path) -> SkillBank:
    return load_bank(repository / "examples" / "banks" / "household.json")


@pytest.mark.parametrize("language", ["plan", "text"])
def test_our_own_bank_is_rewritten_safely_and_repeatably(smollm2: Path, example: SkillBank, language: str) -> None:
    only = None if language == "plan" else [next(iter(example.task_specific))]
    sampling = Sampling(temperature=0.7, seed=11) if language == "plan" else Sampling()
    results = []
    for parallel in (8, 1):
        with Rewriter.load(language=language, cache=False) as rewriter:
            sampling = Sampling(sampling.temperature, sampling.seed, parallel=parallel)
            results.append(rewriter.rewrite(example, CARD, only=only, sampling=sampling))
    account(example, results[0], only)
    assert [group.raw for group in results[0].groups] == [group.raw for group in results[1].groups]
    assert results[0].bank == results[1].bank
    assert results[0].trained is (language == "plan")


@pytest.mark.parametrize("name", ["alfworld", "search", "webshop"])
def test_published_banks_are_rewritten_safely(smollm2: Path, shared_data: Path, name: str) -> None:
    bank = load_bank(shared_data / "skillrl" / f"{name}.json")
    with Rewriter.load(cache=False, cautious=False) as rewriter:
        account(bank, rewriter.rewrite(bank, CARD, environment=name))


def test_rewriting_and_selecting_open_no_socket(smollm2: Path, repository: Path) -> None:
    program = """
import sys
sys.addaudithook(lambda event, args: event.startswith("socket.") and sys.exit(f"opened a socket: {event} {args}"))
from masa import Rewriter, load_bank, resolve_backbone, select
bank = load_bank(sys.argv[1])
card = resolve_backbone(sys.argv[2])
with Rewriter.load(cache=False) as rewriter:
    result = rewriter.rewrite(bank, card, only=[next(iter(bank.task_specific))])
for method in ("task-type", "bm25"):
    assert select(result.bank, "wash the cup", method=method).general
print("done", len(result.groups))
"""
    bank = repository / "examples" / "banks" / "household.json"
    command = [sys.executable, "-c", program, str(bank), str(smollm2)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert outcome.stdout.strip() == "done 1", outcome.stderr
    assert outcome.stderr == ""
