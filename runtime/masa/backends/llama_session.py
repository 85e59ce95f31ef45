"""Parallel sequences in llama.cpp: a context with one KV stream per slot, and one for the shared prefix."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from masa.backends import Feed
from masa.backends.llama_library import give_memory_back, quiet
from masa.errors import BackendError

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
