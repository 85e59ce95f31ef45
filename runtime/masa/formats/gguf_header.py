"""What a GGUF file says about itself, without its weights.

Reads the header of GGUF versions 2 and 3 (github.com/ggml-org/ggml, docs/gguf.md): the metadata and the
list of tensors. Tensor data are never read; long arrays, such as a vocabulary, are stepped over.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from masa.errors import FormatError

MAGIC = b"GGUF"

LONG_ARRAY = 1024
"""Arrays with more items than this are reported by their length only."""

_CHUNK = 1 << 18
_LONGEST_STRING = 1 << 24  # the longest real ones are chat templates of some 10 KB
_LONGEST_HEADER = 1 << 29
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS

_OLD_MAGICS = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT", b"algg": "GGLA"}

# value type: struct code; 8 is a string, 9 an array
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_TYPE_NAMES = {
    0: "uint8", 1: "int8", 2: "uint16", 3: "int16", 4: "uint32", 5: "int32", 6: "float32", 7: "bool",
    8: "string", 9: "array", 10: "uint64", 11: "int64", 12: "float64",
}  # fmt: skip

# ggml type: (elements in a block, bytes of a block)
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110),
    22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8),
    29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """An array that was stepped over: the type of its items and their number."""

    item_type: str
    length: int

    def __len__(self) -> int:
        return self.length


Value = str | int | float | bool | ArrayInfo | tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the list; `offset` counts from the beginning of the tensor data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int | None:
        """Size of the data, None where the ggml type is unknown."""
        block = _BLOCKS.get(self.type)
        return None if block is None else -(-self.elements // block[0]) * block[1]


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata and tensor list of one GGUF file.

    Attributes:
        metadata: by key, in file order; short arrays as tuples, long ones as `ArrayInfo`.
        data_offset: where the tensor data begin.
        size: size of the file in bytes.
    """

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    data_offset: int
    size: int

    @property
    def elements(self) -> int:
        """Sum of all tensors' elements in this file: the parameter count where it is the whole model."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def expected_size(self) -> int | None:
        """The bytes that header and tensors need, None where a tensor's ggml type is unknown."""
        ends = [None if tensor.bytes is None else tensor.offset + tensor.bytes for tensor in self.tensors]
        known = [end for end in ends if end is not None]
        if len(known) < len(ends):
            return None
        return self.data_offset + max(known) if known else 0

    @property
    def alignment(self) -> int:
        """What the offset of every tensor's data is a multiple of, in bytes."""
        return int(str(self.metadata.get("general.alignment", 32)))

    def text(self, key: str) -> str | None:
        """The string under `key`, stripped; None where it is missing, empty or of another type."""
        value = self.metadata.get(key)
        return (value.strip() or None) if isinstance(value, str) else None


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins with the magic number of GGUF; False where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == MAGIC
    except (OSError, ValueError):
        return False


def read_header(path: str | os.PathLike[str], *, check_size: bool = True) -> GgufHeader:
    """Read the header of the GGUF file at `path`.

    `check_size` also compares the file's size with what its tensors need; the check is left out where
    a tensor has a ggml type that masa does not know.

    Raises:
        FormatError: if the file cannot be read, is no GGUF, is of another version or byte order,
            damaged or truncated; of a part of a file that was cut, how to join the parts.
    """
    path = Path(path)
    try:
        return _read_header(path, check_size)
    except FormatError:
        advice = join_parts(path) if path.is_file() else None
        if advice is None:
            raise
        raise FormatError(f"{path}: one part of a file that was cut into pieces; {advice}") from None


def retyped(header: GgufHeader, types: Mapping[str, int]) -> tuple[bytes, tuple[TensorInfo, ...]]:
    """The bytes before the tensor data of a copy in which tensors have other ggml types, and its tensors in order.

    `types` are ggml's numbers by tensor name; all else stays as it is, to the byte.

    Raises:
        FormatError: if a type is unknown, or the file is not what `header` was read from.
        OSError: if it cannot be read.
    """
    with header.path.open("rb") as file:
        start = file.read(header.data_offset)
    old = b"".join(map(_stored_info, header.tensors))
    # The list of tensors ends the header.
    begin = start.rfind(old)
    if begin < 0:
        raise FormatError(f"{header.path}: its list of tensors is not where it must be; download the file again")
    tensors: list[TensorInfo] = []
    offset = 0
    for tensor in header.tensors:
        new = replace(tensor, type=types.get(tensor.name, tensor.type), offset=offset)
        if new.bytes is None:
            raise FormatError(f"{header.path}: {new.name} has a type that this masa does not know; upgrade masa")
        tensors.append(new)
        offset += new.bytes + -new.bytes % header.alignment
    whole = start[:begin] + b"".join(map(_stored_info, tensors))
    return whole + bytes(-len(whole) % header.alignment), tuple(tensors)


def _stored_info(tensor: TensorInfo) -> bytes:
    name = tensor.name.encode("utf-8")
    shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
    return struct.pack("<Q", len(name)) + name + shape + struct.pack("<IQ", tensor.type, tensor.offset)


def join_parts(path: Path) -> str | None:
    """How to join the parts of a cut file, of which `path` is one; None if its name does not say that it is.

    People cut GGUF files that are too large for a web site with `split`, and name the parts X.gguf.part1of2,
    X.gguf-split-a, X.gguf.001, X.gguf.aa or X.part1.gguf. A part of llama.cpp's own gguf-split is a GGUF file itself.
    """
    part = _part(path.name)
    if part is None:
        return None
    try:
        beside = [other for file in path.parent.iterdir() if (other := _part(file.name)) and other.of(part)]
    except OSError:
        beside = [part]
    numbers = sorted({other.number for other in beside}, key=lambda number: (len(number.lstrip("0")), number))
    missing: list[str] = []
    if part.total:
        first = 0 if numbers and not numbers[0].strip("0") else 1
        width = len(part.number) if part.number.startswith("0") or len(part.number) > len(str(part.total)) else 0
        every = [f"{number:0{width}}" for number in range(first, first + part.total)]
        missing, numbers = [number for number in every if number not in numbers], every
    names = [f"{part.before}{number}{part.behind}" for number in numbers]
    listed = " ".join(shlex.quote(str(path.with_name(name))) for name in names)
    if len(names) == 1 or len(names) > _LISTED:
        listed = f"{shlex.quote(str(path.with_name(part.before)))}*{shlex.quote(part.behind) if part.behind else ''}"
    whole = path.with_name(part.whole)
    told = f"join the parts with cat: cat {listed} > {shlex.quote(str(whole))}, then give {whole}"
    if missing:
        told += f" (of {part.total} parts, {len(missing)} are not in the folder)"
    return told


def parts_instead(path: Path) -> str | None:
    """What to do about a file that is not there as a whole, but in parts beside where it would be; else None."""
    try:
        files = sorted(path.parent.iterdir())
    except OSError:
        return None
    first = next((file for file in files if (part := _part(file.name)) and part.whole == path.name), None)
    if first is None:
        return None
    try:
        read_header(first)
    except FormatError:
        return join_parts(first)
    return f"give the first one, {first}"


@dataclass(frozen=True, slots=True)
class _Part:
    """The name of one part: `before`, its number or letters, `behind`; of `total` parts of the file `whole`."""

    before: str
    number: str
    behind: str
    total: int | None
    whole: str

    def of(self, other: _Part) -> bool:
        same = (self.before, self.behind, self.whole) == (other.before, other.behind, other.whole)
        return same and self.number.isdigit() == other.number.isdigit()


_LISTED = 12
_OF = r"(?:[._-]*of[._-]*(?P<total>\d{1,5}))?"
_PARTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # X.gguf.part1of2, X.gguf-split-a
        rf"(?P<before>(?P<whole>.+\.gguf)[._-]*(?:part|split|chunk|piece)[._-]*)(?P<number>\d{{1,5}}|[a-z]{{1,2}})(?P<behind>{_OF})",
        # X.gguf.001, X.gguf-00001-of-00002, X.ggufaa
        rf"(?P<before>(?P<whole>.+\.gguf)[._-]*)(?P<number>\d{{1,5}}|a[a-z])(?P<behind>{_OF})",
        # X.part1of2.gguf, X-split-a.gguf
        rf"(?P<before>(?P<whole>.+?)[._-]+(?:part|split|chunk|piece)[._-]*)(?P<number>\d{{1,5}}|[a-z]{{1,2}})(?P<behind>{_OF}\.gguf)",
        # X-00001-of-00002.gguf, as gguf-split names its parts
        r"(?P<before>(?P<whole>.+)-)(?P<number>\d{5})(?P<behind>-of-(?P<total>\d{5})\.gguf)",
    )
)


def _part(name: str) -> _Part | None:
    for pattern in _PARTS:
        if found := pattern.fullmatch(name):
            whole = found["whole"] if found["whole"].lower().endswith(".gguf") else f"{found['whole']}.gguf"
            total = int(found["total"]) if found["total"] else None
            return _Part(found["before"], found["number"], found["behind"], total, whole)
    return None


def _read_header(path: Path, check_size: bool) -> GgufHeader:
    try:
        with path.open("rb") as file:
            header = _read(path, file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise FormatError(f"{path}: is a folder; give a GGUF file") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise FormatError(f"{path}: cannot be read ({error}); check the path and its permissions") from None
    expected = header.expected_size
    if check_size and expected is not None and header.size < expected:
        raise FormatError(
            f"{path}: {header.size:,} bytes, but its {len(header.tensors)} tensors need {expected:,}; "
            "the file is truncated, download it again"
        )
    return header


def _read(path: Path, file: BinaryIO, size: int) -> GgufHeader:
    version = _version(path, file.read(8))
    reader = _Reader(path, file, size)
    reader.skip(8)
    tensor_count, pair_count = reader.number("Q"), reader.number("Q")
    # Every entry takes some bytes: a count that cannot fit means damage, and must not cost a long loop.
    if pair_count * 13 + tensor_count * 24 > size:
        raise FormatError(
            f"{path}: announces {pair_count} metadata entries and {tensor_count} tensors, more than its "
            f"{size:,} bytes can hold; the file is damaged or truncated, download it again"
        )
    metadata: dict[str, Value] = {}
    for index in range(pair_count):
        reader.what = f"metadata entry {index + 1} of {pair_count}"
        key = reader.string()
        reader.what = f"the metadata {key!r}"
        if key in metadata:
            raise FormatError(f"{path}: the metadata {key!r} occurs twice; the file is damaged")
        metadata[key] = _value(reader, reader.number("I"))
    tensors = []
    for index in range(tensor_count):
        reader.what = f"the description of tensor {index + 1} of {tensor_count}"
        tensors.append(_tensor(reader))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise FormatError(f"{path}: general.alignment is {alignment!r}, not a size; the file is damaged")
    data_offset = -(-reader.position // alignment) * alignment
    return GgufHeader(path, version, MappingProxyType(metadata), tuple(tensors), data_offset, size)


def _version(path: Path, start: bytes) -> int:
    """The version in the first eight bytes, if masa reads it."""
    if start[:4] != MAGIC:
        old = _OLD_MAGICS.get(start[:4])
        if old is not None:
            raise FormatError(f"{path}: a model in the old format {old}, which llama.cpp no longer loads; convert it")
        found = "it is empty" if not start else f"it begins with {start[:4]!r}"
        raise FormatError(f"{path}: not a GGUF file, {found}; give a model file that ends in .gguf")
    if len(start) < 8:
        raise FormatError(f"{path}: the GGUF header ends after {len(start)} bytes; download the file again")
    version: int = struct.unpack_from("<I", start, 4)[0]
    if version not in (2, 3):
        if version and version & 0xFFFF == 0:
            raise FormatError(f"{path}: a big-endian GGUF; masa reads little-endian ones, convert it")
        raise FormatError(f"{path}: GGUF version {version}, this masa reads 2 and 3; convert the model or upgrade masa")
    return version


def _value(reader: _Reader, kind: int, depth: int = 0) -> Value:
    if kind == _STRING:
        return reader.string()
    if kind == _ARRAY:
        return _array(reader, depth + 1)
    return reader.scalar(_code(reader, kind))


def _array(reader: _Reader, depth: int) -> Value:
    kind, count = reader.number("I"), reader.number("Q")
    if depth > 4:
        raise reader.damaged("holds arrays inside arrays without end")
    if kind == _ARRAY:
        nested = [_array(reader, depth + 1) for _ in range(min(count, LONG_ARRAY))]
        for _ in range(count - len(nested)):
            _array(reader, depth + 1)
        return tuple(nested) if count <= LONG_ARRAY else ArrayInfo("array", count)
    if count <= LONG_ARRAY:
        return tuple(_value(reader, kind) for _ in range(count))
    if kind == _STRING:
        reader.skip_strings(count)
    else:
        reader.skip(count * struct.calcsize(f"<{_code(reader, kind)}"))
    return ArrayInfo(_TYPE_NAMES[kind], count)


def _code(reader: _Reader, kind: int) -> str:
    code = _SCALARS.get(kind)
    if code is None:
        raise reader.damaged(f"has the unknown type {kind}")
    return code


def _tensor(reader: _Reader) -> TensorInfo:
    name = reader.string()
    dimensions = reader.number("I")
    if dimensions > _MAX_DIMENSIONS:
        raise reader.damaged(f"({name!r}) has {dimensions} dimensions, ggml allows {_MAX_DIMENSIONS}")
    shape = tuple(reader.number("Q") for _ in range(dimensions))
    return TensorInfo(name, shape, reader.number("I"), reader.number("Q"))


class _Reader:
    """A cursor over the file that holds one chunk of it; running off the end is a FormatError."""

    __slots__ = ("_at", "_base", "_buffer", "_file", "_path", "_size", "what")

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size
        self._buffer, self._base, self._at = b"", 0, 0  # _at may lie behind the chunk
        self.what = "its counts"

    @property
    def position(self) -> int:
        return self._base + self._at

    def damaged(self, how: str) -> FormatError:
        return FormatError(f"{self._path}: {self.what} {how}; the file is damaged, download it again")

    def skip(self, count: int) -> None:
        self._at += count
        if self.position > self._size:
            raise FormatError(
                f"{self._path}: the file ends after {self._size:,} bytes, in the middle of {self.what}; "
                "it is truncated, download it again"
            )
        if self.position > _LONGEST_HEADER:
            raise self.damaged(f"goes beyond {_LONGEST_HEADER:,} bytes, larger than any real header")

    def number(self, code: str) -> int:
        return int(self.scalar(code))

    def scalar(self, code: str) -> int | float | bool:
        form = f"<{code}"
        value: int | float | bool = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def string(self) -> str:
        length = self.number("Q")
        if length > _LONGEST_STRING:
            raise self.damaged(f"has a text of {length:,} bytes")
        return self._take(length).decode("utf-8", errors="replace")

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings; a vocabulary has 250,000, so the inner loop stays in locals."""
        length_at = struct.Struct("<Q").unpack_from
        while count:
            self._fill(8)
            buffer, at, last = self._buffer, self._at, len(self._buffer) - 8
            while count and at <= last:
                at += 8 + length_at(buffer, at)[0]
                count -= 1
            self.skip(at - self._at)

    def _take(self, count: int) -> bytes:
        self._fill(count)
        start = self._at
        self._at += count
        return self._buffer[start : self._at]

    def _fill(self, count: int) -> None:
        """Have the next `count` bytes in the chunk."""
        if self._at + count <= len(self._buffer):
            return
        start = self.position
        self.skip(count)
        self._file.seek(start)
        self._buffer, self._base, self._at = self._file.read(max(count, _CHUNK)), start, 0
        if len(self._buffer) < count:  # the file shrank while it was read
            self._size = start + len(self._buffer)
            self.skip(count)
