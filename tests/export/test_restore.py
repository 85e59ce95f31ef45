"""A checkpoint from an artifact's adapter: what `masa export adapter` did, undone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from masa.cli.application import root
from masa_export.adapter import permute, write_adapter
from masa_export.adapter_export import export_adapter
from masa_export.restore import restore_checkpoint, unpermute
from masa_export.source import open_source
from masa_training.checkpoint import read_checkpoint
from tests.runtime.artifact_samples import write_artifact

from .checkpoint_samples import random_lora, write_base, write_checkpoint


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """An artifact with the adapter of the checkpoint beside it."""
    return made(tmp_path, "f32")


def made(folder: Path, kind: str, architecture: str = "llama", rslora: bool = False) -> Path:
    base = write_base(folder / "base.gguf", architecture)
    checkpoint = write_checkpoint(folder / "checkpoint", base, config={"use_rslora": rslora})
    export_adapter(checkpoint, artifact=folder / "artifact", kind=kind, verify=False)
    return folder / "artifact"


def run(*args: object) -> Result:
    return CliRunner().invoke(root, ["export", "checkpoint", *map(str, args)])


@given(heads=st.integers(1, 5), half=st.integers(1, 6), columns=st.integers(1, 7))
def test_the_rotary_order_comes_back(heads: int, half: int, columns: int) -> None:
    rows = np.arange(heads * 2 * half * columns, dtype=np.float32).reshape(-1, columns)
    assert np.array_equal(unpermute(permute(rows, heads), heads), rows)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen2", "qwen3"])
@pytest.mark.parametrize(("kind", "error"), [("f32", 0.0), ("f16", 1e-3), ("q8_0", 1e-2)])
def test_numbers_come_back_as_well_as_they_were_stored(
    tmp_path: Path, kind: str, error: float, architecture: str
) -> None:
    restored = restore_checkpoint(str(made(tmp_path, kind, architecture)), tmp_path / "back")
    assert (restored.kind, restored.rank, restored.layers) == (kind, 4, 14)
    found = load_file(tmp_path / "back" / "adapter_model.safetensors")
    expected = random_lora()
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert np.abs(found[name] - values).max() <= error * np.abs(values).max(), name


def test_what_is_known_of_the_training_comes_back(artifact: Path, tmp_path: Path) -> None:
    restore_checkpoint(str(artifact), tmp_path / "back")
    found, before = read_checkpoint(tmp_path / "back"), read_checkpoint(tmp_path / "checkpoint")
    assert (found.language, found.prompt_version, found.context_length) == ("plan", 1, 512)
    assert found.template == before.template and found.dataset == before.dataset
    assert found.base.sha256 == before.base.sha256
    lora = open_source(tmp_path / "back").lora
    assert lora is not None and lora == open_source(tmp_path / "checkpoint").lora
    # What a training that goes on from it (`start`) compares with its own settings.
    training = json.loads((tmp_path / "back" / "masa.json").read_text())["training"]
    assert (training["rank"], training["alpha"]) == (lora.rank, lora.alpha)
    assert training["targets"] == "all-linear"


def test_an_adapter_exported_from_it_has_the_same_tensors(tmp_path: Path) -> None:
    import gguf

    artifact = made(tmp_path, "f16", rslora=True)
    source = open_source(restore_checkpoint(str(artifact), tmp_path / "back").path)
    again = write_adapter(source, tmp_path / "again.gguf")
    first, second = (gguf.GGUFReader(path) for path in (next(artifact.glob("adapter-*.gguf")), again.path))
    assert [(t.name, t.data.tobytes()) for t in first.tensors] == [(t.name, t.data.tobytes()) for t in second.tensors]
    alpha = [reader.fields["adapter.lora.alpha"].contents() for reader in (first, second)]
    assert alpha[0] == alpha[1], "of rsLoRA, the scale comes back"


def test_the_command_reports_what_it_made(artifact: Path, tmp_path: Path) -> None:
    done = run(artifact, "-o", tmp_path / "back", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"path": str(tmp_path / "back"), "kind": "f32", "rank": 4, "layers": 14}
    refused = run(artifact, "-o", tmp_path / "back")
    assert refused.exit_code == 1 and "replace it with --force" in refused.stderr
    assert run(artifact, "-o", tmp_path / "back", "--force").exit_code == 0
    assert not list(tmp_path.glob(".masa-*")), "no leftovers"


def test_a_folder_that_is_no_checkpoint_is_never_replaced(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    refused = run(artifact, "-o", tmp_path / "mine", "--force")
    assert refused.exit_code == 1 and "no checkpoint" in refused.stderr
    assert (tmp_path / "mine" / "diary.txt").read_text() == "dear diary"


def test_bad_artifacts_are_refused_in_one_sentence(tmp_path: Path) -> None:
    merged = write_artifact(tmp_path / "merged")
    for artifact, message in ((merged, "has no adapter"), (tmp_path / "nowhere", "no such folder")):
        refused = run(artifact, "-o", tmp_path / "back")
        assert refused.exit_code == 1 and message in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr and not (tmp_path / "back").exists()


def test_a_damaged_adapter_is_found_by_its_checksum(artifact: Path, tmp_path: Path) -> None:
    adapter = next(artifact.glob("adapter-*.gguf"))
    adapter.write_bytes(adapter.read_bytes()[:-8])
    refused = run(artifact, "-o", tmp_path / "back")
    assert refused.exit_code == 1 and adapter.name in refused.stderr
