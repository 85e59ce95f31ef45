"""A backbone's architecture, read from a GGUF file, and what any source must say for a word on the card.

Weights are never loaded. What a file does not say stays None; nothing is looked up elsewhere. Hugging Face folders are
read by `masa.huggingface_folder`, servers by `masa.servers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from masa.cards import ModelCard
from masa.errors import CardError, FormatError
from masa.formats.gguf_header import GgufHeader, TensorInfo, read_header
from masa.model_names import Detected, bare_name, identity, kind_of, parse_size, sizes_in

_NO_MODEL = {
    "adapter": "a LoRA adapter; give the GGUF file of the model that it belongs to",
    "mmproj": "a vision projector; give the GGUF file of the language model",
    "clip": "a vision projector; give the GGUF file of the language model",
    "vocab": "a vocabulary without weights; give the GGUF file of the model",
    "imatrix": "an importance matrix; give the GGUF file of the model",
}
_NUMBERED = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_RECURRENT = ("ssm.", "wkv", "time_mix", "shortconv.", "rwkv")
_EXPERTS = re.compile(r"(?:moe_)?(?:num|n)_(?:local_|routed_|moe_|total_)?experts|expert_count")
"""The settings that tell how many experts a layer chooses from: of transformers' models, and of GGUF."""
DRAFT = re.compile(r"(?i:eagle|medusa|speculator|next_?n(?![a-z]))|MTP|[_-]mtp")
DRAFTS = "only predicts further tokens (MTP, EAGLE) for another model"
_NONSENSE = 10**15
_FEWEST = 10_000
"""Language models have more parameters than that; the smallest that people train for fun have 50,000."""
_DENSE = frozenset({
    "apertus", "arcee", "baichuan", "biogpt", "bitnet", "bloom", "chatglm", "code_llama", "codegen", "codeshell",
    "cohere", "cohere2", "command_r", "ernie4_5", "exaone", "exaone4", "falcon", "gemma", "gemma2", "gemma3",
    "gemma3n", "gemma4", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "gptneox", "granite",
    "helium", "hunyuan_dense", "hunyuan_v1_dense", "internlm", "internlm2", "internlm3", "jais", "llama",
    "maincoder", "mimo", "minicpm", "minicpm3", "ministral", "ministral3", "mistral", "mistral3", "mpt", "nemotron",
    "olmo", "olmo2", "olmo3", "openelm", "opt", "orion", "persimmon", "phi", "phi2", "phi3", "plamo", "qwen",
    "qwen2", "qwen2_5_vl", "qwen2_vl", "qwen2vl", "qwen3", "qwen3_vl", "qwen3vl", "refact", "seed_oss", "smollm3",
    "stablelm", "starcoder", "starcoder2", "vaultgemma", "xglm", "xverse",
})  # fmt: skip
"""Architectures whose every layer is attention and one feed-forward network, where no experts are stated; by their
names in transformers (without `_text`) and in GGUF, with underscores."""


def detect_gguf(path: Path) -> Detected:
    """Read a backbone from a GGUF file.

    Raises:
        FormatError: if the file is damaged, see `gguf_header.read_header`.
        CardError: if it holds no language model.
    """
    header = read_header(path)
    metadata = header.metadata
    kind, name = header.text("general.type"), header.text("general.architecture")
    for found in (kind, name):
        if found in _NO_MODEL:
            raise CardError(f"{path}: {_NO_MODEL[found]}")
    parts = positive(metadata.get("split.count")) or 1
    if parts > 1 and (name is None or positive(metadata.get("split.no"))):
        first = (_NUMBERED.sub("", path.name) if _NUMBERED.search(path.name) else "…") + f"-00001-of-{parts:05d}.gguf"
        raise CardError(f"{path}: a later part of a split model; give its first part, {first}")
    if name is None:
        raise CardError(f"{path}: has no general.architecture, so it is no language model; give a model's GGUF")
    if not header.tensors and parts == 1:
        raise CardError(f"{path}: {_NO_MODEL['vocab']}")
    tensors = _all_tensors(header, parts)
    further = _further_layers(metadata, name, tensors)
    if (tensors is not None and (blocks := _blocks(tensors)) and blocks <= further) or DRAFT.search(name):
        raise CardError(f"{path}: {DRAFTS}; give the GGUF file of the model itself")
    parameters = positive(metadata.get("general.parameter_count"))
    if parameters is None and tensors is not None:
        parameters = sum(tensor.elements for tensor in tensors if _block(tensor.name) not in further) or None
    return from_metadata(metadata, name, "gguf", outer=(path.name,), parameters=parameters, further_layers=further)


def from_metadata(
    metadata: Mapping[str, Any],
    architecture: str,
    origin: str,
    *,
    outer: tuple[str, ...],
    parameters: int | None,
    further_layers: frozenset[int] | None = None,
) -> Detected:
    """Read a backbone from GGUF metadata, which Ollama's `/api/show` also answers with.

    `further_layers` are the numbers of the blocks that only predict further tokens and are none of its layers; by
    default those that the metadata name.
    """
    layers = positive(metadata.get(f"{architecture}.block_count"))
    if layers is not None:
        further = _further_layers(metadata, architecture, None) if further_layers is None else further_layers
        layers = positive(layers - sum(block < layers for block in further))

    def number(key: str) -> int | None:
        value = metadata.get(f"{architecture}.{key}")
        return positive(value[:layers] if isinstance(value, (list, tuple)) and layers else value)

    def text(key: str) -> str | None:
        value = metadata.get(f"general.{key}")
        return (value.strip() or None) if isinstance(value, str) else None

    heads = number("attention.head_count")
    kv_key = f"{architecture}.attention.head_count_kv"
    tokens = metadata.get("tokenizer.ggml.tokens")
    basename, label = text("basename"), text("size_label")
    if label and parse_size(label) is None:
        # llama.cpp's converter writes 128x9.4B for experts, which nobody calls a model.
        label = next((size.text for size in sizes_in(label) if size.parameters), None)
    # A basename with a size ("Ministral-3-3B") needs no second one beside it ("3.4B").
    sized = any(size.parameters for size in sizes_in(basename or ""))
    inner = [_joined(basename, None if sized else label, text("finetune"), text("version"))] if basename else []
    inner += [name for name in (text("name"),) if name]
    recurrent = any(key.startswith(f"{architecture}.{word}") for key in metadata for word in _RECURRENT)
    return build(
        origin,
        inner,
        outer,
        parameters,
        label=label,
        basename=basename,
        architecture=architecture_label(
            architecture,
            ((key.removeprefix(f"{architecture}."), value) for key, value in metadata.items()),
            attention=bool(heads) and not recurrent,
        ),
        num_layers=layers,
        hidden_size=number("embedding_length"),
        num_attention_heads=heads,
        # The GGUF specification: where the key is missing, there are as many as attention heads.
        num_kv_heads=number("attention.head_count_kv") if kv_key in metadata else heads,
        context_window=number("context_length"),
        vocab_size=number("vocab_size") or (len(tokens) if tokens and hasattr(tokens, "__len__") else None),
    )


def _joined(*parts: str | None) -> str:
    """One name from the parts that GGUF metadata keep; what a part repeats of those before is left out.

    The converter of llama.cpp splits "Qwen3-4B-Instruct" into Qwen3, 4B, Instruct; Unsloth writes all of it into the
    basename, and the others beside it.
    """
    joined: list[str] = []
    known: set[str] = set()
    for part in parts:
        words = re.findall(r"[^\s:/_-]+", part or "")
        new = [word for word in words if word.lower() not in known]
        joined += [part or ""] if len(new) == len(words) else new
        known |= {word.lower() for word in words}
    return " ".join(word for word in joined if word)


def build(
    origin: str,
    inner: Sequence[str],
    outer: Sequence[str],
    parameters: int | None,
    *,
    label: str | None = None,
    basename: str | None = None,
    adapter: str | None = None,
    **architecture: Any,
) -> Detected:
    """A `Detected` whose card has the given architecture, and family, size and kind as its names and counts say them.

    Args:
        inner, outer: as in `Detected`.
        parameters: as counted. A count that is too small for a model, or for the stated layers where the names say a
            size, is that of a part, and not used.
        label: a size that is written inside the model, apart from its names.
        basename: the model's name, more or less without size and kind.
        adapter: as in `Detected`.
    """
    names = [*inner, *([label] if label else []), *outer]
    parameters = positive(parameters)
    layers, width = architecture.get("num_layers"), architecture.get("hidden_size")
    sized = any((size.parameters or 0) >= 1e6 for name in names for size in sizes_in(name))
    # A layer has several matrices of width x width.
    least = layers * width**2 if sized and layers and width else _FEWEST
    if parameters and parameters < least:
        parameters = None
    family, variant, count = identity(names, parameters)
    card = ModelCard(
        family=(identity([basename], None)[0] or bare_name(basename) or None) if basename else family,
        variant=variant,
        parameter_count=count,
        base_or_instruct=None if adapter else kind_of(names),
        **architecture,
    )
    card = ModelCard(**card.fields(), origins=dict.fromkeys(card.fields(), origin))  # type: ignore[arg-type]
    return Detected(card, tuple(inner), tuple(outer), parameters, adapter)


def positive(value: Any) -> int | None:
    """`value` as a positive whole number below `_NONSENSE`; of a value per layer, the one of all; else None."""
    if isinstance(value, (list, tuple)):
        each = {None if isinstance(item, (list, tuple)) else positive(item) for item in value}
        return each.pop() if len(each) == 1 else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _NONSENSE else None


def architecture_label(name: str | None, settings: Iterable[tuple[str, Any]], *, attention: bool) -> str | None:
    """The card's word for an architecture: `moe-transformer` with several experts, `dense-transformer` where that is
    known of `name`; a recurrent or unknown one keeps its own name.
    """
    if not attention:
        return name
    mixture = {key: value for key, value in settings if re.search(r"expert|(?:^|[_.])moe(?:[_.]|$)", key)}
    counts = [positive(value) for key, value in mixture.items() if _EXPERTS.fullmatch(key)]
    if any(count and count > 1 for count in counts):
        return "moe-transformer"
    known = name is not None and name.lower().replace("-", "_").removesuffix("_text") in _DENSE
    # A key that speaks of experts, and that is not known here, is no evidence for either.
    hints = any(value for key, value in mixture.items() if not _EXPERTS.fullmatch(key))
    return "dense-transformer" if known and not hints else name


def _all_tensors(header: GgufHeader, parts: int) -> tuple[TensorInfo, ...] | None:
    """The tensors of a model, over all of its parts; None if a part is missing or they do not belong together."""
    expected = positive(header.metadata.get("split.tensors.count"))
    if parts == 1 or len(header.tensors) == expected:  # tools that join parts leave the keys of the first one
        return header.tensors
    if not header.path.name.endswith(f"-00001-of-{parts:05d}.gguf"):
        return None
    tensors = header.tensors
    for part in range(2, parts + 1):
        name = _NUMBERED.sub(f"-{part:05d}-of-{parts:05d}.gguf", header.path.name)
        try:
            other = read_header(header.path.with_name(name), check_size=False)
        except FormatError:
            return None
        if other.metadata.get("split.count") != parts:
            return None
        tensors += other.tensors
    return tensors if expected in (None, len(tensors)) else None


def _further_layers(
    metadata: Mapping[str, Any], architecture: str, tensors: Sequence[TensorInfo] | None
) -> frozenset[int]:
    """The numbers of the blocks that only predict further tokens (MTP, "next n"): the last ones, counted as blocks.

    The key `nextn_predict_layers` tells how many there are. Where the tensors are known, so is whether the block count
    includes them.
    """
    marked = {_block(tensor.name) for tensor in tensors or () if ".nextn." in tensor.name} - {None}
    if marked:
        return frozenset(block for block in marked if block is not None)
    blocks = positive(metadata.get(f"{architecture}.block_count")) or 0
    stated = positive(metadata.get(f"{architecture}.nextn_predict_layers")) or 0
    if stated >= blocks or (tensors is not None and blocks - 1 in _blocks(tensors)):
        return frozenset()  # the last block is an ordinary one: those for further tokens are not counted
    return frozenset(range(blocks - stated, blocks))


def _blocks(tensors: Sequence[TensorInfo]) -> frozenset[int]:
    return frozenset(block for tensor in tensors if (block := _block(tensor.name)) is not None)


def _block(tensor: str) -> int | None:
    found = re.match(r"blk\.(\d+)\.", tensor)
    return int(found[1]) if found else None
