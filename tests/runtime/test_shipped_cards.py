"""The model cards in models/cards: their form, their sources, and whether their numbers can be true."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

CARDS = Path(__file__).parents[2] / "models" / "cards"
FILES = sorted(CARDS.glob("*.yaml"))
TEXT = [
    "family",
    "variant",
    "parameter_count",
    "release_date",
    "architecture",
    "base_or_instruct",
    "alignment_method",
    "training_data_size",
    "strengths",
    "weaknesses",
]
NUMBERS = [
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "num_kv_heads",
    "context_window",
    "vocab_size",
]
# The order of DESIGN.md section 4, which is also the order in the paper's own cards.
KEYS = [*TEXT[:5], *NUMBERS, *TEXT[5:8], "multilingual", *TEXT[8:]]
NEVER_NULL = {*KEYS} - {
    "alignment_method",
    "training_data_size",
    "multilingual",
    "strengths",
    "weaknesses",
}
# What a card of ours must not hold: results of evaluations, and answers to the question a rewriter is asked.
SCORE = re.compile(
    r"%|\d\s*(percent|points?)\b|MMLU|\bGSM|\bARC\b|GPQA|MBPP|HumanEval|HellaSwag|IFEval|BFCL|MGSM|AIME"
    r"|LiveCodeBench|\bElo\b|Arena|benchmark|leaderboard|state.of.the.art|outperform|\bSOTA\b|pass@",
    re.IGNORECASE,
)
PREFERENCE = re.compile(
    r"\bprefer|\blikes\b|\bconcise|\bverbose|\bterse|benefits? from|sensitive to|step.by.step|\bredundant"
    r"|(short|long|detailed|structured) (prompt|skill|instruction)",
    re.IGNORECASE,
)


def problems(text: str, file_name: str) -> list[str]:
    """Everything wrong with one card file; an empty list when it may be shipped."""
    found: list[str] = []
    card = yaml.safe_load(text)
    if list(card) != [*KEYS, "sources"]:
        return [f"keys are {list(card)}"]
    sources = card.pop("sources")
    found += form_problems(card)
    filled = [key for key in KEYS if card[key] is not None]
    if list(sources) != filled:
        found.append(f"sources name {list(sources)}, non-null fields are {filled}")
    for key, source in sources.items():
        parts = urlsplit(source)
        if parts.scheme != "https" or "." not in parts.netloc or "@" in parts.netloc or len(parts.path) < 2:
            found.append(f"source of {key} is not a page on the web: {source}")
    if not found:
        found += number_problems(card)
        if file_name != f"{card['family']}-{card['variant']}.yaml".lower():
            found.append(f"file is named {file_name}")
    return found


def form_problems(card: dict[str, Any]) -> list[str]:
    """Types, closed choices, forbidden content."""
    found = [f"{key} is null" for key in NEVER_NULL if card[key] is None]
    for key in TEXT:
        value = card[key]
        if value is None:
            continue
        if not isinstance(value, str) or not value.strip() or value != value.strip() or "\n" in value:
            found.append(f"{key} is not one line of text: {value!r}")
        elif SCORE.search(value):
            found.append(f"{key} looks like a result of an evaluation: {value!r}")
        elif PREFERENCE.search(value):
            found.append(f"{key} looks like a preference: {value!r}")
        elif len(value) > 200:
            found.append(f"{key} is longer than 200 characters")
    found += [f"{k} is not a positive integer" for k in NUMBERS if type(card[k]) is not int or card[k] <= 0]
    if card["multilingual"] not in (True, False, None):
        found.append("multilingual is neither true, false nor null")
    if card["base_or_instruct"] not in ("base", "instruct"):
        found.append(f"base_or_instruct is {card['base_or_instruct']!r}")
    if card["base_or_instruct"] == "base" and card["alignment_method"] is not None:
        found.append("a base model has no alignment method")
    if not re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", str(card["release_date"])):
        found.append(f"release_date is {card['release_date']!r}")
    if not re.fullmatch(r"\d+(\.\d+)?[MB]", str(card["parameter_count"])):
        found.append(f"parameter_count is {card['parameter_count']!r}")
    if card["training_data_size"] and not re.fullmatch(r"(up to )?\d+(\.\d+)?T\+? tokens", card["training_data_size"]):
        found.append(f"training_data_size is {card['training_data_size']!r}")
    return found


def number_problems(card: dict[str, Any]) -> list[str]:
    """Numbers that cannot belong together; a digit typed wrong usually ends here."""
    found = []
    if card["num_attention_heads"] % card["num_kv_heads"]:
        found.append("num_attention_heads is not a multiple of num_kv_heads")
    if card["hidden_size"] % 64:
        found.append("hidden_size is not a multiple of 64")
    if card["context_window"] % 1024:
        found.append("context_window is not a multiple of 1024")
    if not 32_000 <= card["vocab_size"] <= 300_000:
        found.append("vocab_size is not one of a current tokenizer")
    # A decoder layer with gated feed-forward holds roughly 9 to 23 times hidden_size squared parameters, and
    # the embedding is stored once or, untied, twice.
    unit = {"M": 1e6, "B": 1e9}[card["parameter_count"][-1]]
    parameters = float(card["parameter_count"][:-1]) * unit
    embedding = card["vocab_size"] * card["hidden_size"]
    layers = card["num_layers"] * card["hidden_size"] ** 2
    if not embedding + 8 * layers <= parameters <= 2 * embedding + 24 * layers:
        found.append("parameter_count does not fit num_layers, hidden_size and vocab_size")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_card_is_complete_sourced_and_plausible(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8"), path.name) == []


def test_cards_cover_the_named_families() -> None:
    names = {path.stem for path in FILES}
    assert {f"qwen3-{size}" for size in ("0.6b", "1.7b", "4b", "8b", "14b", "32b")} <= names
    assert {f"gemma-3-{size}" for size in ("270m", "270m-it", "1b-it", "4b-it", "12b-it", "27b-it")} <= names
    assert {f"smollm2-{size}-instruct" for size in ("135m", "360m", "1.7b")} <= names
    assert {f"llama-{v}-instruct" for v in ("3.1-8b", "3.1-70b", "3.2-1b", "3.2-3b")} <= names
    assert "phi-4-mini-instruct" in names


def test_models_of_one_family_share_their_tokenizer() -> None:
    sizes: dict[str, set[int]] = {}
    for path in FILES:
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
        sizes.setdefault(card["family"], set()).add(card["vocab_size"])
    assert {family: found for family, found in sizes.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("num_layers: 36", "num_layers: 96", "parameter_count does not fit"),
        ("hidden_size: 2560", "hidden_size: 25600", "parameter_count does not fit"),
        ("num_kv_heads: 8", "num_kv_heads: 5", "not a multiple of num_kv_heads"),
        ("num_kv_heads: 8", "num_kv_heads: 8.0", "num_kv_heads is not a positive integer"),
        ("vocab_size: 151936", "vocab_size: null", "vocab_size is null"),
        ('release_date: "2025-04"', "release_date: 2025-04-29", "release_date"),
        ("multilingual: true", "multilingual: null", "sources name"),
        ("multilingual: true", 'multilingual: "yes"', "multilingual is neither"),
        ("weaknesses: null", 'weaknesses: "small"', "sources name"),
        ('strengths: "', 'strengths: "prefers concise skills, ', "preference"),
        ('strengths: "', 'strengths: "81.2% on tests, ', "result of an evaluation"),
        ('strengths: "', 'strengths: "best MMLU, ', "result of an evaluation"),
        ('family: "https://', 'family: "http://', "not a page on the web"),
        ('family: "https://', 'family: "memory of ', "not a page on the web"),
        ("num_layers: 36", "num_layers: 36\nnum_experts: 8", "keys are"),
        ('variant: "4B"', 'variant: "4B-Base"', "file is named"),
        ('"instruct"', '"base"', "a base model has no alignment method"),
    ],
)
def test_broken_card_is_refused(old: str, new: str, expected: str) -> None:
    text = (CARDS / "qwen3-4b.yaml").read_text(encoding="utf-8")
    assert old in text
    found = problems(text.replace(old, new, 1), "qwen3-4b.yaml")
    assert any(expected in problem for problem in found), found


def test_runtime_loads_every_shipped_card_as_written() -> None:
    cards = pytest.importorskip("masa.cards")
    for path in FILES:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        sources = written.pop("sources")
        card = cards.load_card(path)
        assert {key: getattr(card, key) for key in KEYS} == written
        assert dict(card.sources) == sources
