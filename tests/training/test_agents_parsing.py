"""From free text to an action: what small models really write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_training.agents import parse_action

ADMISSIBLE = ("go to desk 1", "take mug 1 from desk 1", "look")


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<action>look</action>", "look"),
        ("I think. <action>look</action> or <action>go to desk 1</action>", "go to desk 1"),
        ("<action> go to desk 1", "go to desk 1"),
        ("<action>Go to  Desk 1.</action>", "go to desk 1"),
        ("Thought: the mug.\nAction: take mug 1 from desk 1", "take mug 1 from desk 1"),
        ("**Action:** `look`", "look"),
        ("look\nbecause I see nothing", "look"),
        ("Let me see.\nopen drawer 1", "open drawer 1"),
        ("<action>\nlook\n</action>", "look"),
        ("", ""),
        ("   \n ", ""),
        ("<action></action>", ""),
    ],
)
def test_the_action_is_found_in_what_was_written(text: str, action: str) -> None:
    assert parse_action(text, ADMISSIBLE) == action


@given(st.text(max_size=200))
def test_whatever_is_written_gives_one_line_or_nothing(text: str) -> None:
    found = parse_action(text, ADMISSIBLE)
    assert found == found.strip() and len(found.splitlines()) <= 1


@given(st.sampled_from(ADMISSIBLE), st.text(alphabet=" \n`*", max_size=5))
def test_an_admissible_action_survives_decoration(action: str, around: str) -> None:
    assert parse_action(f"{around}{action.upper()}{around}", ADMISSIBLE) == action
