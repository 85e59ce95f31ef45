"""Evolved cells: what is known to be good for one backbone in one environment, and everything on the way there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from masa.cards import load_card
from masa.edits import Plan
from masa.errors import CardError
from masa.facts import Facts, load_facts
from masa.formats import load_bank
from masa.skills import Group, SkillBank
from masa_training.dataset.config import Banks, Places
from masa_training.errors import TrainingError
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


def read_published(banks: Banks, places: Places) -> Found:
    """The cells of one environment: one per backbone and group that its evolved bank has.

    Raises:
        FormatError: if a bank cannot be read.
        TrainingError: if a card cannot be read, or two backbones have the same card.
    """
    if not banks.backbones:
        raise TrainingError(f"sources.banks of {banks.environment}: no backbones; name at least one")
    facts = load_facts(places.resolve(banks.facts)) if banks.facts else None
    base_path = places.resolve(banks.base)
    base = load_bank(base_path)
    omissions = Omissions()
    cells: list[EvolvedCell] = []
    names: dict[str, str] = {}
    for backbone in banks.backbones:
        evolved_path = _path(banks.evolved, backbone, places)
        evolved = load_bank(evolved_path)
        adapter = load_bank(_path(banks.adapter, backbone, places)) if banks.adapter else None
        card_path = _path(banks.card, backbone, places)
        try:
            card = load_card(card_path)
        except CardError as error:
            raise TrainingError(str(error)) from None
        if card.name in names:
            raise TrainingError(
                f"{card_path}: describes {card.name}, as the card of {names[card.name]} does; "
                "give every backbone a card of its own"
            )
        names[card.name] = backbone
        for group in base.groups():
            cell = Cell(banks.environment, card.name, group.key)
            target = _group(evolved, group.key)
            if target is None:
                omissions.add("the evolved bank lacks the group", describe(cell))
                continue
            if not group.skills:
                omissions.add("the base bank has no skill in the group", describe(cell))
                continue
            cells.append(
                EvolvedCell(
                    cell=cell,
                    card=dict(card.fields()),
                    base=group,
                    evolved=target,
                    adapter=None if adapter is None else _group(adapter, group.key),
                    intermediates=(Intermediate("base", "early", group),),
                    description=banks.description,
                    task=banks.task,
                    facts=facts,
                    origin=banks.origin or evolved_path.name,
                    licence=banks.licence,
                )
            )
        for key in sorted({g.key for g in evolved.groups()} - {g.key for g in base.groups()}):
            omissions.add("the base bank lacks the group", describe(Cell(banks.environment, card.name, key)))
    return Found(tuple(cells), omissions.as_mapping())


def _path(pattern: str, backbone: str, places: Places) -> Path:
    return places.resolve(pattern.replace("{backbone}", backbone))


def _group(bank: SkillBank, key: str) -> Group | None:
    """The bank's group of that key; None if it has none or it is empty."""
    return next((group for group in bank.groups() if group.key == key and group.skills), None)
