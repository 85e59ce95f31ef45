"""Run folders of `masa evolve`, read as evolved cells like published banks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from masa.languages import ParseError
from masa.skills import Group
from masa_training.bank_groups import unchanging
from masa_training.dataset.cells import STAGES, EvolvedCell, Found, Intermediate, Omissions, Stage, describe
from masa_training.dataset.composing import composed, leads_to, parse_recorded
from masa_training.dataset.events import Node, Run, read_run
from masa_training.samples import Cell


def read_runs(
    folder: Path, origin: str = "", *, kept: bool = False, cards: Mapping[str, Mapping[str, object]] | None = None
) -> Found:
    """The cells of one run folder: one per group whose search has named a best node.

    A group whose best node is the one it began with gives no cell, unless it is to be `kept`: then it is one if a
    rewrite was found to be worse, so that something is known of it.

    Args:
        origin: what the cells say they come from; the folder by default.
        cards: by backbone the card's fields to take in place of the recorded ones.

    Raises:
        FormatError, TrainingError: if the events or a bank they name cannot be read.
    """
    run = read_run(folder)
    omissions = Omissions()
    cells: list[EvolvedCell] = []
    if run.torn:
        omissions.add("the last line of the events is torn, as in a run that was killed", origin or str(folder))
    for key, nodes in run.nodes.items():
        cell = Cell(run.environment, run.backbone, key)
        if key not in run.best:
            omissions.add("the search of the group has not named a best node", describe(cell))
            continue
        best = nodes[run.best[key]]
        root = next(iter(nodes.values()))
        unchanged = best.group == root.group
        if unchanged and not (kept and key in run.worse):
            omissions.add("the search found nothing better than what it began with", describe(cell))
            continue
        if not best.group.skills or not root.group.skills:
            omissions.add("a group without skills", describe(cell))
            continue
        cells.append(
            EvolvedCell(
                cell=cell,
                card=(cards or {}).get(run.backbone, run.card),
                base=root.group,
                evolved=best.group,
                adapter=run.adapters.get(key),
                intermediates=_as_it_was(root) if unchanged else _intermediates(run, nodes, best),
                description=run.description,
                task=run.task,
                facts=run.facts,
                origin=origin or str(folder),
                licence=run.licence,
            )
        )
    return Found(tuple(cells), omissions.as_mapping())


def _intermediates(run: Run, nodes: dict[str, Node], best: Node) -> tuple[Intermediate, ...]:
    """Every node whose group is not the best one, with its stage and the plan to the best node if there is one."""
    path = _ancestors(nodes, best)
    passed = [node for node in nodes.values() if node.group != best.group]
    found = []
    for place, node in enumerate(passed):
        stage: Stage = STAGES[min(place * len(STAGES) // len(passed), len(STAGES) - 1)]
        intermediate = Intermediate(node.id, stage, node.group)
        if node.id in path:
            intermediate = _with_plan(intermediate, nodes, path[: path.index(node.id)], run)
        found.append(intermediate)
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


def _with_plan(intermediate: Intermediate, nodes: dict[str, Node], edges: list[str], run: Run) -> Intermediate:
    """With the plan to the best node, composed from the plans of `edges` (the best node's first)."""

    def without(reason: str) -> Intermediate:
        return Intermediate(intermediate.name, intermediate.stage, intermediate.group, None, reason)

    plans = []
    group: Group = intermediate.group
    target = nodes[edges[0]].group
    for id_ in reversed(edges):
        text = nodes[id_].plan
        if text is None:
            return without("no plan was recorded on the way to the best node")
        try:
            plans.append(parse_recorded(text, group))
        except ParseError:
            return without("a recorded plan is none for the group it was recorded for")
        group = nodes[id_].group
    plan = composed(plans)
    if plan is None:
        return without("the plans on the way to the best node do not compose")
    if not leads_to(intermediate.group, plan, target, run.facts):
        return without("the recorded plan does not lead to the best group")
    return Intermediate(intermediate.name, intermediate.stage, intermediate.group, plan)
