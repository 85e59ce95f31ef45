"""What a card calls for, edits that are switched off, and large banks of which a few skills of each kind are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.runtime.artifact_samples import write_artifact
from tests.support import ScriptedBackend

from masa.artifact import Artifact, load_artifact
from masa.card_calls import (
    CALLS,
    NO_WEAKNESSES,
    OFF,
    SWITCHES,
    as_read,
    calls_of,
    fixed_words,
    nothing_to_do,
)
from masa.cards import ModelCard
from masa.cli.report import card_text
from masa.errors import MasaError, UnknownNameError
from masa.facts import Facts
from masa.kinds import ENOUGH, rewrite_by_kind
from masa.manifest import TrainingData
from masa.rewriter import Rewriter
from masa.skills import Skill, SkillBank

CARD = ModelCard(family="Sample", variant="1B", weaknesses="skips steps")
STEPS = "Open the drawer number {n}. Take the mug. Wash it in the sink. Put it on the shelf."
ONE = "Look at mug {n} closely."


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A rewriter that says it was trained on stated rules."""
    write_artifact(tmp_path / "rewriter")
    found = load_artifact(tmp_path / "rewriter")
    return replace(found, trained=True, training_data=TrainingData(synthetic=True))


def writes_steps(prompt: str) -> str:
    numbers = re.findall(r"^## \[(\d+)\] (\w+)", prompt, re.M)
    return "\n".join(f"{number} {'steps' if kind == 'Long' else 'keep'}" for number, kind in numbers)


@pytest.fixture
def rewriter(artifact: Artifact) -> Iterator[Rewriter]:
    backend = ScriptedBackend(writes_steps)
    with Rewriter(artifact, lambda: backend) as rewriter:
        yield rewriter


def bank(groups: int = 6, skills: int = 10) -> SkillBank:
    def made(group: int, number: int) -> Skill:
        text, kind = (STEPS, "Long") if number % 2 else (ONE, "Short")
        return Skill(f"g{group}#{number}", f"{kind} {group} {number}", text.format(n=100 * group + number))

    return SkillBank((), {f"g{g}": tuple(made(g, n) for n in range(skills)) for g in range(groups)})


def test_the_words_of_a_card_are_told_with_the_edits_they_ask_for() -> None:
    weaknesses = "Skips steps; repeats the same action over and over; poor at mathematics"
    assert calls_of(weaknesses).weaknesses == (
        ("Skips steps", "steps"),
        ("repeats the same action over and over", "warn loop"),
        ("poor at mathematics", ""),
    )
    assert calls_of(None).weaknesses == ()
    page = (Path(__file__).parents[2] / "docs" / "write-a-card.md").read_text("utf-8")
    assert all(words in page for words in CALLS)
    assert {edit.split()[0] for edit in CALLS.values()} <= set(SWITCHES)


def test_an_edit_that_needs_facts_says_so() -> None:
    card = replace(CARD, weaknesses="learns by imitation rather than from description; skips steps")
    told = " ".join(card_text(card, {"facts": None}).split())
    assert "→ example, which needs --facts FILE; without it the rewriter may choose another edit" in told
    assert told.count("--facts") == 1 and "--facts" not in card_text(card, {"facts": Facts("kitchen")})


def test_nothing_is_to_do_for_a_card_without_weaknesses_by_a_rewriter_of_rules(rewriter: Rewriter) -> None:
    bare = replace(CARD, weaknesses=None)
    assert nothing_to_do(bare.fields()) and not nothing_to_do(CARD.fields())
    assert not nothing_to_do(replace(bare, base_or_instruct="base").fields())
    for only in (None, ["g1"]):
        result = rewriter.rewrite(bank(), bare, only=only)
        assert {(group.status, group.reason) for group in result.groups} == {("kept", NO_WEAKNESSES)}
        assert result.bank == bank() and result.tokens == 0 and len(result.groups) == (1 if only else 6)
    assert rewriter.pending(bank(), bare) == []
    assert [group.status for group in rewriter.stream(bank(), bare)] == ["kept"] * 6


def test_edits_are_switched_off_one_by_one(rewriter: Rewriter) -> None:
    small = bank(1, 4)
    assert rewriter.rewrite(small, CARD).groups[0].status == "rewritten"
    off = rewriter.rewrite(small, CARD, without=["steps"])
    assert not any("steps" in fate.edits for fate in off.groups[0].fates)
    reason = off.groups[0].reason
    assert off.groups[0].status == "kept" and reason == "what was chosen is left out (steps)", "nothing else instead"
    with pytest.raises(UnknownNameError, match=r"no edit 'shortn'.*shorten"):
        rewriter.rewrite(small, CARD, without=["shortn"])
    with pytest.raises(MasaError, match="list of edits"):
        rewriter.rewrite(small, CARD, without="steps")


def test_safe_edits_are_what_is_left_of_a_trained_rewriters_plan(artifact: Artifact) -> None:
    with Rewriter(artifact, lambda: ScriptedBackend(lambda _: "1 drop\n2 keep\n3 keep"), cautious=True) as rewriter:
        (group,) = rewriter.rewrite(bank(1, 3), CARD).groups
    assert [fate.edits for fate in group.fates] == [("keep",), ("keep",), ("keep",)], "nothing else instead"
    assert group.reason.startswith("what was chosen is left out (drop")
    with Rewriter(artifact, lambda: ScriptedBackend(lambda _: "1 drop\n2 steps"), cautious=True) as rewriter:
        (group,) = rewriter.rewrite(bank(1, 2), CARD).groups
    assert [fate.edits for fate in group.fates] == [("keep",), ("steps",)]


def test_examples_go_to_the_types_whose_tasks_they_show(artifact: Artifact) -> None:
    def script(prompt: str) -> str:
        return re.sub(r"steps|keep", "example", writes_steps(prompt))

    facts = Facts("shop", examples=("Request: Find a mug.\n\nfind mug",))
    general = bank(1, 2).group("g0").skills
    with Rewriter(artifact, lambda: ScriptedBackend(script)) as rewriter:
        both = rewriter.rewrite(SkillBank(general, {"find": general}), CARD, facts=facts)
        alone = rewriter.rewrite(SkillBank(general, {}), CARD, facts=facts)
    assert [[fate.edits for fate in group.fates] for group in both.groups] == [[("keep",)] * 2, [("example",)] * 2]
    assert both.groups[0].reason == "what was chosen is left out (example)"
    assert [fate.edits for fate in alone.groups[0].fates] == [("example",)] * 2, "every task reads all of this bank"


def test_edits_that_harmed_are_left_out_unless_asked_for(artifact: Artifact) -> None:
    def script(prompt: str) -> str:
        return writes_steps(prompt).replace("steps", "steps emphasise").replace("keep", "emphasise") + "\n+ warn loop"

    with Rewriter(artifact, lambda: ScriptedBackend(script)) as rewriter:
        small = bank(1, 4)
        (usual,) = rewriter.rewrite(small, CARD).groups
        assert [fate.edits for fate in usual.fates] == [("keep",), ("steps",)] * 2 and not usual.added
        (asked,) = rewriter.rewrite(small, CARD, also=["emphasise"]).groups
        assert [fate.edits for fate in asked.fates] == [("emphasise",), ("steps", "emphasise")] * 2 and not asked.added
        (everything,) = rewriter.rewrite(small, CARD, also=OFF).groups
        assert len(everything.added) == 1 and everything.output.skills[1].principle.startswith("1. IMPORTANT")
        (neither,) = rewriter.rewrite(small, CARD, also=OFF, without=OFF).groups
        assert neither.output == usual.output, "without is the last word"
        (none,) = rewriter.rewrite(small, CARD, without=["steps"]).groups
        assert (none.status, none.reason) == ("kept", "what was chosen is left out (emphasise, steps, warn)")
        with pytest.raises(UnknownNameError, match="'steps' is no edit that is off; these are: emphasise, warn"):
            rewriter.rewrite(small, CARD, also=["steps"])


def test_a_large_bank_is_chosen_for_by_kind_as_if_it_were_read_whole(rewriter: Rewriter) -> None:
    large = bank()
    assert len(large) > ENOUGH
    whole, some = rewriter.rewrite(large, CARD), rewrite_by_kind(rewriter, large, CARD)
    assert some.bank == whole.bank and whole.read is None
    assert some.read is not None and some.read <= 9
    assert [group.status for group in some.groups] == ["rewritten"] * 6
    assert rewrite_by_kind(rewriter, bank(1, 4), CARD).read is None


def test_a_rewriter_of_results_reads_every_skill(artifact: Artifact) -> None:
    learned = replace(artifact, training_data=TrainingData(synthetic=False))
    with Rewriter(learned, lambda: ScriptedBackend(writes_steps)) as rewriter:
        assert rewrite_by_kind(rewriter, bank(), CARD).read is None


def test_a_large_bank_can_be_cancelled(rewriter: Rewriter) -> None:
    result = rewrite_by_kind(rewriter, bank(), CARD, cancel=lambda: True)
    assert result.cancelled and result.bank == bank()


@pytest.mark.parametrize("fixed", CALLS)
def test_fixed_words_stay_as_they_are(fixed: str) -> None:
    assert fixed_words(f"{fixed} (7 of 20 episodes)") == f"{fixed} (7 of 20 episodes)"


@pytest.mark.parametrize(
    ("spelled", "fixed"),
    [
        ("cannot follow long prompts", "loses the thread in long text"),
        ("Misses some steps of a procedure", "skips steps"),
        ("often gets stuck in loops", "repeats the same action"),
        ("needs examples to get going", "learns by imitation"),
        ("ignores preconditions", "applies rules where they do not hold"),
        ("hallucinates tools", "invents actions"),
        ("gives up when a search fails", "stops before the task is done"),
        ("overwhelmed by verbose material", "overwhelmed by verbose material"),
        ("is slow on Mondays", "is slow on Mondays"),
    ],
)
def test_weaknesses_are_understood_in_other_words(spelled: str, fixed: str) -> None:
    assert fixed_words(spelled) == fixed


def test_how_a_card_is_spelled_does_not_change_what_a_rewriter_by_rules_reads(artifact: Artifact) -> None:
    bank = SkillBank(tuple(Skill(f"s{n}", f"Long {n}", STEPS.format(n=n), "") for n in range(3)), {})
    sizes = ("1B", "1.5B", "1500M", "1.54B", "3.8B", "")
    cards = [ModelCard(family="Sample", parameter_count=size or None, weaknesses="skips steps") for size in sizes]
    cards += [
        ModelCard(family="Other", variant="2", num_layers=28, context_window=32768, weaknesses="skips steps."),
        ModelCard(weaknesses="leaves out steps"),
        ModelCard(weaknesses="skips steps; skips steps", release_date="2025-01"),
    ]
    prompts: list[str] = []

    def script(prompt: str) -> str:
        prompts.append(prompt)
        return writes_steps(prompt)

    with Rewriter(artifact, lambda: ScriptedBackend(script), cautious=False) as rewriter:
        for card in cards:
            for environment, task in (("", ""), ("household", "tidy up"), ("web shop", "")):
                rewriter.rewrite(bank, card, environment=environment, task=task)
    assert len(set(prompts)) == 1
    assert as_read(cards[0].fields()) == {"weaknesses": "skips steps"}


def test_a_weakness_whose_edit_is_off_does_not_hide_the_others() -> None:
    three = {"weaknesses": "ignores instructions; skips steps; hallucinates tools", "parameter_count": "1B"}
    assert as_read(three, OFF) == {"weaknesses": "skips steps"}
    assert as_read(three, ["warn"]) == {"weaknesses": "overlooks instructions; skips steps"}
    alone = {"weaknesses": "ignores instructions", "parameter_count": "1B"}
    assert as_read(alone, OFF) == {"weaknesses": "overlooks instructions"}, "a card that says nothing is read otherwise"


def test_an_operation_asked_for_by_name_is_done_whatever_edits_are_safe(artifact: Artifact) -> None:
    wordy = Skill("a", "Look", "It is worth noting that in many cases you should look at the mug. Please take it.")
    results = []
    for cautious in (True, False):
        with Rewriter(artifact, lambda: ScriptedBackend(writes_steps), cautious=cautious) as rewriter:
            results.append(rewriter.rewrite(SkillBank((wordy,), {}), CARD, operation="shorten").bank)
    assert results[0] == results[1] != SkillBank((wordy,), {})
