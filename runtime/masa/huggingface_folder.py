"""A backbone's architecture, read from a Hugging Face folder: its config.json, and the headers of its weights.

Weights are never loaded. What the files do not say stays None; nothing is looked up elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masa.detect import DRAFT, DRAFTS, architecture_label, build, positive
from masa.errors import CardError, FormatError
from masa.files import ParseError, parse_json
from masa.formats.gguf_header import join_parts
from masa.model_names import Detected

_RECURRENT_KEY = re.compile(
    r"mamba|ssm|conv|rwkv|lightning|linear_attn|linear_num|linear_key|lru_width|hybrid_override|attn_type_list|kda_"
)
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
_UNPACKED = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8")
"""Types of tensors of which an element is a parameter; others pack several into one."""
_NO_WEIGHTS = ("BOOL", "I64")  # masks and positions
_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}


def detect_folder(folder: Path) -> Detected:
    """Read a backbone from a Hugging Face folder with config.json.

    Raises:
        CardError: if the folder holds no such model or its config.json cannot be read.
    """
    config = _config(folder)
    classes = config.get("architectures")
    if any(DRAFT.search(str(name)) for name in (classes if isinstance(classes, list) else [])):
        raise CardError(f"{folder / 'config.json'}: {DRAFTS}; give the folder of the model itself")
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
        architecture=architecture_label(
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
