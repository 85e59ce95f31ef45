"""`report.html`: one file that shows a run, with no script but the one that opens what a link leads to, and no network.

Skills, reasons and names were written by others: everything goes through the template engine's escaping, characters
that steer a display are replaced, and the page's content policy allows nothing but its own style and script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from masa.files import write_atomic
from masa.html_report import Piece, pieces
from masa.languages import render_plan
from masa.skills import Group, Skill
from masa_training.bank_groups import named
from masa_training.evolution.run_log import Answer, Run, Search, read_run
from masa_training.evolution.views import numbers
from masa_training.evolution.views.drawings import Curve, Tree, curve, state_of, states, tree
from masa_training.search import Node, Proposal
from masa_training.tables import NOTHING, bracketed

REPORT = "report.html"
SCRIPT = """
function show() {
  var at = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (var up = at; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
  if (at) at.scrollIntoView({block: "center"});
}
addEventListener("hashchange", show);
show();
"""
_OPEN = 40
"""Nodes up to which the list of them is open from the start."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as the report tells it.

    Attributes:
        state: as `drawings.Dot` has it.
        said: what the teacher recorded of the rewrite; None for the first node.
        plan: its plan as text.
        changes: against its parent; None for the first node.
    """

    node: Node[Group]
    state: str
    best: bool
    said: Answer | None
    plan: str
    changes: Difference | None


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group's search as the report tells it; `place` makes its anchors."""

    place: int
    search: Search
    counts: Mapping[str, int]
    curve: Curve | None
    tree: Tree | None
    nodes: Sequence[NodeView]
    failed: Sequence[tuple[int, int | None, str]]
    """Round, node that was to be rewritten, reason."""
    listed: bool


def write_report(folder: Path) -> Path:
    """Write `report.html` of the run in a folder, from its record alone; the path.

    Raises:
        TrainingError: if there is no run, or its record is damaged.
    """
    path = folder / REPORT
    # A half of a surrogate pair in a skill is no text that a file can hold.
    write_atomic(path, render(read_run(folder), folder.resolve().name).encode("utf-8", "replace"))
    return path


def render(run: Run, name: str) -> str:
    """The page of a run; `name` is the title where the run gives none."""
    import jinja2
    from markupsafe import Markup

    from masa.cli.output import clean

    def safe(value: Any) -> Any:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "rate": lambda found: bracketed(found, ".0%"),
        "signed": lambda found: bracketed(found, "+.3f"),
        "number": _number,
        "amount": numbers.amount,
        "name": named,
        "arm": numbers.arm_words,
        "yaml": _yaml,
    }
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    groups = [_view(place, group, -run.penalty) for place, group in enumerate(run.searches.values())]
    return environment.get_template("report.html.j2").render(
        name=run.settings.get("name") or name,
        run=run,
        groups=groups,
        done=sum(group.finished for group in run.searches.values()),
        types=numbers.by_type(run),
        tested=numbers.tested(run),
        costs=numbers.costs(run),
        splits=numbers.splits(run),
        budget=numbers.budget(run),
        script=Markup(SCRIPT),  # ours, the one thing that is not escaped
        digest=digest,
    )


def _view(place: int, group: Search, lowest: float) -> GroupView:
    state = group.state
    nodes = []
    for node in state.nodes:
        said = group.answer(node.round) if node.round else None
        changes = None if node.parent is None else difference(state.nodes[node.parent].candidate, node.candidate)
        plan = render_plan(said.plan) if said and said.plan else ""
        nodes.append(NodeView(node, state_of(node), node.number == state.best, said, plan, changes))
    failed = [
        (event.round, event.parent, event.problem or "")
        for event in state.events
        if isinstance(event, Proposal) and event.node is None
    ]
    drawn = bool(nodes)
    return GroupView(
        place,
        group,
        states(state.nodes),
        curve(state, lowest=lowest) if drawn else None,
        tree(state) if drawn else None,
        nodes,
        failed,
        len(nodes) <= _OPEN,
    )


def _number(value: float | None, digits: int = 3) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _yaml(value: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False, allow_unicode=True, width=100)


@dataclass(frozen=True, slots=True)
class SkillDifference:
    """One skill that is not the same in both groups; title, condition and principle as pieces."""

    skill_id: str
    change: Literal["added", "removed", "changed"]
    title: list[Piece]
    when: list[Piece]
    principle: list[Piece]


@dataclass(frozen=True, slots=True)
class Difference:
    """How a group differs from another.

    Attributes:
        skills: those that differ, in the order of the new group, then those that are gone.
        same: how many are the same.
        reordered: whether skills that both groups have changed places.
    """

    skills: tuple[SkillDifference, ...]
    same: int
    reordered: bool


def difference(old: Group, new: Group) -> Difference:
    """From `old` to `new`. A skill is matched with one that equals it, else by identifier, else by title."""
    matched = _matched(old.skills, new.skills)
    found: list[SkillDifference] = []
    same = 0
    for place, skill in enumerate(new.skills):
        before = matched.get(place)
        if before is None:
            found.append(_between("added", _NONE, skill))
        elif old.skills[before] == skill:
            same += 1
        else:
            found.append(_between("changed", old.skills[before], skill))
    gone = set(range(len(old.skills))) - set(matched.values())
    found += [_between("removed", old.skills[place], _NONE) for place in sorted(gone)]
    order = [matched[place] for place in sorted(matched)]
    return Difference(tuple(found), same, order != sorted(order))


def _matched(old: Sequence[Skill], new: Sequence[Skill]) -> dict[int, int]:
    """By place in `new` the place in `old`; each at most once."""
    found: dict[int, int] = {}
    keys: tuple[Callable[[Skill], object], ...] = (lambda s: s, lambda s: s.skill_id, lambda s: s.title)
    for key in keys:
        taken = set(found.values())
        free: dict[object, list[int]] = {}
        for place, skill in enumerate(old):
            if place not in taken and key(skill):
                free.setdefault(key(skill), []).append(place)
        for place, skill in enumerate(new):
            if place not in found and free.get(key(skill)):
                found[place] = free[key(skill)].pop(0)
    return found


_NONE = Skill("", "", "", "")


def _between(change: Literal["added", "removed", "changed"], old: Skill, new: Skill) -> SkillDifference:
    title, when, principle = (
        pieces(getattr(old, name), getattr(new, name)) for name in ("title", "when_to_apply", "principle")
    )
    return SkillDifference(new.skill_id or old.skill_id, change, title, when, principle)
