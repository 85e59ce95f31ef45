"""A backbone's architecture, read from the backbone itself: a GGUF file or a Hugging Face folder.

Weights are never loaded. What a file does not say stays None; nothing is looked up elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from masa.cards import ModelCard
from masa.errors import CardError, FormatError
from masa.files import ParseError, parse_json
from masa.formats.gguf_header import GgufHeader, TensorInfo, join_parts, read_header
from masa.model_names import Detected, identity, kind_of, parse_size, sizes_in

_NO_MODEL = {
    "adapter": "a LoRA adapter; give the GGUF file of the model that it belongs to",
    "mmproj": "a vision projector; give the GGUF file of the language model",
    "clip": "a vision projector; give the GGUF file of the language model",
    "vocab": "a vocabulary without weights; give the GGUF file of the model",
    "imatrix": "an importance matrix; give the GGUF file of the model",
}
_NUMBERED = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_RECURRENT = ("ssm.", "wkv", "time_mix", "shortconv.", "rwkv")
_RECURRENT_KEY = re.compile(
    r"mamba|ssm|conv|rwkv|lightning|linear_attn|linear_num|linear_key|lru_width|hybrid_override|attn_type_list|kda_"
)
_EXPERTS = re.compile(r"(?:moe_)?(?:num|n)_(?:local_|routed_|moe_|total_)?experts|expert_count")
"""The settings that tell how many experts a layer chooses from: of transformers' models, and of GGUF."""
_DRAFT = re.compile(r"(?i:eagle|medusa|speculator|next_?n(?![a-z]))|MTP|[_-]mtp")
_DRAFTS = "only predicts further tokens (MTP, EAGLE) for another model"
_FURTHER_LAYERS = (
    "num_nextn_predict_layers",
    "mtp_num_hidden_layers",
    "mtp_num_layers",
    "num_mtp_layers",
    "num_mtp_modules",
)
_SIZES = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "hidden_size", "n_embd", "d_model")
_TEXT_PARTS = (
    "text_config",
    "llm_config",
    "language_config",
    "language_model_config",
    "text_model_config",
    "lm_config",
    "thinker_config",
    "language_model",
    "text_model",
    "llm",
)
"""What multimodal models call the configuration of their language model."""
_NO_TEXT = re.compile(
    r"vision|visual|image|audio|speech|sound|video|talker|2wav|voco|codec|projector|connector|resampler|perceiver"
    r"|quant|rope|generat|token|vq|dit_|diffusion|depth|draft|mtp|encoder|align|adapter|attn|ffn|moe|auto_map|task"
)
_DEEPEST = 8
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
_UNPACKED = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8")
"""Types of tensors of which an element is a parameter; others pack several into one."""
_NO_WEIGHTS = ("BOOL", "I64")  # masks and positions
_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}


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
    if (tensors is not None and (blocks := _blocks(tensors)) and blocks <= further) or _DRAFT.search(name):
        raise CardError(f"{path}: {_DRAFTS}; give the GGUF file of the model itself")
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
        architecture=_label(
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


def detect_folder(folder: Path) -> Detected:
    """Read a backbone from a Hugging Face folder with config.json.

    Raises:
        CardError: if the folder holds no such model or its config.json cannot be read.
    """
    config = _config(folder)
    classes = config.get("architectures")
    if any(_DRAFT.search(str(name)) for name in (classes if isinstance(classes, list) else [])):
        raise CardError(f"{folder / 'config.json'}: {_DRAFTS}; give the folder of the model itself")
    text = _text_config(config)

    def number(*keys: str) -> int | None:
        return next((value for value in (positive(text.get(key)) for key in keys) if value), None)

    heads = number("num_attention_heads", "n_head", "n_heads", "num_heads")
    layers = number("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    hidden = number("hidden_size", "n_embd", "d_model", "dim", "model_dim")
    if layers is None and hidden is None and text is config:
        raise CardError(
            f"{folder / 'config.json'}: describes no language model (neither num_hidden_layers nor "
            "hidden_size); give the folder of a model"
        )
    for part in ("attn_config", "ffn_config", "moe_config"):  # MPT and DBRX keep some settings one level down
        if isinstance(config.get(part), dict):
            text = {**config[part], **text}
    kind = text.get("model_type")
    further = number(*_FURTHER_LAYERS) or 0
    context = number(
        "max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "max_seq_length", "seq_length"
    )
    copied = config.get("_name_or_path")  # what it was loaded from when it was saved: often the model before training
    outer = (_folder_name(folder), *([copied] if isinstance(copied, str) and copied.strip() else []))
    return build(
        "huggingface",
        [],
        outer,
        _count_safetensors(folder, config, range(layers, layers + further) if layers else range(0)),
        architecture=_label(
            kind if isinstance(kind, str) and kind.strip() else None,
            text.items(),
            attention=bool(heads) and not _recurrent(text),
        ),
        num_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        num_kv_heads=number(
            "num_key_value_heads", "n_head_kv", "num_kv_heads", "n_kv_heads", "kv_n_heads", "multi_query_group_num"
        ),
        context_window=context or _tokenizer_limit(folder),
        vocab_size=number("vocab_size", "padded_vocab_size", "n_vocab"),
    )


def _text_config(config: Mapping[str, Any], depth: int = 0) -> Mapping[str, Any]:
    """The configuration of the language model in that of a multimodal one, at any depth; `config` itself without one.

    What the inner configuration leaves open is taken from those around it.
    """
    parts = {key: value for key, value in config.items() if isinstance(value, dict) and value}
    inner = [key for key in _TEXT_PARTS if key in parts]
    if not inner and depth < _DEEPEST and not any(positive(config.get(key)) for key in _SIZES):
        others = [key for key in parts if not _NO_TEXT.search(key) and _has_text(parts[key], depth + 1)]
        inner = others if len(others) == 1 else []
    if not inner or depth >= _DEEPEST:
        return config
    return {**config, **_text_config(parts[inner[0]], depth + 1)}


def _has_text(config: Mapping[str, Any], depth: int) -> bool:
    if any(positive(config.get(key)) for key in _SIZES) or any(
        isinstance(config.get(key), dict) for key in _TEXT_PARTS
    ):
        return True
    return depth < _DEEPEST and any(
        isinstance(value, dict) and not _NO_TEXT.search(key) and _has_text(value, depth + 1)
        for key, value in config.items()
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
        family=(identity([basename], None)[0] or basename) if basename else family,
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
        each = {positive(item) for item in value}
        return each.pop() if len(each) == 1 else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _NONSENSE else None


def _label(name: str | None, settings: Iterable[tuple[str, Any]], *, attention: bool) -> str | None:
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


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        models = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf" or join_parts(path))
        if models:
            raise CardError(f"{folder}: a folder with GGUF files; give the file itself, such as {models[0]}")
        if (folder / "adapter_config.json").is_file():
            raise CardError(f"{folder}: a LoRA adapter; give the folder of the model that it belongs to")
        raise CardError(f"{folder}: has no config.json; give a Hugging Face model folder or a GGUF file")
    content = _json(path)
    if not isinstance(content, dict):
        raise CardError(f"{path}: must hold a JSON object, found {type(content).__name__}; give a model's folder")
    return content


def _json(path: Path) -> Any:

    from masa.files import read_text

    try:
        return parse_json(read_text(path))
    except FormatError as error:
        raise CardError(str(error)) from None
    except ParseError as error:
        raise CardError(f"{path}: not valid JSON ({error}); correct the file") from None


def _tokenizer_limit(folder: Path) -> int | None:
    """`model_max_length` of the tokenizer, unless it is the huge number that stands for "no limit"."""
    limit = positive(_optional_json(folder / "tokenizer_config.json").get("model_max_length"))
    return limit if limit and limit < 10**9 else None


def _folder_name(folder: Path) -> str:
    """The model's name in its path; the hub's cache keeps it as models--ORGANIZATION--NAME/snapshots/HASH."""
    folder = folder.resolve()
    for part in reversed(folder.parts):
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return folder.name


def _count_safetensors(folder: Path, config: Mapping[str, Any], further: range) -> int | None:
    """The parameters of a folder's *.safetensors, from their headers or, where they are not there, from the index.

    Layers that only predict further tokens, by number (`further`) or named mtp, are not counted. None where weights
    are packed, files are missing, or nothing tells.
    """
    index = _optional_json(folder / "model.safetensors.index.json")
    files = _weight_files(folder, index.get("weight_map"))
    if files and all(path.is_file() for path in files):
        return _sum_headers(files, further)
    noted = index.get("metadata")
    if not isinstance(noted, dict) or config.get("quantization_config") or config.get("quantization"):
        return None
    width = _WIDTHS.get(str(config.get("dtype", config.get("torch_dtype"))).removeprefix("torch."))
    size = positive(noted.get("total_size"))
    return positive(noted.get("total_parameters")) or (size // width if size and width else None)


def _weight_files(folder: Path, index: Any) -> list[Path]:
    """The files that make up the model: those of the index, else one alone, else numbered ones, all of them."""
    if isinstance(index, dict) and index:
        return [folder / name for name in sorted({str(name) for name in index.values()})]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        numbers = re.search(r"-(\d+)-of-(\d+)$", found[0].stem)
        return found if numbers is None or int(numbers[2]) == 1 else []
    numbered = [path for path in found if path.name.startswith("model") and re.search(r"-\d+-of-\d+$", path.stem)]
    totals = {int(path.stem.rsplit("-", 1)[1]) for path in numbered}
    return numbered if totals == {len(numbered)} else []


def _sum_headers(files: Sequence[Path], further: range) -> int | None:
    total = 0
    for path in files:
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > 100_000_000:
                    return None
                header: dict[str, Any] = parse_json(file.read(length))
            for name, tensor in header.items():
                if name == "__metadata__" or tensor["dtype"] in _NO_WEIGHTS:
                    continue
                if tensor["dtype"] not in _UNPACKED:
                    return None
                layer = re.match(r"(?:model\.|language_model\.)*layers\.(\d+)\.", name)
                if (layer and int(layer[1]) in further) or re.search(r"(?:^|\.)mtp(?:[._]|$)", name):
                    continue
                if not all(type(side) is int for side in tensor["shape"]):
                    return None
                total += math.prod(tensor["shape"])
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            return None  # the weights are not this function's business; whoever loads them will complain
    return positive(total)


def _optional_json(path: Path) -> Mapping[str, Any]:
    """The object in a file that need not be there; empty where there is none."""
    content = _json(path) if path.is_file() else None
    return content if isinstance(content, dict) else {}


def _recurrent(config: Mapping[str, Any]) -> bool:
    """Whether some layers of a Hugging Face configuration are no softmax attention."""
    for key in ("layer_types", "layers_block_type", "block_types"):
        layers = config.get(key)
        if isinstance(layers, list) and layers:
            kinds = {str(layer) for layer in layers}
            return any("linear" in kind or "attention" not in kind for kind in kinds)
    return any(value and _RECURRENT_KEY.search(key) for key, value in config.items())
