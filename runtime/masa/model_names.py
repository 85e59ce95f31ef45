"""What models are called, and which shipped card a detected backbone belongs to.

Names such as "meta-llama/Llama-3.2-3B-Instruct", "llama3.2:3b-instruct-q4_K_M" and
"Llama-3.2-3B-Instruct.Q4_K_M.gguf" say the same: words that name the model, a size, and base or
instruct. A shipped card is used only if the backbone's own names carry no further word ("Thinking",
"abliterated", …), since what a derivative was trained on is not what the card says, and if size and
architecture agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from masa.cards import FIELDS, ModelCard

ARCHITECTURE_FIELDS = ("num_layers", "hidden_size", "num_attention_heads", "num_kv_heads")
_KIND_FIELDS = ("variant", "base_or_instruct", "alignment_method", "strengths", "weaknesses")
_IDENTITY = ("family", "variant", "parameter_count")

_KINDS = {"instruct": "instruct", "it": "instruct", "chat": "instruct"} | dict.fromkeys(
    ("base", "pt", "pretrained"), "base"
)
# Words that say how a model is stored, who packed it, or what the training folder was called (context
# length 8k, long-context run lc100k, mixture mix1, epoch ep2: the official SmolLM2 files carry those).
_NEUTRAL = re.compile(
    r"latest|gguf|ggml|hf|text|bf16|fp?16|fp?32|fp8|int[48]|w\d+a\d+|nvfp4|mxfp4|awq|gptq|exl[23]|bnb|mlx|onnx"
    r"|[2-8]bit|imat|imatrix|i1|qat|ud|unsloth|dynamic|quantized|quant|meta|google|microsoft|mistralai|huggingfacetb"
    r"|\d+k|lc\d+k?|mix\d+|ep\d+"
)
_QUANTIZATION = re.compile(
    r"(?<![a-z0-9])i?q[1-8](?:[_-](?:\d|k|nl|xs|xxs|s|m|l|xl))*(?![a-z0-9])|(?<![a-z0-9])tq[12]_0"
)
# What servers leave out of a name: a mixture's active parameters and experts, and the stamp of a release.
_LEFT_OUT = re.compile(r"a\d+(?:\.\d+)?b|\d+e|\d{4}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([mbt])")
_UNITS = {"m": 1e6, "b": 1e9, "t": 1e12}


@dataclass(frozen=True, slots=True)
class Name:
    """A model's name in parts: the words that identify it, its size in parameters, base or instruct."""

    words: frozenset[str]
    size: float | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Detected:
    """What a backbone says about itself.

    Attributes:
        card: its architecture; no provenance.
        inner: the names written inside the model.
        outer: what others call it: file, folder, model on a server. Trusted less than `inner`.
        parameters: exact number of parameters.
    """

    card: ModelCard
    inner: tuple[str, ...] = ()
    outer: tuple[str, ...] = ()
    parameters: int | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A detected card and what a shipped card adds; `detected` leaves out what `shipped` spells better."""

    detected: ModelCard
    shipped: ModelCard | None


def parse_name(text: str) -> Name:
    """Split a model's name, file name or repository into its parts."""
    text = _last_part(text).lower()
    text = _QUANTIZATION.sub(" ", text)
    text = re.sub(r"(?<=\d)\.0(?![\d.])", "", text)  # version 4.0 is version 4
    words: set[str] = set()
    size: float | None = None
    kinds: set[str] = set()
    for piece in re.split(r"[^a-z0-9.]+|(?<!\d)\.|\.(?!\d)", text):
        if not piece or _NEUTRAL.fullmatch(piece):
            continue
        if piece in _KINDS:
            kinds.add(_KINDS[piece])
        elif size is None and parse_size(piece) is not None:
            size = parse_size(piece)
        elif glued := re.fullmatch(r"([a-z]{2,})(\d.*)", piece):  # qwen3, llama3.2; but v0.3, a22b stay whole
            words.update(glued.groups())
        else:
            words.add(piece)
    return Name(frozenset(words), size, kinds.pop() if len(kinds) == 1 else None)


def parse_size(text: str | None) -> float | None:
    """The number of parameters that a label such as "135M" or "0.6B" says, else None."""
    found = _SIZE.fullmatch((text or "").strip().lower())
    return float(found[1]) * _UNITS[found[2]] if found else None


def size_label(parameters: int) -> str:
    """A number of parameters as people write it: 134515008 is "135M", 4022468096 is "4B"."""
    if parameters >= 950_000_000:
        return f"{parameters / 1e9:.1f}".removesuffix(".0") + "B"
    return f"{max(1, round(parameters / 1e6))}M"


def kind_of(names: Iterable[str]) -> str | None:
    """ "base" or "instruct" if the names say so and agree, else None."""
    kinds = {kind for kind in (parse_name(name).kind for name in names) if kind}
    return kinds.pop() if len(kinds) == 1 else None


def family_of(names: Iterable[str]) -> str | None:
    """What stands before the size in the first name that has one: "Smollm2 135M 8k" is of "Smollm2"."""
    for name in names:
        found = re.match(r"(.*?[A-Za-z].*?)[\s:_.-]+\d+(?:\.\d+)?[MBTmbt](?![A-Za-z0-9])", _last_part(name))
        if found:
            return found[1]
    return None


def size_in(names: Iterable[str]) -> str | None:
    """The first size label among the names, as "135M"."""
    for name in names:
        found = re.search(r"(?<![A-Za-z0-9.])\d+(?:\.\d+)?[MBTmbt](?![A-Za-z0-9])", _last_part(name))
        if found:
            return found[0].upper()
    return None


def match(detected: Detected, cards: Mapping[str, ModelCard]) -> Match:
    """Find the shipped card of a detected backbone.

    Where the names leave open whether it is the base or the instruct model, only those values are taken
    that do not depend on it and on which all shipped cards of this model agree.
    """
    card = detected.card
    found = [shipped for shipped in cards.values() if _same_model(shipped, detected)]
    kind = card.base_or_instruct
    if kind is not None:
        found = [shipped for shipped in found if shipped.base_or_instruct in (None, kind)]
    if not found:
        return Match(replace(card, note="no shipped card fits, so provenance is unknown"), None)
    names = ", ".join(shipped.name for shipped in found)
    # A vendor that gives its instruct model no suffix (Qwen3-4B) names the base model differently.
    plain = found[0].base_or_instruct == "instruct" and parse_name(found[0].name).kind is None
    if len(found) == 1 and (kind is not None or plain):
        note, shipped = f"completed from the shipped card {names}", found[0]
    else:
        unclear = () if kind is not None else _KIND_FIELDS
        note = (
            f"completed with what is sure from the shipped cards {names}"
            if kind
            else (f"its names do not say base or instruct: only what holds for both was taken from {names}")
        )
        shipped = _agreed(found, unclear)
    known = {name: None for name in _IDENTITY if getattr(shipped, name) is not None}
    return Match(replace(card, **known, note=note), replace(shipped, note=""))  # type: ignore[arg-type]


def _same_model(shipped: ModelCard, detected: Detected) -> bool:
    target = parse_name(shipped.name)
    inner = _about(target, detected.inner)
    names = inner + _about(target, detected.outer)
    if any(name.words - target.words for name in inner or names):
        return False
    least = {word for word in target.words if not _LEFT_OUT.fullmatch(word)}
    if not any(least <= name.words <= target.words for name in names):
        return False
    return _architecture_fits(shipped, detected.card) and _size_fits(shipped, target, names, detected)


def _about(target: Name, names: Sequence[str]) -> list[Name]:
    """The names that share a word, not only a number, with the target."""
    letters = {word for word in target.words if word.isalpha()}
    return [name for name in map(parse_name, names) if name.words & letters]


def _architecture_fits(shipped: ModelCard, card: ModelCard) -> bool:
    pairs = [(getattr(shipped, name), getattr(card, name)) for name in ARCHITECTURE_FIELDS]
    return all(ours == theirs for ours, theirs in pairs if ours is not None and theirs is not None)


def _size_fits(shipped: ModelCard, target: Name, names: Sequence[Name], detected: Detected) -> bool:
    labels = [size for size in (target.size, parse_size(shipped.parameter_count)) if size]
    sizes = [name.size for name in names if name.size]
    if any(abs(size - label) <= 0.03 * label for size in sizes for label in labels):
        return True
    card, count = detected.card, detected.parameters
    same = [name for name in ARCHITECTURE_FIELDS if None is not getattr(card, name) == getattr(shipped, name)]
    if count and len(same) >= 2 and any(abs(count - label) <= 0.25 * label for label in labels):
        return True  # labels are generous: Llama-3.2-1B has 1.24B
    return not sizes and target.size is None and not count


def _agreed(cards: Sequence[ModelCard], without: Sequence[str]) -> ModelCard:
    first = cards[0]
    drop = [
        name for name in FIELDS if name in without or any(getattr(card, name) != getattr(first, name) for card in cards)
    ]
    return replace(first, **dict.fromkeys(drop))  # type: ignore[arg-type]


def _last_part(name: str) -> str:
    """A name without organization or folder, file ending, and the number of a split file's part."""
    name = name.strip().rstrip("/\\")
    name = re.split(r"[/\\]", name)[-1]
    name = re.sub(r"\.(gguf|safetensors|bin)$", "", name, flags=re.IGNORECASE)
    return re.sub(r"-\d{5}-of-\d{5}$", "", name)
