"""`masa export onnx` as a function: merge, export by optimum, rewire, quantize, check, package.

No tokenizer is trusted: `prove` compares `tokenizer.json` with llama.cpp on every token of the vocabulary and on texts
that tokenizers differ on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.artifact import Artifact
from masa.backends.llama import LlamaBackend
from masa.backends.onnx import GRAPH, OnnxBackend
from masa.backends.onnx_tokenizer import TOKENIZER_NAME, JsonTokenizer
from masa.extras import in_range
from masa.formats.gguf_header import read_header
from masa.forms.tokenizer import write_tokenizer
from masa_export.artifacts import (
    ArtifactSettings,
    Made,
    aside,
    find_finished,
    put_in_place,
    source_marks,
    write_manifest,
)
from masa_export.errors import ExportError
from masa_export.logits import Likeness, Margin, backend_logits, excess, likeness, model_logits, sample_prompts
from masa_export.onnx_graph import attention_of, rewire
from masa_export.onnx_quantize import quantize_onnx, save
from masa_export.progress import Watch
from masa_export.source import Source, open_source
from masa_export.verify.tokens import compare_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
_MIXED_TEXTS = 200


def prove(tokenizer: JsonTokenizer, reference: LlamaBackend, texts: Sequence[str], where: str) -> int:
    """Compare `tokenizer` with llama.cpp: every token's bytes, every token's spelling as a text, `texts`, texts mixed
    of tokens, Unicode, and look-alikes of special tokens. Returns how many texts were compared.

    Raises:
        ExportError: naming the first difference.
    """
    for number in range(reference.vocabulary):
        ours, theirs = tokenizer.detokenize([number]), reference.detokenize([number])
        if ours != theirs:
            raise ExportError(f"{where}: token {number} spells {ours!r}, in llama.cpp {theirs!r}; nothing was written")
    spelled = [reference.detokenize([number]).decode("utf-8", "replace") for number in range(reference.vocabulary)]
    found = compare_tokens(tokenizer, reference, [*texts, *_mixed(spelled), *(text for text in spelled if text)])
    if found.mismatches:
        raise ExportError(
            f"{where}: tokenizer.json does not read text as llama.cpp does ({found.different} of {found.texts} texts, "
            f"{found.moved} special tokens; first: {found.first}); nothing was written"
        )
    return found.texts


def _mixed(spelled: Sequence[str]) -> Iterator[str]:
    """Texts of tokens drawn at random, the same ones every time."""
    draw = random.Random(0)
    for _ in range(_MIXED_TEXTS):
        yield "".join(draw.choices(spelled, k=30))


DEFAULT_FOLDER = "onnx"
WEIGHTS = "model.onnx"
MARGIN, EQUAL = Margin(difference=0.01, difference_share=0.0, error=0.001, error_share=0.0), 0.98
"""What the float32 graph may differ from the checkpoint in transformers, logits: about 100 times what it does for
SmolLM2-135M (docs/export.md), since other architectures have larger logits."""
_NEEDED = ("torch", "transformers", "peft", "optimum.exporters.onnx", "onnx")
_TRANSFORMERS = ">=4.57,<4.58"
_ADVICE = 'in an environment of its own: pip install "masa-skills[export-onnx,onnx,llama]"'


@dataclass(frozen=True, slots=True)
class OnnxSettings(ArtifactSettings):
    """What the user may choose; see `masa export onnx --help`."""

    reference: Path | None = None


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """What was made; an artifact's `likeness` is to the checkpoint in transformers, `merged` that of the float32 graph.

    `tokenizer_texts` are those on which the tokenizer was compared with llama.cpp's. It and `merged` are None where
    everything was there already.
    """

    artifacts: tuple[Made, ...]
    base: str
    licence: str
    merged: Likeness | None
    tokenizer_texts: int | None
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
    source = open_source(folder, settings.base, full=True)
    where = settings.output or folder / DEFAULT_FOLDER
    name = settings.name or source.default_name
    marks = {
        **source_marks(source),
        "masa.graph": GRAPH,
        "masa.context_length": str(source.checkpoint.context_length),
    }
    results = []
    for quantization in settings.quantizations:
        place = where / f"{name}-onnx-{quantization}"
        found = find_finished(place, quantization, marks, _marks_of, force=settings.force)
        size = 0 if found is None else sum(entry.size for entry in found.files.values())
        results.append(Made(quantization, place, WEIGHTS, size, kept=found is not None))
    merged, texts = None, None
    if not all(result.kept for result in results):
        _check_libraries()
        with aside(where) as scratch:
            results, merged, texts = _Work(source, settings, marks, watch, scratch).run(results)
    licence = settings.licence or source.origin[1]
    return OnnxExport(tuple(results), source.where, licence, merged, texts, time.monotonic() - begun)


@dataclass(frozen=True, slots=True)
class _Work:
    """One run: everything that its steps need; `scratch` is a folder of its own."""

    source: Source
    settings: OnnxSettings
    marks: Mapping[str, str]
    watch: Watch
    scratch: Path

    def run(self, results: Sequence[Made]) -> tuple[list[Made], Likeness, int]:
        """The artifacts, how like the checkpoint the float32 graph is, and how many texts prove the tokenizer."""
        import torch

        from masa_training.transformers_backend import load_trained

        source, path = self.source, self.source.path
        self.watch.stage("Comparing the tokenizer with llama.cpp's …")
        vocabulary, eos, texts = self._tokenizer()
        self.watch.stage(f"Merging the checkpoint into {source.checkpoint.base.name} …")
        model = load_trained(source.checkpoint, source.base, torch.float32, merged=True).eval()
        if vocabulary > model.config.vocab_size:
            raise ExportError(
                f"{path}: its model has {model.config.vocab_size} tokens, the tokenizer {vocabulary}; "
                "give the base that it was trained on"
            )
        tokenizer = JsonTokenizer(self.scratch / TOKENIZER_NAME, vocabulary=model.config.vocab_size, eos=eos)
        prompts = sample_prompts(source.checkpoint, tokenizer)
        reference = model_logits(model, prompts)
        merged = self.scratch / "merged.onnx"
        self.watch.stage("Exporting the graph (optimum) …")
        notes = {**self.marks, "masa.eos_token": str(eos)}
        export_graph(model, source.checkpoint.context_length, merged, notes, str(path))
        del model
        self.watch.stage("Comparing the graph with the checkpoint in transformers …")
        found = likeness(self._computed(merged, prompts), reference)
        problem = excess(found, MARGIN, 0.0, EQUAL)
        if problem:
            raise ExportError(
                f"{path}: ONNX Runtime does not compute what the checkpoint does ({problem}); nothing was written; "
                "report this as a bug"
            )
        made = [result if result.kept else self._produce(result, merged, prompts, reference) for result in results]
        return made, found, texts

    def _tokenizer(self) -> tuple[int, int, int]:
        """Write and prove the tokenizer: how many tokens it has, which one ends a text, on how many texts proven."""
        source = self.source
        gguf = self.settings.reference or source.gguf
        if gguf is None:
            raise ExportError(
                f"{source.folder}: no tokenizer is trusted before it was compared with llama.cpp's; give a GGUF of "
                "this model with --reference (any type will do)"
            )
        target = self.scratch / TOKENIZER_NAME
        with contextlib.closing(LlamaBackend.load(gguf, vocab_only=True)) as reference:
            own = None if source.folder is None else source.folder / TOKENIZER_NAME
            if own is not None and own.is_file():
                shutil.copyfile(own, target)
            else:
                write_tokenizer(gguf, target, reference)
            header = source.header if gguf == source.gguf and source.header is not None else read_header(gguf)
            eos = header.metadata.get("tokenizer.ggml.eos_token_id")
            if not isinstance(eos, int):
                raise ExportError(f"{gguf}: does not tell tokenizer.ggml.eos_token_id; give another GGUF")
            tokenizer = JsonTokenizer(target, vocabulary=reference.vocabulary, eos=eos)
            stops = source.checkpoint.template.stop
            missing = next((text for text in stops if tokenizer.token_id(text) is None), None)
            if missing is not None:
                raise ExportError(f"{gguf}: has no special token {missing}, which ends the checkpoint's answers")
            return reference.vocabulary, eos, prove(tokenizer, reference, (), str(own or gguf))

    def _computed(self, path: Path, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        tokenizer = self.scratch / TOKENIZER_NAME
        with contextlib.closing(OnnxBackend.load(path, tokenizer=tokenizer, provider="cpu")) as backend:
            return backend_logits(backend, prompts, path.name)

    def _produce(
        self, result: Made, merged: Path, prompts: Sequence[Sequence[int]], reference: NDArray[np.float32]
    ) -> Made:
        begun = time.monotonic()
        folder = self.scratch / result.path.name
        folder.mkdir()
        self.watch.stage(f"Writing {result.quantization} …")
        with quiet():
            quantize_onnx(merged, folder / WEIGHTS, result.quantization)
        shutil.copyfile(self.scratch / TOKENIZER_NAME, folder / TOKENIZER_NAME)
        self.watch.stage(f"Checking {result.quantization} …")
        found = likeness(self._computed(folder / WEIGHTS, prompts), reference)
        manifest = write_manifest(
            folder,
            WEIGHTS,
            self.source,
            name=folder.name,
            version=self.settings.version,
            licence=self.settings.licence,
            quantization=result.quantization,
            kind="onnx",
            others=sorted(path.name for path in folder.iterdir() if path.name != WEIGHTS),
        )
        put_in_place(folder, result.path)
        size = sum(entry.size for entry in manifest.files.values())
        return replace(
            result, bytes=size, sha256=manifest.files[WEIGHTS].sha256, likeness=found, seconds=time.monotonic() - begun
        )


def _marks_of(artifact: Artifact) -> Mapping[str, str]:
    if artifact.kind != "onnx":
        return {}
    import onnx

    graph = onnx.load(str(artifact.weights_path), load_external_data=False)
    return {entry.key: entry.value for entry in graph.metadata_props}


def export_graph(model: Any, context_length: int, target: Path, notes: Mapping[str, str], where: str) -> None:
    """Write `model` (of transformers, float32) as the ONNX graph that masa runs to `target`, its weights beside it.

    optimum exports it, `masa_export.onnx_graph` rewires it; `notes` become the graph's metadata. Needs room for the
    model twice beside `target`. `where` names the checkpoint in errors.

    Raises:
        ExportError: if optimum or masa does not know how.
        OSError: if a file cannot be written.
    """
    import onnx
    from optimum.exporters.onnx import onnx_export_from_model

    attention = attention_of(model, context_length)
    raw = target.parent / "raw"
    try:
        with quiet():
            onnx_export_from_model(
                model,
                raw,
                task="text-generation-with-past",
                monolith=True,
                no_post_process=True,
                do_validation=False,
            )
    except (ValueError, KeyError, RuntimeError, NotImplementedError, TypeError) as error:
        raise ExportError(
            f"{where}: optimum cannot export this model ({' '.join(str(error).split())[:200]}); export to GGUF"
        ) from error
    graph = onnx.load(str(raw / "model.onnx"))
    shutil.rmtree(raw)
    rewire(graph, attention)
    onnx.helper.set_model_props(graph, dict(notes))
    save(graph, target)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch, optimum and onnxruntime print and warn about off the terminal; errors are still raised."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _check_libraries() -> None:
    for name in _NEEDED:
        try:
            there = find_spec(name) is not None
        except ModuleNotFoundError:
            there = False
        if not there:
            raise ExportError(f"the ONNX export needs {name.split('.')[0]}; {_ADVICE}")
    if not in_range(found := version("transformers"), _TRANSFORMERS):
        raise ExportError(f"the ONNX export needs transformers {_TRANSFORMERS}, here is {found}; {_ADVICE}")
