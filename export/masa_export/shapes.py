"""What quantized files will weigh, before anything is merged: llama.cpp's quantizer is asked, on a dry run.

It decides tensor by tensor, and rows that a type cannot divide get a finer one, so no table of bits a weight tells the
size of a small model. A base that is a Hugging Face folder is shown to it as a GGUF with the right shapes and no data:
a sparse file, which takes no room.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masa.files import parse_json, read_text
from masa.formats.gguf_header import read_header
from masa_export.base import Base
from masa_export.quantizer import Quantized, quantize
from masa_export.tensors import open_model

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def expected_sizes(base: Base, quantizations: Sequence[str], scratch: Path) -> dict[str, Quantized]:
    """For every type: bytes of the file it will be (within some kilobytes; for a folder within its tokenizer's size),
    and how many tensors fall back to a finer type. `scratch` is a folder for a sparse file.

    Raises:
        ExportError: if llama.cpp cannot quantize this model to one of the types.
    """
    source = base.gguf
    if source is None:
        source = scratch / "shapes.gguf"
        write_shapes(base, source)
    try:
        beside = read_header(source).data_offset
        if base.gguf is None and base.folder is not None:
            beside += max(
                (path.stat().st_size for path in map(base.folder.joinpath, _TOKENIZER_FILES) if path.is_file()),
                default=0,
            )
        found = {name: quantize(source, scratch / "none.gguf", name, dry_run=True) for name in quantizations}
    finally:
        if base.gguf is None:
            source.unlink(missing_ok=True)
    return {name: Quantized(size.tensor_bytes + beside, size.fallbacks) for name, size in found.items()}


def write_shapes(base: Base, target: Path) -> None:
    """A sparse GGUF with the shapes of the Hugging Face folder of `base`, as F16; it holds no data and no tokenizer."""
    import gguf
    import numpy as np

    assert base.folder is not None
    config: dict[str, Any] = parse_json(read_text(base.folder / "config.json"))
    architecture = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[base.architecture]
    names = gguf.get_tensor_name_map(architecture, base.layers)
    writer = gguf.GGUFWriter(target, base.architecture)
    try:
        writer.add_block_count(base.layers)
        writer.add_head_count(base.heads)
        writer.add_head_count_kv(base.kv_heads)
        writer.add_context_length(config.get("max_position_embeddings", 2048))
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
        writer.add_vocab_size(config["vocab_size"])
        if config.get("head_dim"):
            writer.add_key_length(config["head_dim"])
            writer.add_value_length(config["head_dim"])
        if config.get("sliding_window"):
            writer.add_sliding_window(config["sliding_window"])
        total = 0
        for name, file in open_model(base.folder).items():
            place = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if place is None or (place == "output.weight" and config.get("tie_word_embeddings")):
                continue
            shape = file.shapes[name]
            dtype = np.dtype(np.float16 if len(shape) > 1 else np.float32)
            size = int(np.prod(shape)) * dtype.itemsize
            total += size + -size % 32
            writer.add_tensor_info(place, shape, dtype, size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    with target.open("r+b") as out:
        end = out.seek(0, 2)
        out.truncate(end + -end % 32 + total)
