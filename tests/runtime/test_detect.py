"""Reading a backbone's architecture from GGUF files and Hugging Face folders: only what they say."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_samples import SMOLLM2, write_gguf

from masa.backbones import resolve_backbone
from masa.cards import ModelCard, explain, shipped_cards
from masa.detect import detect_folder, detect_gguf, positive
from masa.errors import CardError, FormatError

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 2560,
    "max_position_embeddings": 40960,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "vocab_size": 151936,
}
GEMMA3 = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "num_attention_heads": 16, "num_hidden_layers": 27},
}


def folder(path: Path, config: Any, **files: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


# --- GGUF ------------------------------------------------------------------------------------------


def test_a_gguf_tells_its_architecture(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf", SMOLLM2)
    found = detect_gguf(path)
    assert found.card.fields() == {
        "family": "smollm2",
        "variant": "135M",
        "parameter_count": "135M",
        "architecture": "dense-transformer",
        "num_layers": 30,
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_kv_heads": 3,
        "context_window": 8192,
        "vocab_size": 49152,
        "base_or_instruct": "instruct",
    }
    assert set(found.card.origins.values()) == {"gguf"}
    assert found.inner == ("smollm2 135M 8k-lc100k-mix1-ep2", "Smollm2 135M 8k Lc100K Mix1 Ep2")
    assert found.parameters == 32


def test_a_gguf_that_says_little_leaves_the_rest_unknown(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", {}, {"w": np.zeros((1000, 2000), dtype=np.float16)})
    card = detect_gguf(path).card
    # a chat template or its absence proves nothing, and neither does a file's name that says nothing
    assert card.fields() == {"parameter_count": "2M", "architecture": "llama"}


def test_a_chat_template_does_not_make_an_instruct_model(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", {"tokenizer.chat_template": "{{ messages }}"})
    assert detect_gguf(path).card.base_or_instruct is None


def test_the_vocabulary_is_counted_where_its_size_is_not_stated(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {}, tokens=[f"t{i}" for i in range(1500)])
    assert detect_gguf(path).card.vocab_size == 1500


def test_without_kv_heads_a_gguf_has_as_many_as_heads(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"llama.attention.head_count": 12})
    assert detect_gguf(path).card.num_kv_heads == 12


@pytest.mark.parametrize(("per_layer", "kv_heads"), [([4, 4, 4], 4), ([4, 0, 4], None), ([2, 4, 4], None)])
def test_heads_that_differ_by_layer_are_unknown(tmp_path: Path, per_layer: list[int], kv_heads: int | None) -> None:
    metadata = {"llama.attention.head_count": 8, "llama.attention.head_count_kv": per_layer}
    assert detect_gguf(write_gguf(tmp_path / "m.gguf", metadata)).card.num_kv_heads == kv_heads


@pytest.mark.parametrize(
    ("architecture", "metadata", "label"),
    [
        ("qwen3moe", {"qwen3moe.attention.head_count": 32, "qwen3moe.expert_count": 128}, "moe-transformer"),
        ("gemma3", {"gemma3.attention.head_count": 4}, "dense-transformer"),
        ("mamba", {"mamba.ssm.state_size": 16}, "mamba"),
        ("lfm2", {"lfm2.attention.head_count": 16, "lfm2.shortconv.l_cache": 3}, "lfm2"),
    ],
)
def test_the_kind_of_architecture_is_read_from_what_it_has(
    tmp_path: Path, architecture: str, metadata: dict[str, int], label: str
) -> None:
    path = write_gguf(tmp_path / "m.gguf", metadata, architecture=architecture)
    assert detect_gguf(path).card.architecture == label


@pytest.mark.parametrize(
    ("metadata", "architecture", "message"),
    [
        ({"general.type": "adapter"}, "llama", "a LoRA adapter; give the GGUF file of the model"),
        ({"general.type": "mmproj"}, "clip", "a vision projector"),
        ({}, "clip", "a vision projector"),
        ({"general.type": "vocab"}, "llama", "a vocabulary without weights"),
        ({"general.type": "imatrix"}, "llama", "an importance matrix"),
    ],
)
def test_a_gguf_that_is_no_model_is_named(
    tmp_path: Path, metadata: dict[str, str], architecture: str, message: str
) -> None:
    path = write_gguf(tmp_path / "x.gguf", metadata, architecture=architecture)
    with pytest.raises(CardError, match=rf"x\.gguf: {message}"):
        detect_gguf(path)


def test_a_gguf_without_tensors_or_architecture_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="vocabulary without weights"):
        detect_gguf(write_gguf(tmp_path / "x.gguf", {}, {}))
    bare = tmp_path / "bare.gguf"
    bare.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    with pytest.raises(CardError, match=r"no general\.architecture"):
        detect_gguf(bare)


def test_the_parts_of_a_split_model_are_counted_together(tmp_path: Path) -> None:
    weights = {"w": np.zeros((1000, 1000), dtype=np.float32)}
    first = write_gguf(tmp_path / "m-00001-of-00002.gguf", {"split.count": 2, "split.no": 0}, weights)
    assert detect_gguf(first).card.parameter_count is None  # the second part is not there
    second = write_gguf(tmp_path / "m-00002-of-00002.gguf", {"split.count": 2, "split.no": 1}, weights)
    assert detect_gguf(first).card.parameter_count == "2M"
    content = second.read_bytes().replace(b"general.architecture", b"genera1.architecture")
    second.write_bytes(content)
    with pytest.raises(CardError, match=r"a later part of a split model; .*00001-of-00002"):
        detect_gguf(second)


def test_a_damaged_gguf_is_a_format_error(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", SMOLLM2)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FormatError, match="truncated"):
        resolve_backbone(path)


def test_a_gguf_borrows_provenance_and_says_which_field_is_from_where(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf", SMOLLM2)
    shipped = shipped_cards()["SmolLM2-135M-Instruct"]
    card = resolve_backbone(path, user=ModelCard(weaknesses="arithmetic"))
    rows = {row.field: row for row in explain(card)}
    assert card.name == "SmolLM2-135M-Instruct"
    assert rows["num_layers"].origin == "gguf"
    assert rows["weaknesses"].origin == "user"
    assert rows["training_data_size"] == (
        "training_data_size",
        shipped.training_data_size,
        "shipped",
        shipped.sources["training_data_size"],
    )
    assert rows["num_layers"].source is None  # the page is not where this number came from
    assert "SmolLM2-135M-Instruct" in card.note


def test_a_gguf_is_known_by_its_content_not_its_ending(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "sha256-4d2b1f", SMOLLM2)  # as Ollama stores models
    card = resolve_backbone(path)
    assert card.num_layers == 30
    assert card.base_or_instruct is None


# --- Hugging Face folders --------------------------------------------------------------------------


def test_a_folder_tells_its_architecture(tmp_path: Path) -> None:
    found = detect_folder(folder(tmp_path / "Qwen3-4B", QWEN3))
    assert found.card.fields() == {
        "family": "Qwen3",
        "variant": "4B",
        "parameter_count": "4B",
        "architecture": "dense-transformer",
        "num_layers": 36,
        "hidden_size": 2560,
        "num_attention_heads": 32,
        "num_kv_heads": 8,
        "context_window": 40960,
        "vocab_size": 151936,
    }
    assert set(found.card.origins.values()) == {"huggingface"}
    assert found.parameters is None


def test_the_config_file_itself_is_a_backbone_too(tmp_path: Path) -> None:
    path = folder(tmp_path / "Qwen3-4B", QWEN3)
    assert resolve_backbone(path / "config.json") == resolve_backbone(path)


def test_the_text_part_of_a_multimodal_model_is_read(tmp_path: Path) -> None:
    card = detect_folder(folder(tmp_path / "gemma-3-4b-it", GEMMA3)).card
    assert (card.num_layers, card.hidden_size) == (34, 2560)
    assert card.num_attention_heads is None  # of the text model nothing is said, the vision model's 16 are not it
    assert card.base_or_instruct == "instruct"


def test_what_a_nested_config_leaves_out_comes_from_the_shipped_card(tmp_path: Path) -> None:
    card = resolve_backbone(folder(tmp_path / "gemma-3-4b-it", GEMMA3))
    rows = {row.field: row for row in explain(card)}
    assert (rows["hidden_size"].origin, rows["num_attention_heads"].origin) == ("huggingface", "shipped")


def test_the_hub_cache_knows_the_name_by_its_folder(tmp_path: Path) -> None:
    path = folder(tmp_path / "models--Qwen--Qwen3-4B" / "snapshots" / "1cfa9a7208912126459214e8b04321603b3df60c", QWEN3)
    assert detect_folder(path).outer == ("Qwen/Qwen3-4B",)
    assert resolve_backbone(path).name == "Qwen3-4B"


def test_the_tokenizer_tells_the_context_only_where_the_config_does_not(tmp_path: Path) -> None:
    config = {key: value for key, value in QWEN3.items() if key != "max_position_embeddings"}
    path = folder(tmp_path / "a", config, tokenizer_config={"model_max_length": 2048})
    assert detect_folder(path).card.context_window == 2048
    folder(tmp_path / "a", config, tokenizer_config={"model_max_length": 10**30})
    assert detect_folder(path).card.context_window is None
    folder(tmp_path / "a", QWEN3, tokenizer_config={"model_max_length": 2048})
    assert detect_folder(path).card.context_window == 40960


@pytest.mark.parametrize(
    ("extra", "label"),
    [
        ({"num_experts": 128}, "moe-transformer"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "dense-transformer"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "qwen3"),
        ({"layer_types": ["conv", "full_attention"]}, "qwen3"),
        ({"mamba_d_state": 16}, "qwen3"),
    ],
)
def test_experts_and_recurrent_layers_are_noticed(tmp_path: Path, extra: dict[str, Any], label: str) -> None:
    assert detect_folder(folder(tmp_path / "x", QWEN3 | extra)).card.architecture == label


def safetensors(path: Path, shapes: dict[str, list[int]], dtype: str = "BF16") -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    header |= {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    content = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content)


def test_parameters_are_counted_from_the_headers_of_the_weights(tmp_path: Path) -> None:
    path = folder(tmp_path / "my-agent", QWEN3)
    safetensors(path / "model-00001-of-00002.safetensors", {"a": [1000, 1000], "b": [1000]})
    safetensors(path / "model-00002-of-00002.safetensors", {"c": [3, 1000, 1000]})
    found = detect_folder(path)
    assert found.parameters == 4_001_000
    assert found.card.parameter_count == "4M"
    safetensors(path / "model-00002-of-00002.safetensors", {"c": [1000]}, dtype="I32")  # packed 4-bit weights
    assert detect_folder(path).parameters is None
    (path / "model-00002-of-00002.safetensors").write_bytes(b"\xff" * 20)
    assert detect_folder(path).parameters is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"config\.json: not valid JSON .*line 1"),
        ("[]", "must hold a JSON object, found list"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "describes no language model"),
        ({"model_type": "vae", "latent_channels": 4}, "describes no language model"),
    ],
)
def test_a_config_that_is_no_models_gets_one_sentence(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(CardError, match=message):
        resolve_backbone(folder(tmp_path / "x", config))


def test_a_config_that_is_not_utf8_gets_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(CardError, match="not UTF-8"):
        resolve_backbone(tmp_path)


def test_nonsense_values_are_unknown(tmp_path: Path) -> None:
    config = QWEN3 | {
        "num_attention_heads": "32",
        "vocab_size": -1,
        "num_key_value_heads": True,
        "hidden_size": 2560.0,
    }
    card = detect_folder(folder(tmp_path / "x", config)).card
    assert card.num_attention_heads is card.vocab_size is card.num_kv_heads is None
    assert card.hidden_size == 2560


def test_a_folder_without_config_says_what_it_has_instead(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"has no config\.json"):
        resolve_backbone(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CardError, match="a LoRA adapter"):
        resolve_backbone(tmp_path)
    write_gguf(tmp_path / "m.gguf", {})
    with pytest.raises(CardError, match=r"give the file itself, such as .*m\.gguf"):
        resolve_backbone(tmp_path)


def test_positive_takes_whole_numbers_only() -> None:
    assert [positive(v) for v in (3, 3.0, [3, 3], (3,))] == [3, 3, 3, 3]
    assert [positive(v) for v in (0, -1, 3.5, True, "3", None, [], [3, 4], float("nan"), float("inf"))] == [None] * 10


@pytest.mark.model
def test_the_real_smollm2_is_recognised(smollm2: Path) -> None:
    card = resolve_backbone(smollm2)
    assert (card.num_layers, card.hidden_size, card.num_attention_heads, card.num_kv_heads) == (30, 576, 9, 3)
    assert (card.context_window, card.vocab_size, card.parameter_count) == (8192, 49152, "135M")
    assert card.training_data_size == shipped_cards()["SmolLM2-135M-Instruct"].training_data_size
