"""A bank as one group, and back; a plan for all skills is the plans for each group."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa.edits import EDITS, WARN_KINDS, EditCall, Plan, PlanLine, apply_plan, available_edits
from masa.formats import load_bank
from masa.skills import GENERAL, Skill, SkillBank
from masa_training.bank_groups import WHOLE, homes, part, plans_by_group, scattered, unchanging, with_part
from masa_training.errors import TrainingError
from masa_training.evaluate.banks.config import BANKS

RESHAPING = ("drop", "merge-up", "first", "warn")


def a_bank(name: str) -> SkillBank:
    return load_bank(BANKS / name)


NAMES = sorted(str(path.relative_to(BANKS)) for path in BANKS.glob("*/*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_every_skill_finds_back_into_its_group(name: str) -> None:
    bank = a_bank(name)
    whole = part(bank, WHOLE)
    assert len(whole) == len(bank)
    assert with_part(bank, WHOLE, whole) == bank
    assert apply_plan(whole, unchanging(whole), None).group == whole


@given(st.data())
def test_a_plan_for_all_skills_does_to_each_group_what_its_part_does(data: st.DataObject) -> None:
    bank = a_bank(data.draw(st.sampled_from(NAMES)))
    whole, home = part(bank, WHOLE), homes(bank)
    lines = []
    for number, skill in enumerate(whole.skills, start=1):
        edit = EDITS[
            data.draw(st.sampled_from([name for name in available_edits(skill, None) if name not in RESHAPING]))
        ]
        argument = data.draw(st.sampled_from(edit.argument)) if edit.argument else None
        lines.append(PlanLine(number, (EditCall(edit.name, argument),)))
    warnings = data.draw(st.lists(st.sampled_from(sorted(WARN_KINDS)), unique=True, max_size=2))
    plan = Plan(tuple(lines), tuple(warnings))
    moved = scattered(apply_plan(whole, plan, None).group, home)
    plans = plans_by_group(plan, whole.skills, home)
    assert {key: apply_plan(bank.group(key), plans[key], None).group for key in plans} == moved
    assert all(not its.warnings for key, its in plans.items() if key != GENERAL)


def test_banks_that_cannot_be_put_together_again_are_refused() -> None:
    skill = Skill("a", "Title", "Text.")
    with pytest.raises(TrainingError, match="the skill_id 'a' twice"):
        homes(SkillBank((skill,), {"heat": (skill,)}))
    with pytest.raises(TrainingError, match="called 'whole_bank'; rename it"):
        homes(SkillBank((), {WHOLE: (skill,)}))
