"""ONNX Runtime, imported late, kept quiet, and the provider it computes with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from masa.errors import BackendError, MissingExtraError

PROVIDERS: Mapping[str, str] = {
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""masa's name of a provider -> ONNX Runtime's."""
PREFERRED = ("cuda", "directml", "cpu")
"""What is taken where nothing is asked for, the first one that is there. TensorRT and CoreML compile a graph for every
shape, which takes longer than a rewrite: they are for those who ask."""
_ADVICE = {
    "cuda": 'install the build for NVIDIA GPUs: pip uninstall onnxruntime, then pip install "masa-skills[onnx-gpu]"',
    "tensorrt": 'install the build for NVIDIA GPUs: pip uninstall onnxruntime, then pip install "masa-skills[onnx-gpu]"'
    ", and TensorRT",
    "directml": "install the build for Windows: pip uninstall onnxruntime, then pip install onnxruntime-directml",
    "coreml": "use a build of onnxruntime for macOS",
    "cpu": "reinstall onnxruntime",
}


def library() -> Any:
    """The module `onnxruntime`, its telemetry off.

    Raises:
        MissingExtraError: if it is not installed.
        BackendError: if it does not load here.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise MissingExtraError("the ONNX backend", "onnx") from None
    except (ImportError, OSError) as error:
        raise BackendError(f"onnxruntime does not load here ({error}); reinstall it for this machine") from None
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def choose_provider(wanted: str | None, available: Sequence[str]) -> str:
    """The provider to use, by masa's name: the one that is `wanted`, else the best one of `available` (ONNX Runtime's
    names).

    Raises:
        BackendError: if it is unknown, or this onnxruntime was built without it.
    """
    there = [name for name, long in PROVIDERS.items() if long in available]
    if wanted is None:
        return next((name for name in PREFERRED if name in there), "cpu")
    if wanted not in PROVIDERS:
        raise BackendError(f"unknown provider {wanted!r}; known: {', '.join(PROVIDERS)}")
    if wanted not in there:
        raise BackendError(
            f"the provider {wanted} is not in this onnxruntime (it has {', '.join(there) or 'none that masa knows'}); "
            f"{_ADVICE[wanted]}"
        )
    return wanted
