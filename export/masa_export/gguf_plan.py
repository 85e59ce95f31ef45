"""What `masa export gguf` will write: names, sizes, room on the disk, and what of it is finished already.

llama.cpp's quantizer is asked for the sizes, on a dry run: it decides tensor by tensor, and rows that a type cannot
divide get a finer one, so no table of bits a weight tells the size of a small model. A base that is a Hugging Face
folder is shown to it as a GGUF with the right shapes and no data: a sparse file, which takes no room.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.artifact import Artifact
from masa.checksums import sha256_file
from masa.files import TEMPORARY_PREFIX, parse_json, read_text, reason
from masa.formats.gguf_header import read_header
from masa_export.adapter import tensor_names
from masa_export.artifacts import Made, find_finished, source_marks
from masa_export.errors import ExportError
from masa_export.quantizer import UNQUANTIZED, Quantized, quantize
from masa_export.source import Source
from masa_export.tensors import open_model

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class Output:
    """An artifact to be, the unquantized type it is made from, and what its metadata will say of its origin."""

    made: Made
    source: str
    marks: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs, and bytes: needed at most at one moment, and free."""

    outputs: tuple[Output, ...]
    needed: int
    free: int

    @property
    def sources(self) -> tuple[str, ...]:
        """The unquantized types to merge, for what is not finished."""
        return tuple(dict.fromkeys(output.source for output in self.outputs if not output.made.kept))


def planned_outputs(
    source: Source,
    quantizations: Sequence[str],
    *,
    folder: Path,
    name: str,
    via: str,
    importance: Path | None = None,
    force: bool = False,
) -> Outputs:
    """What exporting into `folder` means; `force` makes finished outputs again.

    Raises:
        ExportError: if an output's place is taken by something else and `force` is not given, or llama.cpp cannot
            quantize this base to one of the types.
    """
    made_from = {kind: kind if kind in UNQUANTIZED else via for kind in quantizations}
    try:
        # Room for a file without data; where the outputs go may not exist yet.
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as scratch:
            sizes = _sizes(source, list(dict.fromkeys([*quantizations, *made_from.values()])), Path(scratch))
    except OSError as error:
        raise ExportError(f"{tempfile.gettempdir()}: no file can be written there ({reason(error)})") from None
    marks = {
        **source_marks(source),
        "masa.language": source.checkpoint.language,
        "masa.prompt_version": str(source.checkpoint.prompt_version),
    }
    matrix = "none" if importance is None else sha256_file(importance)
    outputs = []
    for kind, before in made_from.items():
        # An unquantized file does not depend on the importance matrix.
        own = {"masa.merged_as": before, "masa.imatrix_sha256": "none" if kind in UNQUANTIZED else matrix}
        place = folder / f"{name}-{kind.lower()}"
        found = find_finished(place, kind, {**marks, **own}, _marks_of, force=force)
        outputs.append(
            Output(
                Made(
                    quantization=kind,
                    path=place,
                    weights=f"{name}-{kind}.gguf",
                    bytes=sizes[kind].tensor_bytes if found is None else found.weights_path.stat().st_size,
                    fallback_tensors=sizes[kind].fallbacks,
                    kept=found is not None,
                ),
                before,
                {**marks, **own},
            )
        )
    made = [output for output in outputs if not output.made.kept]
    # While the converter works, the merged folder lies beside the GGUF that it writes.
    copies = 1 if source.gguf is not None else 2
    merged = max((copies * sizes[output.source].tensor_bytes for output in made), default=0)
    return Outputs(tuple(outputs), merged + sum(output.made.bytes for output in made), _free(folder))


def _marks_of(artifact: Artifact) -> Mapping[str, Any]:
    return read_header(artifact.weights_path).metadata


def _free(folder: Path) -> int:
    """Bytes free where `folder` is or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _sizes(source: Source, quantizations: Sequence[str], scratch: Path) -> dict[str, Quantized]:
    """For every type: bytes of the file it will be (within some kilobytes; for a folder within its tokenizer's size),
    and how many tensors fall back to a finer type. `scratch` is a folder for a sparse file.
    """
    if source.gguf is not None and source.header is not None:
        shapes, beside = source.gguf, source.header.data_offset
    else:
        shapes = scratch / "shapes.gguf"
        write_shapes(source, shapes)
        assert source.folder is not None
        files = (path for path in map(source.folder.joinpath, _TOKENIZER_FILES) if path.is_file())
        beside = read_header(shapes).data_offset + max((path.stat().st_size for path in files), default=0)
    found = {name: quantize(shapes, scratch / "none.gguf", name, dry_run=True) for name in quantizations}
    return {name: Quantized(size.tensor_bytes + beside, size.fallbacks) for name, size in found.items()}


def write_shapes(source: Source, target: Path) -> None:
    """A sparse GGUF with the shapes of the base's Hugging Face folder, as F16; it holds no data and no tokenizer."""
    import gguf
    import numpy as np

    assert source.folder is not None
    config: dict[str, Any] = parse_json(read_text(source.folder / "config.json"))
    names = tensor_names(source.shape)
    writer = gguf.GGUFWriter(target, source.shape.architecture)
    try:
        writer.add_block_count(source.shape.layers)
        writer.add_head_count(source.shape.heads)
        writer.add_head_count_kv(source.shape.kv_heads)
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
        for name, file in open_model(source.folder).items():
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
