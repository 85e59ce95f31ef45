"""`masa export onnx` as a function: merge, write graphs by `masa.forms`, check, package.

No tokenizer is trusted: `prove` compares `tokenizer.json` with llama.cpp on every token of the vocabulary and on texts
that tokenizers differ on.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from masa.artifact import Artifact
from masa.backends.llama import LlamaBackend
from masa.backends.onnx import GRAPH, OnnxBackend
from masa.backends.onnx_tokenizer import TOKENIZER_NAME, JsonTokenizer
from masa.formats.gguf_header import read_header
from masa.forms.graph import FORMS, write_graph
from masa.forms.reference import Sizes, forward
from masa.forms.rounding import smoothed
from masa.forms.tokenizer import write_tokenizer
from masa.forms.weights import Model, build_model
from masa.json_fields import did_you_mean
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
from masa_export.merge import merged_tensors
from masa_export.progress import Watch
from masa_export.source import Source, open_source, with_gguf
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


def parse_onnx_quantizations(text: str) -> tuple[str, ...]:
    """The names in a list such as "fp32,int4", each once.

    Raises:
        ExportError: for no name and for an unknown one.
    """
    found = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    if not found:
        raise ExportError(f"--quant {text!r}: names no type; give some of {', '.join(FORMS)}")
    for name in found:
        if name not in FORMS:
            hint = did_you_mean(name, FORMS) or f"; known: {', '.join(FORMS)}"
            raise ExportError(f"--quant {name}: the ONNX export has no such type{hint}")
    return found


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
    marks = {**source_marks(source), "masa.graph": GRAPH}
    results = []
    for quantization in settings.quantizations:
        place = where / f"{name}-onnx-{quantization}"
        found = find_finished(place, quantization, marks, _marks_of, force=settings.force)
        size = 0 if found is None else sum(entry.size for entry in found.files.values())
        results.append(Made(quantization, place, WEIGHTS, size, kept=found is not None))
    merged, texts = None, None
    if not all(result.kept for result in results):
        if source.gguf is None:
            if settings.reference is None:
                raise ExportError(
                    f"{source.folder}: no tokenizer is trusted before it was compared with llama.cpp's; give a GGUF of "
                    "this model with --reference (any type will do)"
                )
            source = with_gguf(source, settings.reference)
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
        assert source.header is not None
        self.watch.stage("Comparing the tokenizer with llama.cpp's …")
        tokens, eos, texts = self._tokenizer()
        self.watch.stage(f"Merging the checkpoint into {source.checkpoint.base.name} …")
        model = build_model(source.header, merged_tensors(source), source.checkpoint.context_length)
        vocabulary = len(model.embedding)
        if tokens > vocabulary:
            raise ExportError(
                f"{path}: its model has {vocabulary} tokens, the tokenizer {tokens}; "
                "give the base that it was trained on"
            )
        model = replace(model, eos=eos)
        prompts = sample_prompts(
            source.checkpoint, JsonTokenizer(self.scratch / TOKENIZER_NAME, vocabulary=vocabulary, eos=eos)
        )
        self.watch.stage("Comparing the graph with the checkpoint in transformers …")
        reference = model_logits(load_trained(source.checkpoint, source.base, torch.float32, merged=True), prompts)
        merged = self.scratch / "merged.onnx"
        write_graph(model, "fp32", merged)
        found = likeness(self._computed(merged, prompts), reference)
        problem = excess(found, MARGIN, 0.0, EQUAL)
        if problem:
            raise ExportError(
                f"{path}: ONNX Runtime does not compute what the checkpoint does ({problem}); nothing was written; "
                "report this as a bug"
            )
        made = [result if result.kept else self._produce(result, model, prompts, reference) for result in results]
        return made, found, texts

    def _tokenizer(self) -> tuple[int, int, int]:
        """Write and prove the tokenizer: how many tokens it has, which one ends a text, on how many texts proven."""
        source = self.source
        gguf = self.settings.reference or source.gguf
        assert gguf is not None
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
        self, result: Made, model: Model, prompts: Sequence[Sequence[int]], reference: NDArray[np.float32]
    ) -> Made:
        begun = time.monotonic()
        folder = self.scratch / result.path.name
        folder.mkdir()
        self.watch.stage(f"Writing {result.quantization} …")
        if "int8" in result.quantization:
            sizes = Sizes()
            forward(model, prompts[0], last=1, sizes=sizes)
            model = smoothed(model, sizes)
        write_graph(model, result.quantization, folder / WEIGHTS, self.marks)
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
