"""The tensors of a safetensors file, one at a time, as float32; without torch.

The `safetensors` library checks the file. It gives bfloat16 to torch only, hence the reading of our own: bfloat16 is
the upper half of float32.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from masa.files import reason
from masa_export.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STORED = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A checked safetensors file; `shapes` by tensor name, in the order of the names."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    places: Mapping[str, tuple[str, int]]
    """Tensor name -> stored type, offset in the file."""

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor `name` as float32.

        Raises:
            ExportError: if it holds anything but finite numbers.
        """
        import numpy as np

        kind, offset = self.places[name]
        shape = self.shapes[name]
        data = np.fromfile(self.path, _STORED[kind], count=int(np.prod(shape)), offset=offset).reshape(shape)
        values = (data.astype("<u4") << 16).view("<f4") if kind == "BF16" else data.astype("<f4")
        if not np.isfinite(values).all():
            raise ExportError(
                f"{self.path}: {name} holds numbers that are not finite; the training diverged, "
                "take an earlier checkpoint"
            )
        return values


def open_tensors(path: Path) -> TensorFile:
    """The list of tensors in the safetensors file at `path`.

    Raises:
        ExportError: if it is no safetensors file, truncated, or holds something that is no floating point number.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy"):
            pass  # checks the header, and that the file is as long as it says
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (SafetensorError, ValueError, struct.error) as error:
        raise ExportError(
            f"{path}: no complete safetensors file ({error}); it may be truncated, take another checkpoint"
        ) from None
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({reason(error)}); check the path and its permissions") from None
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in _STORED:
            known = ", ".join(_STORED)
            raise ExportError(
                f"{path}: {name} is stored as {entry['dtype']}, known are {known}; save it as one of them"
            )
    return TensorFile(
        path,
        {name: tuple(header[name]["shape"]) for name in sorted(header)},
        {name: (entry["dtype"], 8 + length + entry["data_offsets"][0]) for name, entry in header.items()},
    )
