"""Weights in 5 bits as 8 bits: the same numbers, which llama.cpp multiplies faster on x86 than it unpacks them.

Qwen2.5-0.5B in Q4_K_M is most of all Q5_0, because its rows of 896 numbers do not divide into blocks of 256.
A block of Q5_0 is a scale and 32 numbers from -16 to 15; Q8_0 holds the same scale and numbers (ggml, quants.c).
"""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from masa.errors import FormatError
from masa.formats.gguf_header import GgufHeader, read_header, retyped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Q5_0, _Q8_0 = 6, 8  # ggml's numbers


@contextlib.contextmanager
def widened(path: Path) -> Iterator[str]:
    """Where llama.cpp finds the model of the GGUF file `path` with the matrices it multiplies in Q8_0 instead of Q5_0.

    That is a temporary file without a name, gone with the last who has it open. It is `path` itself where nothing is
    won: on another processor than x86, without matrices in Q5_0, without room for the copy.
    """
    with contextlib.ExitStack() as stack:
        found = str(path)
        # Without a damaged file: llama.cpp says what it dislikes.
        with contextlib.suppress(FormatError, OSError):
            if platform.machine().lower() in ("x86_64", "amd64") and Path("/proc/self/fd").is_dir():
                header = read_header(path)
                if types := _types(header):
                    file = stack.enter_context(tempfile.TemporaryFile())
                    _write(header, types, file)
                    found = f"/proc/self/fd/{file.fileno()}"
        yield found


def _types(header: GgufHeader) -> dict[str, int]:
    """The new types by name; none for a part of a model."""
    if header.metadata.get("split.count", 0):
        return {}
    own_output = any(tensor.name == "output.weight" for tensor in header.tensors)
    # Of the embedding rows are looked up, unless it is the output layer, too.
    left = {"token_embd.weight"} if own_output else set()
    return {t.name: _Q8_0 for t in header.tensors if t.type == _Q5_0 and len(t.shape) > 1 and t.name not in left}


def _write(header: GgufHeader, types: dict[str, int], file: IO[bytes]) -> None:
    import numpy as np

    start, tensors = retyped(header, types)
    file.write(start)
    stored = np.memmap(header.path, np.uint8, "r")
    for old, new in zip(header.tensors, tensors, strict=True):
        file.write(bytes(-file.tell() % header.alignment))
        begin = header.data_offset + old.offset
        values = stored[begin : begin + (old.bytes or 0)]
        file.write((widen(values) if new.type != old.type else values).data)
    file.write(bytes(-file.tell() % header.alignment))
    file.flush()


def widen(blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blocks of Q5_0 (22 bytes: scale, 32 high bits, 32 times four bits) as blocks of Q8_0 (34 bytes)."""
    import numpy as np

    given: NDArray[Any] = blocks.reshape(-1, 22)
    made = np.empty((len(given), 34), np.uint8)
    made[:, :2] = given[:, :2]
    made[:, 2:18] = given[:, 6:] & 15
    made[:, 18:] = given[:, 6:] >> 4
    high = np.unpackbits(given[:, 2:6], axis=1, bitorder="little")
    made[:, 2:] |= high << 4
    made[:, 2:] -= 16  # modulo 256, as a signed byte is stored
    return made.reshape(-1)
