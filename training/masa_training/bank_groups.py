"""A bank as one group: the search for edits that only help where every group gets them.

Group by group is stuck where groups matter together (docs/results/evolution.md). Here the candidate is the
whole bank, written as one group, so that searches, teachers and records need not know that there is such a thing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from masa.edits import EditCall, Plan, PlanLine
from masa.skills import GENERAL, Group, Skill, SkillBank
from masa_training.errors import TrainingError

WHOLE = "whole_bank"
"""Key of the group that holds all skills of a bank; never the name of a task type."""


def climbs(key: str) -> bool:
    """Whether the search for a group is hill climbing, over tasks of all types."""
    return key in (WHOLE, GENERAL)


def named(key: str) -> str:
    """A group's name for a person."""
    return {WHOLE: "whole bank", GENERAL: "general skills"}.get(key, key)


def part(bank: SkillBank, key: str) -> Group:
    """The group of that key, or all skills for `WHOLE`: general ones first, then in the bank's order."""
    if key != WHOLE:
        return bank.group(key)
    return Group(WHOLE, tuple(skill for group in bank.groups() for skill in group.skills))


def with_part(bank: SkillBank, key: str, group: Group) -> SkillBank:
    """The bank with that group replaced; of all skills, each goes back to its group."""
    return bank.with_groups({key: group} if key != WHOLE else scattered(group, homes(bank)))


def homes(bank: SkillBank) -> dict[str, str]:
    """By skill_id the key of its group, which is how the skills of the whole bank find back.

    Raises:
        TrainingError: if an identifier comes twice, or a task type is called as the whole bank is.
    """
    if WHOLE in bank.task_specific:
        raise TrainingError(f"a task type of the bank is called {WHOLE!r}; rename it, or set bank_rounds to 0")
    twice = [its for its, count in Counter(s.skill_id for g in bank.groups() for s in g.skills).items() if count > 1]
    if twice:
        raise TrainingError(
            f"the bank has the skill_id {twice[0]!r} twice; make identifiers unique, or set bank_rounds to 0"
        )
    return {skill.skill_id: group.key for group in bank.groups() for skill in group.skills}


def scattered(whole: Group, home: Mapping[str, str]) -> dict[str, Group]:
    """The groups that all skills together stand for; new skills are for every task, so they are general ones."""
    found: dict[str, list[Skill]] = {key: [] for key in (GENERAL, *home.values())}
    for skill in whole.skills:
        found[home.get(skill.skill_id, GENERAL)].append(skill)
    return {key: Group(None if key == GENERAL else key, tuple(skills)) for key, skills in found.items()}


def plans_by_group(plan: Plan, whole: Sequence[Skill], home: Mapping[str, str]) -> dict[str, Plan]:
    """What a plan for all skills does to each group; its warnings are new skills, so they belong to the general ones.

    Args:
        whole: the skills that the plan was made for, in its order.
    """
    keys = [home.get(skill.skill_id, GENERAL) for skill in whole]
    places: Counter[str] = Counter()
    numbers = []
    for key in keys:
        places[key] += 1
        numbers.append(places[key])
    lines: dict[str, list[PlanLine]] = {GENERAL: [], **{key: [] for key in keys}}
    for line in plan.lines:
        lines[keys[line.source - 1]].append(PlanLine(numbers[line.source - 1], line.edits))
    return {key: Plan(tuple(its), plan.warnings if key == GENERAL else ()) for key, its in lines.items()}


def unchanging(group: Group) -> Plan:
    """The plan that changes nothing."""
    return Plan(tuple(PlanLine(number, (EditCall("keep"),)) for number in range(1, len(group) + 1)))
