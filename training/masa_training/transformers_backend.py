"""A transformers causal LM behind the runtime's decoding protocol, so that a checkpoint can be tried before export.

Every slot is computed by itself: a sequence's logits are the same whoever runs beside it, which is worth more in an
evaluation than the speed of a padded batch. For speed there is the exported artifact.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError

from masa.artifact import Artifact
from masa.backends import Feed
from masa.errors import BackendError
from masa.languages import LANGUAGES
from masa.manifest import ChatTemplate as ManifestTemplate
from masa.manifest import TrainingData
from masa.prompt import Segment
from masa.rewriter import Rewriter
from masa_training.bases import Base, Tokenizer, open_base
from masa_training.checkpoint import RECORD, Checkpoint, read_checkpoint
from masa_training.errors import TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES = ("bfloat16", "float16", "float32")
_CLOSED = "the rewriter was closed in the middle of a rewrite"


class TransformersBackend:
    """A `masa.backends.Backend` of a transformers model and a tokenizer (`masa_training.bases.Tokenizer`).

    The model is put into evaluation mode and is not copied: whoever goes on training it calls `model.train()` again.
    Models whose memory is no key-value cache (Mamba and the like) are not supported.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, *, context_length: int) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self.context_length = context_length
        # What the output layer yields, which may be padded beyond the tokens that exist.
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


def open_checkpoint(
    folder: str | PathLike[str] | Checkpoint,
    *,
    dtype: str = "bfloat16",
    device: str | None = None,
    adapter: bool = True,
) -> TransformersBackend:
    """The model of a checkpoint folder: its base with the adapter, or the fully trained model.

    `dtype` is one of `DTYPES`, `device` defaults to a GPU where there is one; without `adapter` it is the
    untrained base, to compare with.

    Raises:
        TrainingError: if the checkpoint or its base model is missing, damaged, or the base is another one.
    """
    checkpoint = folder if isinstance(folder, Checkpoint) else read_checkpoint(folder)
    if dtype not in DTYPES:
        raise TrainingError(f"unknown dtype {dtype!r}; the known ones are {', '.join(DTYPES)}")
    base = base_of(checkpoint)
    model = _model(checkpoint, base, getattr(torch, dtype)) if adapter else base.model(getattr(torch, dtype))
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return TransformersBackend(model, base.tokenizer(), context_length=base.context_length)


def base_of(checkpoint: Checkpoint) -> Base:
    """The base model that a checkpoint was trained from, with the checkpoint's chat template.

    Raises:
        TrainingError: if it is not there any more, or another model is in its place.
    """
    spec = checkpoint.base["path"]
    try:
        # Any template: the checkpoint's own replaces it, and a base without one must not be refused here.
        base = open_base(spec, "chatml")
    except TrainingError:
        base = open_base(checkpoint.base["spec"], "chatml")
    if base.sha256 != checkpoint.base["sha256"]:
        raise TrainingError(
            f"{base.path}: this is not the base model that {checkpoint.path} was trained from (sha256 "
            f"{base.sha256[:12]}…, expected {checkpoint.base['sha256'][:12]}…); put the right file in its place"
        )
    return replace(base, template=checkpoint.template)


def checkpoint_artifact(checkpoint: Checkpoint, *, trained: bool = True) -> Artifact:
    """What an artifact of this checkpoint would say of itself, for code that asks for one; it has no files.

    Raises:
        TrainingError: if the checkpoint is no rewriter.
    """
    if checkpoint.language not in LANGUAGES:
        raise TrainingError(
            f"{checkpoint.path}: is no rewriter but was trained to write {checkpoint.language!r}; "
            "play it with masa evaluate"
        )
    template = checkpoint.template
    pieces = (
        tuple((segment.text, segment.control) for segment in part)
        for part in (template.before_system, template.before_user, template.before_assistant)
    )
    return Artifact(
        name=checkpoint.path.resolve().name,
        version="0",
        kind="checkpoint",
        language=checkpoint.language,
        prompt_version=checkpoint.prompt_version,
        base_model=checkpoint.base["name"],
        weights=RECORD,
        adapter=None,
        chat_template=ManifestTemplate(*pieces),
        stop=template.stop,
        context_length=checkpoint.context_length,
        quantization=None,
        training_summary=str(checkpoint.dataset.get("summary", "")),
        trained=trained,
        training_data=TrainingData(
            dataset=checkpoint.dataset.get("name"),
            dataset_sha256=checkpoint.dataset.get("sha256"),
            synthetic=checkpoint.dataset.get("synthetic"),
        ),
        licence=str(checkpoint.dataset.get("licence", "")),
        files=MappingProxyType({}),
        packaged=MappingProxyType({}),
        fingerprint=fingerprint(checkpoint),
        path=checkpoint.path,
        paths=MappingProxyType({}),
    )


def fingerprint(checkpoint: Checkpoint) -> str:
    """sha256 over the record and the weights of a checkpoint."""
    digest = hashlib.sha256((checkpoint.path / RECORD).read_bytes())
    for file in sorted(checkpoint.path.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def rewriter_for(
    folder: str | PathLike[str], *, dtype: str = "bfloat16", device: str | None = None, **options: Any
) -> Rewriter:
    """A `masa.rewriter.Rewriter` that runs a checkpoint; `options` are those of its constructor.

    The weights are loaded on first need.

    Raises:
        TrainingError: if the folder is no checkpoint; when the weights are loaded, as `open_checkpoint`.
    """
    checkpoint = read_checkpoint(folder)
    return Rewriter(
        checkpoint_artifact(checkpoint), lambda: open_checkpoint(checkpoint, dtype=dtype, device=device), **options
    )


def _model(checkpoint: Checkpoint, base: Base, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        if checkpoint.kind == "full":
            return AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=dtype)
        from peft import PeftModel

        return PeftModel.from_pretrained(base.model(dtype), str(checkpoint.path))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{checkpoint.path}: its weights cannot be loaded ({reason}); train again or restore the files"
        ) from error


def _empty_cache() -> Any:
    from transformers import DynamicCache

    # Without the model's configuration: a cache of sliding layers forgets tokens and could not be rewound. The
    # mask keeps the window either way.
    return DynamicCache()
