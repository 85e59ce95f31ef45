"""The model cards of a run: the backbone's, and the one that the teacher is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from masa.backbones import resolve_backbone
from masa_training.evolution.config import EvolveConfig


def card_of(config: EvolveConfig) -> dict[str, Any]:
    """The known fields of the backbone's card: those written in the configuration, or those of the card it names.

    Raises:
        CardError: if it names none.
    """
    return card_fields(config.backbone.card)


def teacher_card(config: EvolveConfig) -> dict[str, Any]:
    """The fields that the teacher is told: the backbone's, unless the configuration says otherwise.

    Raises:
        CardError: as `card_of`.
    """
    return card_of(config) if config.teacher_card is None else card_fields(config.teacher_card)


def card_fields(card: Mapping[str, Any] | str) -> dict[str, Any]:
    """Fields as they are, or the known ones of the card that a text names: a file, a shipped card, a backbone.

    Raises:
        CardError: if it names none.
    """
    return dict(card) if isinstance(card, Mapping) else dict(resolve_backbone(card).fields())
