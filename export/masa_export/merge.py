"""A checkpoint merged into its base's own GGUF: other weights, and every other byte of the header as it was.

So tokenizer, chat template and hyper-parameters are exactly the base's. Tensors are de-quantized, changed and written
one after the other; the largest one in its new type is about what is held in memory.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from masa.errors import MasaError
from masa.formats.gguf_header import GgufHeader, TensorInfo, read_header
from masa_export.changes import Change
from masa_export.errors import ExportError
from masa_export.quantizations import FILE_TYPES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS = 1 << 22
"""So many numbers of a tensor are changed at once."""
_LARGEST_F16 = 65504.0
_FILE_TYPE = b"general.file_type"
_UINT32 = 4  # ggml's docs/gguf.md, enum gguf_metadata_value_type


def merge_into_gguf(
    source: Path,
    changes: Mapping[str, Change],
    target: Path,
    kind: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the base `source` with `changes` (by tensor name) to the file `target`, its matrices as `kind`.

    `kind` is "F16", "BF16" or "F32". Tensors of one dimension stay as they are stored, or become F32 where they change.
    The file is not written atomically. `progress` is called with the number of tensors done and that of all.

    Raises:
        ExportError: if the base is damaged, split over several files, or a number is too large for `kind`.
        OSError: if the file cannot be written.
    """
    try:
        header = read_header(source)
    except MasaError as error:
        raise ExportError(str(error)) from None
    count = header.metadata.get("split.count", 0)
    if isinstance(count, int) and count > 1:
        raise ExportError(f"{source}: is one of {count} parts; join them with llama.cpp's llama-gguf-split --merge")
    types = {tensor.name: _type(tensor, kind, tensor.name in changes) for tensor in header.tensors}
    with source.open("rb") as base, target.open("wb") as out:
        alignment = int(str(header.metadata.get("general.alignment", 32)))
        out.write(_header(header, base.read(header.data_offset), types, kind, alignment))
        for number, tensor in enumerate(header.tensors):
            progress(number, len(header.tensors))
            out.write(bytes(-out.tell() % alignment))
            change = changes.get(tensor.name)
            if change is None and types[tensor.name] == tensor.type:
                _copy(header, tensor, base, out)
            else:
                _write(header, tensor, change, types[tensor.name], out)
        out.write(bytes(-out.tell() % alignment))
        out.flush()
        os.fsync(out.fileno())


def _type(tensor: TensorInfo, kind: str, changed: bool) -> int:
    """The number of the ggml type that the tensor is written as."""
    import gguf

    if len(tensor.shape) > 1:
        return int(gguf.GGMLQuantizationType[kind])
    return int(gguf.GGMLQuantizationType.F32) if changed else tensor.type


def _header(header: GgufHeader, start: bytes, types: Mapping[str, int], kind: str, alignment: int) -> bytes:
    """The base's header with other types and offsets in its list of tensors.

    That list ends the header, so where it begins is found by what it must look like.
    """
    old = b"".join(_info(tensor, tensor.type, tensor.offset) for tensor in header.tensors)
    begin = start.rfind(old)
    if begin < 0:
        raise ExportError(f"{header.path}: its list of tensors is not where it must be; fetch the base again")
    new, offset = b"", 0
    for tensor in header.tensors:
        new += _info(tensor, types[tensor.name], offset)
        size = TensorInfo(tensor.name, tensor.shape, types[tensor.name], 0).bytes
        if size is None:
            raise ExportError(f"{header.path}: {tensor.name} has a type that this masa does not know; upgrade masa")
        offset += size + -size % alignment
    metadata = bytearray(start[:begin])
    key = struct.pack("<Q", len(_FILE_TYPE)) + _FILE_TYPE + struct.pack("<I", _UINT32)
    at = metadata.find(key)
    if at >= 0:
        struct.pack_into("<I", metadata, at + len(key), FILE_TYPES[kind])
    whole = bytes(metadata) + new
    return whole + bytes(-len(whole) % alignment)


def _info(tensor: TensorInfo, kind: int, offset: int) -> bytes:
    name = tensor.name.encode("utf-8")
    shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
    return struct.pack("<Q", len(name)) + name + shape + struct.pack("<IQ", kind, offset)


def _copy(header: GgufHeader, tensor: TensorInfo, base: BinaryIO, out: BinaryIO) -> None:
    base.seek(header.data_offset + tensor.offset)
    left = tensor.bytes or 0
    while left:
        piece = base.read(min(left, 1 << 24))
        if not piece:
            raise ExportError(f"{header.path}: became shorter while it was read; start again")
        out.write(piece)
        left -= len(piece)


def _write(header: GgufHeader, tensor: TensorInfo, change: Change | None, kind: int, out: BinaryIO) -> None:
    import gguf
    import numpy as np

    columns = tensor.shape[0]
    rows = tensor.elements // columns
    stored = np.memmap(
        header.path, np.uint8, "r", header.data_offset + tensor.offset, (rows, (tensor.bytes or 0) // rows)
    )
    source = gguf.GGMLQuantizationType(tensor.type)
    apply = None if change is None else change()
    step = max(1, _ROWS // columns)
    for start in range(0, rows, step):
        values = _plain(stored[start : start + step], source, f"{header.path}: {tensor.name}")
        if apply is not None:
            values = apply(values, start)
        out.write(np.ascontiguousarray(encode(values, gguf.GGMLQuantizationType(kind).name, tensor.name)).tobytes())


def _plain(data: NDArray[np.uint8], kind: Any, where: str) -> NDArray[np.float32]:
    import gguf
    import numpy as np

    try:
        values: NDArray[np.float32] = gguf.quants.dequantize(data, kind).astype(np.float32, copy=False)
    except NotImplementedError:
        raise ExportError(f"{where} is stored as {kind.name}, which cannot be de-quantized here") from None
    if not np.isfinite(values).all():
        raise ExportError(f"{where} holds numbers that are not finite; the base is damaged, fetch it again")
    return values


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
