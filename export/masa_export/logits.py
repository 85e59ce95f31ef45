"""Logits of two models at the same positions of the same texts, and how far apart they are.

Every export looks at the ends of two sample prompts; `masa export verify` looks at held-out samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.backends.llama import LlamaBackend
from masa.backends.tokenizing import Tokenizer
from masa.prompt import Request, Segment, render_prompt
from masa.rewording import wording_request
from masa.skills import Group, Skill
from masa_export.errors import ExportError
from masa_export.source import Source
from masa_training.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masa.backends import Backend

POSITIONS = 48
"""At each prompt's end, the logits after this many tokens are compared."""
_LENGTH = 128
"""Only the ends of the prompts are computed: equality does not hang on what was read, and F32 is slow."""

_PROMPTS: tuple[Request, ...] = (
    Request(
        Group(None, (Skill("a", "Look first", "Read the whole page before you act on it.", "A page is new"),)),
        {"family": "Sample", "parameter_count": "0.1B", "weaknesses": "repeats actions that failed"},
        environment="a small web shop",
    ),
    Request(
        Group(
            "repair",
            (
                Skill("b", "Open", "Unscrew the lid. Put the screws aside, in the order they came out."),
                Skill("c", "Test", "If the lamp stays dark, check the fuse, then the wire, then the switch."),
            ),
        ),
        {"family": "Sample", "strengths": "follows long instructions", "num_layers": 30},
        task="repair a lamp",
    ),
)

_ANSWERS = {
    "plan": "1 shorten\n2 steps",
    "text": "## [1] Look first\nRead it.",
    "wording": "1. Read the page.\n2. Act",
}


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
class Margin:
    """What may differ: a constant for rounding, and a share of the effect (rms of what training changes in logits)."""

    difference: float
    difference_share: float
    error: float
    error_share: float


def likeness(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> Likeness:
    """Compare logits (positions x vocabulary, at least one position) with the reference's."""
    import numpy as np

    divergences = []
    for ours, theirs in zip(logits, reference, strict=True):  # row by row: float64 of all would be large
        p, q = _log_softmax(theirs), _log_softmax(ours)
        divergences.append(float(np.sum(np.exp(p) * (p - q))))
    return Likeness(
        divergence=_not_negative(float(np.mean(divergences))),
        worst=_not_negative(float(np.max(divergences))),
        equal=float((logits.argmax(1) == reference.argmax(1)).mean()),
        difference=float(np.abs(logits - reference).max()),
        error=rms(logits - reference),
        positions=len(logits),
    )


def pool(parts: Sequence[Likeness]) -> Likeness:
    """The likeness over the positions of all `parts` (at least one) together; every position weighs the same."""
    positions = sum(part.positions for part in parts)

    def mean(values: Sequence[float]) -> float:
        return sum(value * part.positions for value, part in zip(values, parts, strict=True)) / positions

    return Likeness(
        divergence=mean([part.divergence for part in parts]),
        worst=_largest([part.worst for part in parts]),
        equal=mean([part.equal for part in parts]),
        difference=_largest([part.difference for part in parts]),
        error=math.sqrt(mean([part.error**2 for part in parts])),
        positions=positions,
    )


def excess(found: Likeness, margin: Margin, effect: float, equal: float) -> str:
    """What is beyond the margin, with measured and allowed figures; empty where nothing is.

    `equal` is the least share of equal best tokens. What is no number is beyond every margin.
    """
    difference = margin.difference + margin.difference_share * effect
    error = margin.error + margin.error_share * effect
    # Written so that a NaN is found.
    if not found.error <= error:
        return f"logits differ by {found.error:.2g} (rms), {error:.2g} is allowed"
    if not found.difference <= difference:
        return f"logits differ by up to {found.difference:.2g}, {difference:.2g} is allowed"
    if not found.equal >= equal:
        return f"{found.equal:.0%} of the best tokens are equal, at least {equal:.0%} must be"
    return ""


def rms(values: NDArray[np.float32]) -> float:
    """Root mean square."""
    import numpy as np

    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def sample_prompts(checkpoint: Checkpoint, tokenizer: Tokenizer) -> list[list[int]]:
    """The ends of the sample prompts with the beginning of an answer, as token ids."""
    answer = Segment(_ANSWERS[checkpoint.language])
    requests = _PROMPTS
    if checkpoint.language == "wording":
        requests = tuple(wording_request(request.group.skills[:1], "steps") for request in requests)
    rendered = (
        render_prompt(request, checkpoint.language, checkpoint.template, version=checkpoint.prompt_version)
        for request in requests
    )
    return [tokenizer.tokenize((*prompt.shared, *prompt.own, answer))[-_LENGTH:] for prompt in rendered]


def backend_logits(backend: Backend, prompts: Sequence[Sequence[int]], name: str) -> NDArray[np.float32]:
    """A backend's logits of the last `POSITIONS` tokens of every prompt, one row each, one below the other.

    Raises:
        ExportError: if one is not finite; the model is called `name` there.
    """
    import numpy as np

    rows = []
    for tokens in prompts:
        session = backend.session(slots=1, length=len(tokens))
        try:
            session.share(())
            session.begin(0, tokens[:-POSITIONS])
            rows.append(session.step([(0, tokens[-POSITIONS:])], [POSITIONS])[0].copy())
        finally:
            session.close()
    logits = np.concatenate(rows)
    if not np.isfinite(logits).all():
        raise ExportError(f"{name}: computes logits that are not finite; take another type")
    return logits


def gguf_logits(
    path: Path, checkpoint: Checkpoint, prompts: Sequence[Sequence[int]] | None = None
) -> tuple[Sequence[Sequence[int]], NDArray[np.float32]]:
    """llama.cpp's logits of a GGUF at `prompts`, by default the sample prompts by its own tokenizer, and the prompts.

    Raises:
        BackendError: if llama.cpp cannot load the file.
        ExportError: as `backend_logits`.
    """
    backend = LlamaBackend.load(path)
    try:
        prompts = sample_prompts(checkpoint, backend) if prompts is None else prompts
        return prompts, backend_logits(backend, prompts, path.name)
    finally:
        backend.close()


def model_logits(model: Any, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """The same of a transformers model."""
    import numpy as np
    import torch

    model.eval()
    with torch.inference_mode():
        rows = [model(torch.tensor([tokens]), logits_to_keep=POSITIONS).logits[0].numpy() for tokens in prompts]
    return np.concatenate(rows)


def checkpoint_logits(
    source: Source, prompts: Sequence[Sequence[int]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """transformers' logits in float32: of the base alone, and of the checkpoint, a LoRA merged into the base.

    Raises:
        TrainingError: if a library cannot load base or checkpoint.
    """
    import torch

    from masa_training.transformers_backend import load_trained

    model = source.base.model(torch.float32)
    plain = model_logits(model, prompts)
    trained = load_trained(source.checkpoint, source.base, torch.float32, merged=True, model=model)
    return plain, model_logits(trained, prompts)


def _log_softmax(row: NDArray[np.float32]) -> NDArray[np.float64]:
    import numpy as np

    shifted = row.astype(np.float64) - row.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def _not_negative(value: float) -> float:
    """Rounding may leave a divergence a little below zero; a NaN stays one."""
    return 0.0 if value < 0 else value


def _largest(values: Sequence[float]) -> float:
    """The largest value, or NaN if one is."""
    return math.nan if any(math.isnan(value) for value in values) else max(values)
