"""What is evaluated: a checkpoint (transformers) or an artifact, and the untrained base of either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from masa.artifact import Artifact, load_artifact
from masa.backends import Backend, open_backend
from masa.backends.tokenizing import Tokenizer
from masa.errors import ArtifactError
from masa.prompt import ChatTemplate
from masa_training.checkpoint import RECORD, Checkpoint, base_of, read_checkpoint
from masa_training.encoding import SHORT_CARD
from masa_training.errors import TrainingError

TRAINED, BASE = "trained", "base"


@dataclass(frozen=True, slots=True)
class Subject:
    """A rewriter under evaluation.

    Attributes:
        model: "trained", or "base" for the same base model without the training.
        artifact: what it says of itself; for a checkpoint one without files.
        fields: the fields of a card that it was trained to read; None for all.
        open: loads the model, with its adapter.
        tokenizer: loads what tokenizes for it and nothing else.
        fingerprint: of the trained rewriter, also for its base.
    """

    model: str
    artifact: Artifact
    fields: tuple[str, ...] | None
    open: Callable[[], Backend]
    tokenizer: Callable[[], Tokenizer]
    fingerprint: str

    @property
    def template(self) -> ChatTemplate:
        return ChatTemplate.from_artifact(self.artifact)


def open_subject(
    spec: str, *, base: bool = False, dtype: str = "bfloat16", device: str | None = None, threads: int | None = None
) -> Subject:
    """The rewriter in a checkpoint folder, or the artifact of that name or in that folder; no weights are loaded yet.

    With `base` it is its untrained base model. `dtype` and `device` are for checkpoints, `threads` for artifacts.

    Raises:
        TrainingError: if it is neither, or has no base to compare with, or this machine has no such device.
    """
    if (Path(spec) / RECORD).is_file():
        return _checkpoint(read_checkpoint(spec), base=base, dtype=dtype, device=device)
    try:
        artifact = load_artifact(spec)
    except ArtifactError as error:
        if Path(spec).is_dir():
            raise TrainingError(
                f"{spec}: neither a checkpoint (no {RECORD} in it) nor an artifact that can be loaded ({error})"
            ) from None
        raise
    return _artifact(artifact, base=base, threads=threads)


def _checkpoint(checkpoint: Checkpoint, *, base: bool, dtype: str, device: str | None) -> Subject:
    from masa_training.transformers_backend import checkpoint_artifact, device_of, open_checkpoint

    device_of(device)  # a mistake is told before anything is read
    artifact = checkpoint_artifact(checkpoint)
    fields = {"full": None, "short": SHORT_CARD, "none": ()}.get(str(checkpoint.training.get("card", "full")))
    return Subject(
        model=BASE if base else TRAINED,
        artifact=artifact,
        fields=fields,
        open=lambda: open_checkpoint(checkpoint, dtype=dtype, device=device, adapter=not base),
        tokenizer=lambda: base_of(checkpoint).tokenizer(),
        fingerprint=artifact.fingerprint,
    )


def _artifact(artifact: Artifact, *, base: bool, threads: int | None) -> Subject:
    if base and artifact.adapter is None:
        raise TrainingError(
            f"{artifact.path}: this artifact has no adapter, so its untrained base is not in it; "
            "leave out --compare-base"
        )
    judged = replace(artifact, adapter=None) if base else artifact

    return Subject(
        model=BASE if base else TRAINED,
        artifact=judged,
        fields=None,
        open=lambda: open_backend(judged, threads=threads),
        tokenizer=lambda: open_backend(judged, vocab_only=True),
        fingerprint=artifact.fingerprint,
    )
