"""Names of types, importance matrices, and how likeness is measured."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_export.errors import ExportError
from masa_export.logit_check import Merged, check_merged
from masa_export.logits import Likeness, likeness
from masa_export.quantizer import FILE_TYPES, parse_quantizations, read_importance


def test_every_name_has_llama_cpps_number() -> None:
    llama = pytest.importorskip("llama_cpp")
    theirs = {
        name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_"): getattr(llama, name)
        for name in dir(llama)
        if name.startswith("LLAMA_FTYPE_")
    }
    assert dict(FILE_TYPES) == {name: number for name, number in theirs.items() if name not in ("GUESSED", "NVFP4")}


def test_names_are_read_as_people_write_them() -> None:
    assert parse_quantizations(" q8_0,Q4_K, q4-k-m,,F16", importance=False) == ("Q8_0", "Q4_K_M", "F16")
    assert parse_quantizations("IQ2_XXS", importance=True) == ("IQ2_XXS",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no type"),
        ("Q4_K_X", 'did you mean "Q4_K_'),
        ("int4", "known: F32"),
        ("IQ1_S", "give one with --imatrix"),
    ],
)
def test_wrong_names_cost_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ExportError) as caught:
        parse_quantizations(text, importance=False)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def write_gguf_matrix(path: Path, sums: dict[str, np.ndarray], counts: dict[str, np.ndarray]) -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, "none")
    writer.add_type("imatrix")
    for name in sums:
        writer.add_tensor(f"{name}.in_sum2", sums[name].astype(np.float32))
        writer.add_tensor(f"{name}.counts", counts[name].astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_old_matrix(path: Path, sums: dict[str, np.ndarray], calls: int) -> Path:
    data = struct.pack("<i", len(sums))
    for name, values in sums.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values))
        data += values.astype("<f4").tobytes()
    path.write_bytes(data + struct.pack("<ii", 7, 4) + b"data")
    return path


def test_both_formats_of_an_importance_matrix_mean_the_same(tmp_path: Path) -> None:
    sums = {"blk.0.ffn_up.weight": np.array([2.0, 4.0, 0.0]), "output.weight": np.array([8.0])}
    new = write_gguf_matrix(
        tmp_path / "new.gguf", {n: v[None] for n, v in sums.items()}, {n: np.full((1, 1), 4) for n in sums}
    )
    old = write_old_matrix(tmp_path / "old.dat", sums, 4)
    for path in (new, old):
        found = read_importance(path)
        assert {name: values.tolist() for name, values in found.items()} == {
            "blk.0.ffn_up.weight": [0.5, 1.0, 0.0],
            "output.weight": [2.0],
        }


def test_an_expert_without_tokens_weighs_all_columns_alike(tmp_path: Path) -> None:
    path = write_gguf_matrix(
        tmp_path / "m.gguf", {"e": np.array([[2.0, 4.0], [0.0, 0.0]])}, {"e": np.array([[2.0], [0.0]])}
    )
    assert read_importance(path)["e"].tolist() == [1, 2, 1, 1]


def test_what_is_no_importance_matrix_is_refused(tmp_path: Path) -> None:
    old = write_old_matrix(tmp_path / "old.dat", {"a": np.array([1.0, 2.0])}, 1)
    (tmp_path / "short.dat").write_bytes(old.read_bytes()[:20])
    (tmp_path / "text.dat").write_text("importance")
    (tmp_path / "empty.dat").write_bytes(struct.pack("<i", 0))
    write_old_matrix(tmp_path / "nan.dat", {"a": np.array([np.nan])}, 1)
    for name in ("short.dat", "text.dat", "empty.dat", "nan.dat", "none.dat"):
        with pytest.raises(ExportError, match=name) as caught:
            read_importance(tmp_path / name)
        assert "\n" not in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), shift=st.floats(-50, 50), noise=st.floats(0, 3))
def test_divergence_is_zero_for_equal_distributions_and_never_negative(seed: int, shift: float, noise: float) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.normal(0, 5, (4, 30)).astype(np.float32)
    same = likeness(reference + np.float32(shift), reference)
    assert same.divergence < 1e-6 and same.equal == 1, "a shift of all logits changes no probability"
    other = likeness(reference + rng.normal(0, noise, reference.shape).astype(np.float32), reference)
    assert other.divergence >= 0 and other.worst >= other.divergence


def test_divergence_is_that_of_the_distributions() -> None:
    p, q = np.array([[0.7, 0.2, 0.1]]), np.array([[0.1, 0.2, 0.7]])
    found = likeness(np.log(q).astype(np.float32), np.log(p).astype(np.float32))
    assert found.divergence == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-5)
    assert (found.equal, found.positions) == (0, 1)


def test_a_merged_file_that_differs_is_refused_with_figures() -> None:
    good = Likeness(0.0, 0.0, 1.0, 0.05, 0.008, 96)
    check_merged(Merged(good, 3.5), "F16", "c")
    for error, difference, equal, message in (
        (3.5, 9.0, 0.2, "differ by 3.5 (rms)"),
        (float("nan"), 0.0, 1.0, "differ by nan"),
        (0.01, 2.0, 1.0, "by up to 2"),
        (0.01, 0.1, 0.5, "50% of the best tokens"),
    ):
        with pytest.raises(ExportError) as caught:
            check_merged(Merged(Likeness(0.1, 0.1, equal, difference, error, 96), 3.5), "F16", "c")
        assert message in str(caught.value) and "\n" not in str(caught.value)
