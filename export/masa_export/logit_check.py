"""Does llama.cpp compute what a checkpoint computes? Logits at the ends of two sample prompts, and what may differ.

The reference is transformers in float32 with the adapter merged into the weights.

A merged file is compared once (`Merged`). An adapter is compared twice (`Parity`):

- `exact`: with the base converted to F32, so that only rounding is left to differ. This finds what an export can get
  wrong (names, rotary order, scale): the margins are tight.
- `device`: with the base as it is on the device. llama.cpp rounds the activations there, too (a Q4_1 base
  multiplies 8-bit activations), so the margin is what that costs the base without an adapter.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from masa.backends.llama import LlamaBackend
from masa.backends.llama_library import library, quiet
from masa_export.errors import ExportError
from masa_export.logits import (
    Likeness,
    Margin,
    backend_logits,
    checkpoint_logits,
    excess,
    likeness,
    rms,
    sample_prompts,
)
from masa_export.source import Source
from masa_export.tensors import open_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BYTES = 9
"""Memory of the comparison, bytes a parameter: base and merged copy in float32, and some."""
_ALL_F32 = 0  # llama.h, enum llama_ftype


@dataclass(frozen=True, slots=True)
class Parity:
    """An adapter in llama.cpp against the merged checkpoint.

    Attributes:
        exact: on the base as F32.
        device: on the base as it is.
        untouched: the base as it is without adapter against the same in float32: what quantization alone costs.
        effect: root mean square of what the adapter changes in the merged checkpoint's logits.
        positions: at how many positions logits were compared.
    """

    exact: Likeness
    device: Likeness
    untouched: Likeness
    effect: float
    positions: int


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged file in llama.cpp against the checkpoint.

    Attributes:
        likeness: of the two.
        effect: root mean square of what the checkpoint changes in its base's logits.
    """

    likeness: Likeness
    effect: float


# Measured with random adapters of effect 0.5 to 2.0 on SmolLM2-135M Q4_1 (all linear layers, r 4, 16, 32, with and
# without rsLoRA) and Gemma-3-270M Q4_K_M (r 16): difference f16 and f32 0.018 to 0.040, q8_0 0.027 to 0.15; error as
# a share of the effect f16 and f32 0.002 to 0.007, q8_0 0.010 to 0.013. Without the rotary order of q and k the error
# is 0.56 of the effect (difference 1.8), while 96 % of the best tokens stay equal: the share alone proves little.
MARGINS: Mapping[str, Margin] = {
    "f32": Margin(0.05, 0.1, 0.01, 0.02),
    "f16": Margin(0.05, 0.1, 0.01, 0.02),
    "q8_0": Margin(0.05, 0.2, 0.01, 0.04),
}
"""On the F32 base, by how the adapter is stored."""
# Measured on SmolLM2-135M Q4_1 (trained, r 16), Gemma-3-270M Q4_K_M and a small random Qwen3 (random adapters): see
# docs/export.md. A wrong rotary order gives an error of half the effect, a missing adapter one of the whole.
MERGED_MARGINS: Mapping[str, Margin] = {
    "F32": Margin(0.05, 0.2, 0.01, 0.02),
    "F16": Margin(0.05, 0.2, 0.01, 0.02),
    "BF16": Margin(0.5, 1.0, 0.05, 0.1),
}
"""Of a merged file, by its type."""
EQUAL = 0.95
"""Least share of equal best tokens of a merged file and on the F32 base; measured 0.99 to 1."""
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
    error = margin.error + margin.error_share * parity.effect
    device = parity.device
    problem = excess(parity.exact, margin, parity.effect, EQUAL)
    if problem:
        problem = f"on the F32 base {problem}"
    # Written so that a NaN fails.
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


def measure(source: Source, adapter: Path, scratch: Path) -> Parity:
    """Compare llama.cpp with the adapter in the file `adapter` to the merged checkpoint.

    A copy of the base as F32 is made in the folder `scratch` and removed. Needs torch, transformers, peft and
    llama-cpp-python, and memory for the base in float32.

    Raises:
        MasaError: if there is no GGUF of the base, or a library cannot load it or the adapter.
    """
    if source.gguf is None:
        raise ExportError(f"{source.folder}: llama.cpp needs this base as GGUF; give it with --base")
    with _as_f32(source.gguf, scratch) as exact, contextlib.closing(LlamaBackend.load(exact)) as backend:
        prompts = sample_prompts(source.checkpoint, backend)
        backend.set_adapter(str(adapter))
        computed = backend_logits(backend, prompts, adapter.name)
    with contextlib.closing(LlamaBackend.load(source.gguf)) as backend:
        alone = backend_logits(backend, prompts, source.gguf.name)
        backend.set_adapter(str(adapter))
        on_device = backend_logits(backend, prompts, adapter.name)
    plain, merged = checkpoint_logits(source, prompts)
    return Parity(
        exact=likeness(computed, merged),
        device=likeness(on_device, merged),
        untouched=likeness(alone, plain),
        effect=rms(merged - plain),
        positions=len(merged),
    )


def why_unproven(verify: bool | None, source: Source) -> str | None:
    """Why a merged file is not compared with transformers; None where it is. `verify` is the user's wish, if any."""
    if verify is False:
        return "--no-verify was given"
    if verify is None:
        missing = [name for name in ("torch", "transformers", "peft", "psutil") if find_spec(name) is None]
        if missing:
            return f"{missing[0]} is not installed"
        import psutil

        needed, free = _BYTES * _parameters(source), psutil.virtual_memory().available
        if needed > free:
            return f"it needs about {needed / 1e9:.0f} GB of memory and {free / 1e9:.0f} GB are free; --verify tries"
    return None


def _parameters(source: Source) -> int:
    if source.shape.tensors is not None:
        return sum(map(math.prod, source.shape.tensors.values()))
    assert source.folder is not None
    return sum(math.prod(file.shapes[name]) for name, file in open_model(source.folder).items())


def measure_merged(source: Source, prompts: Sequence[Sequence[int]], logits: NDArray[np.float32]) -> Merged:
    """Compare `logits`, llama.cpp's of the merged file at `prompts`, with the checkpoint's in transformers.

    Needs torch, transformers and peft, and memory for the base in float32.

    Raises:
        MasaError: if a library cannot load base or checkpoint, or their vocabularies differ.
    """
    plain, merged = checkpoint_logits(source, prompts)
    if merged.shape != logits.shape:
        raise ExportError(
            f"{source.path}: its model has {merged.shape[1]} tokens, the merged GGUF {logits.shape[1]}; "
            "give the base that it was trained on"
        )
    return Merged(likeness(logits, merged), rms(merged - plain))


def check_merged(found: Merged, kind: str, where: str) -> None:
    """Refuse a merged file of this kind ("F16", "BF16", "F32") that is not within the margins.

    Raises:
        ExportError: the message tells measured and allowed figures.
    """
    problem = excess(found.likeness, MERGED_MARGINS[kind], found.effect, EQUAL)
    if problem:
        raise ExportError(
            f"{where}: llama.cpp with the merged file does not compute what the checkpoint does ({problem}); nothing "
            "was written; check that the base is the one it was trained on, then report this as a bug"
        )


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
