"""The process in which llama.cpp quantizes: `python -m masa_export.quantizer_process`, its job as JSON on stdin.

A process of its own, because llama.cpp ends the whole process at what it holds impossible, and cannot be interrupted.
Its messages go to stderr; the exit code is 0 where the file was written. `masa_export.quantizer` reads both.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masa.backends.llama_library import library
from masa_export.importance import read_importance


def run(job: Mapping[str, Any]) -> bool:
    """Do the job that `masa_export.quantizer` describes; whether llama.cpp did it."""
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
    sys.exit(0 if run(json.load(sys.stdin)) else 1)
