"""The guard's promise on statements: no plan loses one unseen, whatever is cut is caught, and good edits pass."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from skill_samples import groups, plans

from masa.edits import PlannedGroup, apply_plan
from masa.formats import load_bank, save_bank
from masa.guard import check
from masa.guard.statements import lost_sentences
from masa.markdown import sentences
from masa.skills import GENERAL, Group, Skill

ORDERS = (
    "Rebase onto main.",
    "⚠️ Open the fridge slowly.",
    "_Zest_ the lemon.",
    "Unless it is set, chill it.",
    "The report goes to the team.",
    "Retry at most 3 times.",
    "Never forward payroll data.",
    "Customise the theme (#ff8800).",
    "Set OPENAI_API_KEY.",
    "Öffne das Fenster.",
    "请勿分享密码。",
    "Call mcp__github__create_issue.",
    "Except on Fridays, ship it.",
)
REASONS = ("This helps readers.", "Please wait there.", "Stay, because it is slow.")
STYLES = {
    "developer": "**Never push to main.** Rebase onto it, and force-push (`git push --force-with-lease`), because"
    " reviewers read commits.\n\n3. Bump the version to 2.4.1.\n4. Tag it, so that the job finds it.\n\n<Good>\n```ts\n"
    "const retries = 3;\n\n# no heading\n```\n</Good>\n\n⚠️ Keep pre-commit on. ❌ Don't skip it with --no-verify.\\\n"
    "Stash what is not yours.",
    "office": "Colour inputs blue (RGB: 0,0,255). Errors (#REF!, #DIV/0!) must be zero. Negatives go in parentheses:"
    " (123).\n\n1. *Collate* the figures.\n   - Flag gaps over 5 %.\n2. Draft the memo, since auditors read it."
    " Circulate it.",
    "household": "Knead it for 8 minutes. Let it rest. Knead it for 8 minutes. Dust the tray (e.g. with semolina)."
    " Unless it is set, chill it. This prevents runny custard. Otherwise serve it.",
    "support": "Acknowledge the ticket within 24 h. Please refund at most $50. This is NOT a discount - this is a"
    " refund. Read the thread, because the answer is often in it. If it is, quote it. (1) Triage, (2) assign, and (3)"
    " respond.",
}


def one(text: str) -> Group:
    return Group("g", (Skill("a", "T", text),))


def told(group: Group) -> PlannedGroup:
    return PlannedGroup(group, tuple((n,) for n in range(1, len(group) + 1)), ())


@given(st.lists(st.sampled_from((*ORDERS, *REASONS)), min_size=2, max_size=6, unique=True), st.data())
@settings(max_examples=100, deadline=None)
def test_an_order_that_is_taken_out_is_missed(sentences: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from([s for s in sentences if s in ORDERS] or [ORDERS[0]]))
    source = one(" ".join(dict.fromkeys([*sentences, gone])))
    output = one(source.skills[0].principle.replace(gone, "").strip() or "Go.")
    assert "statements" in {violation.rule for violation in check(source, output, plan=told(output))}
    assert (
        "statements" in {violation.rule for violation in check(source, output)} or "Go." in output.skills[0].principle
    )


@given(groups(), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)  # one in thousands is a good edit that is sent back
def test_what_a_plan_takes_is_asked_for_and_named(source: Group, data: st.DataObject) -> None:
    assume(len({skill.principle for skill in source.skills}) == len(source))  # whose words are whose?
    planned = apply_plan(source, data.draw(plans(source)))
    # Of a merged text it is not always known whose words are whose, nor which of two equal sentences was left out when
    # the other was shortened, too: a good edit may be sent back.
    told = [Counter(map(str.strip, sentences(skill.principle))) for skill in source.skills]
    repeated = any(number > 1 for counted in told for number in counted.values())
    if not repeated and all(len(sources) <= 1 for sources in planned.sources):
        assert [v for v in check(source, planned.group, plan=planned) if v.rule == "statements"] == []
    for number in planned.dropped:
        principle = source.skills[number - 1].principle
        assert lost_sentences(source.skills[number - 1], None) or not any(map(str.isalnum, principle))


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("Take cups 1, 2 and 3. Go.", "Take cups 1, 2. Go."),
        ("If it is red, stop. Go.", "Stop. Go."),
        ("Do not stop. Go.", "Do stop. Go."),
        ("Read it, because it must be green. Go.", "Read it. Go."),
        ("Read it because it is red and restart the server.", "Read it."),
        ("Ship it, since Jenkins waits.", "Ship it."),
    ],
)
def test_parts_of_sentences_are_missed(source: str, output: str) -> None:
    assert [v.rule for v in check(one(source), one(output))] == ["statements"]


def test_a_limit_is_no_loss_but_named() -> None:
    source = Skill("a", "T", "Find it. Take it. Go.")
    made = replace(source, principle="Find it.")
    group = Group("g", (made,))
    assert check(Group("g", (source,)), group, plan=PlannedGroup(group, ((1,),), (), (1,))) == ()
    assert lost_sentences(source, made) == ("Take it.", "Go.")
    assert lost_sentences(source, None) == ("Find it.", "Take it.", "Go.")


@pytest.fixture(scope="module")
def loss(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("loss", repository / "benchmarks" / "loss.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loss"] = module
    spec.loader.exec_module(module)
    return module


def test_no_edit_loses_anything_unseen_in_any_style(loss: ModuleType, repository: Path) -> None:
    bank = load_bank(repository / "examples" / "banks" / "household.json")
    styled = Group("styles", tuple(Skill(name, name, text) for name, text in STYLES.items()))
    for name, edit in loss.EDITS.items():
        for argument in edit.argument or (None,):
            tally = loss.Tally()
            for group in (styled, *(group for group in bank.groups() if len(group))):
                loss.judge(group, name, argument, tally)
            assert (tally.unseen, tally.unnamed, tally.lost.total()) == ([], [], 0), name
            assert tally.sent_back == [], name


def test_every_clause_that_is_taken_out_by_hand_is_caught(loss: ModuleType) -> None:
    tally = loss.Tally()
    loss.control(Group("styles", tuple(Skill(name, name, text) for name, text in STYLES.items())), tally)
    assert tally.lost.total() > 40
    assert tally.unseen == []


def test_the_share_of_rewritten_groups_that_pass_is_counted(loss: ModuleType, repository: Path, tmp_path: Path) -> None:
    base, worse = repository / "examples" / "banks" / "household.json", tmp_path / "worse.json"
    bank = load_bank(base)
    count = len(list(bank.groups()))
    general = replace(bank.general[0], principle="word " * 4000)
    save_bank(bank.with_groups({GENERAL: Group(None, (general,))}), worse)
    assert loss.passing(base, [base]) == {"groups": count, "passed": count}
    assert loss.passing(base, [worse])["passed"] == count - 1
