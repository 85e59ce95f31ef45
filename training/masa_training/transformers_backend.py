"""A checkpoint behind the runtime's decoding protocol, so that it can be tried before export."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from os import PathLike
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError

from masa.artifact import Artifact
from masa.backends.transformers import TransformersBackend
from masa.languages import LANGUAGES
from masa.manifest import ChatTemplate as ManifestTemplate
from masa.manifest import TrainingData
from masa.rewriter import Rewriter
from masa_training.bases import Base, open_base
from masa_training.checkpoint import RECORD, Checkpoint, read_checkpoint
from masa_training.errors import TrainingError

DTYPES = ("bfloat16", "float16", "float32")


def open_checkpoint(
    folder: str | PathLike[str] | Checkpoint,
    *,
    dtype: str = "bfloat16",
    device: str | None = None,
    adapter: bool = True,
) -> TransformersBackend:
    """The model of a checkpoint folder: its base with the adapter, or the fully trained model.

    `dtype` is one of `DTYPES`, `device` defaults to a GPU where there is one; without `adapter` it is the
    untrained base, to compare with.

    Raises:
        TrainingError: if the checkpoint or its base model is missing, damaged, or the base is another one; if there is
            no such device.
    """
    checkpoint = folder if isinstance(folder, Checkpoint) else read_checkpoint(folder)
    if dtype not in DTYPES:
        raise TrainingError(f"unknown dtype {dtype!r}; the known ones are {', '.join(DTYPES)}")
    where = device_of(device)
    base = base_of(checkpoint)
    model = _model(checkpoint, base, getattr(torch, dtype)) if adapter else base.model(getattr(torch, dtype))
    model.to(where)
    return TransformersBackend(model, base.tokenizer(), context_length=base.context_length)


def device_of(name: str | None) -> str:
    """The device of that name, else a GPU where there is one, else the CPU.

    Raises:
        TrainingError: if torch knows no such device, or this machine has none.
    """
    if not name:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Only using it tells whether it is there; a meta device takes numbers and gives none back.
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, ImportError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0][:100].rstrip(" ,")
        raise TrainingError(
            f"device {name!r}: cannot be used on this machine ({reason}); give cpu, cuda, or none for the default"
        ) from None
    return name


def base_of(checkpoint: Checkpoint) -> Base:
    """The base model that a checkpoint was trained from, with the checkpoint's chat template.

    Raises:
        TrainingError: if it is not there any more, or another model is in its place.
    """
    spec = checkpoint.base["path"]
    try:
        # Any template: the checkpoint's own replaces it, and a base without one must not be refused here.
        base = open_base(spec, "chatml")
    except TrainingError:
        base = open_base(checkpoint.base["spec"], "chatml")
    if base.sha256 != checkpoint.base["sha256"]:
        raise TrainingError(
            f"{base.path}: this is not the base model that {checkpoint.path} was trained from (sha256 "
            f"{base.sha256[:12]}…, expected {checkpoint.base['sha256'][:12]}…); put the right file in its place"
        )
    return replace(base, template=checkpoint.template)


def checkpoint_artifact(checkpoint: Checkpoint, *, trained: bool = True) -> Artifact:
    """What an artifact of this checkpoint would say of itself, for code that asks for one; it has no files.

    Raises:
        TrainingError: if the checkpoint is no rewriter.
    """
    if checkpoint.language not in LANGUAGES:
        raise TrainingError(
            f"{checkpoint.path}: is no rewriter but was trained to write {checkpoint.language!r}; "
            "play it with masa evaluate"
        )
    template = checkpoint.template
    pieces = (
        tuple((segment.text, segment.control) for segment in part)
        for part in (template.before_system, template.before_user, template.before_assistant)
    )
    return Artifact(
        name=checkpoint.path.resolve().name,
        version="0",
        kind="checkpoint",
        language=checkpoint.language,
        prompt_version=checkpoint.prompt_version,
        base_model=checkpoint.base["name"],
        weights=RECORD,
        adapter=None,
        chat_template=ManifestTemplate(*pieces),
        stop=template.stop,
        context_length=checkpoint.context_length,
        quantization=None,
        training_summary=str(checkpoint.dataset.get("summary", "")),
        trained=trained,
        training_data=TrainingData(
            dataset=checkpoint.dataset.get("name"),
            dataset_sha256=checkpoint.dataset.get("sha256"),
            synthetic=checkpoint.dataset.get("synthetic"),
        ),
        licence=str(checkpoint.dataset.get("licence", "")),
        files=MappingProxyType({}),
        packaged=MappingProxyType({}),
        fingerprint=fingerprint(checkpoint),
        path=checkpoint.path,
        paths=MappingProxyType({}),
    )


def fingerprint(checkpoint: Checkpoint) -> str:
    """sha256 over the record and the weights of a checkpoint."""
    digest = hashlib.sha256((checkpoint.path / RECORD).read_bytes())
    for file in sorted(checkpoint.path.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def rewriter_for(
    folder: str | PathLike[str], *, dtype: str = "bfloat16", device: str | None = None, **options: Any
) -> Rewriter:
    """A `masa.rewriter.Rewriter` that runs a checkpoint; `options` are those of its constructor.

    The weights are loaded on first need.

    Raises:
        TrainingError: if the folder is no checkpoint; when the weights are loaded, as `open_checkpoint`.
    """
    checkpoint = read_checkpoint(folder)
    return Rewriter(
        checkpoint_artifact(checkpoint), lambda: open_checkpoint(checkpoint, dtype=dtype, device=device), **options
    )


def _model(checkpoint: Checkpoint, base: Base, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        if checkpoint.kind == "full":
            return AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=dtype)
        from peft import PeftModel

        return PeftModel.from_pretrained(base.model(dtype), str(checkpoint.path))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{checkpoint.path}: its weights cannot be loaded ({reason}); train again or restore the files"
        ) from error
