"""The checkpoint behind the runtime's protocol: transformers for the logits, the base's own tokenizer for the tokens.

So the same engine, grammar and guard run the checkpoint and the artifact, and every difference is the export's.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from masa.artifact import Artifact
from masa.backends import Feed
from masa.errors import MasaError
from masa.files import read_text
from masa.formats.gguf_header import read_header
from masa.prompt import ChatTemplate, Segment
from masa_export.base import Base, find_base
from masa_export.checkpoint import NOTES, read_checkpoint
from masa_export.errors import ExportError
from masa_export.transformers_model import load_checkpoint, load_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DTYPES = ("float32", "bfloat16")


class Tokenizer(Protocol):
    """The tokenizing part of `masa.backends.Backend`."""

    def tokenize(self, segments: Sequence[Segment]) -> list[int]: ...

    def detokenize(self, tokens: Sequence[int]) -> bytes: ...

    def token_id(self, text: str) -> int | None: ...

    def control_tokens(self) -> tuple[str, ...]: ...

    def grammar_tokenizer(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Reference:
    """A checkpoint that is not loaded yet.

    `template` is None where only a Hugging Face folder is known, which has its chat template as `jinja` alone.
    `jinja` is the source of the base's chat template, None where it has none.
    """

    path: Path
    name: str
    language: str | None
    prompt_version: int | None
    template: ChatTemplate | None
    jinja: str | None
    context_length: int
    checkpoint: Any
    base: Base | None

    def tokenizer(self) -> Tokenizer:
        """The tokenizer it was trained with: llama.cpp's of a GGUF base, else that of the base's folder."""
        if self.base is not None and self.base.folder is None:
            from masa.backends.llama import LlamaBackend

            assert self.base.gguf is not None
            return LlamaBackend.load(self.base.gguf, vocab_only=True)
        folder = self.path if self.base is None else self.base.folder
        assert folder is not None
        return FolderTokenizer(folder)

    def open(self, tokenizer: Tokenizer, dtype: str = "float32") -> ReferenceBackend:
        """The model, loaded.

        Raises:
            ExportError: if a library cannot load it, or its memory is not there.
        """
        import torch

        kind = getattr(torch, dtype)
        try:
            if self.base is None:
                model = load_folder(self.path, kind)
            else:
                model = load_checkpoint(self.checkpoint, self.base, kind)
        except MemoryError:
            raise ExportError(f"{self.path}: not enough memory for the checkpoint; use --dtype bfloat16") from None
        return ReferenceBackend(model, tokenizer, self.context_length)


def find_reference(path: Path, base: str | None = None) -> Reference:
    """The checkpoint of `masa distill`, or the Hugging Face folder of a rewriter that was trained elsewhere.

    Raises:
        ExportError: if it is neither, or its base is not there.
    """
    if not (path / NOTES).is_file() and (path / "config.json").is_file():
        config = _json(path / "config.json")
        context = int(config.get("max_position_embeddings") or 0)
        if context < 1:
            raise ExportError(f"{path / 'config.json'}: does not tell max_position_embeddings; add it")
        return Reference(path, path.name, None, None, None, _folder_jinja(path), context, None, None)
    checkpoint = read_checkpoint(path, full=True)
    found = find_base(checkpoint, base)
    jinja = _folder_jinja(found.folder) if found.folder is not None else None
    if found.folder is None and found.gguf is not None:
        jinja = read_header(found.gguf).text("tokenizer.chat_template")
    return Reference(
        path=path,
        name=found.name,
        language=checkpoint.language,
        prompt_version=checkpoint.prompt_version,
        template=checkpoint.template,
        jinja=jinja,
        context_length=checkpoint.context_length,
        checkpoint=checkpoint,
        base=found,
    )


class ReferenceBackend:
    """A `masa.backends.Backend` of a transformers model. Every slot is computed by itself."""

    def __init__(self, model: Any, tokenizer: Tokenizer, context_length: int) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self.context_length = context_length
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        return self._tokenizer.tokenize(segments)

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        return self._tokenizer.detokenize(tokens)

    def token_id(self, text: str) -> int | None:
        return self._tokenizer.token_id(text)

    def control_tokens(self) -> tuple[str, ...]:
        return self._tokenizer.control_tokens()

    def grammar_tokenizer(self) -> Any:
        return self._tokenizer.grammar_tokenizer()

    def session(self, *, slots: int, length: int) -> ReferenceSession:
        return ReferenceSession(self._model, slots, length)

    def set_adapter(self, path: str | None, *, scale: float = 1.0) -> None:
        """A checkpoint is merged already; the engine asks for none."""

    def close(self) -> None:
        self._model = None


class ReferenceSession:
    """A key-value cache for every slot; transformers never changes a cache's tensors, so the prefix is not copied."""

    def __init__(self, model: Any, slots: int, length: int) -> None:
        from transformers import DynamicCache

        self.slots = slots
        self.length = length
        self._model = model
        self._new = DynamicCache
        self._prefix: tuple[int, ...] = ()
        self._shared: Any = DynamicCache()
        self._caches: dict[int, Any] = {}

    def share(self, tokens: Sequence[int]) -> None:
        if tuple(tokens) != self._prefix:
            self._prefix = tuple(tokens)
            self._shared = self._new()
            if tokens:
                self._forward(self._shared, tokens, 1)

    def begin(self, slot: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        cache = copy.copy(self._shared)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        self._caches[slot] = cache
        row: NDArray[np.float32] = self._forward(cache, tokens, 1)[0]
        return row

    def step(self, feeds: Sequence[Feed], wanted: Sequence[int]) -> list[NDArray[np.float32]]:
        return [
            self._forward(self._caches[slot], tokens, count)
            for (slot, tokens), count in zip(feeds, wanted, strict=True)
        ]

    def rewind(self, slot: int, tokens: int) -> None:
        cache = self._caches[slot]
        cache.crop(cache.get_seq_length() - tokens)

    def release(self, slot: int) -> None:
        self._caches.pop(slot, None)

    def close(self) -> None:
        self._caches.clear()

    def _forward(self, cache: Any, tokens: Sequence[int], wanted: int) -> NDArray[np.float32]:
        import torch

        start = cache.get_seq_length()
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.tensor([list(tokens)]),
                cache_position=torch.arange(start, start + len(tokens)),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=wanted,
            ).logits[0, -wanted:]
            rows: NDArray[np.float32] = logits.float().numpy()
        return rows


class FolderTokenizer:
    """The tokenizer of a Hugging Face folder, kept from reading special tokens into texts."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise ExportError(
                f"{folder}: transformers cannot load its tokenizer ({' '.join(str(error).split())[:200]}); give the "
                "complete folder of the model"
            ) from error
        added = self._tokenizer.added_tokens_decoder
        self._controls = tuple(str(token) for token in added.values() if token.special)
        self._special = {number for number, token in added.items() if token.special}

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        ids: list[int] = []
        for segment in segments:
            encoded = self._tokenizer(segment.text, add_special_tokens=False, split_special_tokens=not segment.control)
            ids += encoded["input_ids"]
        return ids

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        kept = [token for token in tokens if token not in self._special]
        text: str = self._tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        return text.encode("utf-8")

    def token_id(self, text: str) -> int | None:
        return self._tokenizer.convert_tokens_to_ids(text) if text in self._controls else None

    def control_tokens(self) -> tuple[str, ...]:
        return self._controls

    def grammar_tokenizer(self) -> Any:
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self._tokenizer)


def artifact_jinja(artifact: Artifact) -> str | None:
    """The source of the chat template that an artifact carries for other programs; None where it has none."""
    if artifact.kind == "gguf":
        return read_header(artifact.weights_path).text("tokenizer.chat_template")
    return _folder_jinja(artifact.path)


def _folder_jinja(folder: Path) -> str | None:
    separate = folder / "chat_template.jinja"
    if separate.is_file():
        return read_text(separate)
    settings = folder / "tokenizer_config.json"
    found = _json(settings).get("chat_template") if settings.is_file() else None
    return found if isinstance(found, str) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path))
    except (MasaError, ValueError):
        raise ExportError(f"{path}: no readable JSON; give a complete Hugging Face folder") from None
    return value if isinstance(value, dict) else {}
