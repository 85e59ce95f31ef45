"""Model cards: the structured profile of a backbone.

A card is read from a file, shipped with masa, or detected from the backbone itself (`masa.detect`,
`masa.huggingface_folder`, `masa.servers`). Unknown is None, never a guess. `masa.backbones` finds the card of
whatever a user names.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from masa.errors import CardError, FormatError, near_misses

Value = str | int | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What is known about one backbone; None is unknown.

    Texts are kept on one line: every run of whitespace becomes one space, characters that cannot be
    printed go, and an empty text is None.

    Attributes:
        sources: for a field, the page that its value was read from.
        origins: for a field, where its value came from: "gguf", "huggingface", "ollama", "openai"
            (a server), "shipped" or "user". A field that is missing here was given by the user.
        note: how the card came about, for a person; may be empty.

    Equality, hash and fingerprint look at the values only.

    Raises:
        CardError: if a value has the wrong type or a number is not positive.
    """

    family: str | None = None
    variant: str | None = None
    parameter_count: str | None = None
    release_date: str | None = None
    architecture: str | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    num_kv_heads: int | None = None
    context_window: int | None = None
    vocab_size: int | None = None
    base_or_instruct: str | None = None
    alignment_method: str | None = None
    training_data_size: str | None = None
    multilingual: bool | None = None
    strengths: str | None = None
    weaknesses: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    note: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, kind in FIELDS.items():
            value: Any = getattr(self, name)
            if value is None:
                continue
            right = type(value) is kind  # a bool is an int, but no number of layers
            if not right or (kind is int and value < 1):
                wanted = {int: "a whole number of at least 1", bool: "true or false", str: "a text"}[kind]
                raise CardError(f"{name} of a model card must be {wanted} or null, found {value!r}")
            if kind is str:
                object.__setattr__(self, name, plain(value))

    @property
    def name(self) -> str:
        """Family and variant, such as "Qwen3-4B"; "unnamed-model" where neither is known."""
        parts = [self.family, self.variant or self.parameter_count]
        return "-".join(part.replace(" ", "-") for part in parts if part) or "unnamed-model"

    def fields(self) -> dict[str, str | int | bool]:
        """The known values by field, in canonical order: what a prompt shows."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def fingerprint(self) -> str:
        """16 hex digits that depend on the known values only, not on their order or spelling in a file."""
        import hashlib
        import json

        text = json.dumps(self.fields(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


_META = ("sources", "origins", "note")
_KINDS: dict[str, type] = {"str | None": str, "int | None": int, "bool | None": bool}
FIELDS: Mapping[str, type] = {f.name: _KINDS[str(f.type)] for f in fields(ModelCard) if f.name not in _META}
"""The keys of a card in canonical order, and the type of each."""


class FieldOrigin(NamedTuple):
    """One field of a card: its value, where that came from, and the page it was read from."""

    field: str
    value: Value
    origin: str | None
    source: str | None


def explain(card: ModelCard) -> tuple[FieldOrigin, ...]:
    """Every field in canonical order; `origin` is None where the value is unknown."""
    rows = []
    for name in FIELDS:
        value = getattr(card, name)
        origin = None if value is None else card.origins.get(name, "user")
        rows.append(FieldOrigin(name, value, origin, card.sources.get(name)))
    return tuple(rows)


def plain(text: str) -> str | None:
    """`text` on one line without unprintable characters; None if nothing is left."""
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return " ".join(line.split()) or None


def load_card(path: str | os.PathLike[str]) -> ModelCard:
    """The card in the YAML (or JSON) file at `path`.

    Raises:
        CardError: if the file cannot be read or is no valid card; the message names file and line.
    """
    from masa.files import read_text

    try:
        text = read_text(path)
    except FormatError as error:
        raise CardError(str(error)) from None
    return loads_card(text, os.fspath(path))


def loads_card(text: str, where: str = "model card") -> ModelCard:
    """The card in a YAML text; `where` names it in errors.

    Raises:
        CardError: as `load_card`.
    """
    from masa.formats import card_yaml

    values, sources = card_yaml.parse(text, where, FIELDS)
    try:
        return _card(values, sources=sources)
    except CardError as error:
        raise CardError(f"{where}: {error}") from None


def dump_card(card: ModelCard) -> str:
    """The card as YAML: every key in canonical order, null where unknown, then its sources."""
    from masa.formats import card_yaml

    return card_yaml.dump({name: getattr(card, name) for name in FIELDS}, card.sources)


@functools.cache
def shipped_cards() -> Mapping[str, ModelCard]:
    """The cards that come with masa, by name, in alphabetical order.

    Raises:
        CardError: if one of them is broken or two have the same name.
    """
    from masa.folders import models_dir

    return load_cards(models_dir() / "cards")


def load_cards(folder: Path) -> Mapping[str, ModelCard]:
    """All cards `*.yaml` of a folder by name, marked as shipped."""
    cards: dict[str, ModelCard] = {}
    for path in sorted(folder.glob("*.yaml")):
        card = load_card(path)
        if card.name in cards:
            raise CardError(f"{path}: a second card is named {card.name}; give it another variant")
        cards[card.name] = replace(card, origins=dict.fromkeys(card.fields(), "shipped"))
    return dict(sorted(cards.items(), key=lambda item: item[0].lower()))


def find_shipped(name: str, cards: Mapping[str, ModelCard] | None = None) -> ModelCard:
    """The shipped card called `name`; case, punctuation and an organization in front do not matter.

    Raises:
        CardError: if there is none; the message names the nearest.
    """
    from masa.model_names import meant_server

    cards = shipped_cards() if cards is None else cards
    wanted = _key(name)
    for card in cards.values():
        if _key(card.name) == wanted:
            return card
    keys = {_key(card.name)[0]: card.name for card in cards.values()}
    near = [keys[key] for key in near_misses(wanted[0], keys, most=3)]
    near += [server] if (server := meant_server(name)) else []
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else "give a GGUF file, a Hugging Face folder, a server as URL#MODEL, a card file, or one of the "
        f"{len(cards)} shipped cards (masa card --list)"
    )
    raise CardError(f"{name}: neither a file nor a shipped model card; {hint}")


def _key(name: str) -> tuple[str, tuple[str, ...]]:
    """Letters and digits of a name, and its numbers: "Qwen3-4B" is not "Qwen-34B"."""
    name = name.strip().rsplit("/", 1)[-1].lower()
    numbers = re.findall(r"\d+(?:\.\d+)?", name)
    return re.sub(r"[^a-z0-9]", "", name), tuple(numbers)


def merge(
    detected: ModelCard | None = None, shipped: ModelCard | None = None, user: ModelCard | None = None
) -> ModelCard:
    """One card from up to three: the user's values win, then what was detected, then the shipped card's.

    Each value keeps its origin and, where its card cited one, its source.
    """
    values: dict[str, Value] = {}
    sources: dict[str, str] = {}
    origins: dict[str, str] = {}
    notes: list[str] = []
    for layer, origin in ((user, "user"), (detected, "detected"), (shipped, "shipped")):
        if layer is None:
            continue
        notes += [layer.note] if layer.note else []
        for name, value in layer.fields().items():
            if name not in values:
                values[name] = value
                origins[name] = layer.origins.get(name, origin)
                if name in layer.sources:
                    sources[name] = layer.sources[name]
    return _card(values, sources=sources, origins=origins, note="; ".join(notes))


def _card(values: Mapping[str, Any], **meta: Any) -> ModelCard:
    keywords: dict[str, Any] = {name: values.get(name) for name in FIELDS}
    return ModelCard(**keywords, **meta)
