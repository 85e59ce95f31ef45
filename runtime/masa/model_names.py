"""What models are called, and which shipped card a detected backbone belongs to.

Names such as "meta-llama/Llama-3.2-3B-Instruct", "llama3.2:3b-instruct-q4_K_M" and
"Llama-3.2-3B-Instruct.Q4_K_M.gguf" say the same: words that name the model, a size, and base or
instruct. A shipped card is used only if the backbone's own names carry no further word ("Thinking",
"abliterated", …), since what a derivative was trained on is not what the card says, and if size and
architecture agree.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from masa.cards import FIELDS, ModelCard

ARCHITECTURE_FIELDS = ("num_layers", "hidden_size", "num_attention_heads", "num_kv_heads")
_KIND_FIELDS = ("variant", "base_or_instruct", "alignment_method", "strengths", "weaknesses")
_BELOW_ADAPTER = (
    *("family", "parameter_count", "architecture", *ARCHITECTURE_FIELDS),
    *("context_window", "vocab_size", "multilingual"),
)
"""What an adapter leaves as it is."""
_WORDS = ("dense-transformer", "moe-transformer")
"""What is said of an architecture that was recognised; another one has its own name."""
_IDENTITY = ("family", "variant", "parameter_count")

_INSTRUCT, _BASE = ("instruct", "chat"), ("base", "pretrained")
# Google's suffixes. Elsewhere they are ambiguous: ERNIE-4.5-…-PT are PyTorch weights, `it` may be Italian.
_GEMMA = {"it": "instruct", "pt": "base"}
_BASE_IS_A_SIZE = re.compile(r"(?<![a-z])(t5|bert|roberta|bart|deberta|whisper|bge|gte|e5|clip|vit)(?![a-z])")
# Words that say how a model is stored, who packed it, or what the training folder was called (context
# length 8k, long-context run lc100k, mixture mix1, epoch ep2: the official SmolLM2 files carry those).
_NEUTRAL = re.compile(
    r"latest|free|gguf|ggml|hf|text|bf16|fp?16|fp?32|fp8|int[48]|w\d+a\d+|nvfp4|mxfp4|awq|gptq|exl[23]|bnb|dwq|mlx|onnx"
    r"|[2-8]bit|\d+g|imat|imatrix|i1|qat|ud|unsloth|dynamic|quantized|unquantized|quant"
    r"|meta|google|microsoft|mistralai|huggingfacetb|openai|ibm|liquidai"
    r"|\d+k|lc\d+k?|mix\d+|ep\d+"
)
_QUANTIZATION = re.compile(
    r"(?<![a-z0-9])i?q[1-8](?:[_-](?:\d|k|nl|xs|xxs|s|m|l|xl))*(?![a-z0-9])|(?<![a-z0-9])tq[12]_0"
    r"|(?<![a-z0-9])mxfp4_moe(?![a-z0-9])"
)
# What servers leave out of a name: a mixture's active parameters and experts, and the stamp of a release.
_LEFT_OUT = re.compile(r"a\d+(?:\.\d+)?b|\d+e|\d{4}")
# Digests and identifiers: sha256-…, a UUID, or many hexadecimal digits of which some are letters and some are not.
_HASH = re.compile(
    r"(?<![a-z0-9])(?:sha256[-_:].*"
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,64})(?![a-z0-9])",
    re.IGNORECASE | re.ASCII,
)
_SIZE = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)([kmbt])")
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_MOST = 5e12
"""No model has more parameters; what reads as more is no size."""
_GENEROUS = 0.3
"""How far a size in a name may be from the truth: Llama-3.2-1B has 1.24B, the file of Qwen2.5-Coder-0.5B 0.63B."""
# A size as it stands in a name, behind a separator: "4B", "1.5b", "1_6b" and "1p6b" for 1.6B, "7b1" for 7.1B; also what
# is no number of parameters: "8x7B", "17B-16E", "A2.7B" and "E4B".
_LABEL = re.compile(
    r"(?P<before>[\s:/_-]|(?<!\d)\.|^)"
    r"(?P<label>(?P<experts>\d+x)?(?P<active>[ae])?"
    r"(?:(?P<whole>\d{1,4})(?:(?P<point>[._p])(?P<fraction>\d{1,3}))?(?P<unit>[kmbt])(?P<behind>\d)?)"
    r"(?P<of>-\d+e)?)(?![a-z0-9])",
    re.IGNORECASE,
)


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
        adapter: name of the LoRA adapter, where the rest is about the model below it.
    """

    card: ModelCard
    inner: tuple[str, ...] = ()
    outer: tuple[str, ...] = ()
    parameters: int | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A detected card and what a shipped card adds; `detected` leaves out what `shipped` spells better."""

    detected: ModelCard
    shipped: ModelCard | None


@dataclass(frozen=True, slots=True)
class SizeLabel:
    """A size in a name.

    Attributes:
        text: as it is written: "1.6B", "8x7B", "17B-16E".
        parameters: the number of parameters that it says; None where it speaks of experts or of what is in use at a
            time.
        start: where the label, with the separator in front, begins in the name.
    """

    text: str
    parameters: float | None
    start: int


@functools.lru_cache(maxsize=1024)
def parse_name(text: str) -> Name:
    """Split a model's name, file name or repository into its parts."""
    text = bare_name(text).lower()
    text = _QUANTIZATION.sub(" ", text)
    gemma = "gemma" in text
    base_is_a_size = _BASE_IS_A_SIZE.search(text) is not None
    text = _LABEL.sub(_usual, text)
    text = re.sub(r"(?<=\d)\.0(?![\d.])", "", text)  # version 4.0 is version 4
    words: set[str] = set()
    size: float | None = None
    kinds: set[str] = set()
    for piece in re.split(r"[^a-z0-9.~]+|(?<!\d)\.|\.(?!\d)", text):
        number = parse_size(piece)
        if not piece or _NEUTRAL.fullmatch(piece):
            continue
        if piece in _INSTRUCT:
            kinds.add("instruct")
        elif piece in _BASE and not base_is_a_size:
            kinds.add("base")
        elif gemma and piece in _GEMMA:
            kinds.add(_GEMMA[piece])
        elif number is not None and size in (None, number):
            size = number
        elif glued := re.fullmatch(r"([a-z]{2,})(\d.*)", piece):  # qwen3, llama3.2; but v0.3, a22b stay whole
            words.update(glued.groups())
        else:
            words.add(piece)
    return Name(frozenset(words), size, kinds.pop() if len(kinds) == 1 else None)


def _usual(found: re.Match[str]) -> str:
    """The size in the usual spelling; an unclear one becomes a word of its own."""
    label = _read_label(found)
    return found[0] if label is None else found["before"] + label.text.lower().replace("_", "~")


def parse_size(text: str | None) -> float | None:
    """The number of parameters that a label such as "135M" or "0.6B" says, else None."""
    found = _SIZE.fullmatch((text or "").strip().lower())
    if not found or found[2] == "k":
        return None
    value = float(found[1]) * _UNITS[found[2]]
    return value if 0 < value <= _MOST else None


def size_label(parameters: int) -> str:
    """A number of parameters as people write it: 134515008 is "135M", 4022468096 is "4B"."""
    for unit, letter in ((10**12, "T"), (10**9, "B")):
        if parameters >= 0.95 * unit:
            return f"{parameters / unit:.1f}".removesuffix(".0") + letter
    if parameters >= 950_000:
        return f"{round(parameters / 1e6)}M"
    return f"{round(parameters / 1e3)}K" if parameters >= 1000 else str(parameters)


def agrees(size: float, parameters: int) -> bool:
    """Whether a size in a name may stand for this number of parameters; such sizes are rounded generously."""
    return abs(size - parameters) <= _GENEROUS * size


def differing(one: ModelCard, other: ModelCard) -> list[str]:
    """The fields that both cards know and by which they are not of the same model."""
    found = []
    for name in (*_IDENTITY, "architecture", *ARCHITECTURE_FIELDS):
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours is None or theirs is None or _plain(ours) == _plain(theirs):
            continue
        size, parameters = (parse_size(ours), parse_size(theirs)) if name == "parameter_count" else (None, None)
        if not (size and parameters and agrees(size, round(parameters))):
            found.append(name)
    return found


def _plain(value: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(value).lower())


def kind_of(names: Iterable[str]) -> str | None:
    """ "base" or "instruct" if the names say so and agree, else None."""
    kinds = {kind for kind in (parse_name(name).kind for name in names) if kind}
    return kinds.pop() if len(kinds) == 1 else None


def sizes_in(name: str) -> list[SizeLabel]:
    """The sizes in a name, in order, without what may be read in two ways: "_3_8b" is 3.8B, or the 8B of version 3."""
    found = (_read_label(match) for match in _LABEL.finditer(bare_name(name)))
    return [label for label in found if label is not None and "_" not in label.text]


def identity(names: Sequence[str], parameters: int | None) -> tuple[str | None, str | None, str | None]:
    """Family, variant and parameter count, from what a model is called and how many parameters were counted.

    The count wins over a size in the names that is far off. Of several sizes the one that agrees with the count is
    meant; without a count no one knows which ("OLMoE-1B-7B" has 7B, "Qwen2.5-7B-Instruct-1M" is made for a million
    tokens). Thousands ("50K") are a size only where the count agrees, else a context.
    """
    family = variant = stated = None
    for name in names:
        labels = [label for label in sizes_in(name) if not label.text.endswith("K") or _counted(label, parameters)]
        if not labels:
            continue
        before = bare_name(name)[: labels[0].start].strip(" :/_.-")
        if family is None and re.search("[A-Za-z]", before):
            family = before
        sizes = {label.parameters: label.text for label in labels if label.parameters is not None}
        if parameters is not None:
            sizes = {size: text for size, text in sizes.items() if agrees(size, parameters)}
        found = next(iter(sizes.values())) if len(sizes) == 1 or (parameters is not None and sizes) else None
        stated = stated or found
        if not sizes:  # "8x7B", "17B-16E": part of what it is called, though it is no number of parameters
            found = next((label.text for label in labels if label.parameters is None), None)
        variant = variant or found
    return family, variant, stated or (size_label(parameters) if parameters else None)


def _counted(label: SizeLabel, parameters: int | None) -> bool:
    return parameters is not None and label.parameters is not None and agrees(label.parameters, parameters)


def _read_label(found: re.Match[str]) -> SizeLabel | None:
    """The size that `_LABEL` found, None where it is none; one that may be read in two ways keeps its underscore."""
    whole, fraction, unit = found["whole"], found["fraction"], found["unit"].lower()
    if found["behind"]:  # bloom-7b1
        if fraction or unit not in "mb":
            return None
        fraction = found["behind"]
    number = float(f"{whole}.{fraction or 0}") * _UNITS[unit]
    if not 0 < number <= _MOST:
        return None
    unclear = found["point"] == "_" and found["before"] == "_" and whole != "0"
    size = f"{whole}{'_' if unclear else '.'}{fraction}" if fraction else whole
    behind = (found["of"] or "").upper()
    text = f"{found['experts'] or ''}{(found['active'] or '').upper()}{size}{unit.upper()}{behind}"
    in_parts = found["experts"] or found["active"] or behind
    return SizeLabel(text, None if in_parts else number, found.start())


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
        adapter = f"{detected.adapter} is a LoRA adapter; " if detected.adapter else ""
        return Match(replace(card, note=f"{adapter}no shipped card fits, so provenance is unknown"), None)
    names = ", ".join(shipped.name for shipped in found)
    # A vendor that gives its instruct model no suffix (Qwen3-4B) names the base model differently.
    plain = found[0].base_or_instruct == "instruct" and parse_name(found[0].name).kind is None
    if detected.adapter is not None:
        note = f"{detected.adapter} is a LoRA adapter: its training is unknown, the architecture is that of {names}"
        shipped = _agreed(found, [name for name in FIELDS if name not in _BELOW_ADAPTER])
    elif len(found) == 1 and (kind is not None or plain):
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
    if shipped.architecture and (card.architecture not in _WORDS or shipped.architecture.startswith(card.architecture)):
        known["architecture"] = None  # the shipped card says it in other words, or says more
    stated = parse_size(shipped.parameter_count)
    if detected.parameters and stated and not agrees(stated, detected.parameters):
        known.pop("parameter_count", None)  # counted, and far from what the card says
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
    card, count = detected.card, detected.parameters
    if count and labels and not any(label / 2 <= count <= 2 * label for label in labels):
        return False  # whatever it is called, it is another model
    sizes = [name.size for name in names if name.size]
    if any(abs(size - label) <= 0.03 * label for size in sizes for label in labels):
        return True
    nameless = not sizes and target.size is None
    same = [name for name in ARCHITECTURE_FIELDS if None is not getattr(card, name) == getattr(shipped, name)]
    if count and (len(same) >= 2 or nameless) and any(agrees(label, count) for label in labels):
        return True
    return nameless and not count


def _agreed(cards: Sequence[ModelCard], without: Sequence[str]) -> ModelCard:
    first = cards[0]
    drop = [
        name for name in FIELDS if name in without or any(getattr(card, name) != getattr(first, name) for card in cards)
    ]
    return replace(first, **dict.fromkeys(drop))  # type: ignore[arg-type]


def meant_server(text: str) -> str | None:
    """The address as masa takes it of what looks like one ("localhost:8080") or like a tag of Ollama ("qwen3:4b")."""
    if found := re.fullmatch(r"([\w.-]+:\d{4,5}(?:/[^#\s]*)?)(?:#(.*))?", text):
        return f"http://{found[1]}#{found[2] or 'MODEL'}"
    return f"http://localhost:11434#{text}" if re.fullmatch(r"[\w./-]+:[\w.-]+", text) else None


def bare_name(name: str) -> str:
    """A name without organization or folder, file ending, the number of a split file's part, and digests.

    The hub's cache keeps a model as models--ORGANIZATION--NAME/snapshots/HASH.
    """
    name = name.strip().rstrip("/\\")
    cached = re.search(r"(?:^|[/\\])models--[^/\\]*--([^/\\]+)(?:[/\\]snapshots[/\\][0-9a-f]+)?$", name)
    name = cached[1] if cached else re.split(r"[/\\]", name)[-1]
    name = re.sub(r"\.(gguf|safetensors|bin)$", "", name, flags=re.IGNORECASE)
    return _HASH.sub("", re.sub(r"-\d{5}-of-\d{5}$", "", name))
