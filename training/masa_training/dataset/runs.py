"""Run folders of `masa evolve`, read as evolved cells like published banks.

The nodes of a search for the whole bank count group by group, as what every node made of each; their reward is the
bank's. A group that was searched after that continues from the whole bank's best node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from masa.cards import FIELDS, ModelCard
from masa.codec import facts_from_json
from masa.edits import Plan
from masa.errors import CardError
from masa.facts import Facts
from masa.skills import Group
from masa_training.bank_groups import WHOLE, plans_by_group, scattered, unchanging
from masa_training.dataset.cells import STAGES, EvolvedCell, Found, Intermediate, Omissions, Stage, describe
from masa_training.dataset.composing import composed, leads_to
from masa_training.errors import TrainingError
from masa_training.evolution.run_log import EVENTS, Run, Search, read_run
from masa_training.samples import Cell
from masa_training.search import Verdict


@dataclass(frozen=True, slots=True)
class Node:
    """A group that a search proposed: `plan` made it from `parent`, where it was a plan."""

    id: str
    parent: str | None
    group: Group
    plan: Plan | None


def read_runs(
    folder: Path, origin: str = "", *, kept: bool = False, cards: Mapping[str, Mapping[str, object]] | None = None
) -> Found:
    """The cells of one run folder: one per group whose search has ended.

    A group whose best node is the one it began with gives no cell, unless it is to be `kept`: then it is one if a
    rewrite was found to be worse, so that something is known of it.

    Args:
        origin: what the cells say they come from; the folder by default.
        cards: by backbone the card's fields to take in place of the recorded ones.

    Raises:
        TrainingError: if the events cannot be read.
    """
    run = read_run(folder)
    told = _about(run, folder)
    environment, backbone = told["environment"], told["backbone"]
    omissions = Omissions()
    cells: list[EvolvedCell] = []
    if run.torn:
        omissions.add("the last line of the events is torn, as in a run that was killed", origin or str(folder))
    for key, (best_id, nodes) in _groups(run).items():
        cell = Cell(environment, backbone, key)
        if not best_id:
            omissions.add("the search of the group has not ended", describe(cell))
            continue
        best, root = nodes[best_id], next(iter(nodes.values()))
        unchanged = best.group == root.group
        if unchanged and not (kept and _worse(run.searches.get(key))):
            omissions.add("the search found nothing better than what it began with", describe(cell))
            continue
        if not best.group.skills or not root.group.skills:
            omissions.add("a group without skills", describe(cell))
            continue
        cells.append(
            EvolvedCell(
                cell=cell,
                card=(cards or {}).get(backbone, told["card"]),
                base=root.group,
                evolved=best.group,
                adapter=None,
                intermediates=_as_it_was(root) if unchanged else _intermediates(nodes, best, told["facts"]),
                description=told["description"],
                task=told["task"],
                facts=told["facts"],
                origin=origin or str(folder),
                licence=told["licence"],
            )
        )
    return Found(tuple(cells), omissions.as_mapping())


def _about(run: Run, folder: Path) -> dict[str, Any]:
    """What the event "run" says, checked."""
    if not run.about:
        raise TrainingError(f"{folder / EVENTS}: it does not begin with what is searched for: the run never began")
    texts = {"description": "", "task": "", "licence": "unknown", **run.about}
    try:
        # Fields that this version does not know are passed over; a wrong type is an error.
        card = ModelCard(**{key: value for key, value in run.about["card"].items() if key in FIELDS}).fields()
        facts = None if run.about.get("facts") is None else facts_from_json(run.about["facts"])
        told = {name: texts[name] for name in ("environment", "backbone", "description", "task", "licence")}
        wrong = next((name for name, value in told.items() if not isinstance(value, str)), None)
        if wrong:
            raise TypeError(f"found {told[wrong]!r:.40} where the text {wrong} belongs")
    except (KeyError, TypeError, ValueError, AttributeError, CardError) as error:
        reason = f"missing {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise TrainingError(f"{folder / EVENTS}: what the run says of itself is damaged ({reason})") from None
    return {**told, "card": card, "facts": facts}


def _groups(run: Run) -> dict[str, tuple[str, dict[str, Node]]]:
    """By group its best node's id, empty while the search has not ended, and its nodes, parents before children."""
    found: dict[str, tuple[str, dict[str, Node]]] = {}
    whole = run.searches.get(WHOLE)
    if whole is not None and whole.finished:
        if not run.homes:
            raise TrainingError(f"the record of the {WHOLE} does not say which group each skill is of; search again")
        made = {node.id: node for node in _nodes(whole)}
        for node in made.values():
            plans: Mapping[str, Plan] = {}
            if node.plan is not None and node.parent is not None:
                plans = plans_by_group(node.plan, made[node.parent].group.skills, run.homes)
            for key, group in scattered(node.group, run.homes).items():
                one = replace(node, group=group, plan=plans.get(key))
                found.setdefault(key, (f"{WHOLE}-{whole.best}", {}))[1][node.id] = one
    for key, search in run.searches.items():
        if key == WHOLE or not search.state.nodes:
            continue
        if not search.finished:
            found.setdefault(key, ("", {}))
            continue
        nodes = list(_nodes(search))
        if key in found:
            nodes[0] = replace(nodes[0], parent=found[key][0], plan=unchanging(nodes[0].group))
        before = found[key][1] if key in found else {}
        found[key] = (f"{key}-{search.best}", {**before, **{node.id: node for node in nodes}})
    return found


def _nodes(search: Search) -> Iterator[Node]:
    for node in search.state.nodes:
        answer = search.answer(node.round) if node.round else None
        # A plan counts from the node's parent; one that began with the first group anew is that node's child.
        parent = 0 if answer is not None and answer.source == "original" else node.parent
        yield Node(
            id=f"{search.key}-{node.number}",
            parent=None if node.parent is None else f"{search.key}-{parent}",
            group=node.candidate,
            plan=None if answer is None else answer.plan,
        )


def _worse(search: Search | None) -> bool:
    """Whether a rewrite was found to be worse than what the search began with."""
    return search is not None and any(
        isinstance(event, Verdict)
        and event.incumbent == 0
        and event.decision.verdict is False
        and (event.decision.difference or 0) < 0
        for event in search.state.events
    )


def _intermediates(nodes: dict[str, Node], best: Node, facts: Facts | None) -> tuple[Intermediate, ...]:
    """Every node whose group is not the best one, with its stage and the plan to the best node if there is one."""
    path = _ancestors(nodes, best)
    passed = [node for node in nodes.values() if node.group != best.group]
    found = []
    for place, node in enumerate(passed):
        stage: Stage = STAGES[min(place * len(STAGES) // len(passed), len(STAGES) - 1)]
        plan, reason = None, ""
        if node.id in path:
            plan, reason = _plan(node, [nodes[id_] for id_ in path[: path.index(node.id)]], facts)
        found.append(Intermediate(node.id, stage, node.group, plan, reason))
    return tuple(found)


def _as_it_was(root: Node) -> tuple[Intermediate, ...]:
    """The group that the search began with, and the plan that leaves it alone."""
    return (Intermediate(root.id, "early", root.group, unchanging(root.group)),)


def _ancestors(nodes: dict[str, Node], best: Node) -> list[str]:
    """Ids from the best node up to its root."""
    path = [best.id]
    parent = best.parent
    while parent is not None and parent not in path:
        path.append(parent)
        parent = nodes[parent].parent
    return path


def _plan(node: Node, later: list[Node], facts: Facts | None) -> tuple[Plan | None, str]:
    """The plan from a node to the first of `later`, composed from theirs, or why there is none."""
    plans = [one.plan for one in reversed(later)]
    known = [plan for plan in plans if plan is not None]
    if len(known) < len(plans):
        return None, "no plan was recorded on the way to the best node"
    plan = composed(known)
    if plan is None:
        return None, "the plans on the way to the best node do not compose"
    if not leads_to(node.group, plan, later[0].group, facts):
        return None, "the recorded plan does not lead to the best group"
    return plan, ""
