"""A checkpoint folder of `masa distill`, read strictly: what was trained, on which base, with which data.

Only `masa.json` and `adapter_config.json` are read here; the tensors are read by `masa_export.tensors`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masa.errors import FormatError
from masa.fields import Fields
from masa.files import parse_json, read_text
from masa.manifest import LANGUAGES
from masa.prompt import SUPPORTED_VERSIONS, ChatTemplate, Segment
from masa_export.errors import ExportError

FORMAT = 1
"""The checkpoint format this masa reads."""
NOTES, PEFT_CONFIG, PEFT_WEIGHTS = "masa.json", "adapter_config.json", "adapter_model.safetensors"
_ADVICE = "take a checkpoint of masa distill as it is"
_TEMPLATE = ("before_system", "before_user", "before_assistant", "stop")

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


@dataclass(frozen=True, slots=True)
class BaseNote:
    """The base a checkpoint was trained on; `path` and `spec` as the trainer saw them, `sha256` of the weights."""

    name: str
    spec: str
    path: str
    kind: str
    sha256: str


@dataclass(frozen=True, slots=True)
class DatasetNote:
    """The data it was trained on; `summary` is the sentence for an artifact's manifest."""

    name: str
    sha256: str
    summary: str
    synthetic: bool
    licence: str
    held_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoraNote:
    """What peft says about the adapter."""

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
class Checkpoint:
    """A checkpoint that can be exported. `kind` is "lora" or "full"; `lora` is None for a full one.

    `notes` is the chat template as masa.json spells it, `context_length` the base's, in tokens.
    """

    path: Path
    kind: str
    base: BaseNote
    language: str
    prompt_version: int
    template: ChatTemplate
    notes: Mapping[str, Any] = field(repr=False)
    context_length: int
    dataset: DatasetNote
    lora: LoraNote | None

    @property
    def weights(self) -> Path:
        """The adapter's tensors."""
        return self.path / PEFT_WEIGHTS

    @property
    def adapter(self) -> LoraNote:
        """What peft says about the adapter; only a LoRA checkpoint has one."""
        assert self.lora is not None, self.path
        return self.lora


def read_checkpoint(folder: Path, *, full: bool = False) -> Checkpoint:
    """The LoRA checkpoint in `folder`; with `full` also a full one.

    Raises:
        ExportError: in one sentence, for no checkpoint, one of another format, prompt version or kind, a missing
            or wrong value, and an adapter that GGUF cannot hold.
    """
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such folder; give the checkpoint folder that masa distill wrote")
    if not (folder / NOTES).is_file():
        raise ExportError(f"{folder}: no {NOTES} in it, so it is no checkpoint of masa distill; give another folder")
    values = _load(folder / NOTES)
    version = values.integer("format")
    if version != FORMAT:
        raise ExportError(
            f"{values.where}: checkpoint format {version}, this masa reads {FORMAT}; "
            + ("upgrade masa" if version > FORMAT else "train again with this masa")
        )
    prompt_version = values.integer("prompt_version")
    if prompt_version not in SUPPORTED_VERSIONS:
        known = ", ".join(map(str, SUPPORTED_VERSIONS))
        raise ExportError(
            f"{values.where}: trained with prompt version {prompt_version}, this masa knows {known}; "
            "upgrade masa or train again"
        )
    kind = values.choice("kind", ("lora", "full"))
    if kind == "full" and not full:
        raise ExportError(f"{folder}: a full checkpoint has no adapter to export; use masa export gguf for the model")
    base, dataset, notes = values.nested("base"), values.nested("dataset"), values.nested("chat_template")
    return Checkpoint(
        path=folder,
        kind=kind,
        base=BaseNote(
            name=base.string("name"),
            spec=base.string("spec"),
            path=base.string("path"),
            kind=base.choice("kind", ("gguf", "hf")),
            sha256=base.sha256(),
        ),
        language=values.choice("language", LANGUAGES),
        prompt_version=prompt_version,
        template=ChatTemplate(
            before_system=_segments(notes, "before_system"),
            before_user=_segments(notes, "before_user"),
            before_assistant=_segments(notes, "before_assistant"),
            stop=notes.strings("stop"),
        ),
        notes={key: notes.content[key] for key in _TEMPLATE},
        context_length=values.integer("context_length"),
        dataset=DatasetNote(
            dataset.string("name"),
            dataset.sha256(),
            dataset.string("summary"),
            synthetic=dataset.boolean("synthetic"),
            licence=dataset.string("licence"),
            held_out=dataset.strings("held_out") if "held_out" in dataset.content else (),
        ),
        lora=_read_lora(folder) if kind == "lora" else None,
    )


def _read_lora(folder: Path) -> LoraNote:
    """The adapter's settings, refused where GGUF has no place for them."""
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (folder / name).is_file():
            raise ExportError(f"{folder / name}: is missing; the checkpoint is incomplete, take another one")
    config = _load(folder / PEFT_CONFIG)
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
    return LoraNote(config.integer("r"), config.number("lora_alpha"), bool(config.content.get("use_rslora")))


def _segments(notes: Fields, key: str) -> tuple[Segment, ...]:
    return tuple(Segment(text, control) for text, control in notes.segments(key))


def _load(path: Path) -> Fields:
    try:
        content = parse_json(read_text(path))
    except FormatError as error:
        raise ExportError(str(error)) from None
    except ValueError as error:
        raise ExportError(f"{path}: no JSON ({error}); {_ADVICE}") from None
    if not isinstance(content, dict):
        raise ExportError(f"{path}: no JSON object; {_ADVICE}")
    return Fields(content, str(path), ExportError, _ADVICE)
