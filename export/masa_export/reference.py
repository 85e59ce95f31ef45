"""Whether the comparison with the checkpoint in transformers can run on this machine."""

from __future__ import annotations

import contextlib
import math
from importlib.util import find_spec
from pathlib import Path

from masa_export.base import Base
from masa_export.tensors import open_model

_BYTES = 9
"""Memory of the comparison, bytes a parameter: base and merged copy in float32, and some."""


def why_unproven(verify: bool | None, base: Base) -> str | None:
    """Why the merged file is not compared with transformers; None where it is. `verify` is the user's wish, if any."""
    if verify is False:
        return "--no-verify was given"
    if verify is None:
        missing = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
        if missing:
            return f"{missing[0]} is not installed"
        needed = _BYTES * _parameters(base)
        free = _free_memory()
        if free is not None and needed > free:
            return f"it needs about {needed / 1e9:.0f} GB of memory and {free / 1e9:.0f} GB are free; --verify tries"
    return None


def _parameters(base: Base) -> int:
    if base.shapes is not None:
        return sum(map(math.prod, base.shapes.values()))
    assert base.folder is not None
    return sum(math.prod(file.shapes[name]) for name, file in open_model(base.folder).items())


def _free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not tell (only Linux does)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return None
