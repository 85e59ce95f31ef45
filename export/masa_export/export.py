"""`masa export adapter` as a function: read, write aside, prove, put in place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from masa.checksums import sha256_file
from masa.errors import MasaError
from masa.files import TEMPORARY_PREFIX, make_folder, read_bytes, reason, write_atomic
from masa_export.adapter import Written, write_adapter
from masa_export.artifacts import begin_artifact, check_artifact, put_adapter
from masa_export.base import Base, find_base
from masa_export.checkpoint import Checkpoint, read_checkpoint
from masa_export.errors import ExportError
from masa_export.placing import put_in_place

if TYPE_CHECKING:
    from masa_export.parity import Parity

DEFAULT_NAME = "adapter.gguf"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written where; `unproven` says why `parity` is None. `plain`: see `masa_export.adapter.Written`."""

    paths: tuple[Path, ...]
    size: int
    sha256: str
    kind: str
    rank: int
    layers: int
    plain: int
    architecture: str
    base: str
    parity: Parity | None
    unproven: str | None


def export_adapter(
    folder: Path,
    *,
    output: Path | None = None,
    artifact: Path | None = None,
    kind: str = "f16",
    base: str | None = None,
    verify: bool | None = None,
    force: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Export the LoRA checkpoint in `folder` to `output`, into `artifact`, or both; see `masa export adapter --help`.

    Where `artifact` is not there yet, it is made around the weights of the base and called after its folder.
    Nothing is put in place before everything has been checked. `verify` None compares logits where the base's GGUF
    is known.

    Raises:
        MasaError: in one sentence, if the checkpoint, its base or the artifact are not what they must be, the export
            does not equal the checkpoint, or the disk is full; what was there before is then unchanged.
    """
    checkpoint = read_checkpoint(folder)
    found = find_base(checkpoint, base)
    if output is None and artifact is None:
        output = folder / DEFAULT_NAME
    _check_targets(checkpoint, found, output, artifact, verify, force)
    unproven = None
    if verify is False:
        unproven = "--no-verify was given"
    elif found.gguf is None:
        if verify:
            raise ExportError(f"{found.folder}: to verify, llama.cpp needs this base as GGUF; give it with --base")
        unproven = "there is no GGUF of the base; give it with --base"
    new = artifact is not None and not artifact.exists()
    place = output.parent if output else artifact.parent if artifact is not None and new else artifact
    try:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=place) as scratch:
            temporary = Path(scratch) / DEFAULT_NAME
            tell(f"Writing the adapter for {found.name} …")
            written = write_adapter(checkpoint, found, temporary, kind=kind)
            parity = None if unproven else _prove(checkpoint, found, written, Path(scratch), kind, tell)
            data = read_bytes(temporary)
    except MasaError:
        raise
    except OSError as error:
        raise ExportError(f"{place}: cannot write there ({reason(error)}); check space and permissions") from error
    paths = []
    if output is not None:
        write_atomic(output, data)
        paths.append(output)
    if artifact is not None:
        paths.append(_new(artifact, data, checkpoint, found) if new else put_adapter(artifact, data, checkpoint))
    return Exported(
        paths=tuple(paths),
        size=written.size,
        sha256=written.sha256,
        kind=kind,
        rank=checkpoint.adapter.rank,
        layers=written.layers,
        plain=written.plain,
        architecture=found.architecture,
        base=str(found.gguf or found.folder),
        parity=parity,
        unproven=unproven,
    )


def _new(artifact: Path, adapter: bytes, checkpoint: Checkpoint, base: Base) -> Path:
    """Make the artifact with this adapter, completely or not at all; the adapter's place."""
    try:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=artifact.parent) as scratch:
            made = Path(scratch) / artifact.name
            made.mkdir()
            begin_artifact(made, checkpoint, base, artifact.name)
            path = put_adapter(made, adapter, checkpoint)
            put_in_place(made, artifact)
    except OSError as error:
        raise ExportError(f"{artifact}: cannot be made ({reason(error)}); check space and permissions") from error
    return artifact / path.name


def _check_targets(
    checkpoint: Checkpoint, base: Base, output: Path | None, artifact: Path | None, verify: bool | None, force: bool
) -> None:
    if artifact is not None:
        if checkpoint.base.kind == "hf" and (base.gguf is None or verify is False):
            raise ExportError(
                f"{artifact}: whether its weights are the base {base.name} shows only in a comparison of logits; "
                "give the artifact's weights with --base, and do not use --no-verify"
            )
        sha256 = checkpoint.base.sha256
        if checkpoint.base.kind == "hf" and base.gguf is not None:
            sha256 = sha256_file(base.gguf)
        if artifact.exists():
            check_artifact(artifact, sha256, force=force)
        else:
            make_folder(artifact.parent)
    if output is not None:
        if output.exists() and not force:
            raise ExportError(f"{output}: is there already; replace it with --force or give another file with -o")
        make_folder(output.parent)


def _prove(
    checkpoint: Checkpoint, base: Base, written: Written, scratch: Path, kind: str, tell: Callable[[str], None]
) -> Parity:
    from masa_export.parity import check, measure

    tell("Comparing llama.cpp with the merged checkpoint (--no-verify skips this) …")
    parity = measure(checkpoint, base, written.path, scratch)
    check(parity, kind, str(checkpoint.path))
    return parity
