"""`masa export onnx` as a function: merge, export by optimum, rewire, quantize, check, package."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from masa.artifact import Artifact, load_artifact
from masa.backends.llama import LlamaBackend
from masa.backends.onnx import GRAPH, OnnxBackend
from masa.backends.onnx_tokenizer import TOKENIZER_NAME, JsonTokenizer
from masa.errors import MasaError
from masa.files import TEMPORARY_PREFIX, make_folder, reason
from masa.formats.gguf_header import read_header
from masa_export.artifacts import write_manifest
from masa_export.base import Base, find_base, origin
from masa_export.checkpoint import Checkpoint, read_checkpoint
from masa_export.errors import ExportError
from masa_export.gguf_plan import checkpoint_sha256, default_name
from masa_export.likeness import Likeness, Margin, excess, likeness
from masa_export.onnx_optimum import export_graph, quiet, torch_logits
from masa_export.onnx_quantize import quantize_onnx
from masa_export.onnx_tokenizer import prove, write_tokenizer
from masa_export.placing import put_in_place
from masa_export.sample_logits import backend_logits, sample_prompts
from masa_export.settings import ArtifactSettings, Watch
from masa_export.transformers_model import load_checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masa.backends import Backend

DEFAULT_FOLDER = "onnx"
WEIGHTS = "model.onnx"
MARGIN, EQUAL = Margin(difference=0.01, difference_share=0.0, error=0.001, error_share=0.0), 0.98
"""What the float32 graph may differ from the checkpoint in transformers, logits: about 100 times what it does for
SmolLM2-135M (docs/export.md), since other architectures have larger logits."""
_NEEDED = ("torch", "transformers", "peft", "optimum.exporters.onnx", "onnx")


@dataclass(frozen=True, slots=True)
class OnnxSettings(ArtifactSettings):
    """What the user may choose; see `masa export onnx --help`."""

    reference: Path | None = None


@dataclass(frozen=True, slots=True)
class OnnxResult:
    """One artifact; `likeness` (to the checkpoint) and `seconds` are None where a finished one was kept."""

    quantization: str
    folder: Path
    kept: bool
    size: int = 0
    likeness: Likeness | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """What was made. `merged` is the float32 graph against the checkpoint in transformers; `texts` are those on which
    the tokenizer was compared with llama.cpp's. Both are None where everything was there already."""

    results: tuple[OnnxResult, ...]
    base: str
    licence: str
    merged: Likeness | None
    texts: int | None
    seconds: float


def export_onnx(folder: Path, settings: OnnxSettings, watch: Watch | None = None) -> OnnxExport:
    """Export the checkpoint in `folder` as ONNX artifacts, one folder for each type.

    An artifact appears in its place once it is complete and checked: its tokenizer is llama.cpp's, the float32 graph
    computes what the checkpoint does in transformers, and its own logits are finite. Finished ones are kept.

    Raises:
        MasaError: in one sentence, if a library is missing, checkpoint, base or tokenizer do not fit, an output is
            wrong, or the disk is full; artifacts that were finished before stay.
    """
    watch = watch or Watch()
    begun = time.monotonic()
    checkpoint = read_checkpoint(folder, full=True)
    base = find_base(checkpoint, settings.base)
    where = settings.output or folder / DEFAULT_FOLDER
    name = settings.name or default_name(checkpoint)
    model, licence = origin(checkpoint, base)
    marks = {
        "masa.graph": GRAPH,
        "masa.checkpoint_sha256": checkpoint_sha256(checkpoint),
        "masa.base_sha256": checkpoint.base.sha256,
        "masa.dataset_sha256": checkpoint.dataset.sha256,
        "masa.context_length": str(checkpoint.context_length),
    }
    results = {}
    for quantization in settings.quantizations:
        place = where / f"{name}-onnx-{quantization}"
        found = _finished(place, quantization, marks, settings.force)
        size = 0 if found is None else sum(entry.size for entry in found.files.values())
        results[quantization] = OnnxResult(quantization, place, found is not None, size)
    work = _Work(checkpoint, base, settings, settings.licence or licence, model, marks, watch)
    merged, texts = None, None
    if not all(result.kept for result in results.values()):
        _check_libraries()
        merged, texts = work.run(where, results)
    return OnnxExport(
        tuple(results.values()), str(base.gguf or base.folder), work.licence, merged, texts, time.monotonic() - begun
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """One run: everything that its steps need."""

    checkpoint: Checkpoint
    base: Base
    settings: OnnxSettings
    licence: str
    base_model: str
    marks: Mapping[str, str]
    watch: Watch

    def run(self, where: Path, results: dict[str, OnnxResult]) -> tuple[Likeness, int | None]:
        make_folder(where)
        try:
            with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=where) as scratch:
                return self._run(Path(scratch), results)
        except MasaError:
            raise
        except OSError as error:
            raise ExportError(
                f"{where}: cannot write there ({reason(error)}); check space and permissions, then run this again: "
                "what is finished is kept"
            ) from error
        except MemoryError:
            raise ExportError("there is not enough memory; export where there is more") from None

    def _run(self, scratch: Path, results: dict[str, OnnxResult]) -> tuple[Likeness, int | None]:
        import torch

        tokenizer_file = scratch / TOKENIZER_NAME
        self.watch.stage("Comparing the tokenizer with llama.cpp's …")
        vocabulary, eos, texts = self._tokenizer(tokenizer_file)
        self.watch.stage(f"Merging the checkpoint into {self.base.name} …")
        model = load_checkpoint(self.checkpoint, self.base, torch.float32).eval()
        if vocabulary > model.config.vocab_size:
            raise ExportError(
                f"{self.checkpoint.path}: its model has {model.config.vocab_size} tokens, the tokenizer {vocabulary}; "
                "give the base that it was trained on"
            )
        tokenizer = JsonTokenizer(tokenizer_file, vocabulary=model.config.vocab_size, eos=eos)
        prompts = sample_prompts(self.checkpoint, cast("Backend", tokenizer))  # it only tokenizes
        reference = torch_logits(model, prompts)
        merged = scratch / "merged.onnx"
        self.watch.stage("Exporting the graph (optimum) …")
        export_graph(model, self.checkpoint, merged, {**self.marks, "masa.eos_token": str(eos)}, scratch)
        del model
        self.watch.stage("Comparing the graph with the checkpoint in transformers …")
        found = likeness(self._computed(merged, tokenizer_file, prompts), reference)
        problem = excess(found, MARGIN, 0.0, EQUAL)
        if problem:
            raise ExportError(
                f"{self.checkpoint.path}: ONNX Runtime does not compute what the checkpoint does ({problem}); nothing "
                "was written; report this as a bug"
            )
        for quantization, result in results.items():
            if not result.kept:
                results[quantization] = self._produce(result, merged, tokenizer_file, prompts, reference, scratch)
        return found, texts

    def _tokenizer(self, target: Path) -> tuple[int, int, int | None]:
        """Write and prove the tokenizer: how many tokens it has, which one ends a text, on how many texts proven."""
        source = self.settings.reference or self.base.gguf
        if source is None:
            raise ExportError(
                f"{self.base.folder}: no tokenizer is trusted before it was compared with llama.cpp's; give a GGUF of "
                "this model with --reference (any type will do)"
            )
        reference = LlamaBackend.load(source, vocab_only=True)
        try:
            own = None if self.base.folder is None else self.base.folder / TOKENIZER_NAME
            if own is not None and own.is_file():
                shutil.copyfile(own, target)
            else:
                write_tokenizer(source, target, reference)
            eos = read_header(source).metadata.get("tokenizer.ggml.eos_token_id")
            if not isinstance(eos, int):
                raise ExportError(f"{source}: does not tell tokenizer.ggml.eos_token_id; give another GGUF")
            tokenizer = JsonTokenizer(target, vocabulary=reference.vocabulary, eos=eos)
            missing = next((text for text in self.checkpoint.template.stop if tokenizer.token_id(text) is None), None)
            if missing is not None:
                raise ExportError(f"{source}: has no special token {missing}, which ends the checkpoint's answers")
            texts = prove(tokenizer, reference, (), str(own or source))
        finally:
            reference.close()
        return reference.vocabulary, eos, texts

    def _computed(self, path: Path, tokenizer: Path, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        import numpy as np

        backend = OnnxBackend.load(path, tokenizer=tokenizer, provider="cpu")
        try:
            logits = backend_logits(backend, prompts)
        finally:
            backend.close()
        if not np.isfinite(logits).all():
            raise ExportError(f"{path.name}: computes logits that are not finite; take another type")
        return logits

    def _produce(
        self,
        result: OnnxResult,
        merged: Path,
        tokenizer: Path,
        prompts: Sequence[Sequence[int]],
        reference: NDArray[np.float32],
        scratch: Path,
    ) -> OnnxResult:
        begun = time.monotonic()
        folder = scratch / result.folder.name
        folder.mkdir()
        self.watch.stage(f"Writing {result.quantization} …")
        with quiet():
            quantize_onnx(merged, folder / WEIGHTS, result.quantization)
        shutil.copyfile(tokenizer, folder / TOKENIZER_NAME)
        self.watch.stage(f"Checking {result.quantization} …")
        found = likeness(self._computed(folder / WEIGHTS, folder / TOKENIZER_NAME, prompts), reference)
        manifest = write_manifest(
            folder,
            WEIGHTS,
            self.checkpoint,
            name=result.folder.name,
            version=self.settings.version,
            base_model=self.base_model,
            licence=self.licence,
            quantization=result.quantization,
            kind="onnx",
            others=sorted(path.name for path in folder.iterdir() if path.name != WEIGHTS),
        )
        put_in_place(folder, result.folder)
        size = sum(entry.size for entry in manifest.files.values())
        return replace(result, size=size, likeness=found, seconds=time.monotonic() - begun)


def _finished(folder: Path, quantization: str, marks: Mapping[str, str], force: bool) -> Artifact | None:
    """The artifact in `folder` if it is complete and has these marks; None where there is nothing.

    Raises:
        ExportError: if there is something else, which only `force` may replace.
    """
    if not folder.exists():
        return None
    if force:
        if not (folder / "manifest.json").is_file():
            raise ExportError(f"{folder}: is there and is no artifact, so --force does not replace it; move it away")
        return None
    try:
        artifact = load_artifact(folder)
    except MasaError as error:
        raise ExportError(f"{folder}: is there and not complete ({error}); replace it with --force") from None
    if artifact.kind == "onnx":
        import onnx

        graph = onnx.load(str(artifact.weights_path), load_external_data=False)
        noted = {entry.key: entry.value for entry in graph.metadata_props}
        if artifact.quantization == quantization and marks.items() <= noted.items():
            return artifact
    raise ExportError(
        f"{folder}: holds another export (of another checkpoint); replace it with --force, or give another --name or -o"
    )


def _check_libraries() -> None:
    for name in _NEEDED:
        try:
            found = find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ExportError(
                f'the ONNX export needs {name.split(".")[0]}: pip install "masa-skills[export,export-onnx,onnx,llama]"'
            )
