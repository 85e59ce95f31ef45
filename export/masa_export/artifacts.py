"""Artifacts: a new one around a weights file, and an adapter into one that is there.

An adapter goes in so that a rewriter is loadable at every moment, however the export ends.

The adapter's name holds the beginning of its sha256, so a new one never overwrites the one that the manifest names.
The manifest is replaced last, in one step: until then the artifact is the old one, from then on the new one. What a
killed export leaves behind is a file that no manifest names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masa.artifact import find_artifact, read_manifest
from masa.checksums import sha256_file
from masa.errors import MasaError
from masa.files import parse_json, read_bytes, write_atomic
from masa.formats.gguf_header import read_header
from masa.manifest import MANIFEST_NAME, Manifest, parse_manifest
from masa_export.base import Base, origin
from masa_export.checkpoint import Checkpoint
from masa_export.errors import ExportError

_OURS = re.compile(r"adapter(-[0-9a-f]{8})?\.gguf")


def check_artifact(folder: Path, weights_sha256: str, *, force: bool = False) -> Manifest:
    """The manifest of the artifact in `folder`, if an adapter for a base with this sha256 may go into it.

    Raises:
        ArtifactError: if it is no artifact.
        ExportError: if its weights are others, or it has an adapter already and `force` is not given.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "gguf":
        raise ExportError(f"{folder}: an artifact of kind {manifest.kind} takes no GGUF adapter; give a GGUF artifact")
    entry = manifest.entries[manifest.weights]
    if entry.sha256 != weights_sha256:
        raise ExportError(
            f"{folder}: its weights are another model (sha256 {entry.sha256[:12]}…) than the one the checkpoint was "
            f"trained on ({weights_sha256[:12]}…); give the artifact of that base, or train on this one"
        )
    if manifest.adapter is not None and not force:
        raise ExportError(f"{folder}: has the adapter {manifest.adapter} already; replace it with --force")
    return manifest


def begin_artifact(folder: Path, checkpoint: Checkpoint, base: Base, name: str) -> None:
    """Make an artifact of the empty `folder` around the base's own weights, for the adapter that comes next.

    Weights inside a Python package stay there; any others are copied.

    Raises:
        ExportError: if there is no GGUF of the base.
        OSError: if the weights cannot be read or written.
    """
    if base.gguf is None:
        raise ExportError(f"{base.folder}: an artifact needs this base as GGUF; give it with --base")
    model, licence = origin(checkpoint, base)
    with contextlib.suppress(MasaError):
        former = find_artifact(checkpoint.base.spec)
        manifest = read_manifest(former)
        packaged = manifest.packaged.get(manifest.weights)
        if packaged is not None and packaged.sha256 == checkpoint.base.sha256:
            content = parse_json(read_bytes(former / MANIFEST_NAME).decode("utf-8-sig"))
            content.update(name=name, version="0.1.0", adapter=None, files={})
            write_atomic(folder / MANIFEST_NAME, dump_manifest(content))
            return
    weights = folder / base.gguf.name
    shutil.copyfile(base.gguf, weights)
    write_manifest(
        folder,
        weights.name,
        checkpoint,
        name=name,
        version="0.1.0",
        base_model=model,
        licence=licence,
        quantization=_quantization(base.gguf),
    )


def _quantization(path: Path) -> str:
    """What a GGUF says its weights are stored as."""
    from gguf import LlamaFileType

    try:
        kind: str = LlamaFileType(read_header(path).metadata.get("general.file_type")).name
    except ValueError:
        return "unknown"
    return kind.removeprefix("MOSTLY_").removeprefix("ALL_")


def put_adapter(folder: Path, adapter: bytes, checkpoint: Checkpoint) -> Path:
    """Make `adapter` that of the artifact in `folder`, and tell in its manifest what it was trained on.

    Language, prompt version and chat template become the checkpoint's. The former adapter is removed at the end.

    Raises:
        WriteError: if the disk is full or the folder may not be written; the artifact is then as before.
    """
    sha256 = hashlib.sha256(adapter).hexdigest()
    name = f"adapter-{sha256[:8]}.gguf"
    path = folder / MANIFEST_NAME
    content: dict[str, Any] = parse_json(read_bytes(path).decode("utf-8-sig"))
    files = content.get("files", {})
    former = content.get("adapter")
    if former in files and former != content["weights"]:
        del files[former]
    content.update(
        language=checkpoint.language,
        prompt_version=checkpoint.prompt_version,
        adapter=name,
        chat_template=dict(checkpoint.notes),
        training_data=_training_data(checkpoint),
        files={**files, name: {"sha256": sha256, "bytes": len(adapter)}},
    )
    content.pop("stop", None)  # it stands in the chat template
    data = dump_manifest(content)
    parse_manifest(data, str(path))  # nothing is written that masa would refuse to read
    write_atomic(folder / name, adapter)
    write_atomic(path, data)
    # Only what an export wrote is removed: another name is the user's.
    if isinstance(former, str) and former != name and _OURS.fullmatch(former):
        with contextlib.suppress(OSError):
            (folder / former).unlink()
    return folder / name


def write_manifest(
    folder: Path,
    weights: str,
    checkpoint: Checkpoint,
    *,
    name: str,
    version: str,
    base_model: str,
    licence: str,
    quantization: str,
    kind: str = "gguf",
    others: Sequence[str] = (),
) -> Manifest:
    """Make an artifact of `folder`, in which the file `weights` and `others` lie: write its manifest.

    Raises:
        ArtifactError: if a value is none that a manifest may have.
        OSError: if the weights cannot be read or the manifest not be written.
    """
    path = folder / MANIFEST_NAME
    content = {
        "format": 1,
        "name": name,
        "version": version,
        "kind": kind,
        "language": checkpoint.language,
        "prompt_version": checkpoint.prompt_version,
        "base_model": base_model,
        "weights": weights,
        "adapter": None,
        "chat_template": dict(checkpoint.notes),
        "context_length": checkpoint.context_length,
        "quantization": quantization,
        "training_data": _training_data(checkpoint),
        "licence": licence,
        "files": {
            name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
            for name in (weights, *others)
        },
    }
    data = dump_manifest(content)
    manifest = parse_manifest(data, str(path))
    write_atomic(path, data)
    return manifest


def _training_data(checkpoint: Checkpoint) -> dict[str, Any]:
    data = checkpoint.dataset
    told = {
        "summary": data.summary,
        "trained": True,
        "dataset": data.name,
        "dataset_sha256": data.sha256,
        "synthetic": data.synthetic,
        "licence": data.licence,
    }
    return {**told, "held_out": list(data.held_out)} if data.held_out else told


def dump_manifest(content: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest with this content."""
    return (_dump(dict(content)) + "\n").encode("utf-8")


def _dump(value: Any, indent: str = "") -> str:
    """JSON with objects over several lines and lists on one, as manifests are written by hand."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    inner = indent + "  "
    lines = (f"{inner}{json.dumps(key, ensure_ascii=False)}: {_dump(item, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
