"""How like two models are: their logits at the same positions of the same prompts.

Used twice by `masa export gguf`: the merged file against the checkpoint in transformers, which finds a wrong merge, and
every quantized file against the merged one, which tells what quantization costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from masa.backends.llama import LlamaBackend
from masa_export.base import Base
from masa_export.checkpoint import Checkpoint
from masa_export.errors import ExportError
from masa_export.parity import Margin, llama_logits, rms, sample_prompts, transformers_logits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Likeness:
    """A model against a reference, over all positions.

    Attributes:
        divergence: mean Kullback-Leibler divergence of the next token's distribution from the reference's, in nats.
        worst: the largest one of a single position.
        equal: share of positions whose most probable token is the same.
        difference: the largest absolute difference of two logits.
        error: root mean square of the differences of logits.
        positions: how many there are.
    """

    divergence: float
    worst: float
    equal: float
    difference: float
    error: float
    positions: int


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged file in llama.cpp against the checkpoint in transformers (float32).

    Attributes:
        likeness: of the two.
        effect: root mean square of what the checkpoint changes in its base's logits.
    """

    likeness: Likeness
    effect: float


# Measured on SmolLM2-135M Q4_1 (trained, r 16), Gemma-3-270M Q4_K_M and a small random Qwen3 (random adapters): see
# docs/export.md. A wrong rotary order gives an error of half the effect, a missing adapter one of the whole.
MARGINS: Mapping[str, Margin] = {
    "F32": Margin(0.05, 0.2, 0.01, 0.02),
    "F16": Margin(0.05, 0.2, 0.01, 0.02),
    "BF16": Margin(0.5, 1.0, 0.05, 0.1),
}
EQUAL = 0.95
"""Least share of equal best tokens."""


def logits_of(
    path: Path, checkpoint: Checkpoint, prompts: Sequence[Sequence[int]] | None = None
) -> tuple[list[list[int]], NDArray[np.float32]]:
    """Prompts as token ids (the sample prompts by the file's own tokenizer, unless given), and llama.cpp's logits.

    Raises:
        BackendError: if llama.cpp cannot load the file.
        ExportError: if a logit is not finite.
    """
    import numpy as np

    backend = LlamaBackend.load(path)
    try:
        tokens = sample_prompts(checkpoint, backend) if prompts is None else [list(prompt) for prompt in prompts]
        logits = llama_logits(backend, None, tokens)
    finally:
        backend.close()
    if not np.isfinite(logits).all():
        raise ExportError(f"{path.name}: computes logits that are not finite; take another type")
    return tokens, logits


def likeness(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> Likeness:
    """Compare logits (positions x vocabulary) with the reference's."""
    import numpy as np

    divergences = []
    for ours, theirs in zip(logits, reference, strict=True):  # row by row: float64 of all would be large
        p, q = _log_softmax(theirs), _log_softmax(ours)
        divergences.append(float(np.sum(np.exp(p) * (p - q))))
    return Likeness(
        divergence=max(0.0, float(np.mean(divergences))),
        worst=max(0.0, float(np.max(divergences))),
        equal=float((logits.argmax(1) == reference.argmax(1)).mean()),
        difference=float(np.abs(logits - reference).max()),
        error=rms(logits - reference),
        positions=len(logits),
    )


def measure_merged(
    checkpoint: Checkpoint, base: Base, prompts: Sequence[Sequence[int]], logits: NDArray[np.float32]
) -> Merged:
    """Compare `logits`, llama.cpp's of the merged file at `prompts`, with the checkpoint's in transformers.

    Needs torch, transformers and peft, and memory for the base in float32.

    Raises:
        ExportError: if a library cannot load base or checkpoint.
    """
    plain, merged = transformers_logits(checkpoint, base, prompts)
    if merged.shape != logits.shape:
        raise ExportError(
            f"{checkpoint.path}: its model has {merged.shape[1]} tokens, the merged GGUF {logits.shape[1]}; "
            "give the base that it was trained on"
        )
    return Merged(likeness(logits, merged), rms(merged - plain))


def check_merged(found: Merged, kind: str, where: str) -> None:
    """Refuse a merged file of this kind ("F16", "BF16", "F32") that is not within the margins.

    Raises:
        ExportError: the message tells measured and allowed figures.
    """
    margin = MARGINS[kind]
    difference = margin.difference + margin.difference_share * found.effect
    error = margin.error + margin.error_share * found.effect
    problem = ""
    # Written so that a NaN fails.
    if not found.likeness.error <= error:
        problem = f"logits differ by {found.likeness.error:.2g} (rms), {error:.2g} is allowed"
    elif not found.likeness.difference <= difference:
        problem = f"logits differ by up to {found.likeness.difference:.2g}, {difference:.2g} is allowed"
    elif not found.likeness.equal >= EQUAL:
        problem = f"{found.likeness.equal:.0%} of the best tokens are equal, at least {EQUAL:.0%} must be"
    if problem:
        raise ExportError(
            f"{where}: llama.cpp with the merged file does not compute what the checkpoint does ({problem}); nothing "
            "was written; check that the base is the one it was trained on, then report this as a bug"
        )


def _log_softmax(row: NDArray[np.float32]) -> NDArray[np.float64]:
    import numpy as np

    shifted = row.astype(np.float64) - row.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result
