"""Reading GGUF headers: right values, no weights, and one sentence for every kind of damage."""

import os
import struct
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_samples import SMOLLM2, write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.errors import FormatError
from masa.formats import gguf_header
from masa.formats.gguf_header import LONG_ARRAY, ArrayInfo, is_gguf, read_header, retyped


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with every kind of metadata and two tensors, one of them quantized."""
    metadata = SMOLLM2 | {
        "x.yes": True,
        "x.negative": -(2**40),
        "x.float": 0.25,
        "x.short": [3, 3, 4],
        "x.words": ["en", "zürich"],
        "x.flags": [True, False],
        "x.nested": [[1, 2], [3]],
        "x.empty": "",
        "x.long": list(range(LONG_ARRAY + 1)),
    }
    blocks = np.zeros((4, 2 * 18), dtype=np.uint8)  # 4 rows of 64 elements in Q4_0: 2 blocks of 18 bytes
    return write_gguf(
        tmp_path_factory.mktemp("gguf") / "sample.gguf",
        metadata,
        {"a.weight": np.zeros((3, 5), dtype=np.float16), "b.weight": blocks},
        types={"b.weight": gguf.GGMLQuantizationType.Q4_0},
        tokens=[f"token {i}" for i in range(LONG_ARRAY + 500)],
    )


def test_metadata_are_read_with_their_types_and_order(sample: Path) -> None:
    header = read_header(sample)
    assert header.version == 3
    assert {key: header.metadata[key] for key in SMOLLM2} == SMOLLM2
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["x.yes"] is True
    assert header.metadata["x.negative"] == -(2**40)
    assert header.metadata["x.float"] == 0.25
    assert header.metadata["x.short"] == (3, 3, 4)
    assert header.metadata["x.words"] == ("en", "zürich")
    assert header.metadata["x.flags"] == (True, False)
    assert header.metadata["x.nested"] == ((1, 2), (3,))
    written = [name for name in gguf.GGUFReader(sample).fields if not name.startswith("GGUF.")]
    assert list(header.metadata) == written


def test_text_is_none_for_what_is_no_text(sample: Path) -> None:
    header = read_header(sample)
    assert header.text("general.basename") == "smollm2"
    assert header.text("x.empty") is header.text("x.yes") is header.text("missing") is None


def test_long_arrays_are_reported_by_their_length(sample: Path) -> None:
    header = read_header(sample)
    assert header.metadata["tokenizer.ggml.tokens"] == ArrayInfo("string", LONG_ARRAY + 500)
    assert header.metadata["x.long"] == ArrayInfo("int32", LONG_ARRAY + 1)
    assert len(header.metadata["x.long"]) == LONG_ARRAY + 1  # type: ignore[arg-type]


def test_tensors_are_listed_as_the_reference_reader_lists_them(sample: Path) -> None:
    header = read_header(sample)
    reference = gguf.GGUFReader(sample)
    assert [(t.name, t.shape, t.type) for t in header.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), int(t.tensor_type)) for t in reference.tensors
    ]
    assert [header.data_offset + t.offset for t in header.tensors] == [t.data_offset for t in reference.tensors]
    assert [t.bytes for t in header.tensors] == [t.n_bytes for t in reference.tensors]
    assert header.elements == 3 * 5 + 4 * 64


def test_block_sizes_are_those_of_ggml() -> None:
    reference = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    del reference[int(gguf.GGMLQuantizationType.Q8_1)]  # never stored in a file
    assert reference == gguf_header._BLOCKS


@pytest.mark.parametrize("lost", [1, 31, 32, 100])
def test_lost_tensor_data_are_noticed_and_the_check_can_be_left_out(sample: Path, tmp_path: Path, lost: int) -> None:
    expected = read_header(sample).expected_size
    assert expected is not None
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(sample.read_bytes()[: expected - lost])
    with pytest.raises(FormatError, match=rf"cut\.gguf: {expected - lost:,} bytes.* need {expected:,};.*truncated"):
        read_header(cut)
    assert read_header(cut, check_size=False).elements == read_header(sample).elements


def test_no_byte_of_the_last_tensor_is_asked_for_beyond_its_end(sample: Path, tmp_path: Path) -> None:
    expected = read_header(sample).expected_size
    exact = tmp_path / "exact.gguf"
    exact.write_bytes(sample.read_bytes()[:expected])
    assert read_header(exact).size == expected


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_in_its_header_is_called_truncated(sample: Path, data: st.DataObject) -> None:
    end = read_header(sample).data_offset - 32
    length = data.draw(st.integers(min_value=24, max_value=end))
    cut = sample.with_name("cut.gguf")
    cut.write_bytes(sample.read_bytes()[:length])
    with pytest.raises(FormatError, match="truncated"):
        read_header(cut)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(min_value=4, max_value=900), byte=st.integers(min_value=0, max_value=255))
def test_a_flipped_byte_costs_one_sentence_at_most(sample: Path, position: int, byte: int) -> None:
    content = bytearray(sample.read_bytes())
    content[position] = byte
    damaged = sample.with_name("damaged.gguf")
    damaged.write_bytes(content)
    try:
        read_header(damaged)
    except FormatError as error:
        assert str(damaged) in str(error)
        assert "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(rest=st.binary(max_size=200))
def test_noise_behind_the_magic_number_is_a_format_error_or_an_empty_model(sample: Path, rest: bytes) -> None:
    noise = sample.with_name("noise.gguf")
    noise.write_bytes(b"GGUF" + struct.pack("<I", 3) + rest)
    try:
        assert not read_header(noise).tensors
    except FormatError as error:
        assert "noise.gguf" in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a GGUF file, it is empty"),
        (b"PK\x03\x04 zip", "not a GGUF file, it begins with"),
        (b"tjgg\x03\x00\x00\x00", "old format GGJT"),
        (b"GGUF\x03\x00", "ends after 6 bytes"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1, this masa reads 2 and 3"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "GGUF version 4, this masa reads 2 and 3"),
        (b"GGUF" + struct.pack("<IQQ", 0, 0, 0), "GGUF version 0, this masa reads 2 and 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "more than its 24 bytes can hold"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "more than its 24 bytes can hold"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62) + b"\0" * 99, "has a text of"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77) + b"\0" * 99, "'k' has the unknown type 77"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + struct.pack("<Q1sIB", 1, b"k", 0, 7) * 2 + b"\0" * 99,
            "the metadata 'k' occurs twice",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sI", 1, b"k", 9) + struct.pack("<IQ", 9, 1) * 9,
            "arrays inside arrays",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 2**61) + b"\0" * 99,
            "in the middle of the metadata 'k'",
        ),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"t", 9) + b"\0" * 99, "'t'. has 9 dimensions"),
    ],
)
def test_what_is_no_readable_gguf_gets_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        read_header(path)
    assert str(caught.value).startswith(str(path))


def test_big_endian_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "big.gguf", {}, endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(FormatError, match="big-endian"):
        read_header(path)


def test_an_unknown_tensor_type_leaves_the_size_check_out(tmp_path: Path) -> None:
    path = tmp_path / "new.gguf"
    tensor = struct.pack("<Q1sIQIQ", 1, b"t", 1, 10**9, 999, 0)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor)
    header = read_header(path)
    assert header.expected_size is None
    assert header.elements == 10**9


def test_missing_files_and_folders_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        read_header(tmp_path / "missing.gguf")
    with pytest.raises(FormatError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(FormatError, match="cannot be read"):
        read_header("a\0b")


def test_is_gguf_looks_at_the_content(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "fake.gguf").write_bytes(b"{}")
    assert is_gguf(sample)
    assert not is_gguf(tmp_path / "fake.gguf")
    assert not is_gguf(tmp_path / "missing.gguf")
    assert not is_gguf(tmp_path)


def test_a_model_of_many_gigabytes_is_read_in_moments_and_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    words = b"".join(struct.pack("<Q", 9) + b"some word" for _ in range(100_000))
    vocabulary = struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 100_000) + words
    tensor = struct.pack("<Q1sIQQIQ", 1, b"t", 2, 10**5, 10**5, 0, 0)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + vocabulary + tensor)
    os.truncate(path, 41 * 10**9)  # sparse: 40 GB of tensor data that are not there
    if path.stat().st_blocks * 512 > 10**9:  # pragma: no cover - a file system without sparse files
        pytest.skip("no sparse files here")
    tracemalloc.start()
    started = time.monotonic()
    header = read_header(path)
    elapsed = time.monotonic() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header.metadata["k"] == ArrayInfo("string", 100_000)
    assert header.elements == 10**10
    assert peak < 4 * 10**6
    assert elapsed < 5


@pytest.mark.model
def test_the_real_smollm2_has_the_numbers_that_llama_cpp_prints(smollm2: Path) -> None:
    header = read_header(smollm2)
    assert header.metadata["llama.block_count"] == 30
    assert header.metadata["tokenizer.ggml.tokens"] == ArrayInfo("string", 49152)
    assert header.elements == 134_515_008
    assert header.expected_size == header.size


def test_other_types_change_the_list_of_tensors_alone(sample: Path) -> None:
    header = read_header(sample)
    start, same = retyped(header, {})
    assert start == sample.read_bytes()[: header.data_offset] and same == header.tensors
    start, others = retyped(header, {"a.weight": 0})
    assert [tensor.type for tensor in others] == [0, 2] and others[1].offset == 64
    assert start[: len(start) // 2] == sample.read_bytes()[: len(start) // 2] and len(start) == header.data_offset


def test_other_types_need_the_file_that_was_read(sample: Path, tmp_path: Path) -> None:
    header = read_header(sample)
    with pytest.raises(FormatError, match="a type that this masa does not know"):
        retyped(header, {"a.weight": 999})
    other = tmp_path / "other.gguf"
    other.write_bytes(bytes(header.data_offset))
    with pytest.raises(FormatError, match="list of tensors is not where it must be"):
        retyped(replace(header, path=other), {})
