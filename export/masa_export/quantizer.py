"""Quantizing a GGUF through llama.cpp's own quantizer, in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from masa.backends.llama_library import library
from masa_export.errors import ExportError
from masa_export.quantizations import FILE_TYPES

_STEP = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB")
_FALLBACK = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback")
_FAILED = re.compile(r"failed to quantize: (.+)")
_KEPT_LINES = 40


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
    command = [sys.executable, "-m", "masa_export.quantizer_process"]
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
