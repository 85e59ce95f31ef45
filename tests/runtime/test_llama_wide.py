"""Q5_0 as Q8_0: the same numbers, a file like the other, and the file itself where nothing is won."""

import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_samples import SMOLLM2, write_gguf
from hypothesis import given
from hypothesis import strategies as st

from masa.backends.llama_wide import widen, widened
from masa.formats.gguf_header import read_header

Q5_0, Q8_0 = gguf.GGMLQuantizationType.Q5_0, gguf.GGMLQuantizationType.Q8_0
NAMES = ("token_embd.weight", "blk.0.attn_q.weight", "output.weight")


@given(st.binary(min_size=20, max_size=20), st.floats(-8, 8, width=16))
def test_a_block_holds_the_same_numbers(numbers: bytes, scale: float) -> None:
    block = np.frombuffer(np.float16(scale).tobytes() + numbers, np.uint8)
    wide = widen(block)
    assert wide.shape == (34,)
    assert np.array_equal(gguf.quants.dequantize(wide, Q8_0), gguf.quants.dequantize(block, Q5_0))


@pytest.fixture
def _x86(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("a file without a name has no path here")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def sample(path: Path, types: Mapping[str, gguf.GGMLQuantizationType], **metadata: int) -> Path:
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {"norm.weight": rng.normal(size=7).astype(np.float32)}
    for name, kind in types.items():
        tensors[name] = gguf.quants.quantize(rng.normal(size=(3, 64)).astype(np.float32), kind)
    known = SMOLLM2 | {key.replace("_", "."): value for key, value in metadata.items()}
    return write_gguf(path, known, tensors, types=types, tokens=["a", "b"])


def tensors(path: str | Path) -> dict[str, tuple[str, list[float]]]:
    return {
        t.name: (t.tensor_type.name, gguf.quants.dequantize(t.data, t.tensor_type).ravel().tolist())
        for t in gguf.GGUFReader(path).tensors
    }


@pytest.mark.usefixtures("_x86")
def test_a_model_keeps_all_but_how_its_matrices_are_stored(tmp_path: Path) -> None:
    path = sample(tmp_path / "a.gguf", dict.fromkeys(NAMES, Q5_0) | {"blk.0.attn_v.weight": Q8_0})
    with widened(path) as found:
        assert found != str(path)
        before, after = tensors(path), tensors(found)
        old, new = read_header(path), read_header(found)
    assert old.metadata == new.metadata
    assert {name: numbers for name, (_, numbers) in before.items()} == {n: numbers for n, (_, numbers) in after.items()}
    changed = {name for name in before if before[name][0] != after[name][0]}
    assert changed == {"blk.0.attn_q.weight", "output.weight"}, "of the embedding rows are looked up"
    assert not Path(found).exists() or not Path(found).samefile(path)


@pytest.mark.usefixtures("_x86")
def test_an_embedding_that_is_the_output_layer_is_widened(tmp_path: Path) -> None:
    path = sample(tmp_path / "a.gguf", dict.fromkeys(NAMES[:2], Q5_0))
    with widened(path) as found:
        assert {kind for kind, _ in tensors(found).values()} == {"F32", "Q8_0"}


@pytest.mark.usefixtures("_x86")
def test_the_file_itself_is_loaded_where_nothing_is_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    five = sample(tmp_path / "five.gguf", dict.fromkeys(NAMES, Q5_0))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(five.read_bytes()[:-40])
    others = [
        sample(tmp_path / "eight.gguf", dict.fromkeys(NAMES, Q8_0)),
        sample(tmp_path / "part.gguf", dict.fromkeys(NAMES, Q5_0), split_count=2),
        damaged,
        tmp_path / "nothing.gguf",
    ]
    for path in others:
        with widened(path) as found:
            assert found == str(path)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with widened(five) as found:
        assert found == str(five)


@pytest.mark.usefixtures("_x86")
def test_a_full_disk_leaves_the_file_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    path = sample(tmp_path / "a.gguf", dict.fromkeys(NAMES, Q5_0))
    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with widened(path) as found:
        assert found == str(path)


@pytest.mark.usefixtures("_x86")
def test_an_error_of_whoever_loads_is_not_swallowed(tmp_path: Path) -> None:
    path = sample(tmp_path / "a.gguf", dict.fromkeys(NAMES, Q5_0))
    with pytest.raises(OSError, match="theirs"), widened(path):
        raise OSError("theirs")
