"""An artifact takes an adapter in, and stays loadable whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from masa.artifact import load_artifact
from masa.files import WriteError
from masa_export.artifacts import check_artifact, put_adapter
from masa_export.errors import ExportError
from masa_training.checkpoint import Checkpoint, read_checkpoint
from tests.runtime.artifact_samples import ADAPTER, WEIGHTS, entry, write_artifact

from .checkpoint_samples import write_base, write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return read_checkpoint(write_checkpoint(tmp_path / "checkpoint", write_base(tmp_path / "base.gguf")))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_manifest_tells_the_checkpoints_story(tmp_path: Path, checkpoint: Checkpoint) -> None:
    folder = write_artifact(tmp_path / "artifact", language="text")
    path = put_adapter(folder, ADAPTER, checkpoint)
    artifact = load_artifact(folder)
    assert artifact.adapter_path == path and path.read_bytes() == ADAPTER
    assert artifact.trained and artifact.training_summary == checkpoint.dataset.summary
    assert (artifact.training_data.dataset, artifact.training_data.synthetic) == ("tiny", True)
    assert artifact.language == "plan"
    assert artifact.chat_template == checkpoint.template
    assert artifact.weights_path.read_bytes() == WEIGHTS


def test_a_packaged_base_stays_packaged(tmp_path: Path, checkpoint: Checkpoint) -> None:
    packaged = {"weights.gguf": {"package": "some", "version": "1.0", "path": "some/w.gguf", **entry(WEIGHTS)}}
    folder = write_artifact(tmp_path / "artifact", {}, packaged=packaged)
    manifest = check_artifact(folder, entry(WEIGHTS)["sha256"])
    put_adapter(folder, ADAPTER, checkpoint)
    assert check_artifact(folder, entry(WEIGHTS)["sha256"], force=True).packaged == manifest.packaged


def test_what_must_not_take_the_adapter_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    folder = write_artifact(tmp_path / "artifact")
    with pytest.raises(ExportError, match="its weights are another model"):
        check_artifact(folder, "1" * 64)
    put_adapter(folder, ADAPTER, checkpoint)
    with pytest.raises(ExportError, match=r"has the adapter adapter-[0-9a-f]{8}\.gguf already"):
        check_artifact(folder, entry(WEIGHTS)["sha256"])
    onnx = write_artifact(tmp_path / "onnx", kind="onnx")
    with pytest.raises(ExportError, match="an artifact of kind onnx"):
        check_artifact(onnx, entry(WEIGHTS)["sha256"])


def test_the_former_adapter_goes_and_a_users_file_stays(tmp_path: Path, checkpoint: Checkpoint) -> None:
    files = {"weights.gguf": WEIGHTS, "adapter.gguf": b"old"}
    folder = write_artifact(tmp_path / "artifact", files, adapter="adapter.gguf")
    (folder / "mine.gguf").write_bytes(b"mine")
    first = put_adapter(folder, ADAPTER, checkpoint)
    assert names(folder) == sorted([first.name, "manifest.json", "mine.gguf", "weights.gguf"])
    again = put_adapter(folder, ADAPTER, checkpoint)
    assert again == first and load_artifact(folder).adapter_path == first


class Killed(BaseException):
    """As if the process ended here."""


def test_killed_at_any_write_the_artifact_loads(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every system call that changes the folder is the last one once; before and after it, the artifact is whole."""
    calls = 0
    last = 0

    def dying(name: str, owner: Any) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > last:
                raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    seen = set()
    finished = False
    while not finished:
        folder = write_artifact(
            tmp_path / f"artifact{last}", {"weights.gguf": WEIGHTS, "adapter.gguf": b"old"}, adapter="adapter.gguf"
        )
        calls = 0
        with monkeypatch.context() as patch:
            monkeypatch, outer = patch, monkeypatch
            dying("replace", Path)
            dying("write", os)
            dying("unlink", Path)
            try:
                put_adapter(folder, ADAPTER, checkpoint)
                finished = True
            except Killed:
                pass
        monkeypatch = outer
        path = load_artifact(folder).adapter_path
        assert path is not None
        seen.add(path.read_bytes())
        last += 1
    assert seen == {b"old", ADAPTER} and last > 4


def test_a_full_disk_leaves_the_old_artifact(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_artifact(tmp_path / "artifact")
    before = {name: (folder / name).read_bytes() for name in names(folder)}

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(WriteError, match="no space left"):
            put_adapter(folder, ADAPTER, checkpoint)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
