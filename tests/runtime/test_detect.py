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
from masa.detect import detect_gguf, positive
from masa.errors import CardError, FormatError
from masa.huggingface_folder import detect_folder

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
    assert found.parameters is None  # 32 elements are no model of 30 layers


# General metadata as people's tools write them.
UNSLOTH_QWEN3 = {
    "general.name": "Qwen3-4B",
    "general.basename": "Qwen3-4B",
    "general.size_label": "4B",
    "general.quantized_by": "Unsloth",
}
CONVERTER_QWEN3 = {"general.name": "Qwen3 4B", "general.basename": "Qwen3", "general.size_label": "4B"}
UNSLOTH_LLAMA = {
    "general.name": "Llama-3.2-1B-Instruct",
    "general.basename": "Llama-3.2-1B-Instruct",
    "general.finetune": "Instruct",
    "general.size_label": "1B",
    "general.quantized_by": "Unsloth",
}
CONVERTER_LLAMA = {
    "general.name": "Llama 3.2 1B Instruct",
    "general.basename": "Llama-3.2",
    "general.finetune": "Instruct",
    "general.size_label": "1B",
    "general.organization": "Meta Llama",
}
UNSLOTH_GPT_OSS = {"general.name": "Gpt-Oss-20B", "general.basename": "Gpt-Oss-20B", "general.size_label": "20B"}
CONVERTER_GPT_OSS = {
    "general.name": "Openai_Gpt Oss 20b",
    "general.basename": "openai_gpt-oss",
    "general.size_label": "20B",
}
UNSLOTH_MINISTRAL = {
    "general.name": "Ministral-3-3B-Instruct-2512",
    "general.basename": "Ministral-3-3B-Instruct-2512",
    "general.finetune": "Instruct-2512",
    "general.size_label": "3.4B",
}
QWEN_CODER = {
    "general.name": "Qwen2.5 Coder 0.5B Instruct AWQ",
    "general.basename": "Qwen2.5-Coder",
    "general.finetune": "Instruct-AWQ",
    "general.size_label": "0.5B",
}


@pytest.mark.parametrize(
    ("general", "file", "name"),
    [
        (UNSLOTH_QWEN3, "Qwen3-4B-Q4_K_M.gguf", "Qwen3-4B"),
        (CONVERTER_QWEN3, "model.gguf", "Qwen3-4B"),
        (CONVERTER_QWEN3, "Qwen_Qwen3-4B-IQ4_XS.gguf", "Qwen3-4B"),
        (UNSLOTH_LLAMA, "l.gguf", "Llama-3.2-1B-Instruct"),
        (CONVERTER_LLAMA, "Llama-3.2-1B-Instruct.i1-Q4_K_M.gguf", "Llama-3.2-1B-Instruct"),
        (
            {
                "general.basename": "Llama",
                "general.version": "3.2",
                "general.size_label": "1B",
                "general.finetune": "Instruct",
            },
            "l.gguf",
            "Llama-3.2-1B-Instruct",
        ),
        (UNSLOTH_GPT_OSS, "gpt-oss-20b-F16.gguf", "gpt-oss-20b"),
        (CONVERTER_GPT_OSS, "openai_gpt-oss-20b-MXFP4_MOE.gguf", "gpt-oss-20b"),
        (UNSLOTH_MINISTRAL, "Ministral-3-3B-Instruct-2512-Q4_K_M.gguf", "Ministral-3-3B-Instruct-2512"),
        (QWEN_CODER, "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "Qwen2.5-Coder-0.5B-Instruct"),
    ],
)
def test_a_name_in_parts_repeats_none_of_them(tmp_path: Path, general: dict[str, str], file: str, name: str) -> None:
    card = resolve_backbone(write_gguf(tmp_path / file, general))
    assert card.name == name
    assert "completed from the shipped card" in card.note
    assert card.strengths == shipped_cards()[name].strengths


def test_without_a_shipped_card_a_name_in_parts_is_family_and_size(tmp_path: Path) -> None:
    for basename in ("Foo-2-9B-Chat", "Foo-2"):
        metadata = {"general.basename": basename, "general.size_label": "9B", "general.finetune": "Chat"}
        card = detect_gguf(write_gguf(tmp_path / "m.gguf", metadata)).card
        assert (card.family, card.variant, card.base_or_instruct) == ("Foo-2", "9B", "instruct")


def test_a_digest_is_no_family(tmp_path: Path) -> None:
    digest = "8c22764a7e3675c50d4c7c9a4edb474456022b16"
    path = write_gguf(tmp_path / "x.gguf", {"general.name": digest, "general.basename": digest})
    assert detect_gguf(path).card.family is None


def test_an_architecture_is_named_as_the_shipped_card_names_it(tmp_path: Path) -> None:
    shipped = shipped_cards()["Granite-4.0-h-tiny"]
    metadata = {
        "general.name": "Granite 4.0 H Tiny",
        "granitehybrid.ssm.state_size": 128,
        "granitehybrid.block_count": shipped.num_layers,
    }
    assert resolve_backbone(write_gguf(tmp_path / "g.gguf", metadata, architecture="granitehybrid")).architecture == (
        shipped.architecture
    )
    metadata = {"general.name": "Qwen3 4B", "qwen3.attention.head_count": 32, "qwen3.expert_count": 8}
    card = resolve_backbone(write_gguf(tmp_path / "q.gguf", metadata, architecture="qwen3"))
    assert (card.name, card.architecture) == ("Qwen3-4B", "moe-transformer")  # what was read wins over what is said


def test_a_stated_count_beats_the_converters_label_of_experts(tmp_path: Path) -> None:
    metadata = {
        "general.name": "GLM 4.5 Air",
        "general.size_label": "128x9.4B",
        "general.parameter_count": 110_468_824_832,
        "glm4moe.block_count": 47,
        "glm4moe.nextn_predict_layers": 1,
        "glm4moe.attention.head_count": 96,
        "glm4moe.expert_count": 128,
    }
    card = detect_gguf(write_gguf(tmp_path / "m.gguf", metadata, architecture="glm4moe")).card
    assert (card.parameter_count, card.variant, card.num_layers) == ("110.5B", None, 46)
    assert card.architecture == "moe-transformer"


def test_counted_tensors_beat_a_size_in_the_name(tmp_path: Path) -> None:
    weights = {"w": np.zeros((2000, 1000), dtype=np.float16)}
    assert detect_gguf(write_gguf(tmp_path / "relu-100B.gguf", {}, weights)).card.parameter_count == "2M"
    assert detect_gguf(write_gguf(tmp_path / "relu-2.2M.gguf", {}, weights)).card.parameter_count == "2.2M"


def block(number: int, name: str = "attn_q") -> str:
    return f"blk.{number}.{name}.weight"


@pytest.mark.parametrize(
    ("stated", "count", "names", "layers", "parameters"),
    [
        (1, 3, [block(0), block(1), block(2), block(2, "nextn.eh_proj")], 2, 2),  # GLM-4.5, Qwen3.5
        (None, 3, [block(0), block(1), block(2), block(2, "nextn.eh_proj")], 2, 2),
        (1, 3, [block(0), block(1)], 2, 2),  # counted, but left out of the file
        (1, 2, [block(0), block(1)], 2, 2),  # not counted
        (1, 2, [block(0), block(1), block(2, "nextn.eh_proj")], 2, 2),  # not counted, but there
        (0, 2, [block(0), block(1)], 2, 2),
        (None, 2, [block(0), block(1)], 2, 2),
    ],
)
def test_layers_that_only_predict_further_tokens_are_none(
    tmp_path: Path, stated: int | None, count: int, names: list[str], layers: int, parameters: int
) -> None:
    metadata = {"glm4moe.block_count": count, "glm4moe.attention.head_count_kv": [8] * layers + [1] * (count - layers)}
    if stated is not None:
        metadata["glm4moe.nextn_predict_layers"] = stated
    weights = {name: np.zeros((1000, 1000), dtype=np.float16) for name in names}
    card = detect_gguf(write_gguf(tmp_path / "m.gguf", metadata, weights, architecture="glm4moe")).card
    assert (card.num_layers, card.num_kv_heads, card.parameter_count) == (layers, 8, f"{parameters}M")


def test_a_file_of_nothing_but_such_layers_is_named(tmp_path: Path) -> None:
    metadata = {"glm4moe.block_count": 47, "glm4moe.nextn_predict_layers": 1}
    weights = {name: np.zeros((4, 8), dtype=np.float32) for name in (block(46), block(46, "nextn.eh_proj"))}
    with pytest.raises(CardError, match="only predicts further tokens"):
        detect_gguf(write_gguf(tmp_path / "m-MTP.gguf", metadata, weights, architecture="glm4moe"))
    with pytest.raises(CardError, match="only predicts further tokens"):
        detect_gguf(write_gguf(tmp_path / "draft.gguf", {}, architecture="eagle3"))
    for name in ("Qwen3NextMTP", "DeepseekV3ForCausalLMNextN", "EagleLlamaForCausalLM"):
        with pytest.raises(CardError, match="only predicts further tokens"):
            detect_folder(folder(tmp_path / "draft", QWEN3 | {"architectures": [name]}))
    detect_folder(folder(tmp_path / "next", QWEN3 | {"architectures": ["Qwen3NextForCausalLM"]}))


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
        ("gpt-oss", {"gpt-oss.attention.head_count": 64, "gpt-oss.expert_count": 32}, "moe-transformer"),
        ("command-r", {"command-r.attention.head_count": 64}, "dense-transformer"),
        ("llama", {"llama.attention.head_count": 64, "llama.expert_used_count": 2}, "llama"),
        ("newkind", {"newkind.attention.head_count": 4}, "newkind"),
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
    renamed = write_gguf(tmp_path / "llama.gguf", {"split.count": 2, "split.no": 0}, weights)
    assert detect_gguf(renamed).card.parameter_count is None  # nobody knows the names of the others
    joined = write_gguf(tmp_path / "j.gguf", {"split.count": 2, "split.no": 0, "split.tensors.count": 1}, weights)
    assert detect_gguf(joined).card.parameter_count == "1M"
    with pytest.raises(CardError, match="a later part of a split model"):
        detect_gguf(second)
    content = second.read_bytes().replace(b"general.architecture", b"genera1.architecture")
    second.write_bytes(content)
    with pytest.raises(CardError, match=r"a later part of a split model; .*00001-of-00002"):
        detect_gguf(second)


def cut(path: Path, names: list[str]) -> None:
    """A GGUF file cut into pieces with these names."""
    data = write_gguf(path / "whole.gguf", SMOLLM2).read_bytes()
    (path / "whole.gguf").unlink()
    size = -(-len(data) // len(names))
    for number, name in enumerate(names):
        (path / name).write_bytes(data[number * size : (number + 1) * size])


@pytest.mark.parametrize(
    ("names", "joined", "whole"),
    [
        (["T.Q8_0.gguf.part1of2", "T.Q8_0.gguf.part2of2"], "{0} {1}", "T.Q8_0.gguf"),
        (["T.gguf-split-a", "T.gguf-split-b", "T.gguf-split-c"], "{0} {1} {2}", "T.gguf"),
        (["T.gguf.part_aa", "T.gguf.part_ab"], "{0} {1}", "T.gguf"),
        (["T.gguf.001", "T.gguf.002"], "{0} {1}", "T.gguf"),
        (["T.ggufaa", "T.ggufab"], "{0} {1}", "T.gguf"),
        (["T.part1of2.gguf", "T.part2of2.gguf"], "{0} {1}", "T.gguf"),
        (["T-split-a.gguf", "T-split-b.gguf"], "{0} {1}", "T.gguf"),
        (["T-00001-of-00002.gguf", "T-00002-of-00002.gguf"], "{0} {1}", "T.gguf"),
        (["T.gguf.part-00000-of-00002", "T.gguf.part-00001-of-00002"], "{0} {1}", "T.gguf"),
        ([f"T.gguf.{number}" for number in range(1, 12)], "{0} {1} {2} {3} {4} {5} {6} {7} {8} {9} {10}", "T.gguf"),
        (["My T.gguf.part1of2", "My T.gguf.part2of2"], "'{0}' '{1}'", "My T.gguf"),
        (["T.GGUF.Part1of2", "T.GGUF.Part2of2"], "{0} {1}", "T.GGUF"),
    ],
)
def test_the_parts_of_a_cut_file_are_to_be_joined(
    tmp_path: Path, names: list[str], joined: str, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cut(Path(), names)
    quoted = f"'{whole}'" if " " in whole else whole
    advice = f"cat {joined.format(*names)} > {quoted}, then give {whole}"
    for name in names:
        with pytest.raises(FormatError) as caught:
            resolve_backbone(name)
        assert advice in str(caught.value)
    with pytest.raises(CardError) as caught:
        resolve_backbone(whole)
    assert advice in str(caught.value)
    with pytest.raises(CardError) as caught:  # the folder
        resolve_backbone(".")
    assert names[0] in str(caught.value)
    Path(whole).write_bytes(b"".join(Path(name).read_bytes() for name in names))  # what the advice does
    assert resolve_backbone(whole).name == "SmolLM2-135M-Instruct" or "base or instruct" in resolve_backbone(whole).note


def test_parts_that_are_not_there_are_told(tmp_path: Path) -> None:
    cut(tmp_path, ["T.gguf.part1of3", "x"])
    with pytest.raises(FormatError, match=r"part1of3 .*part2of3 .*part3of3 > .*2 are not in the folder"):
        resolve_backbone(tmp_path / "T.gguf.part1of3")
    cut(tmp_path, ["O.gguf-split-a", "x"])
    with pytest.raises(FormatError, match=r"cat \S*O\.gguf-split-\* > \S*O\.gguf"):
        resolve_backbone(tmp_path / "O.gguf-split-a")


def test_a_part_by_gguf_split_is_no_cut_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m-00001-of-00002.gguf", SMOLLM2 | {"split.count": 2, "split.no": 0})
    assert resolve_backbone(tmp_path / "m-00001-of-00002.gguf").num_layers == 30
    with pytest.raises(CardError, match=r"give the first one, \S*m-00001-of-00002\.gguf"):
        resolve_backbone(tmp_path / "m.gguf")
    whole = write_gguf(tmp_path / "w.gguf.part1", SMOLLM2)  # called a part, but whole
    assert resolve_backbone(whole).num_layers == 30


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


OMNI = {
    "model_type": "qwen2_5_omni",
    "thinker_config": {
        "audio_config": {"d_model": 1280, "num_hidden_layers": 32, "encoder_layers": 32},
        "text_config": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "vocab_size": 152064},
        "vision_config": {"hidden_size": 1280, "depth": 32},
    },
    "talker_config": {"hidden_size": 896, "num_hidden_layers": 24},
    "token2wav_config": {"dit_config": {"hidden_size": 1024, "num_hidden_layers": 22}},
}
INNER = {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14}
VISION = {"hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 16}


@pytest.mark.parametrize(
    ("config", "layers", "hidden", "architecture"),
    [
        (OMNI, 28, 3584, "qwen2_5_omni"),
        ({"model_type": "internvl_chat", "llm_config": INNER, "vision_config": VISION}, 24, 896, "dense-transformer"),
        (
            {"model_type": "deepseek_vl", "language_config": INNER, "vision_config": VISION},
            24,
            896,
            "dense-transformer",
        ),
        (
            {"model_type": "a", "lm": {"core": {"text_config": INNER}}, "vision_tower": VISION},
            24,
            896,
            "dense-transformer",
        ),
        ({"model_type": "b", "thinker": {"llm_config": INNER}, "vision_config": VISION}, 24, 896, "dense-transformer"),
        ({"model_type": "c", "decoder_model": INNER, "vision_encoder": VISION}, 24, 896, "dense-transformer"),
        # the outside has the language model, the inside something else
        ({**INNER, "vision_config": VISION, "rope_scaling": {"hidden_size": 3}}, 24, 896, "dense-transformer"),
        # LLaVA 1.5 names its language model only: its numbers are the defaults of that, which nobody tells us
        ({"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}}, None, None, "llama"),
    ],
)
def test_the_language_model_is_found_at_any_depth(
    tmp_path: Path, config: dict[str, Any], layers: int | None, hidden: int | None, architecture: str
) -> None:
    card = detect_folder(folder(tmp_path / "x", config)).card
    assert (card.num_layers, card.hidden_size, card.architecture) == (layers, hidden, architecture)


def test_nesting_without_end_is_no_language_model(tmp_path: Path) -> None:
    config: dict[str, Any] = INNER
    for _ in range(200):
        config = {"text_config": config}
    detect_folder(folder(tmp_path / "x", config))
    for _ in range(200):
        config = {"a": config}
    with pytest.raises(CardError, match="describes no language model"):
        detect_folder(folder(tmp_path / "x", config))


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
        ({"n_routed_experts": 64}, "moe-transformer"),
        ({"num_local_experts": 8}, "moe-transformer"),
        ({"moe_num_experts": 64}, "moe-transformer"),
        ({"moe_num_experts": [64, 64]}, "moe-transformer"),
        ({"num_moe_experts": 16}, "moe-transformer"),
        ({"ffn_config": {"moe_num_experts": 16}}, "moe-transformer"),
        ({"num_experts": 1}, "dense-transformer"),
        ({"num_local_experts": 0, "enable_moe_block": False, "moe_intermediate_size": None}, "dense-transformer"),
        # keys that are not known here are evidence for nothing
        ({"experts_in_total": 64}, "qwen3"),
        ({"moe_k": 6}, "qwen3"),
        ({"model_type": "newkind"}, "newkind"),
        ({"model_type": None}, None),
        ({"num_attention_heads": None}, "qwen3"),
        # Granite 4 without Mamba layers has settings for them all the same
        ({"layer_types": ["attention"], "mamba_d_state": 128}, "dense-transformer"),
        ({"layers_block_type": ["mamba", "attention"], "num_experts": 16}, "qwen3"),
        ({"linear_attn_config": {"heads": 3}, "num_experts": 16}, "qwen3"),
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
    (path / "model-00002-of-00002.safetensors").unlink()
    assert detect_folder(path).parameters is None  # half a model


@pytest.mark.parametrize(
    ("files", "parameters"),
    [
        ({"model": ("BF16", {"a": [1000, 1000]})}, 1_000_000),
        ({"model": ("F8_E4M3", {"a": [1000, 1000]})}, 1_000_000),
        ({"model": ("U8", {"a": [1000, 1000]})}, None),
        ({"consolidated": ("BF16", {"a": [1000, 1000]})}, 1_000_000),
        ({"consolidated": ("BF16", {"a": [1000, 1000]}), "model": ("BF16", {"b": [1000, 1000]})}, 1_000_000),
        ({"model-00001-of-00001": ("BF16", {"a": [1000, 1000]})}, 1_000_000),
        ({"adapter_model": ("BF16", {"a": [10]}), "other": ("BF16", {"b": [1000, 1000]})}, None),
        # a layer for further tokens lies behind the layers (DeepSeek-V3, GLM-4.5), or is called mtp (Qwen3-Next)
        ({"model": ("BF16", {"model.layers.35.q": [1000, 1000], "model.layers.36.q": [1000, 1000]})}, 1_000_000),
        ({"model": ("BF16", {"model.layers.0.q": [1000, 1000], "mtp.layers.0.q": [1000, 1000]})}, 1_000_000),
        ({"model": ("BF16", {"visual.layers.36.q": [1000, 1000]})}, 1_000_000),
    ],
)
def test_the_files_of_the_model_are_counted_and_no_others(
    tmp_path: Path, files: dict[str, tuple[str, dict[str, list[int]]]], parameters: int | None
) -> None:
    path = folder(tmp_path / "my-agent", QWEN3 | {"num_nextn_predict_layers": 1})
    for name, (dtype, shapes) in files.items():
        safetensors(path / f"{name}.safetensors", shapes, dtype)
    found = detect_folder(path)
    assert (found.parameters, found.card.num_layers) == (parameters, 36)


@pytest.mark.parametrize(
    ("metadata", "config", "parameters"),
    [
        ({"total_parameters": 4_022_468_096, "total_size": 1}, {}, 4_022_468_096),
        ({"total_size": 8_044_936_192}, {"torch_dtype": "bfloat16"}, 4_022_468_096),
        ({"total_size": 8_044_936_192}, {"dtype": "float16"}, 4_022_468_096),
        ({"total_size": 8_044_936_192}, {}, None),
        ({"total_size": 8_044_936_192}, {"dtype": "bfloat16", "quantization_config": {"bits": 4}}, None),
        ({"total_size": "many"}, {"dtype": "bfloat16"}, None),
        ("?", {"dtype": "bfloat16"}, None),
    ],
)
def test_without_its_files_the_index_tells_the_parameters(
    tmp_path: Path, metadata: Any, config: dict[str, Any], parameters: int | None
) -> None:
    index = {"metadata": metadata, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    path = folder(tmp_path / "my-agent", QWEN3 | config, **{"model.safetensors.index": index})
    assert detect_folder(path).parameters == parameters


@pytest.mark.parametrize(
    ("name", "parameters", "family", "count"),
    [
        ("Llama-4-Scout-17B-16E-Instruct", 108_641_793_024, "Llama-4-Scout", "108.6B"),
        ("stablelm-2-1_6b-chat", 1_644_515_328, "stablelm-2", "1.6B"),
        ("relu-100B", 1_340_000_000, "relu", "1.3B"),
        ("stories-50k", 50_000, "stories", "50K"),
        ("Qwen3-4B", 12, "Qwen3", "4B"),  # 12 parameters are no model
    ],
)
def test_counted_headers_beat_a_size_in_the_name(
    tmp_path: Path, name: str, parameters: int, family: str, count: str
) -> None:
    config = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32}
    path = folder(tmp_path / name, config)
    safetensors(path / "model.safetensors", {"w": [parameters]})
    card = detect_folder(path).card
    assert (card.family, card.parameter_count) == (family, count)


def test_pytorch_weights_are_no_base_model(tmp_path: Path) -> None:
    config = QWEN3 | {"model_type": "ernie4_5_moe", "moe_num_experts": 64, "moe_k": 6}
    card = resolve_backbone(folder(tmp_path / "ERNIE-4.5-21B-A3B-PT", config))
    assert (card.base_or_instruct, card.architecture) == (None, "moe-transformer")


def test_what_a_model_was_saved_from_does_not_name_it(tmp_path: Path) -> None:
    """A trainer leaves the name of the model before training in `_name_or_path`."""
    card = resolve_backbone(folder(tmp_path / "my-medical-qwen3-4b", QWEN3 | {"_name_or_path": "Qwen/Qwen3-4B"}))
    assert card.strengths is None and card.num_layers == 36


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
    deep: list[Any] = [3]
    for _ in range(5000):
        deep = [deep]
    assert positive(deep) is None


@pytest.mark.model
def test_the_real_smollm2_is_recognised(smollm2: Path) -> None:
    card = resolve_backbone(smollm2)
    assert (card.num_layers, card.hidden_size, card.num_attention_heads, card.num_kv_heads) == (30, 576, 9, 3)
    assert (card.context_window, card.vocab_size, card.parameter_count) == (8192, 49152, "135M")
    assert card.training_data_size == shipped_cards()["SmolLM2-135M-Instruct"].training_data_size
