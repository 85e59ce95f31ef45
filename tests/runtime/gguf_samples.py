"""Small GGUF files for tests, written with llama.cpp's own package `gguf`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

SMOLLM2 = {
    "general.type": "model",
    "general.name": "Smollm2 135M 8k Lc100K Mix1 Ep2",
    "general.finetune": "8k-lc100k-mix1-ep2",
    "general.basename": "smollm2",
    "general.size_label": "135M",
    "llama.block_count": 30,
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.vocab_size": 49152,
}
"""The metadata of the official SmolLM2-135M-Instruct file; the architecture "llama" comes from the writer."""


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray] | None = None,
    *,
    architecture: str = "llama",
    types: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    tokens: Sequence[str] = (),
    endianess: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
) -> Path:
    """A GGUF file with the given metadata; without `tensors` it has one of 4 x 8 zeros."""
    writer = gguf.GGUFWriter(path, architecture, endianess=endianess)
    for key, value in metadata.items():
        _add(writer, key, value)
    if tokens:
        writer.add_token_list(list(tokens))
    if tensors is None:
        tensors = {"token_embd.weight": np.zeros((4, 8), dtype=np.float32)}
    for name, data in tensors.items():
        writer.add_tensor(name, data, raw_dtype=(types or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value) if 0 <= value < 2**32 else writer.add_int64(key, value)
        case float():
            writer.add_float64(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
