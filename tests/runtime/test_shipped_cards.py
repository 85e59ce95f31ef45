"""The model cards in models/cards: their form, their sources, and whether their numbers can be true."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from masa.cards import ModelCard, load_card, shipped_cards
from masa.detect import from_metadata
from masa.model_names import Detected, kind_of, match

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
# The order in the paper's own cards.
KEYS = [*TEXT[:5], *NUMBERS, *TEXT[5:8], "multilingual", *TEXT[8:]]
NEVER_NULL = {*KEYS} - {
    "release_date",
    "vocab_size",
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
    r"\bprefer(?!ence optimization)|\blikes\b|\bconcise|\bverbose|\bterse|benefits? from|sensitive to|step.by.step"
    r"|\bredundant|(short|long|detailed|structured) (prompt|skill|instruction)",
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
    numbers = {key: card[key] for key in NUMBERS if card[key] is not None}
    found += [f"{k} is not a positive integer" for k, value in numbers.items() if type(value) is not int or value <= 0]
    if card["multilingual"] not in (True, False, None):
        found.append("multilingual is neither true, false nor null")
    if card["base_or_instruct"] not in ("base", "instruct"):
        found.append(f"base_or_instruct is {card['base_or_instruct']!r}")
    if card["base_or_instruct"] == "base" and card["alignment_method"] is not None:
        found.append("a base model has no alignment method")
    if card["release_date"] and not re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", str(card["release_date"])):
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
    vocabulary = card["vocab_size"]
    if vocabulary is None:
        return found
    if not 32_000 <= vocabulary <= 300_000:
        found.append("vocab_size is not one of a current tokenizer")
    # A decoder layer with gated feed-forward holds roughly 9 to 23 times hidden_size squared parameters, and the
    # embedding is stored once or, untied, twice. Experts and embeddings of every layer come on top of that.
    unit = {"M": 1e6, "B": 1e9}[card["parameter_count"][-1]]
    parameters = float(card["parameter_count"][:-1]) * unit
    embedding = vocabulary * card["hidden_size"]
    layers = card["num_layers"] * card["hidden_size"] ** 2
    plain = card["architecture"].startswith("dense") and "per-layer embeddings" not in card["architecture"]
    most = 2 * embedding + 24 * layers if plain else 1e12
    if not embedding + 8 * layers <= parameters <= most:
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
    sizes = ("0.5b", "1.5b", "3b", "7b", "14b", "32b")
    assert {f"{family}-{size}-instruct" for family in ("qwen2.5", "qwen2.5-coder") for size in sizes} <= names
    assert {"phi-4", "phi-4-mini-instruct", "gpt-oss-20b", "gpt-oss-120b", "smollm3-3b"} <= names


def test_models_of_one_family_share_their_tokenizer() -> None:
    """Of Qwen2.5, the larger models pad the same vocabulary a little further."""
    sizes: dict[str, set[int]] = {}
    for path in FILES:
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
        if card["vocab_size"]:
            sizes.setdefault(card["family"], set()).add(card["vocab_size"])
    assert {family: found for family, found in sizes.items() if max(found) > 1.001 * min(found)} == {}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("num_layers: 36", "num_layers: 96", "parameter_count does not fit"),
        ("hidden_size: 2560", "hidden_size: 25600", "parameter_count does not fit"),
        ("num_kv_heads: 8", "num_kv_heads: 5", "not a multiple of num_kv_heads"),
        ("num_kv_heads: 8", "num_kv_heads: 8.0", "num_kv_heads is not a positive integer"),
        ("hidden_size: 2560", "hidden_size: null", "hidden_size is null"),
        ("vocab_size: 151936", "vocab_size: null", "sources name"),
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
    for path in FILES:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        sources = written.pop("sources")
        card = load_card(path)
        assert {key: getattr(card, key) for key in KEYS} == written
        assert dict(card.sources) == sources


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf", "Qwen2.5-Coder-0.5B-Instruct"),
        ("qwen2.5-coder:7b-instruct-q4_K_M", "Qwen2.5-Coder-7B-Instruct"),
        ("Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4", "Qwen2.5-Coder-32B-Instruct"),
        ("bartowski/Qwen2.5-7B-Instruct-GGUF", "Qwen2.5-7B-Instruct"),
        ("mlx-community/Qwen2.5-3B-Instruct-4bit", "Qwen2.5-3B-Instruct"),
        ("qwen3.5:4b", "Qwen3.5-4B"),
        ("qwen3.5:35b", "Qwen3.5-35B-A3B"),
        ("unsloth/Qwen3.5-122B-A10B-GGUF", "Qwen3.5-122B-A10B"),
        ("unsloth/Qwen3.6-35B-A3B-GGUF", "Qwen3.6-35B-A3B"),
        ("qwen3.6:27b", "Qwen3.6-27B"),
        ("unsloth/gemma-3n-E4B-it-GGUF", "Gemma-3n-E4B-it"),
        ("gemma3n:e2b-it-q4_K_M", "Gemma-3n-E2B-it"),
        ("gemma4:26b-a4b-it-q4_K_M", "Gemma-4-26B-A4B-it"),
        ("google/gemma-4-E2B-it", "Gemma-4-E2B-it"),
        ("gemma-4-31B-it-UD-Q4_K_XL.gguf", "Gemma-4-31B-it"),
        ("gpt-oss-20b-MXFP4.gguf", "gpt-oss-20b"),
        ("gpt-oss:120b", "gpt-oss-120b"),
        ("unsloth/Llama-4-Scout-17B-16E-Instruct-GGUF", "Llama-4-Scout-17B-16E-Instruct"),
        ("meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8", "Llama-4-Maverick-17B-128E-Instruct"),
        ("HuggingFaceTB/SmolLM3-3B", "SmolLM3-3B"),
        ("SmolLM3-3B-Q4_K_M.gguf", "SmolLM3-3B"),
        ("microsoft/phi-4", "Phi-4"),
        ("phi4:14b", "Phi-4"),
        ("microsoft/Phi-4-mini-instruct", "Phi-4-mini-instruct"),
        ("ibm-granite/granite-4.0-h-tiny", "Granite-4.0-h-tiny"),
        ("granite-4.0-micro-Q4_K_M.gguf", "Granite-4.0-micro"),
        ("granite4:small-h", "Granite-4.0-h-small"),
        ("granite4:350m", "Granite-4.0-350M"),
        ("LiquidAI/LFM2-1.2B-GGUF", "LFM2-1.2B"),
        ("LFM2-8B-A1B-Q4_K_M.gguf", "LFM2-8B-A1B"),
        ("unsloth/Ministral-3-3B-Instruct-2512-GGUF", "Ministral-3-3B-Instruct-2512"),
        ("ministral-3:14b-instruct", "Ministral-3-14B-Instruct-2512"),
        ("mistral-small3.2:24b-instruct", "Mistral-Small-3.2-24B-Instruct-2506"),
    ],
)
def test_names_as_people_have_them_find_their_card(name: str, card: str) -> None:
    assert names_find(name) == (card, "instruct")


@pytest.mark.parametrize(
    ("name", "family"),
    [("qwen2.5-coder:1.5b", "Qwen2.5-Coder"), ("gemma3n:e4b", "Gemma-3n"), ("ministral-3:8b", "Ministral-3")],
)
def test_a_name_that_leaves_the_tuning_open_finds_what_does_not_depend_on_it(name: str, family: str) -> None:
    found, kind = names_find(name)
    assert found is not None and found.startswith(family) and kind is None


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen2.5-7B-Instruct-1M",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen/Qwen2.5-Coder-7B-Instruct-abliterated",
        "Qwen/Qwen3.5-4B-Base",
        "Qwen3-30B-A3B",
        "gpt-oss-safeguard-20b",
        "HuggingFaceTB/SmolLM3-3B-Base",
        "microsoft/Phi-4-reasoning",
        "microsoft/Phi-4-multimodal-instruct",
        "ibm-granite/granite-4.0-h-350m",
        "ibm-granite/granite-4.0-h-small-base",
        "ibm-granite/granite-4.1-8b",
        "LiquidAI/LFM2-1.2B-Tool",
        "LiquidAI/LFM2.5-1.2B-Instruct",
        "mistralai/Ministral-3-8B-Reasoning-2512",
        "mistralai/Mistral-7B-Instruct-v0.2",
    ],
)
def test_other_models_find_no_card(name: str) -> None:
    assert names_find(name) == (None, None)


@pytest.mark.parametrize(
    ("card", "architecture", "parameters", "general", "counts"),
    [
        ("Gemma-3n-E4B-it", "gemma3n", 6.87e9, {"basename": "Gemma-3N-E4B-It", "size_label": "6.9B"}, (35, 2048, 8, 2)),
        ("Gemma-4-31B-it", "gemma4", 30.7e9, {"name": "Gemma-4-31B-It"}, (60, 5376, 32, [16, 16, 16, 16, 16, 4] * 10)),
        ("Granite-4.0-h-tiny", "granitehybrid", 6.94e9, {"name": "Granite 4.0 H Tiny"}, (40, 1536, 12, [0, 4] * 20)),
        ("LFM2-350M", "lfm2", 354e6, {"basename": "LFM2", "size_label": "350M"}, (16, 1024, 16, [0, 0, 8, 0] * 4)),
        (
            "Llama-4-Scout-17B-16E-Instruct",
            "llama4",
            107.8e9,
            {"basename": "Llama-4-Scout", "size_label": "17B-16E", "finetune": "16E-Instruct"},
            (48, 5120, 40, 8),
        ),
    ],
)
def test_a_file_that_counts_otherwise_than_its_name_finds_its_card(
    card: str, architecture: str, parameters: float, general: dict[str, str], counts: tuple[Any, ...]
) -> None:
    """Parameters in use, text part of a model that sees, heads per layer: files say less or more than cards."""
    keys = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv")
    metadata = {f"general.{key}": value for key, value in general.items()}
    metadata |= {f"{architecture}.{key}": value for key, value in zip(keys, counts, strict=True)}
    detected = from_metadata(metadata, architecture, "gguf", outer=("model.gguf",), parameters=int(parameters))
    shipped = match(detected, shipped_cards()).shipped
    assert shipped is not None and shipped.name == card


def names_find(name: str) -> tuple[str | None, str | None]:
    """The name and tuning of the card that a backbone gets of which only a name is known."""
    detected = Detected(ModelCard(base_or_instruct=kind_of([name])), outer=(name,))
    shipped = match(detected, shipped_cards()).shipped
    return (shipped.name, shipped.base_or_instruct) if shipped else (None, None)
