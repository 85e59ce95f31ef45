"""Artifacts that passed their verification, without a model: the weights are a GGUF header with a vocabulary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masa.artifact import read_manifest
from masa.manifest import Manifest
from masa_export.logits import Likeness
from masa_export.verify.report import Report, Subject, write_report
from masa_export.verify.stored_report import asking_sha256, files_of
from masa_export.verify.thresholds import default_thresholds, judge, parse_thresholds
from tests.runtime.artifact_samples import ADAPTER, write_artifact

FIGURES = {"load": 0.0, "tokens": 0.0, "template": 0.0, "kl": 0.0125, "top1": 1.0, "size_mb": 0.1}


def gguf_bytes(path: Path, **metadata: Any) -> bytes:
    """A GGUF without tensors; a value of the metadata is a text, a truth or a number, tokens aside."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["<unk>", "<bos>", "a", "b"])
    for name, value in metadata.items():
        key = f"tokenizer.ggml.{name}"
        add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}[type(value)]
        add(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    data = path.read_bytes()
    path.unlink()
    return data


def report(manifest: Manifest, folder: Path, *, thresholds: Sequence[str] = (), **figures: float) -> Report:
    """What a verification of this artifact might have found."""
    subject = Subject(
        artifact=str(folder),
        name=manifest.name,
        kind=manifest.kind,
        quantization=manifest.quantization,
        fingerprint=manifest.fingerprint,
        files=files_of(manifest),
        bytes=sum(entry.size for entry in manifest.entries.values()),
        asking_sha256=asking_sha256(manifest),
        checkpoint="runs/plan/checkpoint",
        base="sample",
        dtype="float32",
        strictness="8 bits",
        samples="data/plan",
        samples_sha256="0" * 64,
        chosen=24,
        available=480,
        seed=0,
    )
    verdicts = judge({**FIGURES, **figures}, default_thresholds("8 bits"), parse_thresholds(thresholds))
    like = Likeness(0.0125, 0.1, 1.0, 0.2, 0.01, 100)
    return Report(subject, verdicts, likeness=like, seconds=1.0)


def verified(folder: Path, *, figures: dict[str, float] | None = None, **changes: Any) -> Path:
    """An artifact with its report inside; `changes` are to the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"weights.gguf": gguf_bytes(folder / "header", model="gpt2")}
    if changes.get("adapter"):
        files[changes["adapter"]] = ADAPTER
    write_artifact(folder, files, **{"quantization": "Q8_0", **changes})
    write_report(report(read_manifest(folder), folder, **(figures or {})), folder)
    return folder


def change_manifest(folder: Path, **changes: Any) -> None:
    """Change values of an artifact's manifest."""
    path = folder / "manifest.json"
    content = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps(content), encoding="utf-8")
