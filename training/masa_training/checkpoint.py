"""Checkpoints: the folder that `masa distill` leaves, as weights and a record of what they are.

`masa.json` tells base, output language, prompt version and chat template, so that nobody can run the weights with
another prompt than they were trained with.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from masa.checksums import verified_sha256
from masa.codec import template_from_fields, template_to_json
from masa.errors import FormatError, MasaError
from masa.files import parse_json, read_text, write_atomic
from masa.formats.gguf_header import is_gguf
from masa.json_fields import Fields
from masa.prompt import SUPPORTED_VERSIONS, ChatTemplate
from masa.weights import find_weights
from masa_training.bases import Base, folder_sha256
from masa_training.errors import TrainingError

RECORD = "masa.json"
FORMAT = 1
KINDS = ("lora", "full")
_ADVICE = "take a checkpoint of masa distill as it is"
_BASE_ADVICE = "put it there again, or name its place (masa export: --base)"


@dataclass(frozen=True, slots=True)
class BaseNote:
    """The base a checkpoint was trained on; `path` and `spec` as the trainer saw them.

    `kind` is "gguf" or "hf", `sha256` that of the GGUF file, or of a folder as `Base.sha256` computes it.
    """

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
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `masa.json` says.

    Attributes:
        kind: "lora" (peft's adapter files) or "full" (a transformers model).
        language: an output language of rewriters, or "action" for a model that plays.
        context_length: the base's, in tokens.
        training: the hyper-parameters.
        metrics: what was measured at the end.
    """

    path: Path
    kind: str
    base: BaseNote
    language: str
    prompt_version: int
    template: ChatTemplate
    context_length: int
    dataset: DatasetNote
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(checkpoint: Checkpoint) -> None:
    """Write `masa.json` into the checkpoint's folder, atomically; the weights must be there already."""
    dataset = asdict(checkpoint.dataset)
    if not dataset["held_out"]:
        del dataset["held_out"]
    value = {
        "format": FORMAT,
        "kind": checkpoint.kind,
        "base": asdict(checkpoint.base),
        "language": checkpoint.language,
        "prompt_version": checkpoint.prompt_version,
        "chat_template": template_to_json(checkpoint.template),
        "context_length": checkpoint.context_length,
        "dataset": dataset,
        "training": dict(checkpoint.training),
        "metrics": dict(checkpoint.metrics),
    }
    write_atomic(checkpoint.path / RECORD, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))


def read_checkpoint(folder: str | PathLike[str]) -> Checkpoint:
    """The record in a checkpoint folder; the weights are not looked at.

    Raises:
        TrainingError: in one sentence, if there is none, it is damaged, or of another format or prompt version.
    """
    path = Path(folder)
    record = path / RECORD
    if not path.is_dir():
        raise TrainingError(f"{path}: no such folder; give the checkpoint folder that masa distill wrote")
    if not record.is_file():
        raise TrainingError(f"{path}: no {RECORD} in it, so it is no checkpoint of masa distill; give another folder")
    values = read_record(record)
    version = values.integer("format")
    if version != FORMAT:
        raise TrainingError(
            f"{record}: checkpoint format {version}, this masa reads {FORMAT}; "
            + ("upgrade masa" if version > FORMAT else "train again with this masa")
        )
    prompt_version = values.integer("prompt_version")
    if prompt_version not in SUPPORTED_VERSIONS:
        raise TrainingError(
            f"{record}: trained with prompt version {prompt_version}, this masa knows "
            f"{', '.join(map(str, SUPPORTED_VERSIONS))}; upgrade masa or train again"
        )
    base, dataset = values.nested("base"), values.nested("dataset")
    return Checkpoint(
        path=path,
        kind=values.choice("kind", KINDS),
        base=BaseNote(
            name=base.string("name"),
            spec=base.string("spec"),
            path=base.string("path"),
            kind=base.choice("kind", ("gguf", "hf")),
            sha256=base.sha256(),
        ),
        language=values.string("language"),
        prompt_version=prompt_version,
        template=template_from_fields(values.nested("chat_template")),
        context_length=values.integer("context_length"),
        dataset=DatasetNote(
            name=dataset.string("name"),
            sha256=dataset.sha256(),
            summary=dataset.string("summary"),
            synthetic=dataset.boolean("synthetic"),
            licence=dataset.string("licence"),
            held_out=dataset.strings("held_out") if "held_out" in dataset.content else (),
        ),
        training=values.nested("training").content if "training" in values.content else {},
        metrics=values.nested("metrics").content if "metrics" in values.content else {},
    )


def read_record(path: Path) -> Fields:
    """The JSON object in a file of a checkpoint.

    Raises:
        TrainingError: if it cannot be read or holds something else.
    """
    try:
        content = parse_json(read_text(path))
    except FormatError as error:
        raise TrainingError(str(error)) from None
    except ValueError as error:
        raise TrainingError(f"{path}: no JSON ({error}); {_ADVICE}") from None
    if not isinstance(content, dict):
        raise TrainingError(f"{path}: no JSON object; {_ADVICE}")
    return Fields(content, str(path), TrainingError, _ADVICE)


def base_of(checkpoint: Checkpoint, given: str | None = None) -> Base:
    """The base model that a checkpoint was trained from, with the checkpoint's chat template.

    It is looked for where it is `given` (a GGUF file, a Hugging Face folder or an artifact), else where it was trained.

    Raises:
        TrainingError: if it is not there, or another model is in its place (by sha256).
    """
    note = checkpoint.base
    path = find_base(checkpoint, given)
    sha256 = verified_sha256(path, note.sha256) if note.kind == "gguf" else folder_sha256(path)
    if sha256 != note.sha256:
        raise TrainingError(
            f"{path}: not the base of {checkpoint.path} (sha256 {sha256[:12]}…, it was trained on "
            f"{note.sha256[:12]}…); {_BASE_ADVICE}"
        )
    return Base(note.spec, note.kind, path, checkpoint.context_length, checkpoint.template)


def gguf_file(given: str) -> Path:
    """The GGUF file that a user names: by its path, or as the artifact whose weights it is.

    Raises:
        TrainingError: if it is neither.
    """
    path = Path(given)
    if path.is_file():
        if not is_gguf(path):
            raise TrainingError(f"{path}: not a GGUF file; give the base as .gguf")
        return path
    try:
        return find_weights(given, verify=False)
    except MasaError as error:
        raise TrainingError(f"--base {given}: neither a GGUF file nor a rewriter that is here ({error})") from None


def find_base(checkpoint: Checkpoint, given: str | None = None) -> Path:
    """Where the base of a checkpoint lies, as `base_of` looks for it; whether it is the right one is not looked at.

    Raises:
        TrainingError: if it is not there.
    """
    note = checkpoint.base
    if note.kind == "gguf" and given is not None:
        return gguf_file(given)
    for spec in (note.path, note.spec) if given is None else (given,):
        path = Path(spec).expanduser()
        if path.is_file() if note.kind == "gguf" else (path / "config.json").is_file():
            return path
        if note.kind == "gguf":
            with contextlib.suppress(MasaError):
                return find_weights(spec, verify=False)
    raise TrainingError(f"{given or note.path}: the base of {checkpoint.path} is not there; {_BASE_ADVICE}")
