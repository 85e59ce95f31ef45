"""`masa export adapter` as a user meets it, without a model."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from masa.artifact import load_artifact
from masa.cli.application import root
from tests.runtime.artifact_samples import write_artifact

from .checkpoint_samples import write_base, write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", write_base(tmp_path / "base.gguf"))


def run(*args: object) -> Result:
    return CliRunner().invoke(root, ["export", "adapter", *map(str, args)])


def test_an_adapter_is_written_and_reported(checkpoint: Path) -> None:
    done = run(checkpoint, "--no-verify", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    path = Path(told["adapter"])
    assert path == checkpoint / "adapter.gguf" and path.stat().st_size == told["bytes"]
    assert (told["rank"], told["type"], told["layers"], told["parity"]) == (4, "f16", 14, None)
    assert told["unproven"] == "--no-verify was given"
    assert sorted(p.name for p in checkpoint.iterdir())[:2] == ["adapter.gguf", "adapter_config.json"], "no leftovers"


def test_the_report_for_people(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, "--no-verify", "--type", "q8_0", "-o", tmp_path / "new" / "a.gguf")
    assert done.exit_code == 0, done.output
    assert "14 of 28 tensors are f16" in done.stdout and "Not compared" in done.stdout
    assert "Writing the adapter for sample" in done.stderr


def test_a_file_is_replaced_only_by_force_and_never_by_half(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.gguf"
    target.write_bytes(b"old")
    refused = run(checkpoint, "--no-verify", "-o", target)
    assert refused.exit_code == 1 and "replace it with --force" in refused.stderr
    before = sorted(p.name for p in tmp_path.iterdir())

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        failed = run(checkpoint, "--no-verify", "-o", target, "--force")
    assert failed.exit_code == 1 and "no space left" in failed.stderr
    assert target.read_bytes() == b"old" and sorted(p.name for p in tmp_path.iterdir()) == before
    assert run(checkpoint, "--no-verify", "-o", target, "--force").exit_code == 0
    assert target.read_bytes()[:4] == b"GGUF"


def test_an_adapter_goes_into_an_artifact(checkpoint: Path, tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "artifact", {"weights.gguf": (tmp_path / "base.gguf").read_bytes()})
    done = run(checkpoint, "--no-verify", "--artifact", artifact)
    assert done.exit_code == 0, done.output
    loaded = load_artifact(artifact)
    assert loaded.adapter_path is not None and loaded.trained
    assert not (checkpoint / "adapter.gguf").exists(), "only where it was sent"
    other = write_artifact(tmp_path / "other")
    refused = run(checkpoint, "--no-verify", "--artifact", other, "-o", tmp_path / "a.gguf")
    assert refused.exit_code == 1 and "another model" in refused.stderr
    assert not (tmp_path / "a.gguf").exists(), "all is checked before anything is written"


def test_an_artifact_that_is_not_there_is_made_around_the_base(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, "--no-verify", "--artifact", tmp_path / "new" / "mine")
    assert done.exit_code == 0, done.output
    loaded = load_artifact(tmp_path / "new" / "mine")
    assert (loaded.name, loaded.trained, loaded.language) == ("mine", True, "plan")
    assert loaded.adapter_path is not None and loaded.weights_path.read_bytes() == (tmp_path / "base.gguf").read_bytes()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["mine"], "no leftovers"


def test_a_killed_export_leaves_no_artifact(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    done = run(checkpoint, "--no-verify", "--artifact", tmp_path / "new" / "mine")
    assert done.exit_code == 1 and not (tmp_path / "new" / "mine").exists()


def test_a_wrong_checkpoint_costs_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path / "none")
    assert done.exit_code == 1 and "no such folder" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_overflow_leaves_no_file(checkpoint: Path, tmp_path: Path) -> None:
    from .checkpoint_samples import random_lora

    tensors = {name: np.full_like(values, 1e6) for name, values in random_lora().items()}
    write_checkpoint(checkpoint, tmp_path / "base.gguf", tensors)
    done = run(checkpoint, "--no-verify")
    assert done.exit_code == 1 and "--type f32" in done.stderr
    assert not (checkpoint / "adapter.gguf").exists()


def test_writing_needs_neither_torch_nor_llama_cpp(checkpoint: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft', 'llama_cpp'): sys.modules[name] = None\n"
        "from masa.cli.application import root\n"
        f"root.main(['export', 'adapter', {str(checkpoint)!r}, '--no-verify', '-q'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (checkpoint / "adapter.gguf").is_file()


def test_the_group_is_listed_without_heavy_imports() -> None:
    code = (
        "import sys\nimport masa_export.cli\n"
        "assert not {'torch', 'transformers', 'gguf', 'numpy', 'safetensors'} & set(sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert "adapter" in CliRunner().invoke(root, ["export", "--help"]).output
