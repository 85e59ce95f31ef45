"""What `masa export gguf` will write: names, sizes, room on the disk, and what of it is finished already."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from masa.artifact import Artifact, find_artifact, load_artifact, read_manifest
from masa.checksums import sha256_file
from masa.errors import MasaError
from masa.files import TEMPORARY_PREFIX, reason
from masa.formats.gguf_header import read_header
from masa.manifest import MANIFEST_NAME
from masa_export.base import Base
from masa_export.checkpoint import Checkpoint
from masa_export.errors import ExportError
from masa_export.quantizations import UNQUANTIZED
from masa_export.shapes import expected_sizes
from masa_export.tensors import open_model

_NO_NAME = re.compile(r"[^a-z0-9._-]+")
_QUANTIZED_ENDING = re.compile(r"[._-](i?q[0-9]\w*|b?f(16|32))$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Output:
    """One artifact to be.

    Attributes:
        source: the unquantized type that it is made from.
        size: bytes that its weights will have, nearly; exact where they are `finished`.
        fallbacks: tensors that llama.cpp gives a finer type, because their rows cannot be divided.
        finished: it is there already, from this checkpoint and this importance matrix.
    """

    quantization: str
    source: str
    folder: Path
    weights: str
    size: int
    fallbacks: int
    finished: bool

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True, slots=True)
class Plan:
    """The outputs, what stands in their metadata, and bytes: needed at most at one moment, and free."""

    outputs: tuple[Output, ...]
    marks: Mapping[str, str]
    needed: int
    free: int

    @property
    def sources(self) -> tuple[str, ...]:
        """The unquantized types to merge, for what is not finished."""
        return tuple(dict.fromkeys(output.source for output in self.outputs if not output.finished))


def default_name(checkpoint: Checkpoint) -> str:
    """`smollm2-135m-plan`: base and language."""
    note = checkpoint.base
    try:
        base = read_manifest(find_artifact(note.spec)).name
    except MasaError:
        base = _NO_NAME.sub("-", _QUANTIZED_ENDING.sub("", note.name).lower()).strip("-._") or "rewriter"
    return f"{base[:60]}-{checkpoint.language}"


def make_plan(
    checkpoint: Checkpoint,
    base: Base,
    quantizations: Sequence[str],
    *,
    folder: Path,
    name: str,
    via: str,
    importance: Path | None = None,
    force: bool = False,
) -> Plan:
    """What exporting into `folder` means; `force` makes finished outputs again.

    Raises:
        ExportError: if an output's place is taken by something else and `force` is not given, or llama.cpp cannot
            quantize this base to one of the types.
    """
    marks = {
        "masa.checkpoint_sha256": checkpoint_sha256(checkpoint),
        "masa.base_sha256": checkpoint.base.sha256,
        "masa.dataset_sha256": checkpoint.dataset.sha256,
        "masa.language": checkpoint.language,
        "masa.prompt_version": str(checkpoint.prompt_version),
    }
    matrix = "none" if importance is None else sha256_file(importance)
    try:
        # Room for a file without data; where the outputs go may not exist yet.
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as scratch:
            sources = {
                quantization: quantization if quantization in UNQUANTIZED else via for quantization in quantizations
            }
            sizes = expected_sizes(base, list(dict.fromkeys([*quantizations, *sources.values()])), Path(scratch))
    except OSError as error:
        raise ExportError(f"{tempfile.gettempdir()}: no file can be written there ({reason(error)})") from None
    outputs = []
    for quantization, source in sources.items():
        stem = f"{name}-{quantization.lower()}"
        found = _finished(folder / stem, quantization, {**marks, **own_marks(source, matrix, quantization)}, force)
        outputs.append(
            Output(
                quantization=quantization,
                source=source,
                folder=folder / stem,
                weights=f"{name}-{quantization}.gguf",
                size=sizes[quantization].tensor_bytes if found is None else found.weights_path.stat().st_size,
                fallbacks=sizes[quantization].fallbacks,
                finished=found is not None,
            )
        )
    made = [output for output in outputs if not output.finished]
    # While the converter works, the merged folder lies beside the GGUF that it writes.
    copies = 1 if base.gguf is not None else 2
    scratch_size = max((copies * sizes[output.source].tensor_bytes for output in made), default=0)
    return Plan(tuple(outputs), marks, scratch_size + sum(output.size for output in made), _free(folder))


def own_marks(source: str, importance: str, quantization: str) -> dict[str, str]:
    """What of the marks is one output's own; an unquantized file does not depend on the importance matrix."""
    matrix = "none" if quantization in UNQUANTIZED else importance
    return {"masa.merged_as": source, "masa.imatrix_sha256": matrix}


def checkpoint_sha256(checkpoint: Checkpoint) -> str:
    """Of the adapter's file, or of all files of a full checkpoint in order of their names."""
    if checkpoint.kind == "lora":
        return sha256_file(checkpoint.weights)
    import hashlib

    paths = sorted({file.path for file in open_model(checkpoint.path).values()})
    return hashlib.sha256("".join(map(sha256_file, paths)).encode()).hexdigest()


def _finished(folder: Path, quantization: str, marks: Mapping[str, str], force: bool) -> Artifact | None:
    """The artifact in `folder` if it is complete and has these marks; None where there is nothing.

    Raises:
        ExportError: if there is something else, which only `force` may replace.
    """
    if not folder.exists() or force:
        if folder.exists() and not (folder / MANIFEST_NAME).is_file():
            raise ExportError(f"{folder}: is there and is no artifact, so --force does not replace it; move it away")
        return None
    try:
        artifact = load_artifact(folder)
        metadata = read_header(artifact.weights_path).metadata
    except MasaError as error:
        raise ExportError(f"{folder}: is there and not complete ({error}); replace it with --force") from None
    if artifact.quantization != quantization or any(metadata.get(key) != value for key, value in marks.items()):
        raise ExportError(
            f"{folder}: holds another export (of another checkpoint, importance matrix or --via); replace it with "
            "--force, or give another --name or -o"
        )
    return artifact


def _free(folder: Path) -> int:
    """Bytes free where `folder` is or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
