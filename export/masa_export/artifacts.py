"""Artifacts: built aside and put in their place whole, or given another adapter while they stay loadable.

An adapter's name holds the beginning of its sha256, so a new one never overwrites the one that the manifest names.
The manifest is replaced last, in one step: until then the artifact is the old one, from then on the new one. What a
killed export leaves behind is a file that no manifest names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.artifact import Artifact, find_artifact, load_artifact, read_manifest
from masa.checksums import sha256_file
from masa.codec import template_to_json
from masa.errors import MasaError
from masa.files import TEMPORARY_PREFIX, make_folder, parse_json, read_bytes, reason, write_atomic
from masa.manifest import MANIFEST_NAME, Manifest, parse_manifest
from masa_export.errors import ExportError
from masa_export.source import Source
from masa_training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from masa_export.logits import Likeness

_OURS = re.compile(r"adapter(-[0-9a-f]{8})?\.gguf")


@dataclass(frozen=True, slots=True)
class ArtifactSettings:
    """Which types of weights, where the artifacts go, and what their manifests say; see `masa export gguf --help`."""

    quantizations: tuple[str, ...]
    output: Path | None = None
    name: str | None = None
    version: str = "0.1.0"
    licence: str | None = None
    base: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """An artifact that was made, or will be.

    Attributes:
        bytes: of its weights, nearly what they will be until they are made.
        fallback_tensors: how many get a finer type, because the type cannot divide their rows.
        kept: it was there already, finished.
        sha256, likeness, seconds: of the weights, to what it was made from, of the work; None where nothing was made.
    """

    quantization: str
    path: Path
    weights: str
    bytes: int = 0
    fallback_tensors: int = 0
    kept: bool = False
    sha256: str | None = None
    likeness: Likeness | None = None
    seconds: float | None = None


@contextlib.contextmanager
def aside(where: Path) -> Iterator[Path]:
    """A folder of our own in `where`, which is made, to build things in that then take their place there.

    Raises:
        ExportError: instead of what the system raises in the block, where the disk or the memory does not suffice.
    """
    make_folder(where)
    try:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=where) as scratch:
            yield Path(scratch)
    except MasaError:
        raise
    except OSError as error:
        raise ExportError(
            f"{where}: cannot write there ({reason(error)}); check space and permissions, then run this again: "
            "what is finished is kept"
        ) from error
    except MemoryError:
        raise ExportError("there is not enough memory; export where there is more, or use --no-verify") from None


def put_in_place(folder: Path, target: Path) -> None:
    """Move the finished `folder` to `target`, on the same disk; what was there is moved aside, then removed.

    Raises:
        OSError: if it cannot be moved; what was there is then there again.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
    former = folder.with_name(folder.name + ".former")
    if target.exists():
        target.rename(former)
    try:
        folder.rename(target)
    except OSError:
        if former.exists():
            former.rename(target)
        raise
    shutil.rmtree(former, ignore_errors=True)


def source_marks(source: Source) -> dict[str, str]:
    """What the weights of an export note of where they came from, so that a finished one is known again."""
    checkpoint = source.checkpoint
    return {
        "masa.checkpoint_sha256": source.weights_sha256,
        "masa.base_sha256": checkpoint.base.sha256,
        "masa.dataset_sha256": checkpoint.dataset.sha256,
    }


def find_finished(
    folder: Path,
    quantization: str,
    marks: Mapping[str, str],
    read_marks: Callable[[Artifact], Mapping[str, Any]],
    *,
    force: bool,
) -> Artifact | None:
    """The artifact in `folder` if it is complete and its weights have these marks; None where there is nothing.

    Raises:
        ExportError: if there is something else, which only `force` may replace, and an artifact only.
    """
    if not folder.exists():
        return None
    if force:
        if not (folder / MANIFEST_NAME).is_file():
            raise ExportError(f"{folder}: exists but is not an artifact; --force will not replace it, move it first")
        return None
    try:
        artifact = load_artifact(folder)
        found = read_marks(artifact)
    except MasaError as error:
        raise ExportError(f"{folder}: is there and not complete ({error}); replace it with --force") from None
    if artifact.quantization != quantization or any(found.get(key) != value for key, value in marks.items()):
        raise ExportError(
            f"{folder}: holds another export (of another checkpoint or with other settings); replace it with --force, "
            "or give another --name or -o"
        )
    return artifact


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


def begin_artifact(folder: Path, source: Source, name: str) -> None:
    """Make an artifact of the empty `folder` around the base's own weights, for the adapter that comes next.

    Weights inside a Python package stay there; any others are copied.

    Raises:
        ExportError: if there is no GGUF of the base.
        OSError: if the weights cannot be read or written.
    """
    if source.gguf is None or source.header is None:
        raise ExportError(f"{source.folder}: an artifact needs this base as GGUF; give it with --base")
    manifest = source.packaged_base
    packaged = None if manifest is None else manifest.packaged.get(manifest.weights)
    if packaged is not None and packaged.sha256 == source.checkpoint.base.sha256:
        former = find_artifact(source.checkpoint.base.spec) / MANIFEST_NAME
        content = parse_json(read_bytes(former).decode("utf-8-sig"))
        content.update(name=name, version="0.1.0", adapter=None, files={})
        write_atomic(folder / MANIFEST_NAME, dump_manifest(content))
        return
    shutil.copyfile(source.gguf, folder / source.gguf.name)
    write_manifest(folder, source.gguf.name, source, name=name, quantization=_quantization(source))


def _quantization(source: Source) -> str:
    """What the base's GGUF says its weights are stored as."""
    from gguf import LlamaFileType

    assert source.header is not None
    try:
        kind: str = LlamaFileType(source.header.metadata.get("general.file_type")).name
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
        chat_template=template_to_json(checkpoint.template),
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
    source: Source,
    *,
    name: str,
    quantization: str,
    version: str = "0.1.0",
    licence: str | None = None,
    kind: str = "gguf",
    others: Sequence[str] = (),
) -> Manifest:
    """Make an artifact of `folder`, in which the file `weights` and `others` lie: write its manifest.

    The licence is that of the base where none is given.

    Raises:
        ArtifactError: if a value is none that a manifest may have.
        OSError: if the weights cannot be read or the manifest not be written.
    """
    path, checkpoint = folder / MANIFEST_NAME, source.checkpoint
    base_model, base_licence = source.origin
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
        "chat_template": template_to_json(checkpoint.template),
        "context_length": checkpoint.context_length,
        "quantization": quantization,
        "training_data": _training_data(checkpoint),
        "licence": licence or base_licence,
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
