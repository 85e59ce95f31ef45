"""The model card that a profile writes: the backbone's own architecture, known provenance, observed weaknesses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from masa.backbones import resolve_backbone
from masa.cards import ModelCard, merge
from masa.errors import CardError, MasaError
from masa_training.errors import TrainingError
from masa_training.teacher.claims import claims

PROFILE = "profile"
"""Origin of what a profile found."""
_CHECKED = ("strengths", "weaknesses")


def card_of_backbone(spec: str, card: str = "", *, api_key: str | None = None) -> ModelCard:
    """The card of what `open_model` calls a backbone: architecture from the model itself, the rest as shipped.

    Args:
        card: a card file, whose values win, or the name of a shipped card, which fills what is not known.

    Raises:
        TrainingError: if nothing can be read from the backbone and no card is given.
        CardError: if there is no such card.
    """
    given = resolve_backbone(card) if card else None
    user = given if card and Path(card).expanduser().exists() else None
    try:
        found = resolve_backbone(_where(spec), user=user, api_key=api_key)
    except CardError as error:
        if given is None:
            raise TrainingError(f"{error}; or say with --card which card it has") from None
        return given
    return merge(found, given)


def with_weaknesses(card: ModelCard, weaknesses: str | None, source: str) -> ModelCard:
    """The card with the weaknesses that were observed, in place of any others.

    Raises:
        TrainingError: if a card that we make may not say what this one says (`masa_training.teacher.claims`).
    """
    origins = {name: value for name, value in card.origins.items() if name != "weaknesses"}
    sources = {name: value for name, value in card.sources.items() if name != "weaknesses"}
    if weaknesses:
        origins["weaknesses"], sources["weaknesses"] = PROFILE, source
    found = replace(card, weaknesses=weaknesses, origins=origins, sources=sources)
    check_card(found)
    return found


def check_card(card: ModelCard) -> None:
    """Refuse success rates and preferences in a card that we make.

    Raises:
        TrainingError: naming the field and what it says.
    """
    for name in _CHECKED:
        text = getattr(card, name)
        found = claims(text, ours=card.origins.get(name) == PROFILE) if text else ()
        if found:
            raise TrainingError(f"the card is not written: its {name} may not say this: {found[0]}")


def _where(spec: str) -> str:
    """What `resolve_backbone` reads for a model that `open_model` opens."""
    kind, behind, rest = spec.partition(":")
    if spec.startswith(("http://", "https://")):
        return spec
    if behind and kind == "openai":
        return rest
    if behind and kind == "replay":
        raise CardError(f"{spec}: a recording tells nothing of its model")
    path = Path(rest if behind and kind in ("llama", "transformers", "checkpoint") else spec).expanduser()
    if (path / "masa.json").is_file():
        from masa_training.checkpoint import read_checkpoint

        return read_checkpoint(path).base.path
    if path.exists():
        return str(path)
    from masa.weights import find_weights

    try:
        return str(find_weights(str(path)))
    except MasaError as error:
        raise CardError(f"{spec}: nothing to read a card from ({error})") from None
