"""`masa export gguf` as a function: merge, convert, quantize, check, package; every artifact whole or not at all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from masa.formats.gguf_header import GgufHeader, read_header
from masa_export.artifacts import ArtifactSettings, Made, aside, put_in_place, write_manifest
from masa_export.converter import convert, find_converter
from masa_export.errors import ExportError
from masa_export.gguf_plan import Output, Outputs, planned_outputs
from masa_export.logit_check import Merged, check_merged, measure_merged, why_unproven
from masa_export.logits import gguf_logits, likeness
from masa_export.merge import gguf_changes, merge_folder, merge_into_gguf
from masa_export.progress import Watch
from masa_export.quantizer import quantize, read_importance
from masa_export.source import Source, open_source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_FOLDER = "gguf"
_UNQUANTIZED_FILES = (0, 1, 32)  # llama.h, enum llama_ftype: F32, F16, BF16
_WRITTEN_BY_QUANTIZER = ("general.file_type", "general.quantization_version")


@dataclass(frozen=True, slots=True)
class GgufSettings(ArtifactSettings):
    """What the user may choose; see `masa export gguf --help`."""

    importance: Path | None = None
    via: str = "F16"
    converter: str | None = None
    verify: bool | None = None
    threads: int = 0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class GgufExport:
    """What was made, or on a dry run what would be; `unproven` says why `merged` is None.

    `likeness` of an artifact is to the merged file. Bytes are needed at most at one moment, and free.
    """

    artifacts: tuple[Made, ...]
    bytes_needed: int
    bytes_free: int
    base: str
    architecture: str
    licence: str
    merged: Merged | None
    unproven: str | None
    seconds: float


def export_gguf(folder: Path, settings: GgufSettings, watch: Watch | None = None) -> GgufExport:
    """Export the checkpoint in `folder` as quantized artifacts, one folder for each type.

    An artifact appears in its place once it is complete and checked: llama.cpp loads it, it has all tensors and the
    tokenizer, and its logits are finite. Finished ones of the same checkpoint are kept.

    Raises:
        MasaError: in one sentence, if the checkpoint, its base or a type do not fit, an output is wrong, or the disk
            is full; artifacts that were finished before stay.
    """
    watch = watch or Watch()
    begun = time.monotonic()
    source = open_source(folder, settings.base, full=True)
    _check_base(source)
    if settings.importance is not None:
        read_importance(settings.importance)
    where = settings.output or folder / DEFAULT_FOLDER
    watch.stage("Asking llama.cpp for the sizes …")
    plan = planned_outputs(
        source,
        settings.quantizations,
        folder=where,
        name=settings.name or source.default_name,
        via=settings.via,
        importance=settings.importance,
        force=settings.force,
    )
    merged, unproven = None, why_unproven(settings.verify, source)
    artifacts = [output.made for output in plan.outputs]
    if not settings.dry_run and plan.sources:
        artifacts, merged = _Work(source, settings, plan, watch, unproven).run(where)
    return GgufExport(
        artifacts=tuple(artifacts),
        bytes_needed=plan.needed,
        bytes_free=plan.free,
        base=source.where,
        architecture=source.shape.architecture,
        licence=settings.licence or source.origin[1],
        merged=merged,
        unproven=None if merged else unproven or "nothing was merged",
        seconds=time.monotonic() - begun,
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """One run: everything that its steps need."""

    source: Source
    settings: GgufSettings
    plan: Outputs
    watch: Watch
    unproven: str | None

    def run(self, where: Path) -> tuple[list[Made], Merged | None]:
        converter = None
        if self.source.gguf is None:
            converter = find_converter(self.settings.converter)
        if self.plan.needed > self.plan.free:
            raise ExportError(
                f"{where}: the export needs {self.plan.needed / 1e9:.2f} GB there and {self.plan.free / 1e9:.2f} GB "
                "are free; make room, give another folder with -o, or fewer types at once"
            )
        made = [output.made for output in self.plan.outputs]
        checked: Merged | None = None
        with aside(where) as scratch:
            for kind in self.plan.sources:
                file = scratch / f"merged-{kind.lower()}.gguf"
                self._merge(file, kind, converter, scratch)
                self.watch.stage(f"Reading the merged file ({kind}) with llama.cpp …")
                prompts, logits = gguf_logits(file, self.source.checkpoint)
                if checked is None and self.unproven is None:
                    self.watch.stage("Comparing with the checkpoint in transformers (--no-verify skips this) …")
                    checked = measure_merged(self.source, prompts, logits)
                    check_merged(checked, kind, str(self.source.path))
                for index, output in enumerate(self.plan.outputs):
                    if output.source == kind and not output.made.kept:
                        made[index] = self._produce(output, file, prompts, logits, scratch)
                file.unlink()
        return made, checked

    def _merge(self, target: Path, kind: str, converter: Path | None, scratch: Path) -> None:
        text = f"Merging the checkpoint into {self.source.checkpoint.base.name} ({kind})"
        self.watch.stage(f"{text} …")

        def progress(done: int, total: int) -> None:
            self.watch.step(text, done, total)

        if converter is None:
            assert self.source.header is not None
            merge_into_gguf(self.source.header, gguf_changes(self.source), target, kind, progress)
            return
        merge_folder(self.source, scratch / "merged", kind, progress)
        text = f"Converting to GGUF ({kind})"
        self.watch.stage(f"{text} …")
        convert(converter, scratch / "merged", target, kind, progress)
        shutil.rmtree(scratch / "merged")

    def _produce(
        self,
        output: Output,
        merged: Path,
        prompts: Sequence[Sequence[int]],
        reference: NDArray[np.float32],
        scratch: Path,
    ) -> Made:
        begun, made = time.monotonic(), output.made
        folder = scratch / made.path.name
        folder.mkdir()
        weights = folder / made.weights
        text = f"Writing {made.quantization}"
        self.watch.stage(f"{text} …")
        try:
            quantize(
                merged,
                weights,
                made.quantization,
                importance=self.settings.importance,
                metadata=output.marks,
                threads=self.settings.threads,
                progress=lambda done, total: self.watch.step(text, done, total),
            )
        except ExportError as error:
            if shutil.disk_usage(scratch).free < made.bytes:
                raise ExportError(
                    f"{made.path}: no space left to write it; make room, then run this again: what is finished is kept"
                ) from error
            raise
        _check_complete(read_header(merged), read_header(weights), made.quantization)
        self.watch.stage(f"Checking {made.quantization} …")
        _, logits = gguf_logits(weights, self.source.checkpoint, prompts)
        found = likeness(logits, reference)
        manifest = write_manifest(
            folder,
            made.weights,
            self.source,
            name=folder.name,
            version=self.settings.version,
            licence=self.settings.licence,
            quantization=made.quantization,
        )
        put_in_place(folder, made.path)
        entry = manifest.files[made.weights]
        seconds = time.monotonic() - begun
        return replace(made, bytes=entry.size, sha256=entry.sha256, likeness=found, seconds=seconds)


def _check_base(source: Source) -> None:
    """A checkpoint of a Hugging Face folder may be merged into a GGUF of it, but not into a quantized one."""
    if source.checkpoint.base.kind != "hf" or source.header is None:
        return
    if source.header.metadata.get("general.file_type") not in _UNQUANTIZED_FILES:
        raise ExportError(
            f"{source.gguf}: is quantized, the base of {source.path} was not; give an F16, BF16 or F32 GGUF of it, or "
            "its folder"
        )


def _check_complete(merged: GgufHeader, written: GgufHeader, quantization: str) -> None:
    """Nothing that stood in the merged file may be missing: tensors by name and shape, tokenizer, chat template."""
    shapes = {tensor.name: tensor.shape for tensor in merged.tensors}
    if shapes != {tensor.name: tensor.shape for tensor in written.tensors}:
        raise ExportError(
            f"{quantization}: {len(written.tensors)} of {len(merged.tensors)} tensors are in the file, or of another "
            "shape; report this as a bug"
        )
    for key, value in merged.metadata.items():
        if key not in _WRITTEN_BY_QUANTIZER and written.metadata.get(key) != value:
            raise ExportError(f"{quantization}: the metadata {key} did not survive; report this as a bug")
