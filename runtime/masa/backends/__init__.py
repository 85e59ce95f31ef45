"""What an inference backend offers to the decoding loop: tokens, a shared prefix, batched steps.

`open_backend` opens that of an artifact. The loop in `masa.decoding` is the only caller of a session. A backend knows
nothing of skills; it turns token ids into logits for several sequences at once. All logits arrays are float32 of
length `vocabulary` (or a matrix of such rows) and may be views that the next call on the session overwrites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from masa.errors import MasaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masa.artifact import Artifact
    from masa.prompt import Segment

    Logits = NDArray[np.float32]

Feed = tuple[int, Sequence[int]]
"""A slot and the tokens to append to it in this step (one or more)."""


class Session(Protocol):
    """Working memory (KV cache) for a fixed number of parallel sequences, called slots."""

    slots: int
    length: int

    def share(self, tokens: Sequence[int]) -> None:
        """Compute the prefix that every later `begin` starts from; once per session."""

    def begin(self, slot: int, tokens: Sequence[int]) -> Logits:
        """Start a sequence in `slot`: the shared prefix, then `tokens` (not empty). Logits after the last one."""

    def step(self, feeds: Sequence[Feed], wanted: Sequence[int]) -> list[Logits]:
        """Append tokens to several sequences in one pass.

        `wanted[i]` is for how many of the last tokens of feed i logits are needed (at least 1). The i-th
        result has shape (wanted[i], vocabulary).
        """

    def rewind(self, slot: int, tokens: int) -> None:
        """Forget the last `tokens` tokens of a sequence (a refused draft)."""

    def release(self, slot: int) -> None:
        """The sequence is finished; its slot may be used again."""

    def close(self) -> None:
        """Free the memory. Closing twice is allowed."""


class Backend(Protocol):
    """A loaded model."""

    vocabulary: int
    context_length: int
    """Longest sequence the model was made for, in tokens."""

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Token ids of the segments, one after the other; only control segments may yield special tokens."""

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """The bytes that the tokens spell; special tokens spell nothing."""

    def token_id(self, text: str) -> int | None:
        """The special token spelled `text`, or None if the vocabulary has none."""

    def control_tokens(self) -> tuple[str, ...]:
        """Spellings of all special tokens of the vocabulary, for the guard."""

    def grammar_tokenizer(self) -> Any:
        """The vocabulary as llguidance's `LLTokenizer`; made once."""

    def session(self, *, slots: int, length: int) -> Session:
        """Memory for `slots` sequences of up to `length` tokens each, the shared prefix included.

        Raises:
            BackendError: if `length` exceeds the context or the memory cannot be had.
        """

    def side_by_side(self, *, slots: int, length: int) -> Sequence[Session]:
        """One session, or several that may compute at the same time, each in a thread of its own; `slots` at most in
        all, at least one each."""

    def set_adapter(self, path: str | None, *, scale: float = 1.0) -> None:
        """Attach a LoRA adapter to sessions opened from now on, or none; the base stays loaded."""

    def close(self) -> None:
        """Free the model unless it was borrowed. Closing twice is allowed."""


def open_backend(
    artifact: Artifact,
    *,
    threads: int | None = None,
    gpu_layers: int = 0,
    provider: str | None = None,
    batch: int | None = None,
    llama: Any = None,
    vocab_only: bool = False,
) -> Backend:
    """Load an artifact's weights into the library that its kind needs, its adapter attached; the caller closes it.

    The options are those of `masa.rewriter.Rewriter.load`; an option of another kind's library is left aside.
    With `vocab_only` it is asked to tokenize and nothing else: of a GGUF no weights are loaded.

    Raises:
        MissingExtraError: if the library is not installed.
        BackendError: if it refuses a file.
    """
    if artifact.kind == "onnx":
        from masa.backends.onnx import OnnxBackend

        return OnnxBackend.load(artifact.weights_path, threads=threads, provider=provider, batch=batch or 128)
    from masa.backends.llama import LlamaBackend

    if llama is not None:
        backend = LlamaBackend.borrow(llama, threads=threads, batch=batch or 512)
    else:
        backend = LlamaBackend.load(
            artifact.weights_path, threads=threads, gpu_layers=gpu_layers, batch=batch or 512, vocab_only=vocab_only
        )
    if artifact.adapter_path is not None and not vocab_only:
        try:
            backend.set_adapter(str(artifact.adapter_path))
        except MasaError:
            backend.close()
            raise
    return backend
