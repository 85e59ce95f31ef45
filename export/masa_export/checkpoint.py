"""A checkpoint folder of `masa distill`, read strictly: what was trained, on which base, with which data.

Only `masa.json` and `adapter_config.json` are read here; the tensors are read by `masa_export.tensors`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masa.errors import FormatError
from masa.files import read_text
from masa.manifest import LANGUAGES
from masa.prompt import SUPPORTED_VERSIONS, ChatTemplate, Segment
from masa_export.errors import ExportError

FORMAT = 1
"""The checkpoint format this masa reads."""
NOTES, PEFT_CONFIG, PEFT_WEIGHTS = "masa.json", "adapter_config.json", "adapter_model.safetensors"
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
    version = values.whole("format")
    if version != FORMAT:
        raise ExportError(
            f"{values.where}: checkpoint format {version}, this masa reads {FORMAT}; "
            + ("upgrade masa" if version > FORMAT else "train again with this masa")
        )
    prompt_version = values.whole("prompt_version")
    if prompt_version not in SUPPORTED_VERSIONS:
        known = ", ".join(map(str, SUPPORTED_VERSIONS))
        raise ExportError(
            f"{values.where}: trained with prompt version {prompt_version}, this masa knows {known}; "
            "upgrade masa or train again"
        )
    kind = values.choice("kind", ("lora", "full"))
    if kind == "full" and not full:
        raise ExportError(f"{folder}: a full checkpoint has no adapter to export; use masa export gguf for the model")
    base, dataset, notes = values.inner("base"), values.inner("dataset"), values.inner("chat_template")
    return Checkpoint(
        path=folder,
        kind=kind,
        base=BaseNote(
            name=base.text("name"),
            spec=base.text("spec"),
            path=base.text("path"),
            kind=base.choice("kind", ("gguf", "hf")),
            sha256=base.sha256(),
        ),
        language=values.choice("language", LANGUAGES),
        prompt_version=prompt_version,
        template=ChatTemplate(
            before_system=notes.segments("before_system"),
            before_user=notes.segments("before_user"),
            before_assistant=notes.segments("before_assistant"),
            stop=notes.texts("stop"),
        ),
        notes={key: notes.values[key] for key in _TEMPLATE},
        context_length=values.whole("context_length"),
        dataset=DatasetNote(
            dataset.text("name"),
            dataset.sha256(),
            dataset.text("summary"),
            synthetic=dataset.truth("synthetic"),
            licence=dataset.text("licence"),
            held_out=dataset.texts("held_out") if "held_out" in dataset.values else (),
        ),
        lora=_read_lora(folder) if kind == "lora" else None,
    )


def _read_lora(folder: Path) -> LoraNote:
    """The adapter's settings, refused where GGUF has no place for them."""
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (folder / name).is_file():
            raise ExportError(f"{folder / name}: is missing; the checkpoint is incomplete, take another one")
    config = _load(folder / PEFT_CONFIG)
    if config.text("peft_type") != "LORA":
        config.fail(f"an adapter of peft type {config.values['peft_type']}; only LORA can be exported")
    bias = config.values.get("bias", "none")
    extras = [name for key, name in _NOT_IN_GGUF.items() if config.values.get(key)]
    if bias != "none":
        extras.append(f"trained biases (bias: {bias})")
    if extras:
        config.fail(f"uses {extras[0]}, which a GGUF adapter cannot hold; train without, or merge the checkpoint")
    start = config.values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        config.fail(f"was initialised by {start}, which changes the base's own weights; train without it")
    return LoraNote(config.whole("r"), config.number("lora_alpha"), bool(config.values.get("use_rslora")))


@dataclass(frozen=True, slots=True)
class _Values:
    """An object of a JSON file, read key by key; `inside` is its place for messages."""

    where: str
    values: Mapping[str, Any]
    inside: str = ""

    def fail(self, problem: str) -> None:
        raise ExportError(f"{self.where}: {problem}")

    def get(self, key: str, accepts: Callable[[Any], bool], wanted: str) -> Any:
        value = self.values.get(key)
        if not accepts(value):
            found = "is missing" if key not in self.values else f"is {json.dumps(value)[:60]}"
            self.fail(f'"{self.inside}{key}" {found}, it must be {wanted}; take a checkpoint of masa distill as it is')
        return value

    def text(self, key: str) -> str:
        return str(self.get(key, lambda v: isinstance(v, str) and bool(v.strip()), "a non-empty text"))

    def sha256(self) -> str:
        def accepts(v: Any) -> bool:
            return isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None

        return str(self.get("sha256", accepts, "64 lower-case hexadecimal digits"))

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(
            self.get(key, lambda v: isinstance(v, list) and all(isinstance(t, str) and t for t in v), "a list of texts")
        )

    def truth(self, key: str) -> bool:
        return bool(self.get(key, lambda v: isinstance(v, bool), "true or false"))

    def whole(self, key: str) -> int:
        return int(self.get(key, lambda v: type(v) is int and v > 0, "a whole number above 0"))

    def number(self, key: str) -> float:
        def accepts(v: Any) -> bool:
            return type(v) in (int, float) and math.isfinite(v) and v > 0

        return float(self.get(key, accepts, "a number above 0"))

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        return str(self.get(key, lambda v: v in known, " or ".join(f'"{k}"' for k in known)))

    def segments(self, key: str) -> tuple[Segment, ...]:
        def accepts(v: Any) -> bool:
            return isinstance(v, list) and all(
                isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], bool) for p in v
            )

        return tuple(Segment(*pair) for pair in self.get(key, accepts, "a list of pairs [text, is control]"))

    def inner(self, key: str) -> _Values:
        value = self.get(key, lambda v: isinstance(v, dict), "an object")
        return _Values(self.where, value, f"{self.inside}{key}.")


def _load(path: Path) -> _Values:
    try:
        content = json.loads(read_text(path))
    except FormatError as error:
        raise ExportError(str(error)) from None
    except (ValueError, RecursionError) as error:
        why = f"{error.msg} at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "absurd content"
        raise ExportError(f"{path}: no JSON ({why}); take a checkpoint of masa distill as it is") from None
    if not isinstance(content, dict):
        raise ExportError(f"{path}: no JSON object; take a checkpoint of masa distill as it is")
    return _Values(str(path), content)
