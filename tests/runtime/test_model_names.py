"""Names of models, and which shipped card a detected backbone may borrow from."""

from dataclasses import replace

import pytest

from masa.cards import ModelCard, merge
from masa.model_names import Detected, identity, kind_of, match, parse_name, parse_size, size_label

QWEN = ModelCard(
    family="Qwen3",
    variant="4B",
    parameter_count="4B",
    num_layers=36,
    hidden_size=2560,
    base_or_instruct="instruct",
    alignment_method="SFT",
)
SMOL = ModelCard(
    family="SmolLM2",
    variant="135M-Instruct",
    parameter_count="135M",
    num_layers=30,
    hidden_size=576,
    base_or_instruct="instruct",
    alignment_method="DPO",
    training_data_size="2T tokens",
)
GEMMA = ModelCard(
    family="Gemma-3",
    variant="270M",
    parameter_count="270M",
    num_layers=18,
    hidden_size=640,
    base_or_instruct="base",
    training_data_size="6T tokens",
    strengths="fine-tuning",
)
GEMMA_IT = replace(GEMMA, variant="270M-it", base_or_instruct="instruct", strengths="chat", release_date="2025-08")
LLAMA = ModelCard(
    family="Llama-3.2",
    variant="1B-Instruct",
    parameter_count="1B",
    num_layers=16,
    hidden_size=2048,
    base_or_instruct="instruct",
)
PHI = ModelCard(
    family="Phi-4",
    variant="mini-instruct",
    parameter_count="3.8B",
    num_layers=32,
    base_or_instruct="instruct",
)
CARDS = {card.name: card for card in (QWEN, SMOL, GEMMA, GEMMA_IT, LLAMA, PHI)}


@pytest.mark.parametrize(
    "name",
    [
        "meta-llama/Llama-3.2-3B-Instruct",
        "llama3.2:3b-instruct-q4_K_M",
        "Llama-3.2-3B-Instruct.Q4_K_M.gguf",
        "Llama-3.2-3B-Instruct-IQ4_XS.gguf",
        "/models/Llama-3.2-3B-Instruct-UD-Q4_K_XL-00001-of-00002.gguf",
        "C:\\models\\llama-3.2-3b-instruct-bf16.gguf",
        "unsloth/Llama-3.2-3B-Instruct-bnb-4bit",
        "meta_Llama 3.2 3B Instruct",
        "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q8_0",
    ],
)
def test_all_spellings_of_a_name_are_the_same(name: str) -> None:
    parsed = parse_name(name)
    assert parsed.words == {"llama", "3.2"}
    assert parsed.size == 3e9
    assert parsed.kind == "instruct"


@pytest.mark.parametrize(
    ("name", "words", "size", "kind"),
    [
        ("Qwen3-4B", {"qwen", "3"}, 4e9, None),
        ("Qwen3-0.6B-Base", {"qwen", "3"}, 6e8, "base"),
        ("Qwen3-4B-Thinking-2507", {"qwen", "3", "thinking", "2507"}, 4e9, None),
        ("Qwen3-30B-A3B", {"qwen", "3", "a3b"}, 30e9, None),
        ("gemma3:latest", {"gemma", "3"}, None, None),
        ("gemma-3-270m-it", {"gemma", "3"}, 270e6, "instruct"),
        ("gemma-3n-E4B-it", {"gemma", "3n", "e4b"}, None, "instruct"),
        ("Mistral-7B-Instruct-v0.3", {"mistral", "v0.3"}, 7e9, "instruct"),
        ("Phi 4 Mini Instruct", {"phi", "4", "mini"}, None, "instruct"),
        ("Smollm2 135M 8k Lc100K Mix1 Ep2", {"smollm", "2"}, 135e6, None),
        ("a-base-instruct", {"a"}, None, None),
        ("Qwen3-4B 4B", {"qwen", "3"}, 4e9, None),
        ("openai_gpt-oss-20b-MXFP4_MOE.gguf", {"gpt", "oss"}, 20e9, None),
        ("ibm-granite_granite-4.0-h-tiny-Q8_0.gguf", {"granite", "4", "h", "tiny"}, None, None),
        ("LiquidAI_LFM2-1.2B-i1-GGUF", {"lfm", "2"}, 1.2e9, None),
        ("sha256-15b", set(), None, None),
        (
            "/root/.cache/hub/models--Qwen--Qwen3-4B/snapshots/1cfa9a7208912126459214e8b04321603b3df60c",
            {"qwen", "3"},
            4e9,
            None,
        ),
        ("/c/models--ggml-org--gpt-oss-20b-GGUF/snapshots/1cfa9a7/gpt-oss-20b-mxfp4.gguf", {"gpt", "oss"}, 20e9, None),
        ("", set(), None, None),
    ],
)
def test_a_name_is_split_into_words_size_and_kind(
    name: str, words: set[str], size: float | None, kind: str | None
) -> None:
    parsed = parse_name(name)
    assert (set(parsed.words), parsed.size, parsed.kind) == (words, size, kind)


def test_sizes_are_read_and_written_as_people_do() -> None:
    assert [size_label(n) for n in (134_515_008, 596_049_920, 1_235_814_400, 4_022_468_096, 70_553_706_496)] == [
        "135M",
        "596M",
        "1.2B",
        "4B",
        "70.6B",
    ]
    assert parse_size("0.6B") == 6e8
    assert parse_size("8x7B") is parse_size("") is parse_size(None) is None


@pytest.mark.parametrize(
    ("name", "parameters", "family", "variant", "count"),
    [
        ("org/DeepSeek-R1-0528-Qwen3-8B-Q4_K_M.gguf", None, "DeepSeek-R1-0528-Qwen3", "8B", "8B"),
        ("deepseek-r1:7b", None, "deepseek-r1", "7B", "7B"),
        ("Qwen3-30B-A3B", None, "Qwen3", "30B", "30B"),
        # sizes in other spellings
        ("stablelm-2-1_6b-chat", None, "stablelm-2", "1.6B", "1.6B"),
        ("Refact-1_6B", None, "Refact", "1.6B", "1.6B"),
        ("qwen2_5_0_5b", None, "qwen2_5", "0.5B", "0.5B"),
        ("qwen-1p5b", None, "qwen", "1.5B", "1.5B"),
        ("bloom-7b1", None, "bloom", "7.1B", "7.1B"),
        ("Kimi-K2-1T", None, "Kimi-K2", "1T", "1T"),
        # of experts, or of what is in use at a time: no number of parameters
        ("Mixtral-8x7B-v0.1", None, "Mixtral", "8x7B", None),
        ("Mixtral-8x7B-v0.1", 46_702_792_704, "Mixtral", "8x7B", "46.7B"),
        ("Llama-4-Scout-17B-16E-Instruct", None, "Llama-4-Scout", "17B-16E", None),
        ("Llama-4-Scout-17B-16E-Instruct", 108_641_793_024, "Llama-4-Scout", "17B-16E", "108.6B"),
        ("Qwen1.5-MoE-A2.7B", None, "Qwen1.5-MoE", "A2.7B", None),
        ("gemma-3n-E4B-it", None, "gemma-3n", "E4B", None),
        # which of several sizes is meant, only a count can say
        ("OLMoE-1B-7B-0924", None, "OLMoE", None, None),
        ("OLMoE-1B-7B-0924", 6_919_161_856, "OLMoE", "7B", "7B"),
        ("Qwen2.5-7B-Instruct-1M", None, "Qwen2.5", None, None),
        ("Qwen2.5-7B-Instruct-1M", 7_615_616_512, "Qwen2.5", "7B", "7B"),
        # a count beats a name that is far off, and names are generous
        ("relu-100B", 1_340_000_000, "relu", None, "1.3B"),
        ("gemma-2-2b", 2_614_341_888, "gemma-2", None, "2.6B"),
        ("Llama-3.2-1B", 1_235_814_400, "Llama-3.2", "1B", "1B"),
        ("Qwen2.5-Coder-0.5B", 630_167_424, "Qwen2.5-Coder", "0.5B", "0.5B"),
        # thousands are contexts, unless the model is that small
        ("Phi-3-mini-128k", None, None, None, None),
        ("smollm2 135M 8k-lc100k", None, "smollm2", "135M", "135M"),
        ("stories-50k", 50_000, "stories", "50K", "50K"),
        ("stories-50k", 15_000_000, None, None, "15M"),
        # what can be read in two ways, and what is no name
        ("llama_3_8b", None, None, None, None),
        ("qwen2_5_1_5b", None, None, None, None),
        ("local-gguf/sha256-15b", 494_032_768, None, None, "494M"),
        ("550e8400-e29b-41d4-a716-44665544015b", None, None, None, None),
        ("8c22764a7e3675c50d4c7c9a4edb474456022b16", None, None, None, None),
        ("step-9999999b", None, None, None, None),
        ("agent", None, None, None, None),
    ],
)
def test_family_variant_and_count_come_from_names_and_counts(
    name: str, parameters: int | None, family: str | None, variant: str | None, count: str | None
) -> None:
    assert identity(["model", name], parameters) == (family, variant, count)


def test_base_or_instruct_is_what_all_names_say() -> None:
    assert kind_of(["x-base", "x-instruct"]) is None
    assert kind_of(["x", "x-chat"]) == "instruct"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gemma-3-4b-pt", "base"),
        ("gemma-3-4b-it", "instruct"),
        ("medgemma-4b-it", "instruct"),
        ("paligemma2-3b-pt-448", "base"),
        # PyTorch weights of the post-trained model; Italian
        ("ERNIE-4.5-21B-A3B-PT", None),
        ("mistral-7b-it", None),
        # a base model, and a size called base
        ("Qwen3-0.6B-Base", "base"),
        ("flan-t5-base", None),
        ("bge-base-en-v1.5", None),
    ],
)
def test_an_ambiguous_suffix_is_no_evidence(name: str, kind: str | None) -> None:
    assert parse_name(name).kind == kind


def detected(
    *inner: str,
    outer: tuple[str, ...] = (),
    kind: str | None = None,
    parameters: int | None = None,
    **fields: int,
) -> Detected:
    return Detected(ModelCard(base_or_instruct=kind, **fields), inner, outer, parameters)  # type: ignore[arg-type]


def borrowed(found: Detected) -> ModelCard | None:
    return match(found, CARDS).shipped


@pytest.mark.parametrize(
    ("found", "card"),
    [
        (detected("Qwen3 4B", num_layers=36, hidden_size=2560), QWEN),
        (detected(outer=("Qwen/Qwen3-4B",)), QWEN),
        (detected(outer=("qwen3:4b",), num_layers=36), QWEN),
        (detected(outer=("Qwen3-4B-Instruct",), kind="instruct"), QWEN),
        (
            detected("Smollm2 135M 8k Lc100K Mix1 Ep2", outer=("SmolLM2-135M-Instruct.gguf",), kind="instruct"),
            SMOL,
        ),
        (detected(outer=("gemma-3-270m-it",), kind="instruct"), GEMMA_IT),
        (detected(outer=("gemma-3-270m-pt",), kind="base"), GEMMA),
        (detected(outer=("phi4-mini-instruct",), kind="instruct"), PHI),
        (detected(outer=("phi-4-mini-instruct:3.8b",), kind="instruct"), PHI),
        # no size in the name, and a label far from the count: the architecture decides
        (
            detected(
                outer=("llama3.2-instruct",),
                kind="instruct",
                parameters=1_235_814_400,
                num_layers=16,
                hidden_size=2048,
            ),
            LLAMA,
        ),
        # neither name has a size: the count decides
        (detected(outer=("phi-4-mini-instruct",), kind="instruct", parameters=3_836_021_760), PHI),
        # a file that somebody renamed says nothing against what is written inside
        (detected("Qwen3 4B", outer=("my-model.gguf",)), QWEN),
        (detected("Qwen3 4B", outer=("my-qwen-agent.gguf",)), QWEN),
    ],
)
def test_a_backbone_finds_its_card(found: Detected, card: ModelCard) -> None:
    assert borrowed(found) == card


@pytest.mark.parametrize(
    "found",
    [
        # Ollama's qwen3:4b has become another model; what is written inside wins over the tag
        detected("Qwen3 4B Thinking 2507", outer=("qwen3:4b",), num_layers=36, hidden_size=2560),
        detected("Qwen3 4B Abliterated", outer=("Qwen3-4B.gguf",)),
        detected(outer=("Qwen3-Coder-4B",)),
        detected(outer=("DeepSeek-R1-0528-Qwen3-4B",)),
        detected(outer=("Qwen3-4B-Base",), kind="base"),
        detected(outer=("Qwen3-8B",)),
        detected(outer=("Qwen3-4B",), num_layers=28),
        detected(outer=("Qwen2.5-4B",)),
        detected(outer=("qwen3",)),
        # it is called so, but it has twice the parameters or a half of them
        detected(outer=("Qwen3-4B",), parameters=8_190_735_360),
        detected(outer=("Qwen3-4B",), parameters=1_720_574_976),
        detected(outer=("Qwen3-4B-PT",)),
        detected(outer=("qwen3",), parameters=8_190_735_360, num_layers=36, hidden_size=4096),
        detected(outer=("model.gguf",), parameters=4_022_468_096, num_layers=36, hidden_size=2560),
        detected(outer=("4B",)),
        detected(),
    ],
)
def test_a_derivative_or_an_unclear_backbone_borrows_nothing(found: Detected) -> None:
    result = match(found, CARDS)
    assert result.shipped is None
    assert "provenance is unknown" in result.detected.note


def test_where_base_or_instruct_is_open_only_what_holds_for_both_is_borrowed() -> None:
    result = match(detected(outer=("gemma3:270m",)), CARDS)
    assert result.shipped is not None
    assert result.shipped.fields() == {
        "family": "Gemma-3",
        "parameter_count": "270M",
        "num_layers": 18,
        "hidden_size": 640,
        "training_data_size": "6T tokens",
    }
    assert "base or instruct" in result.detected.note
    only_instruct = match(detected(outer=("smollm2:135m",)), CARDS).shipped
    assert only_instruct is not None
    assert only_instruct.training_data_size == "2T tokens"
    assert only_instruct.base_or_instruct is only_instruct.alignment_method is None


def test_the_name_is_spelled_as_the_shipped_card_spells_it() -> None:
    found = Detected(ModelCard(family="qwen3", variant="4.0B", parameter_count="4.0B", num_layers=36), ("qwen3 4B",))
    result = match(found, CARDS)
    card = merge(result.detected, result.shipped)
    assert (card.family, card.variant, card.parameter_count, card.num_layers) == ("Qwen3", "4B", "4B", 36)
    assert card.note == "completed from the shipped card Qwen3-4B"
