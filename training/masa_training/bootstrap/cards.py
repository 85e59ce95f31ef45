"""Generated model cards: invented models, plausible numbers, and texts made of the vocabulary of one split."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from masa.cards import FIELDS
from masa.edits import WARN_KINDS
from masa_training.bootstrap.behaviours import CANCELLABLE, Behaviour, Vocabulary
from masa_training.bootstrap.rules import IMPLIED_BY_SIZE, TRANSFORMING, Traits, traits_of

Kind = Literal["plain", "strong", "profiled"]

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "train": (
        *("Brannel", "Oskira", "Veltrum", "Tessaly", "Morvik", "Hesper-LM", "Calundra", "Pirrow", "Zandrel", "Ulmora"),
        *("Fennick", "Aurisk", "Drossen", "Kelvane", "Lumbra", "Nostrel", "Rivonne", "Sabrion", "Tarquay", "Wendeck"),
        *("Ixaren", "Jorvane", "Estelune", "Gravonne", "Haldric", "Onderra"),
    ),
    "validation": ("Corvessa", "Thimbrel", "Yarrowind", "Eskadon", "Mirelund"),
    "test": ("Quastor", "Bellimar", "Dunvarra", "Ostriva", "Perelith", "Skandor", "Vintasse", "Ambrisol", "Kirroway"),
}
"""Invented families by split; none is a real model."""

_VERSIONS = ("", "", "-1", "-2", "-2.5", "-3", "-3.1", "-4")
_SIZES = (  # label, layers, hidden size, attention heads
    *(("70M", 6, 512, 8), ("110M", 12, 768, 12), ("135M", 30, 576, 9), ("160M", 12, 768, 12), ("270M", 18, 640, 4)),
    *(("350M", 24, 1024, 16), ("360M", 32, 960, 15), ("410M", 24, 1024, 16), ("0.5B", 24, 896, 14)),
    *(("0.6B", 28, 1024, 16), ("700M", 24, 1280, 20), ("0.8B", 24, 1536, 16)),
    *(("1B", 16, 2048, 32), ("1.1B", 22, 2048, 32), ("1.5B", 28, 1536, 12), ("1.7B", 24, 2048, 32)),
    *(("2B", 26, 2304, 8), ("2.7B", 32, 2560, 32), ("3B", 28, 3072, 24), ("3.8B", 32, 3072, 32)),
    *(("4B", 36, 2560, 32), ("4B", 34, 2560, 8), ("4.5B", 32, 3072, 24)),
    *(("6B", 32, 4096, 32), ("7B", 32, 4096, 32), ("8B", 36, 4096, 32), ("9B", 42, 3584, 16), ("12B", 48, 3840, 16)),
    *(("13B", 40, 5120, 40), ("14B", 40, 5120, 40), ("20B", 48, 6144, 48), ("24B", 40, 5120, 32)),
    *(("27B", 62, 5376, 32), ("32B", 64, 5120, 64), ("70B", 80, 8192, 64), ("72B", 80, 8192, 64)),
    *(("123B", 88, 12288, 96), ("180B", 80, 14848, 112), ("235B", 94, 8192, 64), ("400B", 126, 16384, 128)),
)
_BY_SIZE = {
    size: tuple(row for row in _SIZES if traits_of({"parameter_count": row[0]}).size == size)
    for size in ("tiny", "small", "large")
}
_ALIGNMENT = (
    *("SFT + DPO", "SFT + RLHF", "instruction fine-tuning", "SFT", "SFT + rejection sampling + DPO", "RLHF"),
    *("knowledge distillation + reinforcement learning", "strong-to-weak distillation", "SFT + GRPO", "ORPO"),
)
_ARCHITECTURES = ("dense-transformer",) * 6 + ("dense-transformer with a vision encoder", "mixture-of-experts")
_TRANSFORMING = (TRANSFORMING, (0.7, 1.0, 0.8, 1.7, 1.2, 1.0, 1.0))
"""Needs that change skills, and how often: more where few skills admit the edit, less where another need brings it."""
_MISSING = {  # share of cards that do not know a field; measured by nobody, chosen like the shipped cards
    "release_date": 0.2,
    "architecture": 0.1,
    "num_layers": 0.1,
    "hidden_size": 0.1,
    "num_attention_heads": 0.15,
    "num_kv_heads": 0.25,
    "context_window": 0.1,
    "vocab_size": 0.15,
    "alignment_method": 0.3,
    "training_data_size": 0.25,
    "multilingual": 0.3,
}
_SHORT = ("family", "variant", "parameter_count", "base_or_instruct")
"""What a card without its architecture knows, besides its texts."""
TAKEN_BACK = 0.15
_BARE_SHARE = 0.06
"""Share of the profiled cards of which only the name and the texts are known, as a person would write one."""
_FRAMES = (
    *("{}",) * 8,
    *("{} (seen in {n} of {m} episodes)", "{} ({p} % of episodes)", "often: {}", "observed: {}", "known issue: {}"),
)


@dataclass(frozen=True, slots=True)
class GeneratedCard:
    """A card and what it was made to say.

    Attributes:
        fields: the card's known values in canonical order.
        traits: what the rules know of it.
        behaviours: the behaviours that its weaknesses show.
    """

    fields: Mapping[str, str | int | bool]
    traits: Traits
    behaviours: tuple[Behaviour, ...]

    @property
    def name(self) -> str:
        return "-".join(str(self.fields[key]) for key in ("family", "variant") if key in self.fields)


def make_card(
    rng: random.Random,
    vocabulary: Vocabulary,
    split: str,
    kind: Kind,
    *,
    size: str = "",
    short: bool = False,
    new_behaviours: bool = False,
    taken_back: float = TAKEN_BACK,
    contradicted: float = 0.0,
) -> GeneratedCard:
    """A card of a split.

    Args:
        kind: "plain" shows no behaviour, "strong" neither but takes back what its size or tuning suggests,
            "profiled" shows one to three.
        size: "tiny", "small" or "large"; drawn if empty.
        short: leave the architecture and the training out.
        new_behaviours: show behaviours that training never speaks of, for the test split only.
        taken_back: share of the profiled cards with a strength that takes back what size or tuning may suggest.
        contradicted: share of the profiled cards of a tiny or small reader with strengths against what its size
            does suggest; `taken_back` is for the others.
    """
    against = kind == "profiled" and contradicted > 0 and rng.random() < contradicted
    if against:
        size = rng.choice(("tiny", "tiny", "tiny", "small"))
    size = size or rng.choice(("tiny", "small", "large", "large") if kind == "profiled" else ("tiny", "small", "large"))
    pretrained = rng.random() < 0.2
    strong: list[str] = []
    if kind == "strong":
        implied = [*IMPLIED_BY_SIZE.get(size, ()), *["demonstration"] * pretrained]
        if not implied:
            size, implied = "small", ["brevity"]
        strong = sorted(rng.sample(implied, rng.randint(1, len(implied))))
    behaviours: list[Behaviour] = []
    if kind == "profiled":
        behaviours = _behaviours(rng, vocabulary, new_behaviours)
        if against:
            free = [need for need in IMPLIED_BY_SIZE[size] if need not in {b.need for b in behaviours}]
            strong = sorted(rng.sample(free, rng.randint(1, len(free)))) if free else []
        elif rng.random() < taken_back:
            free = [need for need in CANCELLABLE if need not in {b.need for b in behaviours}]
            strong = [rng.choice(free)] if free else []
    values = _numbers(rng, split, size, pretrained)
    if short:
        values = {name: values[name] for name in _SHORT}
    if behaviours and rng.random() < _BARE_SHARE:
        values = {name: values[name] for name in ("family", "base_or_instruct")}
    said = [rng.choice(vocabulary.strengths[need][split]) for need in strong]
    said += rng.sample(vocabulary.distractors["strengths"][split], rng.choice((0, 1, 1, 2, 3, 3 if behaviours else 5)))
    told = [_framed(rng, rng.choice(behaviour.wordings[split])) for behaviour in behaviours]
    others = rng.choice((0, 0, 1, 1, 2)) if behaviours else int(rng.random() < 0.25)
    told += [_filled(rng, text) for text in rng.sample(vocabulary.distractors["weaknesses"][split], others)]
    values |= {"strengths": _joined(rng, said), "weaknesses": _joined(rng, told)}
    fields = {name: value for name in FIELDS if (value := values.get(name)) not in (None, "")}
    traits = traits_of(fields, (behaviour.need for behaviour in behaviours), strong)
    return GeneratedCard(fields, traits, tuple(behaviours))


def _behaviours(rng: random.Random, vocabulary: Vocabulary, new: bool) -> list[Behaviour]:
    """One to three behaviours of different needs, at most two of them needs of a warning."""
    count = rng.choices((1, 2, 3), (5, 4, 1))[0]
    needs: list[str] = []
    while len(needs) < count:
        warnings = sum(need in WARN_KINDS for need in needs)
        transforming = warnings == 2 or rng.random() < 0.72
        need = rng.choices(*_TRANSFORMING)[0] if transforming else rng.choice(WARN_KINDS)
        if need not in needs:
            needs.append(need)
    return [rng.choice([b for b in vocabulary.behaviours[need] if b.known != new]) for need in needs]


def _numbers(rng: random.Random, split: str, size: str, pretrained: bool) -> dict[str, str | int | bool | None]:
    label, layers, hidden, heads = rng.choice(_BY_SIZE[size])
    suffix = rng.choice(("", "-base") if pretrained else ("", "-Instruct", "-it", "-chat"))
    values: dict[str, str | int | bool | None] = {
        "family": rng.choice(FAMILIES[split]) + rng.choice(_VERSIONS),
        "variant": label + suffix,
        "parameter_count": label,
        "release_date": f"20{rng.randint(23, 26)}-{rng.randint(1, 12):02}",
        "architecture": rng.choice(_ARCHITECTURES[:-1] if size != "large" else _ARCHITECTURES),
        "num_layers": layers + rng.choice((0, 0, -2, 2, 4)),
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_kv_heads": next(n for n in rng.sample((1, 2, 3, 4, 5, 7, 8, heads), 8) if heads % n == 0),
        "context_window": rng.choice((2048, 4096, 8192, 32768, 32768, 40960, 131072, 131072)),
        "vocab_size": rng.choice((32000, 49152, 50304, 100352, 128256, 151936, 262144)),
        "base_or_instruct": "base" if pretrained else "instruct",
        "alignment_method": None if pretrained else rng.choice(_ALIGNMENT),
        "training_data_size": f"{rng.choice(('1', '2', '4', '6', '9', '11', '15', '36'))}T tokens",
        "multilingual": rng.random() < 0.6,
    }
    for name, share in _MISSING.items():
        if rng.random() < share:
            values[name] = None
    if not pretrained and rng.random() < 0.08:
        values["base_or_instruct"] = None
    return values


def _filled(rng: random.Random, text: str) -> str:
    most = rng.choice((10, 12, 16, 20, 24, 30, 40, 50))
    numbers = {"n": rng.randint(max(3, most // 4), most * 4 // 5), "m": most, "p": rng.randint(18, 74)}
    numbers["year"] = rng.randint(2021, 2025)
    return re.sub(r"\{(\w+)\}", lambda match: str(numbers[match[1]]), text)


def _framed(rng: random.Random, wording: str) -> str:
    """A wording as a profile or a person would put it; one that counts already gets no second count."""
    frame = "{}" if "{" in wording else rng.choice(_FRAMES)
    return _filled(rng, frame.replace("{}", wording, 1))


def _joined(rng: random.Random, texts: Sequence[str]) -> str:
    """Texts in random order as a list or as sentences."""
    pieces = list(texts)
    rng.shuffle(pieces)
    style = rng.choice(("; ", ", ", ", ", "."))
    if style != ".":
        return style.join(pieces)
    return " ".join(f"{piece[0].upper()}{piece[1:]}." for piece in pieces)
