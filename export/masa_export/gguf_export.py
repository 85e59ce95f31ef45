"""`masa export gguf` as a function: merge, convert, quantize, check, package; every artifact whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from masa.checksums import sha256_file
from masa.errors import MasaError
from masa.files import TEMPORARY_PREFIX, make_folder, reason
from masa.formats.gguf_header import GgufHeader, read_header
from masa_export.artifacts import write_manifest
from masa_export.base import Base, find_base, origin
from masa_export.changes import gguf_changes
from masa_export.checkpoint import Checkpoint, read_checkpoint
from masa_export.converter import convert, find_converter
from masa_export.errors import ExportError
from masa_export.gguf_plan import Output, Plan, default_name, make_plan, own_marks
from masa_export.importance import read_importance
from masa_export.likeness import Likeness, likeness
from masa_export.merge import merge_into_gguf
from masa_export.merge_folder import merge_folder
from masa_export.parity import Merged, check_merged, measure_merged
from masa_export.placing import put_in_place
from masa_export.quantizer import quantize
from masa_export.reference import why_unproven
from masa_export.sample_logits import logits_of
from masa_export.settings import ArtifactSettings, Watch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_FOLDER = "gguf"
_UNQUANTIZED_FILES = (0, 1, 32)  # llama.h, enum llama_ftype: F32, F16, BF16
_WRITTEN_BY_QUANTIZER = ("general.file_type", "general.quantization_version")


@dataclass(frozen=True, slots=True)
class Settings(ArtifactSettings):
    """What the user may choose; see `masa export gguf --help`."""

    importance: Path | None = None
    via: str = "F16"
    converter: str | None = None
    verify: bool | None = None
    threads: int = 0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One output; `sha256`, `likeness` (to the merged file) and `seconds` are None where nothing was made."""

    output: Output
    sha256: str | None = None
    likeness: Likeness | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class GgufExport:
    """What was made, or on a dry run what would be; `unproven` says why `merged` is None."""

    plan: Plan
    results: tuple[Result, ...]
    base: str
    architecture: str
    licence: str
    merged: Merged | None
    unproven: str | None
    seconds: float


def export_gguf(folder: Path, settings: Settings, watch: Watch | None = None) -> GgufExport:
    """Export the checkpoint in `folder` as quantized artifacts, one folder for each type.

    An artifact appears in its place once it is complete and checked: llama.cpp loads it, it has all tensors and the
    tokenizer, and its logits are finite. Finished ones of the same checkpoint are kept.

    Raises:
        MasaError: in one sentence, if the checkpoint, its base or a type do not fit, an output is wrong, or the disk
            is full; artifacts that were finished before stay.
    """
    watch = watch or Watch()
    begun = time.monotonic()
    checkpoint = read_checkpoint(folder, full=True)
    base = find_base(checkpoint, settings.base)
    _check_base(checkpoint, base)
    if settings.importance is not None:
        read_importance(settings.importance)
    where = settings.output or folder / DEFAULT_FOLDER
    watch.stage("Asking llama.cpp for the sizes …")
    plan = make_plan(
        checkpoint,
        base,
        settings.quantizations,
        folder=where,
        name=settings.name or default_name(checkpoint),
        via=settings.via,
        importance=settings.importance,
        force=settings.force,
    )
    model, licence = origin(checkpoint, base)
    work = _Work(
        checkpoint, base, settings, plan, settings.licence or licence, model, watch, why_unproven(settings.verify, base)
    )
    merged: Merged | None = None
    results: Sequence[Result] = [Result(output) for output in plan.outputs]
    if not settings.dry_run and plan.sources:
        results, merged = work.run(where)
    return GgufExport(
        plan=plan,
        results=tuple(results),
        base=str(base.gguf or base.folder),
        architecture=base.architecture,
        licence=work.licence,
        merged=merged,
        unproven=None if merged else work.unproven or "nothing was merged",
        seconds=time.monotonic() - begun,
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """One run: everything that its steps need."""

    checkpoint: Checkpoint
    base: Base
    settings: Settings
    plan: Plan
    licence: str
    base_model: str
    watch: Watch
    unproven: str | None

    def run(self, where: Path) -> tuple[list[Result], Merged | None]:
        converter = None
        if self.base.gguf is None:
            converter = find_converter(self.settings.converter)
        if self.plan.needed > self.plan.free:
            raise ExportError(
                f"{where}: the export needs {self.plan.needed / 1e9:.2f} GB there and {self.plan.free / 1e9:.2f} GB "
                "are free; make room, give another folder with -o, or fewer types at once"
            )
        make_folder(where)
        results = {output: Result(output) for output in self.plan.outputs}
        proof: Merged | None = None
        try:
            with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=where) as scratch:
                for kind in self.plan.sources:
                    file = Path(scratch) / f"merged-{kind.lower()}.gguf"
                    self._merge(file, kind, converter, Path(scratch))
                    self.watch.stage(f"Reading the merged file ({kind}) with llama.cpp …")
                    prompts, logits = logits_of(file, self.checkpoint)
                    if proof is None and self.unproven is None:
                        proof = self._prove(prompts, logits, kind)
                    for output in self.plan.outputs:
                        if output.source == kind and not output.finished:
                            results[output] = self._produce(output, file, prompts, logits, Path(scratch))
                    file.unlink()
        except MasaError:
            raise
        except OSError as error:
            raise ExportError(
                f"{where}: cannot write there ({reason(error)}); check space and permissions, then run this again: "
                "what is finished is kept"
            ) from error
        except MemoryError:
            raise ExportError("there is not enough memory; export where there is more, or use --no-verify") from None
        return list(results.values()), proof

    def _merge(self, target: Path, kind: str, converter: Path | None, scratch: Path) -> None:
        text = f"Merging the checkpoint into {self.base.name} ({kind})"
        self.watch.stage(f"{text} …")

        def progress(done: int, total: int) -> None:
            self.watch.step(text, done, total)

        if converter is None:
            assert self.base.gguf is not None
            merge_into_gguf(self.base.gguf, gguf_changes(self.checkpoint, self.base), target, kind, progress)
            return
        merged = scratch / "merged"
        merge_folder(self.checkpoint, self.base, merged, kind, progress)
        text = f"Converting to GGUF ({kind})"
        self.watch.stage(f"{text} …")
        convert(converter, merged, target, kind, progress)
        shutil.rmtree(merged)

    def _prove(self, prompts: Sequence[Sequence[int]], logits: NDArray[np.float32], kind: str) -> Merged:
        self.watch.stage("Comparing with the checkpoint in transformers (--no-verify skips this) …")
        found = measure_merged(self.checkpoint, self.base, prompts, logits)
        check_merged(found, kind, str(self.checkpoint.path))
        return found

    def _produce(
        self,
        output: Output,
        merged: Path,
        prompts: Sequence[Sequence[int]],
        reference: NDArray[np.float32],
        scratch: Path,
    ) -> Result:
        begun = time.monotonic()
        folder = scratch / output.name
        folder.mkdir()
        weights = folder / output.weights
        importance = self.settings.importance
        matrix = "none" if importance is None else sha256_file(importance)
        text = f"Writing {output.quantization}"
        self.watch.stage(f"{text} …")
        try:
            quantize(
                merged,
                weights,
                output.quantization,
                importance=importance,
                metadata={**self.plan.marks, **own_marks(output.source, matrix, output.quantization)},
                threads=self.settings.threads,
                progress=lambda done, total: self.watch.step(text, done, total),
            )
        except ExportError as error:
            if shutil.disk_usage(scratch).free < output.size:
                raise ExportError(
                    f"{output.folder}: no space left to write it; make room, then run this again: what is finished is "
                    "kept"
                ) from error
            raise
        _check_complete(read_header(merged), read_header(weights), output.quantization)
        self.watch.stage(f"Checking {output.quantization} …")
        _, logits = logits_of(weights, self.checkpoint, prompts)
        found = likeness(logits, reference)
        manifest = write_manifest(
            folder,
            output.weights,
            self.checkpoint,
            name=output.name,
            version=self.settings.version,
            base_model=self.base_model,
            licence=self.licence,
            quantization=output.quantization,
        )
        put_in_place(folder, output.folder)
        entry = manifest.files[output.weights]
        return Result(replace(output, size=entry.size), entry.sha256, found, time.monotonic() - begun)


def _check_base(checkpoint: Checkpoint, base: Base) -> None:
    """A checkpoint of a Hugging Face folder may be merged into a GGUF of it, but not into a quantized one."""
    if checkpoint.base.kind == "hf" and base.gguf is not None:
        kind = read_header(base.gguf).metadata.get("general.file_type")
        if kind not in _UNQUANTIZED_FILES:
            raise ExportError(
                f"{base.gguf}: is quantized, the base of {checkpoint.path} was not; give an F16, BF16 or F32 GGUF of "
                "it, or its folder"
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
