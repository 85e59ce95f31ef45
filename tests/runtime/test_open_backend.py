"""`open_backend`: the library that an artifact's kind needs, its adapter attached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from artifact_samples import ADAPTER, WEIGHTS, write_artifact
from tests.support import ScriptedBackend

from masa.artifact import Artifact, load_artifact
from masa.backends import open_backend
from masa.backends.llama import LlamaBackend
from masa.backends.onnx import OnnxBackend
from masa.errors import BackendError


class Picky(ScriptedBackend):
    """Refuses every adapter."""

    def set_adapter(self, path: str | None, *, scale: float = 1.0) -> None:
        raise BackendError(f"{path}: not an adapter for this base")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    files = {"weights.gguf": WEIGHTS, "adapter.gguf": ADAPTER}
    return load_artifact(write_artifact(tmp_path, files, adapter="adapter.gguf"))


def stand_in(monkeypatch: pytest.MonkeyPatch, kind: type, made: ScriptedBackend) -> list[tuple[Any, dict[str, Any]]]:
    """Make `kind.load` return `made`; what it is called with comes into the list."""
    calls: list[tuple[Any, dict[str, Any]]] = []

    def load(path: Path, **options: Any) -> ScriptedBackend:
        calls.append((path, options))
        return made

    monkeypatch.setattr(kind, "load", load)
    return calls


def test_a_gguf_is_opened_by_llama_cpp_with_its_adapter(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = ScriptedBackend(str)
    calls = stand_in(monkeypatch, LlamaBackend, scripted)
    assert open_backend(artifact, threads=3, gpu_layers=2) is scripted
    path, options = calls[0]
    assert path == artifact.weights_path and (options["threads"], options["gpu_layers"]) == (3, 2)
    assert scripted.adapter == str(artifact.adapter_path)


def test_to_tokenize_neither_weights_nor_adapter_are_loaded(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = ScriptedBackend(str)
    calls = stand_in(monkeypatch, LlamaBackend, scripted)
    open_backend(artifact, vocab_only=True)
    assert calls[0][1]["vocab_only"] is True and scripted.adapter is None


def test_a_model_is_closed_when_its_adapter_is_refused(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    picky = Picky(str)
    stand_in(monkeypatch, LlamaBackend, picky)
    with pytest.raises(BackendError, match="not an adapter"):
        open_backend(artifact)
    assert picky.closed


def test_a_graph_is_opened_by_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"model.onnx": b"graph", "tokenizer.json": b"{}"}
    artifact = load_artifact(write_artifact(tmp_path, files, kind="onnx", weights="model.onnx"))
    scripted = ScriptedBackend(str)
    calls = stand_in(monkeypatch, OnnxBackend, scripted)
    assert open_backend(artifact, provider="cpu") is scripted
    assert calls[0][0] == artifact.weights_path and calls[0][1]["provider"] == "cpu"
