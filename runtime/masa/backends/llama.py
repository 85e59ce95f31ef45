"""llama.cpp as a backend, on llama-cpp-python's low-level API.

Every sequence has a KV stream of its own (`kv_unified` off): attention then looks at one sequence's cells only,
which on a CPU is several times faster than one cache for all, and a sequence's numbers are the same whoever
runs beside it. The shared prefix lives in stream 0 and is copied, not recomputed, when a sequence begins.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.backends.llama_library import library, quiet
from masa.backends.llama_wide import widened
from masa.cpu import usable_cores
from masa.errors import BackendError, MissingExtraError

if TYPE_CHECKING:
    from masa.prompt import Segment
from typing import TYPE_CHECKING

from masa.backends import Feed
from masa.backends.llama_library import give_memory_back

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_CELL = 256
"""llama.cpp pads attention to multiples of this many cells; sessions are sized likewise."""


class LlamaSession:
    """A llama.cpp context with one KV stream per slot and stream 0 for the shared prefix."""

    def __init__(
        self,
        llama: Any,
        model: Any,
        adapter: tuple[Any, float] | None,
        *,
        vocabulary: int,
        slots: int,
        length: int,
        threads: int,
        batch: int,
        on_gpu: bool,
    ) -> None:
        self.slots = slots
        self.length = -(-length // _CELL) * _CELL
        self._llama = llama
        self._vocabulary = vocabulary
        params = llama.llama_context_default_params()
        params.n_seq_max = slots + 1
        params.n_ctx = self.length * (slots + 1)
        params.n_batch = params.n_ubatch = batch
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False
        if not on_gpu:
            # On a CPU, flash attention splits long sequences by what runs beside them: logits then differ by up to
            # 0.9 between one and four sequences. Without it they are equal to the bit (Q8_0, Q4_0, Q4_1).
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_perf = True
        with quiet(llama) as messages:
            self._context = llama.llama_init_from_model(model, params)
        if not self._context:
            why = next((m for m in reversed(messages) if m.strip()), "").strip()
            raise BackendError(
                f"no memory for {slots} sequences of {self.length} tokens ({why}); use fewer parallel sequences"
            )
        if adapter:
            lora = (llama.llama_adapter_lora_p_ctypes * 1)(adapter[0])
            scale = (ctypes.c_float * 1)(adapter[1])
            if llama.llama_set_adapters_lora(self._context, lora, 1, scale):
                self.close()
                raise BackendError("llama.cpp refused to attach the LoRA adapter")
        self._memory = llama.llama_get_memory(self._context)
        self._batch = llama.llama_batch_init(batch, 0, 1)
        self._room = batch
        self._shared = 0
        self._prefix: tuple[int, ...] = ()
        # Where each slot's sequence lives, and how long it is. Streams are kept without gaps: llama.cpp computes
        # neighbouring streams in one pass and splits a pass at a gap.
        self._stream = {slot: slot + 1 for slot in range(slots)}
        self._used: dict[int, int] = {}

    def share(self, tokens: Sequence[int]) -> None:
        if tuple(tokens) == self._prefix:
            return
        self._forget(0, 0)
        self._prefix = tuple(tokens)
        self._shared = len(tokens)
        if tokens:
            self._compute([(0, token, position) for position, token in enumerate(tokens)], wanted=0)

    def begin(self, slot: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        stream = self._stream[slot]
        self._forget(stream, 0)
        if self._shared:
            self._llama.llama_memory_seq_cp(self._memory, 0, stream, -1, -1)
        entries = [(stream, token, self._shared + i) for i, token in enumerate(tokens)]
        logits: NDArray[np.float32] = self._compute(entries, wanted=1)[0]
        self._used[slot] = self._shared + len(tokens)
        return logits

    def step(self, feeds: Sequence[Feed], wanted: Sequence[int]) -> list[NDArray[np.float32]]:
        self._close_gaps()
        # Feeds of one length are computed together, other lengths apart: llama.cpp would cut a mixed batch into
        # pieces that depend on the neighbours, and a sequence's numbers must not.
        lengths = sorted({len(tokens) for _, tokens in feeds})
        results: dict[int, NDArray[np.float32]] = {}
        for length in lengths:
            chosen = [i for i, (_, tokens) in enumerate(feeds) if len(tokens) == length]
            chosen.sort(key=lambda i: self._stream[feeds[i][0]])
            entries: list[tuple[int, int, int]] = []
            rows: list[int] = []
            for i in chosen:
                slot, tokens = feeds[i]
                first = self._used[slot]
                entries += [(self._stream[slot], token, first + k) for k, token in enumerate(tokens)]
                rows += range(len(entries) - wanted[i], len(entries))
                self._used[slot] = first + length
            logits = self._compute_rows(entries, rows)
            if length != lengths[-1]:
                logits = logits.copy()  # the next batch overwrites llama.cpp's buffer
            start = 0
            for i in chosen:
                results[i] = logits[start : start + wanted[i]]
                start += wanted[i]
        return [results[i] for i in range(len(feeds))]

    def rewind(self, slot: int, tokens: int) -> None:
        self._used[slot] -= tokens
        self._forget(self._stream[slot], self._used[slot])

    def release(self, slot: int) -> None:
        self._used.pop(slot, None)
        self._forget(self._stream[slot], 0)

    def close(self) -> None:
        if self._context:
            if hasattr(self, "_batch"):
                self._llama.llama_batch_free(self._batch)
            self._llama.llama_free(self._context)
            self._context = None
            give_memory_back()

    def _forget(self, stream: int, start: int) -> None:
        if not self._context:
            return
        self._llama.llama_memory_seq_rm(self._memory, stream, start, -1)

    def _close_gaps(self) -> None:
        """Move the last running streams into the places of finished ones."""
        while self._used:
            taken = {self._stream[slot]: slot for slot in self._used}
            gap = next(stream for stream in range(1, self.slots + 2) if stream not in taken)
            last = max(taken)
            if last < gap:
                return
            slot = taken[last]
            other = next(s for s, stream in self._stream.items() if stream == gap)
            self._forget(gap, 0)
            self._llama.llama_memory_seq_cp(self._memory, last, gap, -1, -1)
            self._forget(last, 0)
            self._stream[slot], self._stream[other] = gap, last

    def _compute(self, entries: Sequence[tuple[int, int, int]], *, wanted: int) -> NDArray[np.float32]:
        """Compute a long prompt piece by piece; logits of its last `wanted` tokens."""
        head, tail = entries[: max(len(entries) - 1, 0)], entries[-1:]
        # The pieces' borders depend on the prompt alone, never on what else runs.
        pieces = [head[start : start + self._room] for start in range(0, len(head), self._room)]
        if pieces and len(pieces[-1]) < self._room:
            pieces[-1] = [*pieces[-1], *tail]
        else:
            pieces.append(tail)
        for piece in pieces[:-1]:
            self._compute_rows(piece, ())
        return self._compute_rows(pieces[-1], range(len(pieces[-1]) - wanted, len(pieces[-1])))

    def _compute_rows(self, entries: Sequence[tuple[int, int, int]], rows: Sequence[int]) -> NDArray[np.float32]:
        """Compute entries (stream, token, position) and return the logits of the named ones, in order."""
        import numpy as np

        if not self._context:
            raise BackendError("the rewriter was closed in the middle of a rewrite")
        results: list[NDArray[np.float32]] = []
        wanted = set(rows)
        for start in range(0, len(entries), self._room):
            piece = entries[start : start + self._room]
            batch = self._batch
            batch.n_tokens = len(piece)
            for i, (stream, token, position) in enumerate(piece):
                batch.token[i] = token
                batch.pos[i] = position
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = stream
                batch.logits[i] = start + i in wanted
            code = self._llama.llama_decode(self._context, batch)
            if code:
                raise BackendError(f"llama.cpp could not compute {len(piece)} tokens (code {code})")
            for i in range(len(piece)):
                if start + i in wanted:
                    pointer = self._llama.llama_get_logits_ith(self._context, i)
                    results.append(np.ctypeslib.as_array(pointer, (self._vocabulary,)))
            if start + self._room < len(entries):
                results = [row.copy() if row.base is not None else row for row in results]
        if len(results) == 1:
            return results[0].reshape(1, -1)
        return np.stack(results) if results else np.empty((0, self._vocabulary), np.float32)


class LlamaBackend:
    """A GGUF model, loaded here or lent by the host. Use `load` or `borrow`."""

    def __init__(
        self, model: Any, *, owned: bool, threads: int | None, batch: int, where: str, on_gpu: bool = False
    ) -> None:
        self.library = library()
        self.model = model
        self._owned = owned
        self.threads = threads or usable_cores()
        self._batch = batch
        self._where = where
        self.on_gpu = on_gpu
        self.adapter: tuple[Any, float] | None = None
        self._adapters: dict[str, Any] = {}
        self._grammar_tokenizer: Any = None
        self._lock = threading.Lock()
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
        wide = contextlib.nullcontext(str(path)) if vocab_only or gpu_layers else widened(Path(path))
        with wide as file, quiet(llama) as messages:
            llama.llama_backend_init()
            model = llama.llama_model_load_from_file(file.encode(), params)
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
        buffer = ctypes.create_string_buffer(512)  # one for every call: threads spell tokens side by side
        size = self.library.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
        return buffer.raw[: max(size, 0)]

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

    def side_by_side(self, *, slots: int, length: int) -> list[LlamaSession]:
        return [self.session(slots=slots, length=length)]

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
