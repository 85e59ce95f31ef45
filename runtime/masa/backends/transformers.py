"""A transformers causal LM behind the decoding protocol: for the machines that train and export, never for a device.

Every slot is computed by itself: a sequence's logits are the same whoever runs beside it, which is worth more in an
evaluation than the speed of a padded batch. For speed there is the exported artifact.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.backends import Feed
from masa.backends.tokenizing import Tokenizer, Tokenizing, text_but
from masa.errors import BackendError
from masa.prompt import Segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CLOSED = "the rewriter was closed in the middle of a rewrite"


class TransformersBackend(Tokenizing):
    """A `masa.backends.Backend` of a transformers model and a tokenizer.

    The model is put into evaluation mode and is not copied: whoever goes on training it calls `model.train()` again.
    Models whose memory is no key-value cache (Mamba and the like) are not supported.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, *, context_length: int) -> None:
        super().__init__(tokenizer)
        self._model = model.eval()
        self.context_length = context_length
        # What the output layer yields, which may be padded beyond the tokens that exist.
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])

    def session(self, *, slots: int, length: int) -> TransformersSession:
        if self._model is None:
            raise BackendError("the checkpoint was closed; open it again")
        if length > self.context_length:
            raise BackendError(f"a sequence of {length} tokens does not fit the context of {self.context_length}")
        return TransformersSession(self._model, slots=slots, length=length)

    def set_adapter(self, path: str | None, *, scale: float = 1.0) -> None:
        if path is not None:
            raise BackendError(
                f"{path}: a checkpoint's adapter is part of it and cannot be swapped; "
                "export it and run the artifact to try another adapter"
            )

    def close(self) -> None:
        self._model = None


class TransformersSession:
    """Key-value caches of a fixed number of sequences; the shared prefix is computed once and never copied.

    transformers appends to a cache by making new tensors, so a sequence can start from the prefix's tensors.
    """

    def __init__(self, model: Any, *, slots: int, length: int) -> None:
        self.slots = slots
        self.length = length
        self._model = model
        self._prefix: tuple[int, ...] = ()
        self._shared: Any = _empty_cache()
        self._caches: dict[int, Any] = {}

    def share(self, tokens: Sequence[int]) -> None:
        if tuple(tokens) == self._prefix:
            return
        self._prefix = tuple(tokens)
        self._shared = _empty_cache()
        if tokens:
            self._forward(self._shared, tokens, 1)

    def begin(self, slot: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        if not 0 <= slot < self.slots:
            raise BackendError(f"slot {slot} of a session with {self.slots}")
        if self._model is None:
            raise BackendError(_CLOSED)
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
        self._shared = None
        self._model = None

    def _forward(self, cache: Any, tokens: Sequence[int], wanted: int) -> NDArray[np.float32]:
        """Append `tokens` to a cache; logits after the last `wanted` of them."""
        import torch

        if self._model is None:
            raise BackendError(_CLOSED)
        start = cache.get_seq_length()
        if start + len(tokens) > self.length:
            raise BackendError(f"a sequence of {start + len(tokens)} tokens in a session of {self.length}")
        device = self._model.device
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.tensor([list(tokens)], device=device),
                cache_position=torch.arange(start, start + len(tokens), device=device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=wanted,
            ).logits[0, -wanted:]
            rows: NDArray[np.float32] = logits.float().cpu().numpy()
        return rows


class FolderTokenizer:
    """The tokenizer of a Hugging Face folder, kept from reading special tokens into texts.

    Raises:
        BackendError: if transformers cannot load it.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise BackendError(
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

        return text_but(self._special, from_tokenizer(self._tokenizer), lambda text: self.tokenize([Segment(text)]))


def _empty_cache() -> Any:
    from transformers import DynamicCache

    # Without the model's configuration: a cache of sliding layers forgets tokens and could not be rewound. The
    # mask keeps the window either way.
    return DynamicCache()
