"""Checkpoints and other transformers models behind the runtime's decoding protocol, before any export.

Every slot is computed by itself: a sequence's logits are the same whoever runs beside it, which is worth more in an
evaluation than the speed of a padded batch. For speed there is the exported artifact.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Sequence
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from masa.artifact import Artifact
from masa.backends import Feed
from masa.backends.tokenizing import Tokenizer, Tokenizing
from masa.checksums import sha256_file
from masa.errors import BackendError
from masa.languages import LANGUAGES
from masa.manifest import TrainingData
from masa.rewriter import Rewriter
from masa_training.bases import Base, load_model
from masa_training.checkpoint import RECORD, Checkpoint, base_of, read_checkpoint
from masa_training.errors import TrainingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DTYPES = ("bfloat16", "float16", "float32")
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

    @property
    def model(self) -> Any:
        """The transformers model; None once it is closed."""
        return self._model

    def side_by_side(self, *, slots: int, length: int) -> list[TransformersSession]:
        return [self.session(slots=slots, length=length)]

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
        self._cache_name = _cache_name(model)
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
        if tokens:
            self._caches[slot].crop(-tokens)

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
                use_cache=True,
                logits_to_keep=wanted,
                **{self._cache_name: cache},
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
        TrainingError: if the checkpoint or its base model is missing, damaged, or the base is another one; if there is
            no such device.
    """
    checkpoint = folder if isinstance(folder, Checkpoint) else read_checkpoint(folder)
    if dtype not in DTYPES:
        raise TrainingError(f"unknown dtype {dtype!r}; the known ones are {', '.join(DTYPES)}")
    where = device_of(device)
    base = base_of(checkpoint)
    kind = getattr(torch, dtype)
    model = load_trained(checkpoint, base, kind) if adapter else base.model(kind)
    model.to(where)
    return TransformersBackend(model, base.tokenizer(), context_length=base.context_length)


def device_of(name: str | None) -> str:
    """The device of that name, else a GPU where there is one, else the CPU.

    Raises:
        TrainingError: if torch knows no such device, or this machine has none.
    """
    if not name:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Only using it tells whether it is there; a meta device takes numbers and gives none back.
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, ImportError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0][:100].rstrip(" ,")
        raise TrainingError(
            f"device {name!r}: cannot be used on this machine ({reason}); give cpu, cuda, or none for the default"
        ) from None
    return name


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
    data = checkpoint.dataset
    return Artifact(
        name=checkpoint.path.resolve().name,
        version="0",
        kind="checkpoint",
        language=checkpoint.language,
        prompt_version=checkpoint.prompt_version,
        base_model=checkpoint.base.name,
        weights=RECORD,
        adapter=None,
        chat_template=checkpoint.template,
        context_length=checkpoint.context_length,
        quantization=None,
        training_summary=data.summary,
        trained=trained,
        training_data=TrainingData(dataset=data.name, dataset_sha256=data.sha256, synthetic=data.synthetic),
        licence=data.licence,
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
        digest.update(bytes.fromhex(sha256_file(file)))
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


def load_trained(
    checkpoint: Checkpoint, base: Base, dtype: torch.dtype, *, merged: bool = False, model: Any = None
) -> Any:
    """The trained transformers model: a full one, or the base with its LoRA beside the weights or `merged` into them.

    `model` is the base where it is loaded already; it is changed.

    Raises:
        TrainingError: if a library cannot load base or checkpoint.
    """
    if checkpoint.kind == "full":
        return load_model(checkpoint.path, dtype)
    from peft import PeftModel

    model = base.model(dtype) if model is None else model
    try:
        trained: Any = PeftModel.from_pretrained(model, str(checkpoint.path))
        return trained.merge_and_unload() if merged else trained
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError, SafetensorError) as error:
        raise TrainingError(
            f"{checkpoint.path}: its weights cannot be loaded ({' '.join(str(error).split())[:200]}); "
            "train again or restore the files"
        ) from error


def _cache_name(model: Any) -> str:
    """What the model calls the cache that it is given: `cache`, before transformers 5.24 `past_key_values`."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "cache" if "cache" in inspect.signature(inner.forward).parameters else "past_key_values"


def _empty_cache() -> Any:
    from transformers import DynamicCache

    # Without the model's configuration: a cache of sliding layers forgets tokens and could not be rewound. The
    # mask keeps the window either way.
    return DynamicCache()
