"""llama.cpp in this process as a model: a GGUF file, an artifact's weights, or a backbone by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masa.backends.llama import LlamaBackend
from masa.chat_templates import stored_template
from masa.errors import FormatError, MasaError
from masa_training.errors import TrainingError
from masa_training.models.chat import TEMPLATES, ChatFormat
from masa_training.models.choice import Scoring
from masa_training.models.in_process import InProcessModel
from masa_training.models.llama_engines import CACHE_TYPES, LlamaTexts, LlamaTrees
from masa_training.models.opening import find_gguf


def open_llama(
    spec: str,
    *,
    name: str | None = None,
    slots: int = 8,
    length: int | None = None,
    threads: int | None = None,
    gpu_layers: int = 0,
    batch: int = 512,
    scoring: Scoring = "total",
    cache: str = "f16",
    template: str | None = None,
    template_options: Mapping[str, Any] | None = None,
    adapter: str | None = None,
) -> InProcessModel:
    """A GGUF file, an artifact's weights or a backbone by name as a model.

    Args:
        slots: conversations that are kept; as many episodes may run side by side without computing anything twice.
        length: most tokens of a conversation with its answer; default the model's context, at most 4,096.
        threads: default one per core. `batch` is the most tokens of one pass.
        scoring: see `masa_training.models.choice`.
        cache: "f16" or "f32", how keys and values are kept when candidates are scored. Weights of 32 bits with an f32
            cache score candidates as one by one; quantized weights round activations to 8 bits, where another order of
            cells moves a candidate's score by some tenths of a nat, as another batch size does. Either way the same
            conversation scores the same to the bit, whatever runs beside it.
        template: a name of `TEMPLATES` or Jinja text instead of the file's own; a file without one is a base model
            and gets lines `role: text`.
        template_options: what the template reads, such as `{"enable_thinking": True}`.
        adapter: a LoRA GGUF to attach.

    Raises:
        TrainingError: if there is no such file or artifact, or its template is broken.
        BackendError: if llama.cpp cannot load it.
    """
    path = find_gguf(spec)
    if slots < 1:
        raise TrainingError(f"{slots} slots; give at least 1")
    if cache not in CACHE_TYPES:
        raise TrainingError(f"unknown cache {cache!r}; the known ones are {', '.join(CACHE_TYPES)}")
    backend = LlamaBackend.load(path, threads=threads, gpu_layers=gpu_layers, batch=batch)
    longest = length or min(backend.context_length, 4096)
    try:
        if longest > backend.context_length:
            raise TrainingError(
                f"{path}: length {longest} is more than the model's context of {backend.context_length}"
            )
        if adapter is not None:
            backend.set_adapter(adapter)
        return InProcessModel(
            name or path.stem,
            chat_format(backend, path, template, template_options),
            backend,
            lambda: LlamaTrees(backend, slots=slots, length=longest, batch=batch, cache=cache),
            lambda: LlamaTexts(backend, slots=slots, length=longest, batch=batch),
            slots=slots,
            scoring=scoring,
            on_close=backend.close,
        )
    except MasaError:
        backend.close()
        raise


def chat_format(
    backend: LlamaBackend, path: Path, template: str | None = None, options: Mapping[str, Any] | None = None
) -> ChatFormat:
    """How the model of a GGUF file writes conversations."""
    if template is None:
        try:
            template = stored_template(path)
        except FormatError as error:
            raise TrainingError(str(error)) from None
    bos, add_bos, eos = text_ends(backend)
    return ChatFormat(
        backend,
        TEMPLATES.get(template, template) if template is not None else None,
        bos=bos,
        add_bos=add_bos,
        eos=eos,
        options=options,
        where=str(path),
    )


def text_ends(backend: Any) -> tuple[str | None, bool, str | None]:
    """Spellings of the tokens that begin and end a text, and whether every text begins with the first.

    The backend is a `LlamaBackend`, which may be without weights.
    """
    llama = backend.library
    vocabulary = llama.llama_model_get_vocab(backend.model)

    def spelled(token: int) -> str | None:
        text = llama.llama_vocab_get_text(vocabulary, token) if token >= 0 else None
        return text.decode("utf-8", "replace") if text else None

    add_bos = bool(llama.llama_vocab_get_add_bos(vocabulary))
    return spelled(llama.llama_vocab_bos(vocabulary)), add_bos, spelled(llama.llama_vocab_eos(vocabulary))
