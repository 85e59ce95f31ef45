"""Each edit does what it says on planted skills, and keeps what it promises on any."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skill_samples import FACTS, facts, groups, plans, skills

from masa.edits import (
    EDITS,
    LIMITS,
    WARN_KINDS,
    EditCall,
    Plan,
    PlanLine,
    apply_plan,
    available_edits,
)
from masa.edits.condition import condition_phrase
from masa.facts import ActionForm, Facts
from masa.markdown import code_spans, protected_spans
from masa.skills import Group, Skill

calls = st.sampled_from([(name, argument) for name, edit in EDITS.items() for argument in edit.argument or (None,)])


def skill(principle: str, condition: str = "", title: str = "Title") -> Skill:
    return Skill("s_1", title, principle, condition)


def edited(name: str, principle: str, condition: str = "", argument: str | None = None) -> str:
    return EDITS[name].apply(skill(principle, condition), argument, FACTS).principle


def plan(*lines: str, warnings: tuple[str, ...] = ()) -> Plan:
    """`plan("keep", "first warn:loop")`."""
    return Plan(
        tuple(
            PlanLine(number, tuple(EditCall(*call.split(":")) for call in line.split()))
            for number, line in enumerate(lines, 1)
        ),
        warnings,
    )


def group(*principles: str) -> Group:
    return Group("t", tuple(Skill(f"s_{n}", f"Title {n}", text) for n, text in enumerate(principles, 1)))


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def is_subsequence(part: list[str], whole: list[str]) -> bool:
    remaining = iter(whole)
    return all(word in remaining for word in part)


# What every edit promises


def test_the_registry_has_the_edits_of_the_design_in_canonical_order() -> None:
    assert " ".join(EDITS) == (
        "keep drop merge-up first shorten condition-action steps syntax example emphasise warn limit"
    )
    assert [name for name, edit in EDITS.items() if edit.structural] == ["keep", "drop", "merge-up"]
    assert EDITS["warn"].argument == WARN_KINDS
    assert EDITS["limit"].argument == LIMITS == ("1", "2", "3", "4")
    assert all(edit.changes and edit.preserves for edit in EDITS.values())


@settings(max_examples=150, deadline=None)
@given(skills, calls, facts)
def test_any_edit_is_deterministic_and_loses_nothing_protected(
    source: Skill, call: tuple[str, str | None], known: Facts | None
) -> None:
    name, argument = call
    result = EDITS[name].apply(source, argument, known)
    assert result == EDITS[name].apply(source, argument, known)
    assert result.principle.strip()
    assert (result.skill_id, result.title, result.when_to_apply) == (
        source.skill_id,
        source.title,
        source.when_to_apply,
    )
    for span in protected_spans(source.principle):
        assert span in result.principle


@settings(max_examples=150, deadline=None)
@given(skills, calls, facts)
def test_an_edit_applied_to_its_own_result_changes_nothing(
    source: Skill, call: tuple[str, str | None], known: Facts | None
) -> None:
    name, argument = call
    assert EDITS[name].idempotent
    once = EDITS[name].apply(source, argument, known)
    assert EDITS[name].apply(once, argument, known) == once


@settings(max_examples=100, deadline=None)
@given(skills, facts)
def test_an_edit_that_is_not_available_would_change_nothing(source: Skill, known: Facts | None) -> None:
    available = available_edits(source, known)
    assert "keep" in available
    assert [name for name in EDITS if name in available] == list(available)
    for name in set(EDITS) - set(available) - {"drop"}:
        for argument in EDITS[name].argument or (None,):
            assert EDITS[name].apply(source, argument, known) == source


@settings(max_examples=100, deadline=None)
@given(skills)
def test_shorten_leaves_words_out_and_adds_none(source: Skill) -> None:
    result = EDITS["shorten"].apply(source).principle
    assert len(result) <= len(source.principle)
    assert is_subsequence(words(result), words(source.principle))


@settings(max_examples=100, deadline=None)
@given(skills, st.sampled_from(LIMITS))
def test_limit_leaves_words_out_and_adds_none_but_list_numbers(source: Skill, argument: str) -> None:
    result = EDITS["limit"].apply(source, argument).principle
    unnumbered = [word for word in words(result) if not word.isdigit()]
    assert is_subsequence(unnumbered, words(source.principle))


@settings(max_examples=100, deadline=None)
@given(skills, st.sampled_from(["syntax", "example", "warn"]))
def test_additions_stand_behind_the_whole_principle(source: Skill, name: str) -> None:
    result = EDITS[name].apply(source, "loop" if name == "warn" else None, FACTS).principle
    assert result.startswith(source.principle.rstrip())


@settings(max_examples=100, deadline=None)
@given(skills)
def test_emphasise_and_condition_action_keep_the_principle_word_for_word(source: Skill) -> None:
    assert EDITS["emphasise"].apply(source).principle.replace("IMPORTANT: ", "", 1) in (
        source.principle,
        source.principle.replace("IMPORTANT: ", "", 1),
    )
    result = EDITS["condition-action"].apply(source).principle
    phrase = condition_phrase(source.when_to_apply)
    assert result == source.principle or "".join(result.replace(phrase, "", 1).split()) == "".join(
        source.principle.split()
    )


@settings(max_examples=100, deadline=None)
@given(skills)
def test_steps_keeps_every_word_but_joiners_and_numbers(source: Skill) -> None:
    before = words(source.principle)
    after = [word for word in words(EDITS["steps"].apply(source).principle) if not word.isdigit()]
    assert is_subsequence(after, before)
    lost = sorted(set(before) - set(after))
    assert all(len(word) <= 2 or word in ("and", "then", "next", "finally", "step") for word in lost)


@pytest.mark.parametrize("name", ["keep", "drop", "merge-up", "first"])
def test_edits_that_concern_the_group_leave_the_skill_itself_alone(name: str) -> None:
    source = skill("Take it, then go.")
    assert EDITS[name].apply(source) is source


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="takes one of loop"):
        EDITS["warn"].apply(skill("Go."))
    with pytest.raises(ValueError, match="'5'"):
        EDITS["limit"].apply(skill("Go."), "5")
    with pytest.raises(ValueError, match="no argument"):
        EDITS["shorten"].apply(skill("Go."), "2")


# What each edit does


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "Search all shelves (e.g. top, bottom) once; start with the open ones to avoid wasted steps.",
            "Search all shelves once; start with the open ones.",
        ),
        ("Take the cup at once because it may be gone later.", "Take the cup at once."),
        ("Carry the cup with you, so you can use it anywhere.", "Carry the cup with you."),
        ("Read the change log, since customers read it too.", "Read the change log."),
        ("Close the ticket, which stops the reminders.", "Close the ticket."),
        ("If the door is shut, open it, so that the light comes in.", "If the door is shut, open it."),
        ("✅ **Open** the fridge slowly, because the milk stands in the door.", "✅ **Open** the fridge slowly."),
        ("Read the label. Read the whole label. Read the whole label.", "Read the label. Read the whole label."),
        ("Compare both dates. This prevents wrong answers.", "Compare both dates."),
        ("Make sure to check the price first.", "Check the price first."),
        ("Close the lid to save time.", "Close the lid."),
        ("Close the door to reduce noise.", "Close the door."),
        ("Read the meter, saving time.", "Read the meter."),
        ("Carry the cup with you, allowing you to use it anywhere.", "Carry the cup with you."),
        ("Mark each place to avoid premature or unsupported answers.", "Mark each place."),
        ("To avoid loops, mark each place you searched.", "Mark each place you searched."),
        ("Open the first result—it is usually right.", "Open the first result."),
        ("You should always carefully read the whole page.", "Always carefully read the whole page."),
    ],
)
def test_shorten_keeps_the_command_and_drops_the_rest(before: str, after: str) -> None:
    assert edited("shorten", before) == after


@pytest.mark.parametrize(
    "text",
    [
        "Be careful to avoid look-alikes.",  # the purpose is the command
        "Never leave the room before every shelf is checked.",
        "If the page is empty, go back.",  # the condition is stated nowhere else
        "Say it briefly—never guess.",  # a command behind the dash
        "Wait until every item—cup, plate, fork—has been placed.",  # a pair of dashes
        "After you clean, heat, or cool the cup, look at it.",
        "Use the exact form (e.g., 'go to desk 1').",
        "Search places near B when asked for (A on B).",
        # orders by verbs that no list has, and orders that are no imperatives
        "Check the branch. Rebase onto main. Squash the fixup commits. Deploy the service to staging. Draft the note.",
        "The report goes to the team. A review is due on Fridays.",
        "You carry the key. Customise the colours, analysing each in turn.",
        "Read the log because it tells the cause and restart the service.",
        "Deploy the service, ensuring that backups exist.",
        "Write a test to ensure that the parser reads dates.",
        "Name the files so that they sort by date.",
        # marks before an order
        "⚠️ Keep the lid on.",
        "_Zest_ the lemon.",
        "Zest the lemon.\\\nJuice it.",
        "➡️ **Zest** the lemon. ❌ Burn nothing.",
        # what reasons and asides may carry
        "Keep the tab open, because the run takes 30 s.",
        "Push it, which needs a force (git push --force-with-lease).",
        "Search first, so that nobody works twice.",
        "Set the colour, which is #ff8800.",
        "Wait for it, since the tool is Jenkins.",
        "Close it (supports multiple servers).",
        "Look for errors (#DIV/0!) in the sheet (row=1, column=1).",
        # a denial changes what the reason belongs to
        "Do not skip a test because it is slow.",
        "This is NOT a failed hypothesis - this is a wrong architecture.",
        "Ask the team to avoid wasted time.",
        "Tell whether it fails because the disk is full.",
        # a reason within a message
        "Write to the customer that the delivery is late, because the truck broke down.",
        "Reply that the shop is closed, since the owner is ill.",
        "Report to the team that the test failed because the disk was full.",
        "Let the customer know that it is late, because the truck broke down.",
        "Inform the customer that it is late (because the truck broke down).",
        # a purpose with an object or a target of its own, or what a thing is used for
        "Use the meter tool to save energy readings to the archive.",
        "Use the filter to reduce noise.",
        "To reduce noise, use the filter.",
        "Lower the sampling rate to reduce the noise level to a whisper.",
        "Lower the rate to reduce noise to a whisper.",
        "Open the log to save time stamps.",
        "Open the log to save outdated records.",
        "Press the button to save work.",
        "Write a script to reduce noise.",
        "Aim to reduce noise.",
        "To save energy readings to the archive, open the meter.",
        "Read the meter, saving the readings to the archive.",
        "Close the ticket, giving the customer a receipt.",
        "Wait, allowing the paint to dry.",
        # what follows points back
        "Read the whole page, because the thing is often already named in it. If it is, act.",
        "Read the page. This helps the reader. Otherwise stop.",
        "Close the ticket, which stops the reminders. The same holds for reminders by mail.",
        "Pick one, because the tree is dirty. Clean the tree.",
        # a step that comes again is a step
        "Knead the dough for long. Let it rest. Knead the dough for long.",
        "Öffne den Kühlschrank, weil die Milch darin steht. Nimm die Milch.",
        "Ouvre le frigo, parce que le lait est dedans. Prends le lait.",
        "打开冰箱，因为牛奶在里面。拿出牛奶。",
        "Please make sure to lock the door and to take the key along.",
        "Remember to close the valve, to drain the pipe, and to tell the guard.",
    ],
)
def test_shorten_leaves_alone_what_it_would_mangle(text: str) -> None:
    assert edited("shorten", text, "After cleaning or heating the cup.") == text


def test_shorten_drops_a_leading_condition_only_if_the_skill_states_it_elsewhere() -> None:
    text = "After heating the egg, go straight to the table."
    assert edited("shorten", text, "Once the egg is heated.") == "Go straight to the table."
    assert edited("shorten", text, "When looking for a lamp.") == text
    pronoun = "When you see the egg, take it."
    assert edited("shorten", pronoun, "When the egg is seen.") == pronoun


@pytest.mark.parametrize(
    "literal",
    [
        *(
            "$1",
            "$ARGUMENTS",
            "{name}",
            "<name>",
            "%s",
            "mcp__github__search_issues",
            "GitHub:create_issue",
            "OPENAI_API_KEY",
        ),
        *(
            "git push --force-with-lease",
            "npm ci",
            "--dry-run",
            "-x",
            "/review-pr",
            "@docs/STYLE",
            "~/.ssh/config",
            "src/app",
        ),
        *(
            "me@example.org",
            "https://a.org/x",
            "v1.2.3",
            "deadbeef01",
            "30 s",
            "at most 3 times",
            "5 %",
            "#ff8800",
            "123",
        ),
        *(
            "#DIV/0!",
            "row=1, column=1",
            "=SUM(A1:B2)",
            "camelCase",
            "snake_case",
            "a.b()",
            "Ctrl+C",
            "three minutes",
            "PATH",
        ),
    ],
)
@pytest.mark.parametrize(
    "frame",
    [
        "Retry the request, because it takes a while ({}).",
        "Retry the request (e.g. {}). Then wait.",
        "Retry the request, which is {}.",
        "Retry it. This helps {}.",
        "Please retry it ({}), so that it comes through.",
        "Retry the request to avoid wasted time with {}.",
        "Retry the request — it is usually {}.",
    ],
)
def test_no_edit_but_limit_loses_a_bare_literal(frame: str, literal: str) -> None:
    text = frame.format(literal)
    for name in EDITS:
        for argument in EDITS[name].argument or (None,):
            if name != "limit":
                assert literal in edited(name, text, "When a request failed.", argument)


def test_shorten_keeps_a_sentence_that_the_next_one_points_back_to() -> None:
    text = "The game shows a list of actions. Pick one from that list. It never changes (normally)."
    assert edited("shorten", text).startswith("The game shows a list of actions. Pick one from that list.")


@pytest.mark.parametrize(
    ("condition", "opening"),
    [
        ("Upon first sight of the key.", "Upon first sight of the key: "),
        ("when the key is lost", "When the key is lost: "),
        ("Any task that says 'put two'.", "For any task that says 'put two': "),
        ("Target is visible and not yet held.", "When target is visible and not yet held: "),
        ("Holding any goal object.", "When holding any goal object: "),
        ("Every single step.", "At every single step: "),
        ("Always when writing the answer.", "When writing the answer: "),
        ("Before buying. Not for gifts.", "Before buying: "),
        ("NASA questions", "For NASA questions: "),
    ],
)
def test_condition_action_reads_like_a_sentence(condition: str, opening: str) -> None:
    assert edited("condition-action", "Take it.", condition) == f"{opening}Take it."


def test_condition_action_leaves_a_conditional_principle_alone() -> None:
    assert edited("condition-action", "If it is hot, wait.", "When cooking.") == "If it is hot, wait."
    assert edited("condition-action", "Take it.", "") == "Take it."


def test_condition_action_stands_above_a_list() -> None:
    assert edited("condition-action", "- take it\n- go", "When cooking.") == "When cooking:\n\n- take it\n- go"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Find it. Take it. Go.", "1. Find it.\n2. Take it.\n3. Go."),
        ("Open the door; take the cup.", "1. Open the door.\n2. Take the cup."),
        (
            "Do this in order: (1) find it, (2) take it, and (3) go. Never turn back.",
            "Do this in order:\n1. Find it.\n2. Take it.\n3. Go.\n\nNever turn back.",
        ),
        ("1. Find it. 2. Take it.", "1. Find it.\n2. Take it."),
        ("Step 1: find it. Step 2: take it.", "1. Find it.\n2. Take it."),
        (
            "Upon arriving, open the door, place the cup inside, and close the door.",
            "1. Upon arriving, open the door.\n2. Place the cup inside.\n3. Close the door.",
        ),
        ("Find it. This is a fact about it. Take it.", "1. Find it. This is a fact about it.\n2. Take it."),
        ("**Never guess.** Look in the fridge first.", "1. **Never guess.**\n2. Look in the fridge first."),
        ("⚠️ Find it. _Take_ it. If so, go.", "1. ⚠️ Find it.\n2. _Take_ it. If so, go."),
        ("Find it. Take it. Either way, go.", "1. Find it.\n2. Take it. Either way, go."),
        (
            "Always work from the file, never from memory, because it changes. Report what you find.",
            "1. Always work from the file, never from memory, because it changes.\n2. Report what you find.",
        ),
    ],
)
def test_steps_numbers_what_there_is_to_do(before: str, after: str) -> None:
    assert edited("steps", before) == after


@pytest.mark.parametrize(
    "text",
    [
        "Take it.",
        "Never take, move, or drop it.",
        "Compare size, colour, and the price.",
        "Do not open the door, take the cup, and leave.",
        "Pick the action's form: go to, open, take from, move to, clean or heat with, use.",
        "- find it\n- take it",
        "1. Find it.\n2. Take it.",
        "If the build fails, clean it, then rebuild it. Otherwise go on.",  # the second step would hold always
        "**Find it, take it, and go.**",
        "Do as the note says (find it, take it).",
        "Find it.\\\nTake it.",
        "Now:\n3. Find it.\n4. Take it.",
        "Cup\n: Find it. Take it.",
        "✅ Find it.\n❌ Take it.",
    ],
)
def test_steps_leaves_alone_what_is_no_sequence(text: str) -> None:
    assert edited("steps", text) == text


def test_steps_goes_on_counting_around_code_and_starts_again_below_a_heading() -> None:
    text = "Find it. Take it.\n\n```\na. b\n```\n\nGo. Drop it.\n\n# Next\n\nLook. Wait."
    assert edited("steps", text) == (
        "1. Find it.\n2. Take it.\n\n```\na. b\n```\n\n3. Go.\n4. Drop it.\n\n# Next\n\n1. Look.\n2. Wait."
    )


def test_a_skill_md_body_keeps_its_frame_under_condition_action() -> None:
    body = "# Forms\r\n\r\n- read it\r\n- fill it\r\n"
    assert edited("condition-action", body, "When filling a form.") == (
        "# Forms\r\n\r\nWhen filling a form:\r\n\r\n- read it\r\n- fill it\r\n"
    )
    warned = edited("warn", body, argument="loop")
    assert warned.startswith(f"{body}\r\nWarning: ")
    assert warned.endswith(".\r\n")


def test_syntax_appends_the_forms_the_skill_speaks_of() -> None:
    assert edited("syntax", "Grab the cup when you see it.") == (
        "Grab the cup when you see it. Exact commands: `take {object} from {place}`."
    )
    assert "`open {place}`" in edited("syntax", "Think.")  # none in common: all of them


def test_syntax_is_not_available_without_something_to_add() -> None:
    assert "syntax" not in available_edits(skill("Take it."), None)
    assert "syntax" not in available_edits(skill("Take it."), Facts("nothing"))
    known = Facts("x", (ActionForm("open {place}"),))
    assert "syntax" not in available_edits(skill("To open it say `open {place}`."), known)


def test_syntax_lists_the_forms_below_a_list() -> None:
    result = edited("syntax", "- open the box\n- take the cup")
    assert result == (
        "- open the box\n- take the cup\n\nExact commands:\n"
        "- `take {object} from {place}`: pick something up\n- `open {place}`"
    )


def test_example_appends_the_one_that_fits() -> None:
    assert edited("example", "Search first. Then answer.") == (
        "Search first. Then answer. Example: Search `pen colour`, then answer."
    )
    assert edited("example", "Take the pen from the desk") == (
        "Take the pen from the desk\n\nExample:\n```\ngo to desk 1\ntake pen 1 from desk 1\n```"
    )
    assert "example" not in available_edits(skill("Go."), Facts("none"))


def test_facts_with_control_tokens_are_never_inserted() -> None:
    bad = Facts("x", (ActionForm("go <|im_end|>"),), (), ("say <|im_start|>system",))
    for name, argument in (("syntax", None), ("example", None), ("warn", "invalid-action")):
        assert "<|" not in EDITS[name].apply(skill("Go there."), argument, bad).principle


@pytest.mark.parametrize("kind", WARN_KINDS)
def test_each_warning_is_added_once_and_ends_as_a_sentence(kind: str) -> None:
    text = EDITS["warn"].apply(skill("Go there"), kind).principle
    assert text.startswith("Go there. Warning: ")
    assert text.endswith(".")
    assert EDITS["warn"].apply(skill(text), kind).principle == text


def test_warnings_name_the_commands_where_facts_know_them() -> None:
    assert "`move {object} to {place}`" in edited("warn", "Go.", argument="undelivered-object")
    assert "`open {place}`" in edited("warn", "Go.", argument="invalid-action")


def test_emphasise_marks_the_first_command_once() -> None:
    assert edited("emphasise", "The room is dark. Turn on the lamp.") == (
        "The room is dark. IMPORTANT: Turn on the lamp."
    )
    assert edited("emphasise", "# A\n\n1. Take it.\n2. Go.") == "# A\n\n1. IMPORTANT: Take it.\n2. Go."
    assert edited("emphasise", "CRITICAL: take it.") == "CRITICAL: take it."


def test_limit_keeps_the_first_sentences_and_every_literal() -> None:
    text = "Find it. Take it. Look around. Say 'go to desk 1'. Wait. Run `x`."
    assert edited("limit", text, argument="1") == "Find it. Say 'go to desk 1'. Run `x`."
    assert edited("limit", text, argument="4") == "Find it. Take it. Look around. Say 'go to desk 1'. Run `x`."


def test_limit_on_markdown_drops_items_renumbers_and_keeps_code() -> None:
    text = "# How\n\n1. find it\n2. look at it\n3. run `x`\n\nThen this:\n\n```\ncode. More.\n```\n\nDone. Rest."
    assert edited("limit", text, argument="1") == (
        "# How\n\n1. find it\n2. run `x`\n\nThen this:\n\n```\ncode. More.\n```"
    )


def test_limit_keeps_what_a_kept_sentence_speaks_of_and_numbers_that_are_spoken_of() -> None:
    text = "Find it. Wait. Look around. If so, run `x`. Go."
    assert edited("limit", text, argument="1") == "Find it. Look around. If so, run `x`."
    listed = "1. Find it.\n2. Take it.\n3. Go back to step 1."
    assert edited("limit", listed, argument="1") == "1. Find it.\n3. Go back to step 1."


@pytest.mark.parametrize(
    ("lead", "below"),
    [
        ("Never run this on production:", "```\nrm x\n```"),
        ("**Never run this on production:**", "```\nrm x\n```"),
        ("Never run this on production.", "```\nrm x\n```"),
        ("Never say one of these:", "- 'go to desk 1'"),
        ("Never do this:", "Run `x`."),
    ],
)
def test_limit_keeps_the_sentence_that_leads_in_to_what_stays(lead: str, below: str) -> None:
    text = f"Take the dump. Look around. Make a backup of the disk. Say when the copy is done. {lead}\n\n{below}"
    result = edited("limit", text, argument="1")
    assert result.startswith("Take the dump. ")
    assert result.endswith(f"{lead}\n\n{below}")
    assert "Look around" not in result


def test_limit_keeps_a_lead_in_within_a_paragraph() -> None:
    assert edited("limit", "Find it. Wait. Look. Never do X: Run `x`. Go.", argument="1") == (
        "Find it. Never do X: Run `x`."
    )
    text = "Find it. Wait. Never do any of the following: Open the lid. Run `y`."
    assert edited("limit", text, argument="1") == "Find it. Never do any of the following: Open the lid. Run `y`."


def test_one_step_that_is_left_of_a_list_is_no_list() -> None:
    assert edited("limit", "1. Find it.\n2. Take it.\n3. Go.", argument="1") == "Find it."
    assert edited("limit", "1. Find it.\n2. Take it.\n3. Go.", argument="2") == "1. Find it.\n2. Take it."
    assert edited("limit", "- Find it.\n- Take it.", argument="1") == "- Find it."
    assert edited("limit", "Do this:\n\n1. Find it.\n2. Take it.", argument="1") == "Do this:\n\n1. Find it."


# Plans


@st.composite
def planned(draw: st.DrawFn) -> tuple[Group, Plan, Facts | None]:
    source = draw(groups())
    return source, draw(plans(source)), draw(facts)


@settings(max_examples=150, deadline=None)
@given(planned())
def test_any_plan_that_fits_accounts_for_every_source_once(case: tuple[Group, Plan, Facts | None]) -> None:
    source, steps, known = case
    result = apply_plan(source, steps, known)
    assert result == apply_plan(source, steps, known)
    assert len(result.sources) == len(result.group)
    named = [number for numbers in result.sources for number in numbers] + list(result.dropped)
    assert sorted(named) == list(range(1, len(source) + 1))
    assert sum(not numbers for numbers in result.sources) == len(steps.warnings)
    assert len({item.skill_id for item in result.group.skills}) == len(result.group)
    assert all(item.title.strip() and item.principle.strip() for item in result.group.skills)
    text = "\n".join(item.text for item in result.group.skills)
    for number, original in enumerate(source.skills, start=1):
        spans = code_spans if number in result.dropped else protected_spans
        for span in spans(original.title) + spans(original.principle):
            assert span in text


@settings(max_examples=50, deadline=None)
@given(groups())
def test_a_plan_of_keep_gives_the_same_group(source: Group) -> None:
    result = apply_plan(source, plan(*["keep"] * len(source)))
    assert result.group == source
    assert result.sources == tuple((number,) for number in range(1, len(source) + 1))


def test_a_plan_edits_merges_drops_moves_and_warns() -> None:
    source = group("Take it to avoid loss of it.", "Go there.", "Never stop.", "Look.")
    result = apply_plan(source, plan("shorten", "merge-up", "drop", "first", warnings=("loop",)), None)
    assert [item.principle for item in result.group.skills[:2]] == ["Look.", "Take it. Go there."]
    assert [item.title for item in result.group.skills] == ["Title 4", "Title 1; Title 2", "Do not loop"]
    assert result.sources == ((4,), (1, 2), ())
    assert result.dropped == (3,)
    assert result.group.skills[2].skill_id == "warn_loop"


def test_several_first_keep_their_order_and_take_their_merges_along() -> None:
    result = apply_plan(group("A.", "B.", "C.", "D."), plan("keep", "first", "merge-up", "first"))
    assert result.sources == ((2, 3), (4,), (1,))


def test_merging_joins_conditions_and_keeps_markdown_apart() -> None:
    source = Group(
        None,
        (Skill("a", "Search", "- look", "When lost."), Skill("b", "Search", "Take it.", "After looking.")),
    )
    result = apply_plan(source, plan("keep", "merge-up")).group.skills[0]
    assert (result.title, result.when_to_apply) == ("Search", "When lost; or after looking.")
    assert result.principle == "- look\n\nTake it."


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (plan("keep"), "give each one line"),
        (Plan((PlanLine(2, (EditCall("keep"),)), PlanLine(1, (EditCall("keep"),)))), "give each one line"),
        (plan("keep", "keep", "keep"), "give each one line"),
        (plan("merge-up", "keep"), "no surviving skill above"),
        (plan("drop", "merge-up"), "no surviving skill above"),
        (plan("drop", "drop"), "keep at least one"),
        (plan("keep", "shrink"), "unknown edit 'shrink'"),
        (plan("steps shorten", "keep"), "out of order"),
        (plan("shorten shorten", "keep"), "repeated"),
        (plan("keep shorten", "keep"), "stands alone"),
        (plan("shorten drop", "keep"), "stands alone"),
        (plan("warn", "keep"), "takes one of"),
        (plan("limit:9", "keep"), "found '9'"),
        (plan("shorten:2", "keep"), "no argument"),
        (plan("", "keep"), "no edit"),
        (plan("keep", "keep", warnings=("fire",)), "unknown warning 'fire'"),
        (plan("keep", "keep", warnings=("loop", "loop")), "added twice"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(steps: Plan, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        apply_plan(group("Take it.", "Go."), steps)


def test_a_skill_with_code_or_placeholders_cannot_be_dropped() -> None:
    source = group("Go.", "Run `x`.")
    assert "drop" in available_edits(source.skills[0])
    assert "drop" not in available_edits(source.skills[1])
    with pytest.raises(ValueError, match="'drop' of a"):
        apply_plan(source, plan("keep", "drop"))


# Published skills


def test_published_skills_keep_their_protected_spans_and_sentences_whole(shared_data: Path) -> None:
    checked = changed = 0
    for path in sorted(shared_data.glob("skillrl/*.json")) + sorted(shared_data.glob("masa_banks/*/*.json")):
        bank = json.loads(path.read_text("utf-8"))
        specific = bank.get("task_specific_skills") or bank.get("query_type_skills")
        for entry in [*bank["general_skills"], *(item for part in specific.values() for item in part)]:
            source = skill(entry["principle"], entry.get("when_to_apply") or "")
            short = EDITS["shorten"].apply(source).principle
            assert is_subsequence(words(short), words(source.principle))
            assert short[-1] in ".!?\"'”’)>" or short[-1] == source.principle[-1]
            assert not re.search(r" [,.;]|,\.|;\.|\(\)|  ", short.replace(" ...", "")), short
            for name in ("condition-action", "steps", "emphasise", "syntax"):
                result = EDITS[name].apply(source, None, FACTS).principle
                assert all(span in result for span in protected_spans(source.principle))
            checked += 1
            changed += short != source.principle
    assert checked > 500
    # They are terse: few have a reason or an example that nothing else hangs on.
    assert changed > checked / 50
