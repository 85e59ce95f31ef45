"""The tensors of a safetensors file, one at a time, as float32; without torch.

The `safetensors` library checks the file. It gives bfloat16 to torch only, hence the reading of our own: bfloat16 is
the upper half of float32.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.errors import MasaError
from masa.files import parse_json, read_text, reason
from masa_export.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STORED = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
_BYTES = {"F32": 4, "F16": 2, "F64": 8, "BF16": 2}
_CHUNK = 1 << 24
MODEL, MODEL_INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A checked safetensors file; `shapes` by tensor name, in the order of the names."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    places: Mapping[str, tuple[str, int]]
    """Tensor name -> stored type, offset in the file."""

    def stored(self, name: str) -> str:
        """How the tensor `name` is stored, as safetensors calls it."""
        return self.places[name][0]

    def raw(self, name: str) -> Iterator[bytes]:
        """The bytes of the tensor `name` as they are stored, in pieces."""
        kind, offset = self.places[name]
        left = math.prod(self.shapes[name]) * _BYTES[kind]
        with self.path.open("rb") as file:
            file.seek(offset)
            while left:
                piece = file.read(min(left, _CHUNK))
                if not piece:
                    raise ExportError(f"{self.path}: became shorter while it was read; start again")
                left -= len(piece)
                yield piece

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
            header = parse_json(file.read(length))
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


def open_model(folder: Path) -> Mapping[str, TensorFile]:
    """Every tensor of the Hugging Face model in `folder`, which may be split, and the file that holds it.

    Raises:
        ExportError: if a file is missing, damaged, or does not hold what the index says.
    """
    index = folder / MODEL_INDEX
    if not index.is_file():
        file = open_tensors(folder / MODEL)
        return dict.fromkeys(file.shapes, file)
    try:
        places: Any = parse_json(read_text(index))["weight_map"]
        names = sorted({str(name) for name in places.values()})
    except (MasaError, ValueError, KeyError, TypeError, AttributeError):
        raise ExportError(f"{index}: no list of tensors; fetch the model again") from None
    if any(Path(name).name != name for name in names):
        raise ExportError(f"{index}: names a file outside the folder; fetch the model again")
    files = {name: open_tensors(folder / name) for name in names}
    for tensor, name in places.items():
        if tensor not in files[name].shapes:
            raise ExportError(f"{folder / name}: does not hold {tensor}, which {index.name} names; fetch it again")
    return {tensor: files[name] for tensor, name in places.items()}


def header_of(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """The beginning of a safetensors file of these tensors (stored type, shape), whose data follow in this order."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * _BYTES[kind]
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
