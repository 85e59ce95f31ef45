"""llama.cpp as a backend, on llama-cpp-python's low-level API.

Every sequence has a KV stream of its own (`kv_unified` off): attention then looks at one sequence's cells only,
which on a CPU is several times faster than one cache for all, and a sequence's numbers are the same whoever
runs beside it. The shared prefix lives in stream 0 and is copied, not recomputed, when a sequence begins.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.backends.llama_library import library, quiet
from masa.backends.llama_session import LlamaSession
from masa.errors import BackendError, MissingExtraError

if TYPE_CHECKING:
    from masa.prompt import Segment


class LlamaBackend:
    """A GGUF model, loaded here or lent by the host. Use `load` or `borrow`."""

    def __init__(
        self, model: Any, *, owned: bool, threads: int | None, batch: int, where: str, on_gpu: bool = False
    ) -> None:
        self.library = library()
        self.model = model
        self._owned = owned
        self.threads = threads or _default_threads()
        self._batch = batch
        self._where = where
        self.on_gpu = on_gpu
        self.adapter: tuple[Any, float] | None = None
        self._adapters: dict[str, Any] = {}
        self._grammar_tokenizer: Any = None
        self._lock = threading.Lock()
        self._buffer = ctypes.create_string_buffer(512)
        self._vocab = self.library.llama_model_get_vocab(model)
        self.vocabulary = int(self.library.llama_vocab_n_tokens(self._vocab))
        self.context_length = int(self.library.llama_model_n_ctx_train(model))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        gpu_layers: int = 0,
        batch: int = 512,
        vocab_only: bool = False,
    ) -> LlamaBackend:
        """Load a GGUF file.

        `threads` defaults to the machine's cores, `gpu_layers` is how many layers go to a GPU (-1: all),
        `batch` the most prompt tokens computed at once (memory grows with it). With `vocab_only` the backend
        only tokenizes: it has no weights, and its `context_length` is not known.

        Raises:
            MissingExtraError: without llama-cpp-python.
            BackendError: if the file is no model that llama.cpp can load.
        """
        llama = library()
        if not Path(path).is_file():
            raise BackendError(f"{path}: no such file; a GGUF model was expected")
        params = llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.vocab_only = vocab_only
        with quiet(llama) as messages:
            llama.llama_backend_init()
            model = llama.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            why = next((line for line in messages if "error" in line.lower() or "invalid" in line.lower()), "")
            raise BackendError(
                f"{path}: llama.cpp cannot load this file"
                + (f" ({why.strip()})" if why else "")
                + "; it may be truncated, no GGUF, or made for a newer llama.cpp"
            )
        return cls(model, owned=True, threads=threads, batch=batch, where=str(path), on_gpu=gpu_layers != 0)

    @classmethod
    def borrow(cls, llama: Any, *, threads: int | None = None, batch: int = 512) -> LlamaBackend:
        """Use the model of a `llama_cpp.Llama` that the host loaded.

        masa opens a context of its own, so the host's conversation is not disturbed; the host must keep the
        object alive and is the one to close it.
        """
        model = llama._model.model
        if not model:
            raise BackendError("the Llama object that was lent is closed; lend an open one")
        path = getattr(llama, "model_path", "lent model")
        return cls(model, owned=False, threads=threads, batch=batch, where=str(path))

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        tokens: list[int] = []
        for segment in segments:
            tokens += self._tokenize(segment.text, special=segment.control)
        return tokens

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        buffer = (self.library.llama_token * room)()
        count = self.library.llama_tokenize(self._vocab, data, len(data), buffer, room, False, special)
        if count < 0:
            raise BackendError(f"{self._where}: the tokenizer failed on a text of {len(data)} bytes")
        return list(buffer[:count])

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self._piece(token) for token in tokens if not self._is_control(token))

    def token_id(self, text: str) -> int | None:
        tokens = self._tokenize(text, special=True)
        return tokens[0] if len(tokens) == 1 and self._is_control(tokens[0]) else None

    def control_tokens(self) -> tuple[str, ...]:
        controls = (self._piece(token) for token in range(self.vocabulary) if self._is_control(token))
        return tuple(piece.decode("utf-8", "replace") for piece in controls if piece)

    def _piece(self, token: int) -> bytes:
        """The token's spelling, special or not."""
        size = self.library.llama_token_to_piece(self._vocab, token, self._buffer, len(self._buffer), 0, True)
        return self._buffer.raw[: max(size, 0)]

    def _is_control(self, token: int) -> bool:
        """Whether a token is no text: one that the vocabulary marks as control, or as the token for the unknown.

        "User defined" tokens are text: HTML in Gemma, `<think>` and `<tool_call>` in Qwen. llama.cpp also marks as
        control whatever looks like the end of a text, beside the file's own mark: `</s>` is HTML in Gemma, and an
        end only where the vocabulary ends its texts with it.
        """
        llama = self.library
        kind = llama.llama_vocab_get_attr(self._vocab, token)
        if kind & llama.LLAMA_TOKEN_ATTR_UNKNOWN:
            return True
        if not kind & llama.LLAMA_TOKEN_ATTR_CONTROL:
            return False
        marked = not kind & (llama.LLAMA_TOKEN_ATTR_NORMAL | llama.LLAMA_TOKEN_ATTR_USER_DEFINED)
        return marked or token in (llama.llama_vocab_eos(self._vocab), llama.llama_vocab_eot(self._vocab))

    def grammar_tokenizer(self) -> Any:
        with self._lock:
            if self._grammar_tokenizer is None:
                self._grammar_tokenizer = self._make_grammar_tokenizer()
            return self._grammar_tokenizer

    def _make_grammar_tokenizer(self) -> Any:
        """As `llguidance.llamacpp.lltokenizer_from_vocab`, without its deprecated call for every token."""
        try:
            from llguidance import LLTokenizer
        except ImportError:
            raise MissingExtraError("constrained decoding", "llama") from None
        # 0xff occurs in no UTF-8 text: llguidance's mark of tokens that no text may match.
        spellings = [
            b"\xff" + self._piece(token) if self._is_control(token) else self._piece(token)
            for token in range(self.vocabulary)
        ]
        function = ctypes.cast(self.library.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
        return LLTokenizer.from_llamacpp(
            tokens=spellings,
            vocab_ptr=self._vocab,
            tokenize_fptr=function,
            eos_token=self.library.llama_vocab_eos(self._vocab),
            slices=None,
        )

    def session(self, *, slots: int, length: int) -> LlamaSession:
        if length > self.context_length:
            raise BackendError(
                f"{self._where}: a sequence of {length} tokens does not fit the context of {self.context_length}"
            )
        return LlamaSession(
            self.library,
            self.model,
            self.adapter,
            vocabulary=self.vocabulary,
            slots=slots,
            length=length,
            threads=self.threads,
            batch=self._batch,
            on_gpu=self.on_gpu,
        )

    def set_adapter(self, path: str | None, *, scale: float = 1.0) -> None:
        if path is None:
            self.adapter = None
            return
        with self._lock:
            if path not in self._adapters:
                with quiet(self.library) as messages:
                    adapter = self.library.llama_adapter_lora_init(self.model, path.encode())
                if not adapter:
                    why = next((m for m in reversed(messages) if m.strip()), "no reason given").strip()
                    raise BackendError(f"{path}: not a LoRA adapter for {self._where} ({why})")
                self._adapters[path] = adapter
            self.adapter = (self._adapters[path], scale)

    def close(self) -> None:
        with self._lock:
            self.adapter = None
            # An adapter that was attached to a borrowed model must go; one of an owned model goes with it.
            for adapter in self._adapters.values():
                if not self._owned and self.model:
                    self.library.llama_adapter_lora_free(adapter)
            self._adapters.clear()
            if self._owned and self.model:
                self.library.llama_model_free(self.model)
            self.model = None


def _default_threads() -> int:
    import os

    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
