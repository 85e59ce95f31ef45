"""Importance matrices, as llama.cpp's `llama-imatrix` writes them: which columns of a weight matter for real text.

For every tensor it holds the mean square of each input over the text it was computed on; the quantizer weighs its
rounding errors with that. Both formats are read: GGUF (sums in `NAME.in_sum2`, counts in `NAME.counts`) and the older
`.dat` (a list of name, number of calls, sums).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from masa.files import reason
from masa.formats.gguf_header import is_gguf
from masa_export.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUMS, _COUNTS = ".in_sum2", ".counts"
_LONGEST_NAME = 1024


def read_importance(path: Path) -> Mapping[str, NDArray[np.float32]]:
    """Weights by tensor name; a tensor of n experts has n times its columns.

    Raises:
        ExportError: if the file is missing, damaged, empty, or holds no importance matrix.
    """
    import numpy as np

    try:
        found = _read_gguf(path) if is_gguf(path) else _read_dat(path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({reason(error)}); check the path") from None
    except (ValueError, KeyError, IndexError, struct.error, UnicodeDecodeError):
        found = {}
    if not found or not all(np.isfinite(values).all() and (values >= 0).all() for values in found.values()):
        raise ExportError(f"{path}: no complete importance matrix; make one with llama.cpp's llama-imatrix")
    return found


def _read_gguf(path: Path) -> dict[str, NDArray[np.float32]]:
    import gguf
    import numpy as np

    tensors = {tensor.name: np.array(tensor.data, np.float32) for tensor in gguf.GGUFReader(path).tensors}
    found = {}
    for name in tensors:
        if name.endswith(_SUMS):
            stem = name.removesuffix(_SUMS)
            counts = tensors[stem + _COUNTS].reshape(-1, 1)
            sums = tensors[name].reshape(len(counts), -1)
            # An expert that no token reached says nothing: all its columns weigh the same.
            found[stem] = np.where(counts > 0, sums / np.maximum(counts, 1), 1).astype(np.float32).reshape(-1)
    return found


def _read_dat(path: Path) -> dict[str, NDArray[np.float32]]:
    import numpy as np

    data = path.read_bytes()
    found = {}
    (count,) = struct.unpack_from("<i", data)
    at = 4
    for _ in range(count):
        (length,) = struct.unpack_from("<i", data, at)
        if not 0 < length <= _LONGEST_NAME:
            raise ValueError("no name")
        name = data[at + 4 : at + 4 + length].decode("utf-8")
        at += 4 + length
        calls, size = struct.unpack_from("<ii", data, at)
        values = np.frombuffer(data, "<f4", size, at + 8)
        at += 8 + 4 * size
        found[name] = (values / max(calls, 1)).astype(np.float32)
    return found
