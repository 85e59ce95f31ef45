"""Edits and plans: named deterministic changes of skills, and lists of them that change a group."""

from __future__ import annotations

from masa.edits.additions import WARN_KINDS
from masa.edits.plan import EditCall, Plan, PlanLine, PlannedGroup, apply_plan, check_plan
from masa.edits.registry import EDITS, LIMITS, Edit, available_edits, droppable

__all__ = [
    "EDITS",
    "LIMITS",
    "WARN_KINDS",
    "Edit",
    "EditCall",
    "Plan",
    "PlanLine",
    "PlannedGroup",
    "apply_plan",
    "available_edits",
    "check_plan",
    "droppable",
]
