"""`masa export gguf` as a function: merge, convert, quantize, check, package; every artifact whole or not at all.

What it will write is known first: names, sizes, room on the disk, and what of it is finished already. llama.cpp's
quantizer is asked for the sizes, on a dry run: it decides tensor by tensor, and rows that a type cannot divide get a
finer one, so no table of bits a weight tells the size of a small model. A base in a Hugging Face folder is shown to it
as a GGUF with the right shapes and no data: a sparse file, which takes no room.
"""

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
from masa_export.logit_check import Merged, check_merged, measure_merged, why_unproven
from masa_export.logits import gguf_logits, likeness
from masa_export.merge import gguf_changes, merge_folder, merge_into_gguf
from masa_export.progress import Watch
from masa_export.quantizer import quantize, read_importance
from masa_export.source import Source, open_source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
import tempfile
from collections.abc import Mapping
from typing import Any

from masa.artifact import Artifact
from masa.checksums import sha256_file
from masa.files import TEMPORARY_PREFIX, parse_json, read_text, reason
from masa_export.adapter import tensor_names
from masa_export.artifacts import find_finished, source_marks
from masa_export.quantizer import UNQUANTIZED, Quantized
from masa_export.tensors import open_model

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class Output:
    """An artifact to be, the unquantized type it is made from, and what its metadata will say of its origin."""

    made: Made
    source: str
    marks: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs, and bytes: needed at most at one moment, and free."""

    outputs: tuple[Output, ...]
    needed: int
    free: int

    @property
    def sources(self) -> tuple[str, ...]:
        """The unquantized types to merge, for what is not finished."""
        return tuple(dict.fromkeys(output.source for output in self.outputs if not output.made.kept))


def planned_outputs(
    source: Source,
    quantizations: Sequence[str],
    *,
    folder: Path,
    name: str,
    via: str,
    importance: Path | None = None,
    force: bool = False,
) -> Outputs:
    """What exporting into `folder` means; `force` makes finished outputs again.

    Raises:
        ExportError: if an output's place is taken by something else and `force` is not given, or llama.cpp cannot
            quantize this base to one of the types.
    """
    made_from = {kind: kind if kind in UNQUANTIZED else via for kind in quantizations}
    try:
        # Room for a file without data; where the outputs go may not exist yet.
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as scratch:
            sizes = _sizes(source, list(dict.fromkeys([*quantizations, *made_from.values()])), Path(scratch))
    except OSError as error:
        raise ExportError(f"{tempfile.gettempdir()}: no file can be written there ({reason(error)})") from None
    marks = {
        **source_marks(source),
        "masa.language": source.checkpoint.language,
        "masa.prompt_version": str(source.checkpoint.prompt_version),
    }
    matrix = "none" if importance is None else sha256_file(importance)
    outputs = []
    for kind, before in made_from.items():
        # An unquantized file does not depend on the importance matrix.
        own = {"masa.merged_as": before, "masa.imatrix_sha256": "none" if kind in UNQUANTIZED else matrix}
        place = folder / f"{name}-{kind.lower()}"
        found = find_finished(place, kind, {**marks, **own}, _marks_of, force=force)
        outputs.append(
            Output(
                Made(
                    quantization=kind,
                    path=place,
                    weights=f"{name}-{kind}.gguf",
                    bytes=sizes[kind].tensor_bytes if found is None else found.weights_path.stat().st_size,
                    fallback_tensors=sizes[kind].fallbacks,
                    kept=found is not None,
                ),
                before,
                {**marks, **own},
            )
        )
    made = [output for output in outputs if not output.made.kept]
    # While the converter works, the merged folder lies beside the GGUF that it writes.
    copies = 1 if source.gguf is not None else 2
    merged = max((copies * sizes[output.source].tensor_bytes for output in made), default=0)
    return Outputs(tuple(outputs), merged + sum(output.made.bytes for output in made), _free(folder))


def _marks_of(artifact: Artifact) -> Mapping[str, Any]:
    return read_header(artifact.weights_path).metadata


def _free(folder: Path) -> int:
    """Bytes free where `folder` is or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _sizes(source: Source, quantizations: Sequence[str], scratch: Path) -> dict[str, Quantized]:
    """For every type: bytes of the file it will be (within some kilobytes; for a folder within its tokenizer's size),
    and how many tensors fall back to a finer type. `scratch` is a folder for a sparse file.
    """
    if source.gguf is not None and source.header is not None:
        shapes, beside = source.gguf, source.header.data_offset
    else:
        shapes = scratch / "shapes.gguf"
        write_shapes(source, shapes)
        assert source.folder is not None
        files = (path for path in map(source.folder.joinpath, _TOKENIZER_FILES) if path.is_file())
        beside = read_header(shapes).data_offset + max((path.stat().st_size for path in files), default=0)
    found = {name: quantize(shapes, scratch / "none.gguf", name, dry_run=True) for name in quantizations}
    return {name: Quantized(size.tensor_bytes + beside, size.fallbacks) for name, size in found.items()}


def write_shapes(source: Source, target: Path) -> None:
    """A sparse GGUF with the shapes of the base's Hugging Face folder, as F16; it holds no data and no tokenizer."""
    import gguf
    import numpy as np

    assert source.folder is not None
    config: dict[str, Any] = parse_json(read_text(source.folder / "config.json"))
    names = tensor_names(source.shape)
    writer = gguf.GGUFWriter(target, source.shape.architecture)
    try:
        writer.add_block_count(source.shape.layers)
        writer.add_head_count(source.shape.heads)
        writer.add_head_count_kv(source.shape.kv_heads)
        writer.add_context_length(config.get("max_position_embeddings", 2048))
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
        writer.add_vocab_size(config["vocab_size"])
        if config.get("head_dim"):
            writer.add_key_length(config["head_dim"])
            writer.add_value_length(config["head_dim"])
        if config.get("sliding_window"):
            writer.add_sliding_window(config["sliding_window"])
        total = 0
        for name, file in open_model(source.folder).items():
            place = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if place is None or (place == "output.weight" and config.get("tie_word_embeddings")):
                continue
            shape = file.shapes[name]
            dtype = np.dtype(np.float16 if len(shape) > 1 else np.float32)
            size = int(np.prod(shape)) * dtype.itemsize
            total += size + -size % 32
            writer.add_tensor_info(place, shape, dtype, size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    with target.open("r+b") as out:
        end = out.seek(0, 2)
        out.truncate(end + -end % 32 + total)


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
