"""The study of the model card: what evolution finds where the teacher is told another card than the backbone's."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from masa.cards import FIELDS, shipped_cards
from masa_training.errors import TrainingError
from masa_training.evolution import EvolveConfig
from masa_training.evolution.cards import card_fields, card_of
from masa_training.studies.evolutions import EvolutionCell, EvolutionStudy, named_apart

KIND = "card"
TRUE, PERTURBED, EMPTY, OTHER = "true", "perturbed", "empty", "other"
CARDS = (TRUE, PERTURBED, EMPTY, OTHER)

Fields = Mapping[str, Any]


def card_study(
    configs: Sequence[EvolveConfig], *, other: str = "", share: float = 0.5, runs: int = 1
) -> EvolutionStudy:
    """Every experiment with the true card, a perturbed one, none and another model's, `runs` times each.

    Only what the teacher is told differs; every run has a perturbed card of its own.

    Args:
        other: the other model's card, as `masa card` takes it; by default the shipped one that differs in most fields.
        share: of the known fields that are wrong in a perturbed card.

    Raises:
        TrainingError: if a backbone has no card, a teacher reads none, or experiments cannot be told apart.
        CardError: if a card cannot be found or read.
    """
    named_apart(configs)
    if not 0 < share <= 1:
        raise TrainingError(f"the share of wrong fields is {share:g}; give one above 0 and at most 1")
    cells, about = [], {}
    for config in configs:
        truth = card_of(config)
        if not truth:
            raise TrainingError(
                f"{config.name}: its backbone has no card, so there is none to compare with; add --set "
                "backbone.card=FILE, which masa profile writes"
            )
        if config.teacher_config().local:
            raise TrainingError(
                f"{config.name}: the teacher {config.teacher_config().model} reads no card, so all runs would be the "
                "same; name a language model with --teacher openai:URL#MODEL"
            )
        foreign = card_fields(other) if other else most_unlike(truth)
        told: dict[str, dict[str, Any]] = {name: {"wrong_fields": []} for name in CARDS}
        for number in range(runs):
            given = {TRUE: truth, PERTURBED: perturbed(truth, share, number), EMPTY: {}, OTHER: foreign}
            for name, card in given.items():
                changed = replace(config, name=f"{config.name}, {name} card", teacher_card=dict(card))
                cells.append(EvolutionCell(config.name, name, number, changed))
                told[name]["wrong_fields"].append(unlike(truth, card))
                told[name]["model"] = _model(card)
        about[config.name] = told
    return EvolutionStudy(KIND, CARDS, tuple(cells), about)


def perturbed(card: Fields, share: float, seed: int) -> dict[str, Any]:
    """The card with wrong values in `share` of its known fields, at least one: what shipped cards say there.

    Values are drawn for each field on its own, so that the whole need not fit any model. The same seed gives the same.
    """
    drawn = random.Random(f"card/{seed}")
    foreign = {name: _others(name, value) for name, value in card.items()}
    possible = [name for name in card if foreign[name]]
    chosen = set(drawn.sample(possible, max(1, min(len(possible), round(share * len(card)))))) if possible else set()
    return {name: drawn.choice(foreign[name]) if name in chosen else value for name, value in card.items()}


def most_unlike(card: Fields) -> dict[str, Any]:
    """The fields of the shipped card that differs from this one in most fields, the first of equals by name."""
    cards = list(shipped_cards().values())
    found = max(cards, key=lambda shipped: len(unlike(card, shipped.fields())))
    return dict(found.fields())


def unlike(card: Fields, other: Fields) -> list[str]:
    """The fields known in either card that are not the same in both, in canonical order."""
    order = [*FIELDS, *(name for name in {**card, **other} if name not in FIELDS)]
    return [name for name in order if card.get(name) != other.get(name)]


def _others(name: str, value: Any) -> list[Any]:
    """What shipped cards say of a field, other than this."""
    if name not in FIELDS:
        return []
    said = {getattr(card, name) for card in shipped_cards().values()}
    return sorted((its for its in said if its is not None and its != value), key=str)


def _model(card: Fields) -> str:
    parts = [str(card[name]) for name in ("family", "variant") if card.get(name)]
    return "-".join(parts) or "no model"
