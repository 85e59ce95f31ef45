"""A backbone's architecture, read from the backbone itself: a GGUF file or a Hugging Face folder.

Weights are never loaded. What a file does not say stays None; nothing is looked up elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masa.cards import ModelCard
from masa.errors import CardError, FormatError
from masa.files import ParseError, parse_json
from masa.formats.gguf_header import GgufHeader, read_header
from masa.model_names import Detected, family_of, kind_of, parse_size, size_in, size_label

_NO_MODEL = {
    "adapter": "a LoRA adapter; give the GGUF file of the model that it belongs to",
    "mmproj": "a vision projector; give the GGUF file of the language model",
    "clip": "a vision projector; give the GGUF file of the language model",
    "vocab": "a vocabulary without weights; give the GGUF file of the model",
    "imatrix": "an importance matrix; give the GGUF file of the model",
}
_RECURRENT = ("ssm.", "wkv", "time_mix", "shortconv.", "rwkv")


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
    if name is None:
        if parts > 1:
            raise CardError(f"{path}: a later part of a split model; give its first part, …-00001-of-{parts:05d}.gguf")
        raise CardError(f"{path}: has no general.architecture, so it is no language model; give a model's GGUF")
    if not header.tensors and parts == 1:
        raise CardError(f"{path}: {_NO_MODEL['vocab']}")
    parameters = positive(metadata.get("general.parameter_count")) or _count_elements(header, parts)
    return from_metadata(metadata, name, "gguf", outer=(path.name,), parameters=parameters)


def from_metadata(
    metadata: Mapping[str, Any],
    architecture: str,
    origin: str,
    *,
    outer: tuple[str, ...],
    parameters: int | None,
) -> Detected:
    """Read a backbone from GGUF metadata, which Ollama's `/api/show` also answers with."""

    def number(key: str) -> int | None:
        return positive(metadata.get(f"{architecture}.{key}"))

    def text(key: str) -> str | None:
        value = metadata.get(f"general.{key}")
        return (value.strip() or None) if isinstance(value, str) else None

    heads = number("attention.head_count")
    kv_key = f"{architecture}.attention.head_count_kv"
    tokens = metadata.get("tokenizer.ggml.tokens")
    label = text("size_label")
    parts = [part for part in (text("basename"), label, text("finetune"), text("version")) if part]
    inner = [" ".join(parts)] if text("basename") else []
    inner += [name for name in (text("name"),) if name]
    recurrent = any(key.startswith(f"{architecture}.{word}") for key in metadata for word in _RECURRENT)
    return build(
        origin,
        inner,
        outer,
        parameters,
        label=label,
        family=text("basename"),
        architecture=_label(architecture, number("expert_count"), bool(heads) and not recurrent),
        num_layers=number("block_count"),
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
    text: Mapping[str, Any] = config
    for key in ("text_config", "llm_config", "language_config"):  # multimodal models, such as Gemma 3
        if isinstance(config.get(key), dict):
            text = {**text, **config[key]}
            break

    def number(*keys: str) -> int | None:
        return next((value for value in (positive(text.get(key)) for key in keys) if value), None)

    heads = number("num_attention_heads", "n_head", "n_heads")
    layers, hidden = (
        number("num_hidden_layers", "n_layer", "n_layers"),
        number("hidden_size", "n_embd", "d_model"),
    )
    kind = text.get("model_type")
    if layers is None and hidden is None:
        raise CardError(
            f"{folder / 'config.json'}: describes no language model (neither num_hidden_layers nor "
            "hidden_size); give the folder of a model"
        )
    experts = number("num_experts", "num_local_experts", "n_routed_experts")
    context = number("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    name = config.get("_name_or_path")
    return build(
        "huggingface",
        [name] if isinstance(name, str) and name.strip() else [],
        (_folder_name(folder),),
        _count_safetensors(folder),
        architecture=_label(kind if isinstance(kind, str) else None, experts, bool(heads) and not _recurrent(text)),
        num_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        num_kv_heads=number("num_key_value_heads", "n_head_kv"),
        context_window=context or _tokenizer_limit(folder),
        vocab_size=number("vocab_size"),
    )


def build(
    origin: str,
    inner: Sequence[str],
    outer: Sequence[str],
    parameters: int | None,
    *,
    label: str | None = None,
    family: str | None = None,
    **architecture: Any,
) -> Detected:
    """A `Detected` whose card has the given architecture, and family, size and kind as the names say them."""
    names = [*inner, *outer]
    stated = label if parse_size(label) or re.fullmatch(r"[\w.-]{2,16}", label or "") else None
    size = stated or size_in(names)
    card = ModelCard(
        family=family or family_of(names),
        variant=size,
        parameter_count=size or (size_label(parameters) if parameters else None),
        base_or_instruct=kind_of(names),
        **architecture,
    )
    card = ModelCard(**card.fields(), origins=dict.fromkeys(card.fields(), origin))  # type: ignore[arg-type]
    return Detected(card, tuple(inner), tuple(outer), parameters)


def positive(value: Any) -> int | None:
    """`value` as a positive whole number; of a value per layer, the one that all layers share; else None."""
    if isinstance(value, (list, tuple)):
        each = {positive(item) for item in value}
        return each.pop() if len(each) == 1 else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _label(name: str | None, experts: int | None, attention: bool) -> str | None:
    """The card's word for an architecture; a recurrent or unknown one keeps its own name."""
    if not attention:
        return name
    return "moe-transformer" if experts and experts > 1 else "dense-transformer"


def _count_elements(header: GgufHeader, parts: int) -> int | None:
    """All elements of the tensors, over all parts of a split model; None if a part is missing."""
    if parts == 1:
        return header.elements or None
    total = 0
    for part in range(1, parts + 1):
        name = re.sub(r"-\d{5}-of-\d{5}\.gguf$", f"-{part:05d}-of-{parts:05d}.gguf", header.path.name)
        try:
            total += read_header(header.path.with_name(name), check_size=False).elements
        except FormatError:
            return None
    return total


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        models = sorted(folder.glob("*.gguf"))
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
    path = folder / "tokenizer_config.json"
    content = _json(path) if path.is_file() else None
    limit = positive(content.get("model_max_length")) if isinstance(content, dict) else None
    return limit if limit and limit < 10**9 else None


def _folder_name(folder: Path) -> str:
    """The model's name in its path; the hub's cache keeps it as models--ORGANIZATION--NAME/snapshots/HASH."""
    folder = folder.resolve()
    for part in reversed(folder.parts):
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return folder.name


def _count_safetensors(folder: Path) -> int | None:
    """All elements of the folder's *.safetensors; None without such files or if weights are packed."""

    total = 0
    for path in sorted(folder.glob("model*.safetensors")):
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > 100_000_000:
                    return None
                header: dict[str, Any] = parse_json(file.read(length))
            for name, tensor in header.items():
                if name == "__metadata__":
                    continue
                if tensor["dtype"] not in ("F64", "F32", "F16", "BF16"):
                    return None
                count = 1
                for side in tensor["shape"]:
                    count *= side
                total += count
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            return None  # the weights are not this function's business; whoever loads them will complain
    return total or None


def _recurrent(config: Mapping[str, Any]) -> bool:
    """Whether some layers of a Hugging Face configuration are no softmax attention."""
    if any(word in key for key in config for word in ("mamba", "ssm", "conv")):
        return True
    layers = config.get("layer_types")
    kinds = {str(layer) for layer in layers} if isinstance(layers, list) else set()
    return any("linear" in kind or "attention" not in kind for kind in kinds)
