"""`masa export adapter` as a function: open, write aside, compare, put in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from masa.checksums import sha256_file
from masa.files import make_folder, read_bytes, write_atomic
from masa_export.adapter import write_adapter
from masa_export.artifacts import aside, begin_artifact, check_artifact, put_adapter, put_in_place
from masa_export.errors import ExportError
from masa_export.source import Source, open_source

if TYPE_CHECKING:
    from masa_export.logit_check import Parity

DEFAULT_NAME = "adapter.gguf"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written where; `unproven` says why `parity` is None, `f16_tensors` is as in `adapter.Written`."""

    paths: tuple[Path, ...]
    bytes: int
    sha256: str
    type: str
    rank: int
    layers: int
    f16_tensors: int
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
    source = open_source(folder, base)
    if output is None and artifact is None:
        output = folder / DEFAULT_NAME
    _check_targets(source, output, artifact, verify, force)
    unproven = _why_unproven(source, verify)
    new = artifact is not None and not artifact.exists()
    place = output.parent if output else artifact.parent if artifact is not None and new else artifact
    assert place is not None
    with aside(place) as scratch:
        tell(f"Writing the adapter for {source.checkpoint.base.name} …")
        written = write_adapter(source, scratch / DEFAULT_NAME, kind=kind)
        parity = None
        if unproven is None:
            from masa_export.logit_check import check, measure

            tell("Comparing llama.cpp with the merged checkpoint (--no-verify skips this) …")
            parity = measure(source, written.path, scratch)
            check(parity, kind, str(folder))
        data = read_bytes(written.path)
    paths = []
    if output is not None:
        write_atomic(output, data)
        paths.append(output)
    if artifact is not None and new:
        with aside(artifact.parent) as scratch:
            made = scratch / artifact.name
            made.mkdir()
            begin_artifact(made, source, artifact.name)
            path = put_adapter(made, data, source.checkpoint)
            put_in_place(made, artifact)
        paths.append(artifact / path.name)
    elif artifact is not None:
        paths.append(put_adapter(artifact, data, source.checkpoint))
    return Exported(
        paths=tuple(paths),
        bytes=written.bytes,
        sha256=written.sha256,
        type=kind,
        rank=source.adapter.rank,
        layers=written.layers,
        f16_tensors=written.f16_tensors,
        architecture=source.shape.architecture,
        base=source.where,
        parity=parity,
        unproven=unproven,
    )


def _why_unproven(source: Source, verify: bool | None) -> str | None:
    """Why the adapter is not compared with the checkpoint; None where it is."""
    if verify is False:
        return "--no-verify was given"
    if source.gguf is None and verify:
        raise ExportError(f"{source.folder}: to verify, llama.cpp needs this base as GGUF; give it with --base")
    return None if source.gguf is not None else "there is no GGUF of the base; give it with --base"


def _check_targets(
    source: Source, output: Path | None, artifact: Path | None, verify: bool | None, force: bool
) -> None:
    base = source.checkpoint.base
    if artifact is not None:
        if base.kind == "hf" and (source.gguf is None or verify is False):
            raise ExportError(
                f"{artifact}: whether its weights are the base {base.name} shows only in a comparison of logits; "
                "give the artifact's weights with --base, and do not use --no-verify"
            )
        if artifact.exists():
            sha256 = sha256_file(source.gguf) if base.kind == "hf" and source.gguf is not None else base.sha256
            check_artifact(artifact, sha256, force=force)
        else:
            make_folder(artifact.parent)
    if output is not None:
        if output.exists() and not force:
            raise ExportError(f"{output}: exists already; replace it with --force or give another file with -o")
        make_folder(output.parent)
