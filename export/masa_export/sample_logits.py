"""Logits at the ends of two sample prompts, by llama.cpp and by transformers: the quick look of every export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.backends.llama import LlamaBackend
from masa.prompt import Request, Segment, render_prompt
from masa.skills import Group, Skill
from masa_export.base import Base
from masa_export.checkpoint import Checkpoint
from masa_export.errors import ExportError
from masa_export.transformers_model import load_base, load_checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masa.backends import Backend

POSITIONS = 48
"""At each prompt's end, the logits after this many tokens are compared."""
_LENGTH = 128
"""Only the ends of the prompts are computed: equality does not hang on what was read, and F32 is slow."""

_PROMPTS = (
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


def sample_prompts(checkpoint: Checkpoint, backend: Backend) -> list[list[int]]:
    """The ends of the sample prompts with the beginning of an answer, as token ids."""
    return [_tokens(checkpoint, request, backend) for request in _PROMPTS]


def _tokens(checkpoint: Checkpoint, request: Request, backend: Backend) -> list[int]:
    prompt = render_prompt(request, checkpoint.language, checkpoint.template, version=checkpoint.prompt_version)
    answer = (Segment("1 shorten\n2 steps" if checkpoint.language == "plan" else "## [1] Look first\nRead it."),)
    return backend.tokenize((*prompt.shared, *prompt.own, *answer))[-_LENGTH:]


def backend_logits(backend: Backend, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """A backend's logits of the last `POSITIONS` tokens of every prompt, one row each, one below the other."""
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
    return np.concatenate(rows)


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
        logits = backend_logits(backend, tokens)
    finally:
        backend.close()
    if not np.isfinite(logits).all():
        raise ExportError(f"{path.name}: computes logits that are not finite; take another type")
    return tokens, logits


def transformers_logits(
    checkpoint: Checkpoint, base: Base, prompts: Sequence[Sequence[int]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The same by transformers, in float32: of the base alone, and of the checkpoint (a LoRA merged into the base).

    Raises:
        ExportError: if a library cannot load base or checkpoint.
    """
    import torch

    model = load_base(base, torch.float32)
    plain = _forward(model, prompts)
    return plain, _forward(load_checkpoint(checkpoint, base, torch.float32, model), prompts)


def _forward(model: Any, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    import numpy as np
    import torch

    model.eval()
    with torch.inference_mode():
        rows = [model(torch.tensor([tokens]), logits_to_keep=POSITIONS).logits[0].numpy() for tokens in prompts]
    return np.concatenate(rows)
