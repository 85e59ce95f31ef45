"""Composing plans along a path of a search: one plan that does what several did one after the other.

A composed plan is only believed after it was tried: it must turn the first group into exactly the last one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from masa.edits import EDITS, EditCall, Plan, PlanLine, apply_plan
from masa.facts import Facts
from masa.group_rewrite import prepare
from masa.languages import MAX_WARNINGS, ParseError, parse_plan, render_plan
from masa.prompt import Request
from masa.skills import Group

_RESHAPING = frozenset({"drop", "merge-up", "first"})
_ORDER = list(EDITS)


def composed(plans: Sequence[Plan]) -> Plan | None:
    """One plan for several applied one after the other (at least one), or None where they do not compose.

    Line by line: the union of the edits in canonical order, of two limits the later one. Only the last plan may drop,
    merge or move skills, because the numbers of the plans before must go on meaning the same skills; a dropped or
    merged skill loses its earlier edits. Nothing here says that the result is right: see `leads_to`.
    """
    result = plans[0]
    for plan in plans[1:]:
        joined = _joined(result, plan)
        if joined is None:
            return None
        result = joined
    return result


def leads_to(source: Group, plan: Plan, target: Group, facts: Facts | None) -> bool:
    """Whether the plan turns `source` into exactly `target`."""
    try:
        return apply_plan(source, plan, facts).group == target
    except ValueError:
        return False


def in_language(request: Request, plan: Plan) -> bool:
    """Whether the rewriter's constraint admits this plan for the request."""
    try:
        return parse_plan(render_plan(plan), prepare(request, frozenset(), "plan").allowed) == plan
    except ParseError:
        return False


def _joined(first: Plan, second: Plan) -> Plan | None:
    if any(call.name in _RESHAPING for line in first.lines for call in line.edits):
        return None
    if len(second.lines) != len(first.lines) + len(first.warnings):
        return None
    lines = []
    for early, late in zip(first.lines, second.lines, strict=False):
        edits = _union(early.edits, late.edits)
        if edits is None:
            return None
        lines.append(PlanLine(early.source, edits))
    # The warning skills that the first plan added are the last skills that the second one saw.
    if any(line.edits != (EditCall("keep"),) for line in second.lines[len(first.lines) :]):
        return None
    warnings = (*first.warnings, *second.warnings)
    if len(warnings) > MAX_WARNINGS or len(set(warnings)) < len(warnings):
        return None
    return Plan(tuple(lines), warnings)


def _union(early: tuple[EditCall, ...], late: tuple[EditCall, ...]) -> tuple[EditCall, ...] | None:
    """The edits of both lines as one, None where the language cannot say it."""
    if late[0].name in ("drop", "merge-up"):
        return late
    calls: dict[str, EditCall] = {}
    for call in itertools.chain(early, late):
        known = calls.get(call.name)
        if known is not None and known != call and call.name != "limit":
            return None
        calls[call.name] = call
    if len(calls) > 1:
        calls.pop("keep", None)
    return tuple(sorted(calls.values(), key=lambda call: _ORDER.index(call.name)))
