"""Evolved cells: what is known to be good for one backbone in one environment, and everything on the way there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from masa.edits import Plan
from masa.facts import Facts
from masa.skills import Group
from masa_training.samples import Cell

Stage = Literal["early", "middle", "late"]
STAGES: tuple[Stage, ...] = ("early", "middle", "late")


@dataclass(frozen=True, slots=True)
class Intermediate:
    """A group that the search passed on its way.

    Attributes:
        stage: in which third of the search it was made; the group that the search began with is early.
        plan: the plan that turns it into the cell's evolved group, where the search recorded one.
        no_plan: why there is none.
    """

    name: str
    stage: Stage
    group: Group
    plan: Plan | None = None
    no_plan: str = ""


@dataclass(frozen=True, slots=True)
class EvolvedCell:
    """One environment, backbone and group with the best group that evolution found.

    Attributes:
        card: known fields of the backbone's model card, in canonical order.
        description, task, facts: what the prompt says of the environment.
        base: the group that evolution began with.
        adapter: the teacher's one-shot rewrite with the card, if there is one.
        evolved: the best group: every target of this cell.
        intermediates: groups that the search passed, in the order they were made; base is the first.
        origin, licence: of the files.
        start: which of the cell's searches it is, where several began with other groups.
    """

    cell: Cell
    card: Mapping[str, object]
    base: Group
    evolved: Group
    adapter: Group | None
    intermediates: tuple[Intermediate, ...]
    description: str = ""
    task: str = ""
    facts: Facts | None = None
    origin: str = ""
    licence: str = "unknown"
    start: int = 1

    @property
    def name(self) -> str:
        """`alfworld/Qwen3-4B/clean`, with the number of the start from the second on."""
        return describe(self.cell) + (f"/start-{self.start}" if self.start > 1 else "")


@dataclass(frozen=True, slots=True)
class Found:
    """Cells that were read, and what was left out: a reason with the names it is about."""

    cells: tuple[EvolvedCell, ...]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Omissions:
    """Collects what is left out of a data set and why, so that the data card can tell."""

    def __init__(self) -> None:
        self._reasons: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self._reasons.setdefault(reason, []).append(name)

    def merge(self, other: Mapping[str, tuple[str, ...]]) -> None:
        for reason, names in other.items():
            self._reasons.setdefault(reason, []).extend(names)

    def as_mapping(self) -> dict[str, tuple[str, ...]]:
        return {reason: tuple(names) for reason, names in self._reasons.items()}


def describe(cell: Cell | Any) -> str:
    """`alfworld/Qwen3-4B/clean`."""
    return "/".join(cell)
