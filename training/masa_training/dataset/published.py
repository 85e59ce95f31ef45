"""Published banks in the authors' layout, read as evolved cells.

One file holds the base bank of an environment, one per backbone its one-shot adapter bank, one per backbone its evolved
bank, and one its model card. Nothing is published of the search between base and evolved bank, so the base group is
the only intermediate, and it counts as early.
"""

from __future__ import annotations

from pathlib import Path

from masa.cards import load_card
from masa.errors import CardError
from masa.facts import load_facts
from masa.formats import load_bank
from masa.skills import Group, SkillBank
from masa_training.dataset.cells import EvolvedCell, Found, Intermediate, Omissions, describe
from masa_training.dataset.config import Banks, Places
from masa_training.errors import TrainingError
from masa_training.samples import Cell


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
