"""Proof that llama.cpp with base and adapter computes what the merged checkpoint computes.

The reference is transformers in float32 with the adapter merged into the weights. It is compared twice:

- `exact`: with the base converted to F32, so that only rounding is left to differ. This finds what an export can get
  wrong (names, rotary order, scale): the margins are tight.
- `device`: with the base as it is on the device. llama.cpp rounds the activations there, too (a Q4_1 base
  multiplies 8-bit activations), so the margin is what that costs the base without an adapter.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.backends.llama import LlamaBackend
from masa.backends.llama_library import library, quiet
from masa.prompt import Request, Segment, render_prompt
from masa.skills import Group, Skill
from masa_export.base import Base
from masa_export.checkpoint import Checkpoint
from masa_export.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

POSITIONS = 48
"""At each prompt's end, the logits after this many tokens are compared."""
_LENGTH = 128
"""Only the ends of the prompts are computed: equality does not hang on what was read, and F32 is slow."""
_ALL_F32 = 0  # llama.h, enum llama_ftype

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


@dataclass(frozen=True, slots=True)
class Comparison:
    """llama.cpp against the merged checkpoint, over all compared positions.

    Attributes:
        difference: the largest absolute difference of two logits.
        error: root mean square of the differences of logits.
        equal: share of positions whose most probable token is the same.
    """

    difference: float
    error: float
    equal: float


@dataclass(frozen=True, slots=True)
class Parity:
    """What was measured.

    Attributes:
        exact: on the base as F32.
        device: on the base as it is.
        untouched: the base as it is without adapter against the same in float32: what quantization alone costs.
        effect: root mean square of what the adapter changes in the merged checkpoint's logits.
        positions: at how many positions logits were compared.
    """

    exact: Comparison
    device: Comparison
    untouched: Comparison
    effect: float
    positions: int


@dataclass(frozen=True, slots=True)
class Margin:
    """What may differ on the F32 base: a constant for the rounding of the base, and a share of the adapter's effect."""

    difference: float
    difference_share: float
    error: float
    error_share: float


# Measured with random adapters of effect 0.5 to 2.0 on SmolLM2-135M Q4_1 (all linear layers, r 4, 16, 32, with and
# without rsLoRA) and Gemma-3-270M Q4_K_M (r 16): difference f16 and f32 0.018 to 0.040, q8_0 0.027 to 0.15; error as
# a share of the effect f16 and f32 0.002 to 0.007, q8_0 0.010 to 0.013. Without the rotary order of q and k the error
# is 0.56 of the effect (difference 1.8), while 96 % of the best tokens stay equal: the share alone proves little.
MARGINS: Mapping[str, Margin] = {
    "f32": Margin(0.05, 0.1, 0.01, 0.02),
    "f16": Margin(0.05, 0.1, 0.01, 0.02),
    "q8_0": Margin(0.05, 0.2, 0.01, 0.04),
}
EXACT_EQUAL = 0.95
"""Least share of equal best tokens on the F32 base; measured 0.99 to 1."""
DEVICE_NOISE = 2.0
"""On the base as it is, the error may be this many times what quantization costs the base alone, and the margin of the
F32 base on top; measured 0.9 and 1.0 times
(SmolLM2-135M Q4_1, r 16, f16 and q8_0)."""
DEVICE_EQUAL = 0.8
"""Least share of equal best tokens there; measured 0.95 to 0.99."""


def check(parity: Parity, kind: str, where: str) -> None:
    """Refuse an adapter stored as `kind` ("f16", "f32", "q8_0") that is not within the margins.

    Raises:
        ExportError: the message tells measured and allowed figures.
    """
    margin = MARGINS[kind]
    difference = margin.difference + margin.difference_share * parity.effect
    error = margin.error + margin.error_share * parity.effect
    exact, device = parity.exact, parity.device
    problem = ""
    # Written so that a NaN fails.
    if not exact.difference <= difference:
        problem = f"on the F32 base logits differ by up to {exact.difference:.2g}, {difference:.2g} is allowed"
    elif not exact.error <= error:
        problem = f"on the F32 base logits differ by {exact.error:.2g} (rms), {error:.2g} is allowed"
    elif not exact.equal >= EXACT_EQUAL:
        problem = f"on the F32 base {exact.equal:.0%} of the best tokens are equal, at least {EXACT_EQUAL:.0%} must be"
    elif not device.error <= DEVICE_NOISE * parity.untouched.error + error:
        problem = (
            f"on the base as it is logits differ by {device.error:.2g} (rms), {DEVICE_NOISE:g} times the "
            f"{parity.untouched.error:.2g} of the base alone is allowed"
        )
    elif not device.equal >= DEVICE_EQUAL:
        problem = f"on the base as it is {device.equal:.0%} of the best tokens are equal, {DEVICE_EQUAL:.0%} must be"
    if problem:
        raise ExportError(
            f"{where}: llama.cpp with the adapter does not compute what the merged checkpoint does ({problem}); "
            "nothing was written; check that the base is the one it was trained on, then report this as a bug"
        )


def measure(checkpoint: Checkpoint, base: Base, adapter: Path, scratch: Path) -> Parity:
    """Compare llama.cpp with the adapter in the file `adapter` to the merged checkpoint.

    A copy of the base as F32 is made in the folder `scratch` and removed. Needs torch, transformers, peft and
    llama-cpp-python, and memory for the base in float32.

    Raises:
        ExportError: if there is no GGUF of the base, or a library cannot load it or the adapter.
        BackendError: if llama.cpp refuses base or adapter.
    """
    if base.gguf is None:
        raise ExportError(f"{base.folder}: llama.cpp needs this base as GGUF; give it with --base, or use --no-verify")
    with _as_f32(base.gguf, scratch) as exact:
        backend = LlamaBackend.load(exact)
        try:
            prompts = sample_prompts(checkpoint, backend)
            computed = llama_logits(backend, adapter, prompts)
        finally:
            backend.close()
    backend = LlamaBackend.load(base.gguf)
    try:
        alone = llama_logits(backend, None, prompts)
        on_device = llama_logits(backend, adapter, prompts)
    finally:
        backend.close()
    plain, merged = transformers_logits(checkpoint, base, prompts)
    return Parity(
        exact=compare(computed, merged),
        device=compare(on_device, merged),
        untouched=compare(alone, plain),
        effect=rms(merged - plain),
        positions=len(merged),
    )


def sample_prompts(checkpoint: Checkpoint, backend: LlamaBackend) -> list[list[int]]:
    """The ends of the sample prompts with the beginning of an answer, as token ids."""
    return [_tokens(checkpoint, request, backend) for request in _PROMPTS]


def _tokens(checkpoint: Checkpoint, request: Request, backend: LlamaBackend) -> list[int]:
    prompt = render_prompt(request, checkpoint.language, checkpoint.template, version=checkpoint.prompt_version)
    answer = (Segment("1 shorten\n2 steps" if checkpoint.language == "plan" else "## [1] Look first\nRead it."),)
    return backend.tokenize((*prompt.shared, *prompt.own, *answer))[-_LENGTH:]


def llama_logits(backend: LlamaBackend, adapter: Path | None, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """llama.cpp's logits of the last `POSITIONS` tokens of every prompt, one row each, one below the other."""
    import numpy as np

    backend.set_adapter(None if adapter is None else str(adapter))
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


def transformers_logits(
    checkpoint: Checkpoint, base: Base, prompts: Sequence[Sequence[int]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The same by transformers, in float32: of the base alone, and of the checkpoint (a LoRA merged into the base)."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as chatter

    chatter.disable_progress_bar()
    place: dict[str, Any] = {"pretrained_model_name_or_path": base.folder}
    if base.folder is None and base.gguf is not None:
        place = {"pretrained_model_name_or_path": base.gguf.parent, "gguf_file": base.gguf.name}
    try:
        # De-quantizing draws a progress bar that cannot be turned off otherwise.
        with contextlib.redirect_stderr(io.StringIO()):
            model: Any = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        plain = _forward(model, prompts)
        merged: Any
        if checkpoint.kind == "full":
            merged = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)
        else:
            merged = PeftModel.from_pretrained(model, str(checkpoint.path)).merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ExportError(
            f"{checkpoint.path}: transformers cannot merge this checkpoint ({str(error).splitlines()[0][:200]}); "
            "use --no-verify to export unproven"
        ) from error
    return plain, _forward(merged, prompts)


def _forward(model: Any, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    import numpy as np
    import torch

    model.eval()
    with torch.inference_mode():
        rows = [model(torch.tensor([tokens]), logits_to_keep=POSITIONS).logits[0].numpy() for tokens in prompts]
    return np.concatenate(rows)


@contextlib.contextmanager
def _as_f32(path: Path, scratch: Path) -> Iterator[Path]:
    """The model as F32: the file itself where it is, else a copy for as long as the block runs."""
    llama = library()
    copy = scratch / "base-f32.gguf"
    params = llama.llama_model_quantize_default_params()
    params.ftype = _ALL_F32
    params.allow_requantize = True
    try:
        with quiet(llama) as messages:
            failed = llama.llama_model_quantize(str(path).encode(), str(copy).encode(), ctypes.byref(params))
        if failed:
            why = next((line.strip() for line in reversed(messages) if line.strip()), "no reason given")
            raise ExportError(
                f"{path}: llama.cpp could not convert the base to F32 in {scratch} ({why}); it needs 4 bytes a "
                "parameter of disk there, or use --no-verify"
            )
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def compare(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> Comparison:
    import numpy as np

    return Comparison(
        difference=float(np.abs(ours - reference).max()),
        error=rms(ours - reference),
        equal=float((ours.argmax(1) == reference.argmax(1)).mean()),
    )


def rms(values: NDArray[np.float32]) -> float:
    import numpy as np

    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))
