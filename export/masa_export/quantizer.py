"""llama.cpp's own quantizer: its types, its importance matrices, and its run, in a process of its own.

A process, because llama.cpp ends the whole process at what it holds impossible, and cannot be interrupted:
`python -m masa_export.quantizer` takes its job as JSON on stdin, llama.cpp's messages go to stderr, and the exit code
is 0 where the file was written.
"""

from __future__ import annotations

import ctypes
import json
import re
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.backends.llama_library import library
from masa.files import reason
from masa.formats.gguf_header import is_gguf
from masa.json_fields import did_you_mean
from masa_export.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE_TYPES: Mapping[str, int] = {
    "F32": 0, "F16": 1, "BF16": 32,
    "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q5_1": 9, "Q5_0": 8,
    "Q4_K_M": 15, "Q4_K_S": 14, "Q4_1": 3, "Q4_0": 2, "IQ4_NL": 25, "IQ4_XS": 30, "MXFP4_MOE": 38,
    "Q3_K_L": 13, "Q3_K_M": 12, "Q3_K_S": 11, "IQ3_M": 27, "IQ3_S": 26, "IQ3_XS": 22, "IQ3_XXS": 23,
    "Q2_K": 10, "Q2_K_S": 21, "Q2_0": 41, "IQ2_M": 29, "IQ2_S": 28, "IQ2_XS": 20, "IQ2_XXS": 19, "TQ2_0": 37,
    "IQ1_M": 31, "IQ1_S": 24, "TQ1_0": 36, "Q1_0": 40,
}  # fmt: skip
"""Name -> number in llama.h, enum llama_ftype. NVFP4 is left out: llama.cpp reads it but cannot quantize to it."""
UNQUANTIZED = ("F32", "F16", "BF16")
NEED_IMPORTANCE = frozenset({"IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K_S", "IQ1_S", "IQ1_M"})
"""Too coarse to be of use without an importance matrix; llama.cpp's own tool refuses them, too."""
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

_STEP = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB")
_FALLBACK = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback")
_FAILED = re.compile(r"failed to quantize: (.+)")
_KEPT_LINES = 40
_SUMS, _COUNTS = ".in_sum2", ".counts"
_LONGEST_NAME = 1024


def parse_quantizations(text: str, *, importance: bool) -> tuple[str, ...]:
    """The types in a list such as "Q8_0,q4_k_m", each once and in llama.cpp's spelling.

    `importance` tells whether there is an importance matrix.

    Raises:
        ExportError: for no name, an unknown one, and one that needs an importance matrix where there is none.
    """
    names = [name.strip().upper().replace("-", "_") for name in text.split(",") if name.strip()]
    found = tuple(dict.fromkeys(_ALIASES.get(name, name) for name in names))
    if not found:
        raise ExportError(f"--quant {text!r}: names no type; give some of {', '.join(FILE_TYPES)}")
    for name in found:
        if name not in FILE_TYPES:
            hint = did_you_mean(name, FILE_TYPES) or f"; known: {', '.join(FILE_TYPES)}"
            raise ExportError(f"--quant {name}: llama.cpp has no such quantization type{hint}")
        if name in NEED_IMPORTANCE and not importance:
            raise ExportError(
                f"--quant {name}: is of no use without an importance matrix; give one with --imatrix, or take Q2_K or "
                "more"
            )
    return found


@dataclass(frozen=True, slots=True)
class Quantized:
    """What llama.cpp told: bytes of the tensors (not of the file), and how many tensors have rows that the type
    cannot divide and got a finer type instead."""

    tensor_bytes: int
    fallbacks: int


def quantize(
    source: Path,
    target: Path,
    quantization: str,
    *,
    importance: Path | None = None,
    metadata: Mapping[str, str] | None = None,
    threads: int = 0,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Quantized:
    """Quantize the GGUF file `source` to the file `target`, which is not written atomically.

    `metadata` is added to the file's own (values up to 127 bytes), `threads` 0 takes all cores, `progress` is called
    with the number of tensors done and that of all. A `dry_run` writes nothing and only tells the size.

    Raises:
        MissingExtraError: without llama-cpp-python.
        ExportError: if llama.cpp refuses; the message tells its reason.
    """
    library()
    job = {
        "source": str(source),
        "target": str(target),
        "file_type": FILE_TYPES[quantization],
        "importance": None if importance is None else str(importance),
        "metadata": dict(metadata or {}),
        "threads": threads,
        "dry_run": dry_run,
    }
    command = [sys.executable, "-m", "masa_export.quantizer"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    assert process.stdin is not None and process.stderr is not None
    size = fallbacks = 0
    why = ""
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        for line in process.stderr:
            last.append(line)
            if found := _STEP.search(line):
                progress(int(found[1]), int(found[2]))
            elif found := _SIZE.search(line):
                size = round(float(found[1]) * 1024 * 1024)
            elif found := _FALLBACK.search(line):
                fallbacks = int(found[1])
            elif found := _FAILED.search(line):
                why = found[1].strip()
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()
    if code:
        why = why or next((line.strip() for line in reversed(last) if line.strip()), "no reason given")
        raise ExportError(
            f"{source}: llama.cpp cannot quantize this to {quantization} ({why[:200]}, exit code {code}); "
            "take another type, or make room where it is written"
        )
    return Quantized(size, fallbacks)


def read_importance(path: Path) -> Mapping[str, NDArray[np.float32]]:
    """The importance matrix in a file of `llama-imatrix`: weights by tensor name; n experts have n times the columns.

    For every tensor it holds the mean square of each input over some text; the quantizer weighs its rounding errors
    with that. Both formats are read: GGUF (sums in `NAME.in_sum2`, counts in `NAME.counts`) and the older `.dat` (a
    list of name, number of calls, sums).

    Raises:
        ExportError: if the file is missing, damaged, empty, or holds no importance matrix.
    """
    import numpy as np

    try:
        found = _read_gguf_matrix(path) if is_gguf(path) else _read_dat_matrix(path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({reason(error)}); check the path") from None
    except (ValueError, KeyError, IndexError, struct.error, UnicodeDecodeError):
        found = {}
    if not found or not all(np.isfinite(values).all() and (values >= 0).all() for values in found.values()):
        raise ExportError(f"{path}: no complete importance matrix; make one with llama.cpp's llama-imatrix")
    return found


def _read_gguf_matrix(path: Path) -> dict[str, NDArray[np.float32]]:
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


def _read_dat_matrix(path: Path) -> dict[str, NDArray[np.float32]]:
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


def _run(job: Mapping[str, Any]) -> bool:
    """Do the job of `quantize` in this process; whether llama.cpp did it."""
    llama = library()
    # No callback: llama.cpp writes to stderr itself.
    llama.llama_log_set(llama.llama_log_callback(), ctypes.c_void_p(0))
    params = llama.llama_model_quantize_default_params()
    params.ftype = job["file_type"]
    params.nthread = job["threads"]
    params.dry_run = job["dry_run"]
    params.allow_requantize = job["dry_run"]  # sizes of a quantized base's results are wanted, not the results
    entries = (llama.llama_model_kv_override * (len(job["metadata"]) + 1))()
    for entry, (key, value) in zip(entries, job["metadata"].items(), strict=False):
        entry.tag = llama.LLAMA_KV_OVERRIDE_TYPE_STR
        entry.key = key.encode()
        entry.value.val_str = value.encode()
    params.kv_overrides = ctypes.cast(entries, ctypes.POINTER(llama.llama_model_kv_override))
    importance = read_importance(Path(job["importance"])) if job["importance"] else {}
    weights = (llama.llama_model_imatrix_data * (len(importance) + 1))()  # the last one, nameless, ends the list
    for weight, (name, values) in zip(weights, importance.items(), strict=False):
        weight.name = name.encode()
        weight.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        weight.size = len(values)
    if importance:
        params.imatrix = ctypes.cast(weights, ctypes.POINTER(llama.llama_model_imatrix_data))
    return not llama.llama_model_quantize(job["source"].encode(), job["target"].encode(), ctypes.byref(params))


if __name__ == "__main__":
    sys.exit(0 if _run(json.load(sys.stdin)) else 1)
