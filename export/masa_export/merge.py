"""A checkpoint merged into its base: into the base's own GGUF, or into a copy of its Hugging Face folder.

A LoRA adds scale * B A to a weight, a full checkpoint replaces it. Tensors are read, changed and written one after the
other, in pieces of some millions of numbers; beside these, one layer's adapter or one tensor is held.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from masa.formats.gguf_header import GgufHeader, TensorInfo, retyped
from masa_export.adapter import match_layers, permute, rotary_heads, tensor_names
from masa_export.errors import ExportError
from masa_export.quantizer import FILE_TYPES
from masa_export.source import Source
from masa_export.tensors import MODEL_INDEX, TensorFile, header_of, open_model, open_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = Callable[[NDArray[np.float32], int], NDArray[np.float32]]

Change = Callable[[], "Rows"]
"""Reads what is needed and returns a function: some rows of the base (float32) and the number of the first one to the
merged rows. Tensors of one dimension are one row."""
Progress = Callable[[int, int], None]

_NUMBERS = 1 << 22
"""So many numbers of a tensor are changed at once."""
_LARGEST_F16 = 65504.0
_FILE_TYPE = b"general.file_type"
_UINT32 = 4  # ggml's docs/gguf.md, enum gguf_metadata_value_type
_BESIDE = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
"""Endings of the files that belong to a model beside its weights: configuration, tokenizer, chat template."""


def gguf_changes(source: Source) -> Mapping[str, Change]:
    """What the checkpoint changes in the base's GGUF, by tensor name, rows in llama.cpp's order.

    Raises:
        ExportError: if tensors do not fit the base.
    """
    if source.checkpoint.kind == "full":
        return _replacements(source, source.path)
    file = open_tensors(source.weights)
    return {
        layer.tensor: _addition(file, layer.a, layer.b, source.adapter.scale, rotary_heads(source.shape, layer.tensor))
        for layer in match_layers(file, source)
    }


def merge_into_gguf(
    header: GgufHeader,
    changes: Mapping[str, Change],
    target: Path,
    kind: str,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write the base with this `header` and `changes` (by tensor name) to the file `target`, its matrices as `kind`.

    `kind` is "F16", "BF16" or "F32". Tensors of one dimension stay as they are stored, or become F32 where they change.
    Every other byte of the header stays, so tokenizer, chat template and hyper-parameters are exactly the base's. The
    file is not written atomically. `progress` is called with the number of tensors done and that of all.

    Raises:
        ExportError: if the base is split over several files, or a number is too large for `kind`.
        FormatError: if it is damaged.
        OSError: if the file cannot be written.
    """
    count = header.metadata.get("split.count", 0)
    if isinstance(count, int) and count > 1:
        raise ExportError(f"{header.path}: is one of {count} parts; join them with llama-gguf-split --merge")
    types = {tensor.name: _type(tensor, kind, tensor.name in changes) for tensor in header.tensors}
    with header.path.open("rb") as base, target.open("wb") as out:
        out.write(_changed_header(header, types, kind))
        for number, tensor in enumerate(header.tensors):
            progress(number, len(header.tensors))
            out.write(bytes(-out.tell() % header.alignment))
            change = changes.get(tensor.name)
            if change is None and types[tensor.name] == tensor.type:
                _copy(header, tensor, base, out)
            else:
                for values in _merged(_rows_of(header, tensor), tensor.shape[::-1], change):
                    out.write(encode(values, _name(types[tensor.name]), tensor.name).tobytes())
        out.write(bytes(-out.tell() % header.alignment))
        out.flush()
        os.fsync(out.fileno())


def merged_tensors(source: Source) -> dict[str, NDArray[np.float32]]:
    """Every tensor of the merged model as float32, by its name in the source's GGUF; all of them in memory.

    Raises:
        ExportError: if tensors do not fit the base, or one is damaged or stored in a way that is not known here.
    """
    import numpy as np

    header, changes = source.header, gguf_changes(source)
    assert header is not None
    stored = source.folder if source.checkpoint.kind == "lora" else None
    folder: Mapping[str, Change] = {} if stored is None else _replacements(source, stored)
    whole: dict[str, NDArray[np.float32]] = {}
    for tensor in header.tensors:
        shape = tensor.shape[::-1]
        if (own := folder.get(tensor.name)) is not None:
            values = own()(np.empty((math.prod(shape[:-1]), 0), np.float32), 0)
        else:
            values = _rows_of(header, tensor)(0, math.prod(shape[:-1]))
        if (change := changes.get(tensor.name)) is not None:
            values = change()(values, 0)
        whole[tensor.name] = values.reshape(shape)
    return whole


def merge_folder(source: Source, target: Path, kind: str, progress: Progress = lambda done, total: None) -> None:
    """Make the folder `target`: the base's with the checkpoint merged in; `kind` is "F16", "BF16" or "F32".

    Changed tensors are stored as `kind`, which the GGUF will have, so nothing is rounded twice; all others, and all
    files but the weights, are copied. A full checkpoint's own weights are linked to, the tokenizer is the base's.

    Raises:
        ExportError: if checkpoint and base do not fit, or a file is damaged.
        OSError: if a file cannot be written.
    """
    assert source.folder is not None
    target.mkdir()
    for path in sorted(source.folder.iterdir()):
        if path.is_file() and path.suffix in _BESIDE and path.name != MODEL_INDEX:
            shutil.copyfile(path, target / path.name)
    full = source.checkpoint.kind == "full"
    weights = source.path if full else source.folder
    tensors = open_model(weights)
    files = list({file.path: file for file in tensors.values()}.values())
    if (weights / MODEL_INDEX).is_file():
        shutil.copyfile(weights / MODEL_INDEX, target / MODEL_INDEX)
    if full:
        for file in files:
            (target / file.path.name).symlink_to(file.path.resolve())
        return
    changes = _folder_changes(source, {name: file.shapes[name] for name, file in tensors.items()})
    done = 0
    for file in files:
        stored = {name: (kind if name in changes else file.stored(name), file.shapes[name]) for name in file.shapes}
        with (target / file.path.name).open("wb") as out:
            out.write(header_of(stored))
            for name in stored:
                progress(done, len(tensors))
                done += 1
                if name not in changes:
                    out.writelines(file.raw(name))
                    continue
                for values in _merged(_sliced(file.read(name)), file.shapes[name], changes[name]):
                    out.write(encode(values, kind, f"{file.path}: {name}").tobytes())


def _folder_changes(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Change]:
    """What a LoRA changes in the tensors of a Hugging Face folder, by tensor name; `shapes` are the folder's."""
    file = open_tensors(source.weights)
    changes = {}
    for layer in match_layers(file, source):
        name = f"{layer.module}.weight"
        wanted = (file.shapes[layer.b][0], file.shapes[layer.a][1])
        if shapes.get(name) != wanted:
            found = "has no such tensor" if name not in shapes else f"has it as {shapes[name]}"
            raise ExportError(
                f"{file.path}: changes {name} of {wanted[0]} x {wanted[1]}, but {source.folder} {found}; "
                "give the base that it was trained on"
            )
        changes[name] = _addition(file, layer.a, layer.b, source.adapter.scale, 0)
    return changes


def _addition(file: TensorFile, a: str, b: str, scale: float, heads: int) -> Change:
    import numpy as np

    def load() -> Rows:
        inputs, outputs = file.read(a), file.read(b)
        outputs *= np.float32(scale)
        if heads:
            outputs = permute(outputs, heads)
        return lambda rows, start: rows + outputs[start : start + len(rows)] @ inputs

    return load


def _replacements(source: Source, folder: Path) -> Mapping[str, Change]:
    """The tensors of the Hugging Face model in `folder`, by their names in the source's GGUF, of which they are all."""
    tensors, names = source.shape.tensors, tensor_names(source.shape)
    assert tensors is not None
    changes: dict[str, Change] = {}
    for name, file in open_model(folder).items():
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place == "output.weight" and place not in tensors:
            continue  # the output layer is the token embedding, saved twice
        if place is None or tensors.get(place) != file.shapes[name][::-1]:
            raise ExportError(
                f"{file.path}: the tensor {name} has no place in {source.gguf}; give the base that it was trained on"
            )
        # transformers multiplies by 1 + weight in Gemma's norms, llama.cpp by the weight.
        offset = 1.0 if source.shape.architecture == "gemma3" and place.endswith("norm.weight") else 0.0
        changes[place] = _replacement(file, name, rotary_heads(source.shape, place), offset)
    missing = next((name for name in tensors if name not in changes and name != "rope_freqs.weight"), None)
    if missing is not None:
        raise ExportError(f"{folder}: holds nothing for {missing} of {source.gguf}; take another checkpoint")
    return changes


def _replacement(file: TensorFile, name: str, heads: int, offset: float) -> Change:
    import numpy as np

    def load() -> Rows:
        whole = file.read(name)
        if heads:
            whole = permute(whole, heads).reshape(whole.shape)
        whole = whole.reshape(-1, whole.shape[-1])
        whole += np.float32(offset)
        return lambda rows, start: whole[start : start + len(rows)]

    return load


def _merged(
    rows: Callable[[int, int], NDArray[np.float32]], shape: tuple[int, ...], change: Change | None
) -> Iterator[NDArray[np.float32]]:
    """A tensor of this shape (columns last), changed, in pieces; `rows(start, end)` are some of its rows."""
    apply = None if change is None else change()
    step = max(1, _NUMBERS // shape[-1])
    for start in range(0, math.prod(shape[:-1]), step):
        values = rows(start, start + step)
        yield values if apply is None else apply(values, start)


def _sliced(whole: NDArray[np.float32]) -> Callable[[int, int], NDArray[np.float32]]:
    return lambda start, end: whole[start:end]


def _rows_of(header: GgufHeader, tensor: TensorInfo) -> Callable[[int, int], NDArray[np.float32]]:
    """Reads rows of a tensor of a GGUF, de-quantized."""
    import gguf
    import numpy as np

    count = tensor.elements // tensor.shape[0]
    place, width = header.data_offset + tensor.offset, (tensor.bytes or 0) // count
    stored = np.memmap(header.path, np.uint8, "r", place, (count, width))
    kind, where = gguf.GGMLQuantizationType(tensor.type), f"{header.path}: {tensor.name}"

    def read(start: int, end: int) -> NDArray[np.float32]:
        try:
            values: NDArray[np.float32] = gguf.quants.dequantize(stored[start:end], kind).astype(np.float32, copy=False)
        except NotImplementedError:
            raise ExportError(f"{where} is stored as {kind.name}, which cannot be de-quantized here") from None
        if not np.isfinite(values).all():
            raise ExportError(f"{where} holds numbers that are not finite; the base is damaged, fetch it again")
        return values

    return read


def encode(values: NDArray[np.float32], kind: str, where: str) -> NDArray[Any]:
    """The numbers as "F32", "F16" or "BF16" (rounded to nearest even, as 16-bit words).

    Raises:
        ExportError: if one of them is too large for F16.
    """
    import gguf
    import numpy as np

    if kind == "F16" and np.abs(values).max(initial=0.0) > _LARGEST_F16:
        raise ExportError(f"{where} holds numbers too large for F16; use BF16 or F32 (for quantized types --via bf16)")
    if kind == "F32":
        return values.astype("<f4", copy=False)
    if kind == "F16":
        return values.astype("<f2")
    return np.asarray(gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16)).view("<u2")


def _type(tensor: TensorInfo, kind: str, changed: bool) -> int:
    """The number of the ggml type that the tensor is written as."""
    import gguf

    if len(tensor.shape) > 1:
        return int(gguf.GGMLQuantizationType[kind])
    return int(gguf.GGMLQuantizationType.F32) if changed else tensor.type


def _name(type_: int) -> str:
    import gguf

    return str(gguf.GGMLQuantizationType(type_).name)


def _changed_header(header: GgufHeader, types: Mapping[str, int], kind: str) -> bytes:
    """The base's header with other types of tensors, and `kind` as that of the file."""
    start = bytearray(retyped(header, types)[0])
    key = struct.pack("<Q", len(_FILE_TYPE)) + _FILE_TYPE + struct.pack("<I", _UINT32)
    at = start.find(key)
    if at >= 0:
        struct.pack_into("<I", start, at + len(key), FILE_TYPES[kind])
    return bytes(start)


def _copy(header: GgufHeader, tensor: TensorInfo, base: BinaryIO, out: BinaryIO) -> None:
    base.seek(header.data_offset + tensor.offset)
    left = tensor.bytes or 0
    while left:
        piece = base.read(min(left, 1 << 24))
        if not piece:
            raise ExportError(f"{header.path}: became shorter while it was read; start again")
        out.write(piece)
        left -= len(piece)
