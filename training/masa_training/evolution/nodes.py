"""What a search found, as data sets read it (docs/datasets.md): nodes with the plans that lead from one to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from masa.edits import Plan
from masa.languages import ParseError, render_plan
from masa.skills import Group, SkillBank
from masa_training.bank_groups import WHOLE, homes, plans_by_group, scattered, unchanging
from masa_training.dataset.composing import parse_recorded
from masa_training.search import Proposal, Trace, Verdict

Node = dict[str, Any]


def nodes_of(
    key: str, bank: SkillBank, trace: Trace[Group], rewrites: Sequence[Mapping[str, Any]], *, root: int | None = None
) -> list[Node]:
    """The evaluated nodes of a search, parents before children.

    Those of the whole bank's search are told group by group: what every node made of each. Their reward is the bank's.

    Args:
        bank: that the search began with.
        root: the node of the whole bank's search whose bank that was; None where there was no such search.
    """
    made = list(_made(key, trace, rewrites))
    if key == WHOLE:
        return _by_group(bank, made)
    if root is not None:
        made[0] = replace(made[0], parent=f"{WHOLE}-{root}", plan=render_plan(unchanging(made[0].group)))
    return [_node(one, key, one.group, one.plan) for one in made]


def _by_group(bank: SkillBank, made: Sequence[_Made]) -> list[Node]:
    home = homes(bank)
    before = {one.id: one.group for one in made}
    found = []
    for one in made:
        plans: Mapping[str, Plan] = {}
        if one.plan is not None and one.parent is not None:
            parent = before[one.parent]
            with contextlib.suppress(ParseError):
                plans = plans_by_group(parse_recorded(one.plan, parent), parent.skills, home)
        for key, group in scattered(one.group, home).items():
            found.append(_node(one, key, group, render_plan(plans[key]) if key in plans else None))
    return found


@dataclass(frozen=True, slots=True)
class _Made:
    """A node of a search with the plan that made it from its parent, if it was a plan."""

    id: str
    parent: str | None
    group: Group
    plan: str | None
    reward: float | None
    episodes: int
    accepted: bool


def _made(key: str, trace: Trace[Group], rewrites: Sequence[Mapping[str, Any]]) -> Iterator[_Made]:
    accepted = {0} | {e.node for e in trace.events if isinstance(e, Verdict) and e.decision.verdict is True}
    rounds = {e.node: e.round for e in trace.events if isinstance(e, Proposal) and e.node is not None}
    said = {values["round"]: values for values in rewrites}
    for node in trace.nodes:
        rewrite = said.get(rounds.get(node.number, 0), {})
        # A plan counts from the node's parent; one that began with the first group anew is that node's child.
        from_first = rewrite.get("source") == "original"
        yield _Made(
            id=f"{key}-{node.number}",
            parent=None if node.parent is None else f"{key}-{0 if from_first else node.parent}",
            group=node.candidate,
            plan=rewrite.get("plan"),
            reward=node.mean,
            episodes=len(node.known),
            accepted=node.number in accepted,
        )


def _node(made: _Made, key: str, group: Group, plan: str | None) -> Node:
    skills = [
        {
            "skill_id": skill.skill_id,
            "title": skill.title,
            "principle": skill.principle,
            "when_to_apply": skill.when_to_apply,
        }
        for skill in group.skills
    ]
    return {
        "group": key,
        "id": made.id,
        "parent": made.parent,
        "skills": skills,
        "plan": plan,
        "reward": made.reward,
        "episodes": made.episodes,
        "accepted": made.accepted,
    }
