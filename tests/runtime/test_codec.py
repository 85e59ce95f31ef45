"""What is written down of skills, groups, facts and templates comes back the same, in every form ever written."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa.codec import (
    facts_from_json,
    facts_to_json,
    group_from_json,
    group_to_json,
    plan_from_json,
    plan_to_json,
    skills_from_json,
    template_to_json,
)
from masa.edits import EditCall, Plan, PlanLine
from masa.errors import MasaError
from masa.facts import ActionForm, Facts
from masa.json_fields import Fields
from masa.prompt import CHATML
from masa.skills import Group, Skill

text = st.text(max_size=12)
skills = st.lists(st.builds(Skill, text, text, text, text), max_size=3).map(tuple)
actions = st.lists(st.builds(ActionForm, text, text, text), max_size=3).map(tuple)
texts = st.lists(text, max_size=3).map(tuple)


@given(st.builds(Group, st.none() | text.filter(bool), skills))
def test_a_group_comes_back(group: Group) -> None:
    assert group_from_json(json.loads(json.dumps(group_to_json(group)))) == group


def test_a_plan_comes_back() -> None:
    lines = (PlanLine(1, (EditCall("steps"), EditCall("limit", "2"))), PlanLine(2, (EditCall("drop"),)))
    plan = Plan(lines, ("loop", "invalid-action"))
    written = plan_to_json(plan)
    assert written == {"edits": [["steps", "limit 2"], ["drop"]], "warnings": ["loop", "invalid-action"]}
    assert plan_from_json(json.loads(json.dumps(written))) == plan


@given(st.builds(Facts, text, actions, texts, texts))
def test_facts_come_back_from_lists_and_from_objects(facts: Facts) -> None:
    assert facts_from_json(json.loads(json.dumps(facts_to_json(facts)))) == facts
    assert facts_from_json(json.loads(json.dumps(asdict(facts)))) == facts, "as environments in a process told them"


def test_what_older_files_left_out_is_empty() -> None:
    assert skills_from_json([{"skill_id": "a", "title": "t", "principle": "p"}]) == (Skill("a", "t", "p"),)
    assert facts_from_json({"environment": "e", "actions": [{"form": "go"}]}) == Facts("e", (ActionForm("go"),), (), ())


@pytest.mark.parametrize(
    "wrong",
    [
        {"task_type": 3, "skills": []},
        {"task_type": None, "skills": [["a", "t", "p"]]},
        {"task_type": None, "skills": [["a", "t", "p", None]]},
        {"task_type": None, "skills": ["text"]},
        {"task_type": None, "skills": [{"skill_id": "a"}]},
        {"task_type": None},
    ],
)
def test_what_is_no_group_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        group_from_json(wrong)


def test_a_template_is_spelled_as_manifests_read_it() -> None:
    told = Fields(template_to_json(CHATML), "x", MasaError)
    pieces = {
        name: tuple((s.text, s.control) for s in getattr(CHATML, name)) for name in ("before_system", "before_user")
    }
    assert {name: told.segments(name) for name in pieces} == pieces and told.strings("stop") == CHATML.stop
