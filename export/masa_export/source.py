"""What is exported: a checkpoint of `masa distill`, its base and the adapter's settings, opened once.

Every export takes a `Source`. No tensor is read here.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from masa.artifact import find_artifact, read_manifest
from masa.checksums import sha256_file
from masa.errors import MasaError
from masa.files import parse_json, read_text
from masa.formats.gguf_header import GgufHeader, read_header
from masa.languages import LANGUAGES
from masa.manifest import Manifest
from masa_export.errors import ExportError
from masa_export.tensors import open_model
from masa_training.bases import Base
from masa_training.checkpoint import Checkpoint, base_of, gguf_file, read_checkpoint, read_record

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNKNOWN_LICENCE = "unknown"
ARCHITECTURES: Mapping[str, str] = {"llama": "llama", "gemma3_text": "gemma3", "qwen2": "qwen2", "qwen3": "qwen3"}
"""The architectures that can be exported: `model_type` of a config.json -> name in a GGUF."""

# What peft can add to a LoRA that a GGUF adapter has no place for: key of adapter_config.json -> its name.
_NOT_IN_GGUF: Mapping[str, str] = {
    "use_dora": "DoRA",
    "lora_bias": "trained biases",
    "modules_to_save": "whole modules trained beside the adapter (modules_to_save)",
    "trainable_token_indices": "trained token embeddings",
    "target_parameters": "adapters on bare parameters (target_parameters)",
    "layer_replication": "replicated layers",
    "rank_pattern": "ranks that differ by module (rank_pattern)",
    "alpha_pattern": "alphas that differ by module (alpha_pattern)",
    "fan_in_fan_out": "transposed layers (fan_in_fan_out)",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
# Initialisations that change the base's own weights: without those the adapter means something else.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_NO_NAME = re.compile(r"[^a-z0-9._-]+")
_QUANTIZED_ENDING = re.compile(r"[._-](i?q[0-9]\w*|b?f(16|32))$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Lora:
    """What peft says about an adapter."""

    rank: int
    alpha: float
    rslora: bool

    @property
    def gguf_alpha(self) -> float:
        """The alpha for which llama.cpp's scale alpha / rank is peft's: rsLoRA divides by the rank's root instead."""
        return self.alpha * math.sqrt(self.rank) if self.rslora else self.alpha

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.gguf_alpha / self.rank


@dataclass(frozen=True, slots=True)
class Shape:
    """What an export needs of a model's shape.

    `architecture` is the GGUF's name. `tensors` are those of a GGUF with inputs first as GGUF tells them; None where
    only a Hugging Face folder is known.
    """

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    tensors: Mapping[str, tuple[int, ...]] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Source:
    """A checkpoint that can be exported.

    Attributes:
        lora: None for a full checkpoint.
        base: what transformers loads as its base: the model it was trained on.
        gguf: that model as GGUF, where one is known: `base` itself, or one given beside a Hugging Face folder.
        header: of `gguf`.
    """

    checkpoint: Checkpoint
    lora: Lora | None
    base: Base
    gguf: Path | None
    header: GgufHeader | None = field(repr=False)
    shape: Shape

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def weights(self) -> Path:
        """The adapter's tensors."""
        return self.path / PEFT_WEIGHTS

    @property
    def adapter(self) -> Lora:
        """What peft says about the adapter; only a LoRA checkpoint has one."""
        assert self.lora is not None, self.path
        return self.lora

    @property
    def folder(self) -> Path | None:
        """The base's Hugging Face folder, where it has one."""
        return self.base.path if self.base.kind == "hf" else None

    @property
    def where(self) -> str:
        """The base's place, for people."""
        return str(self.gguf or self.folder)

    @functools.cached_property
    def weights_sha256(self) -> str:
        """Of the adapter's file, or of all files of a full checkpoint in order of their names."""
        if self.checkpoint.kind == "lora":
            return sha256_file(self.weights)
        paths = sorted({file.path for file in open_model(self.path).values()})
        return hashlib.sha256("".join(map(sha256_file, paths)).encode()).hexdigest()

    @functools.cached_property
    def packaged_base(self) -> Manifest | None:
        """The artifact whose weights it was trained on, where that is here."""
        try:
            return read_manifest(find_artifact(self.checkpoint.base.spec))
        except MasaError:
            return None

    @property
    def origin(self) -> tuple[str, str]:
        """Name and licence of the base: from the artifact it was, else from its GGUF, else from the checkpoint."""
        manifest = self.packaged_base
        if manifest is not None and manifest.entries[manifest.weights].sha256 == self.checkpoint.base.sha256:
            return manifest.base_model, manifest.licence
        licence = self.header.text("general.license") if self.header is not None else None
        return self.checkpoint.base.name, licence or UNKNOWN_LICENCE

    @property
    def default_name(self) -> str:
        """`smollm2-135m-plan`: base and language."""
        base = self.packaged_base.name if self.packaged_base is not None else ""
        if not base:
            stem = _QUANTIZED_ENDING.sub("", self.checkpoint.base.name).lower()
            base = _NO_NAME.sub("-", stem).strip("-._") or "rewriter"
        return f"{base[:60]}-{self.checkpoint.language}"


def open_source(folder: Path, base: str | None = None, *, full: bool = False) -> Source:
    """The LoRA checkpoint in `folder`, with `full` also a full one.

    Its base is looked for where it was trained, or at `base`: a GGUF file, a Hugging Face folder, an artifact.

    Raises:
        MasaError: in one sentence, for no checkpoint of a rewriter, an adapter that GGUF cannot hold, and a base that
            is not there, is another one, or of an architecture not in `ARCHITECTURES`.
    """
    checkpoint = read_checkpoint(folder)
    if checkpoint.language not in LANGUAGES:
        raise ExportError(
            f"{folder}: writes {checkpoint.language!r}, a rewriter writes {' or '.join(LANGUAGES)}; give another one"
        )
    if checkpoint.kind == "full" and not full:
        raise ExportError(f"{folder}: a full checkpoint has no adapter to export; use masa export gguf for the model")
    lora = _read_lora(folder) if checkpoint.kind == "lora" else None
    if checkpoint.base.kind == "hf" and base is not None and not Path(base).is_dir():
        return _beside_folder(checkpoint, lora, gguf_file(base))
    found = base_of(checkpoint, base)
    if found.kind == "hf":
        return Source(checkpoint, lora, found, None, None, _folder_shape(found.path))
    header = read_header(found.path)
    return Source(checkpoint, lora, found, found.path, header, gguf_shape(header))


def _beside_folder(checkpoint: Checkpoint, lora: Lora | None, gguf: Path) -> Source:
    """A checkpoint of a Hugging Face folder, with a GGUF that is said to be of the same model."""
    header = read_header(gguf)
    shape = gguf_shape(header)
    if not (Path(checkpoint.base.path) / "config.json").is_file():
        base = Base(str(gguf), "gguf", gguf, checkpoint.context_length, checkpoint.template)
        return Source(checkpoint, lora, base, gguf, header, shape)
    base = base_of(checkpoint)
    return with_gguf(Source(checkpoint, lora, base, None, None, _folder_shape(base.path)), gguf)


def with_gguf(source: Source, gguf: Path) -> Source:
    """The source of a Hugging Face folder with a GGUF that is said to be of the same model.

    Raises:
        ExportError: if it has another shape.
    """
    header = read_header(gguf)
    shape = gguf_shape(header)
    if replace(shape, tensors=None) != source.shape:
        raise ExportError(f"{gguf}: has another shape than {source.where}; give a GGUF made from that folder")
    return replace(source, gguf=gguf, header=header, shape=shape)


def gguf_shape(header: GgufHeader) -> Shape:
    """The shape of the model in a GGUF file.

    Raises:
        ExportError: if it does not tell it, or is of an architecture not in `ARCHITECTURES`.
    """
    architecture = header.text("general.architecture") or "none"
    _check(architecture, tuple(ARCHITECTURES.values()), header.path)

    def number(name: str, otherwise: str | None = None) -> int:
        key = f"{architecture}.{name}"
        if key not in header.metadata and otherwise is not None:
            key = f"{architecture}.{otherwise}"
        return _positive(header.metadata.get(key), key, header.path)

    return Shape(
        architecture,
        layers=number("block_count"),
        heads=number("attention.head_count"),
        kv_heads=number("attention.head_count_kv", "attention.head_count"),
        tensors={tensor.name: tensor.shape for tensor in header.tensors},
    )


def _folder_shape(folder: Path) -> Shape:
    path = folder / "config.json"
    try:
        config: Any = parse_json(read_text(path))
    except ValueError:
        raise ExportError(f"{path}: no JSON; fetch the base again") from None
    if not isinstance(config, dict):
        raise ExportError(f"{path}: no JSON object; fetch the base again")
    kind = str(config.get("model_type"))
    _check(kind, tuple(ARCHITECTURES), path)
    heads = _positive(config.get("num_attention_heads"), "num_attention_heads", path)
    return Shape(
        ARCHITECTURES[kind],
        layers=_positive(config.get("num_hidden_layers"), "num_hidden_layers", path),
        heads=heads,
        kv_heads=_positive(config.get("num_key_value_heads", heads), "num_key_value_heads", path),
    )


def _check(architecture: str, known: tuple[str, ...], path: Path) -> None:
    if architecture not in known:
        raise ExportError(
            f"{path}: the architecture {architecture} cannot be exported, only {', '.join(known)}; take another base"
        )


def _positive(value: object, key: str, path: Path) -> int:
    if type(value) is not int or value < 1:
        raise ExportError(f"{path}: {key} is {value!r}, not a number above 0; the base is damaged, fetch it again")
    return value


def _read_lora(folder: Path) -> Lora:
    """The adapter's settings, refused where GGUF has no place for them."""
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (folder / name).is_file():
            raise ExportError(f"{folder / name}: is missing; the checkpoint is incomplete, take another one")
    config = read_record(folder / PEFT_CONFIG)
    if config.string("peft_type") != "LORA":
        config.fail(f"an adapter of peft type {config.content['peft_type']}; only LORA can be exported")
    bias = config.content.get("bias", "none")
    extras = [name for key, name in _NOT_IN_GGUF.items() if config.content.get(key)]
    if bias != "none":
        extras.append(f"trained biases (bias: {bias})")
    if extras:
        config.fail(f"uses {extras[0]}, which a GGUF adapter cannot hold; train without, or merge the checkpoint")
    start = config.content.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        config.fail(f"was initialised by {start}, which changes the base's own weights; train without it")
    return Lora(config.integer("r"), config.number("lora_alpha"), bool(config.content.get("use_rslora")))
