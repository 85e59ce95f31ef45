"""`report.html`: one file that shows a run, with no script but the one that opens what a link leads to, and no network.

Skills, reasons and names were written by others: everything goes through the template engine's escaping, characters
that steer a display are replaced, and the page's content policy allows nothing but its own style and script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.files import write_atomic
from masa.skills import Group
from masa_training.bank_groups import named
from masa_training.evolution.views import numbers
from masa_training.evolution.views.differences import Difference, difference
from masa_training.evolution.views.drawings import Curve, Tree, curve, state_of, states, tree
from masa_training.evolution.views.story import GroupStory, Story, read_story
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
        said: what the teacher recorded of the rewrite; empty for the first node.
        changes: against its parent; None for the first node.
    """

    node: Node[Group]
    state: str
    best: bool
    said: Mapping[str, Any]
    changes: Difference | None


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group's search as the report tells it; `place` makes its anchors."""

    place: int
    story: GroupStory
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
    write_atomic(path, render(read_story(folder), folder.resolve().name).encode("utf-8", "replace"))
    return path


def render(story: Story, name: str) -> str:
    """The page of a story; `name` is the title where the run gives none."""
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
    groups = [_view(place, group, -story.penalty) for place, group in enumerate(story.groups.values())]
    return environment.get_template("report.html.j2").render(
        name=story.settings.get("name") or name,
        story=story,
        groups=groups,
        done=sum(group.finished for group in story.groups.values()),
        types=numbers.by_type(story),
        tested=numbers.tested(story),
        costs=numbers.costs(story),
        splits=numbers.splits(story),
        budget=numbers.budget(story),
        script=Markup(SCRIPT),  # ours, the one thing that is not escaped
        digest=digest,
    )


def _view(place: int, group: GroupStory, lowest: float) -> GroupView:
    state = group.state
    nodes = [
        NodeView(
            node,
            state_of(node),
            node.number == state.best,
            group.rewrites.get(node.round, {}) if node.round else {},
            None if node.parent is None else difference(state.nodes[node.parent].candidate, node.candidate),
        )
        for node in state.nodes
    ]
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
