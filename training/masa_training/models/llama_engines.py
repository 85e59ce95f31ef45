"""llama.cpp as an engine: candidates in one pass by a tree of sequences, free text side by side.

Candidates need sequences that share cells, which llama.cpp offers only inside one cache; attention then looks at all
cells of that cache. So every slot has a context with a cache of its own: a pass costs what its own conversation costs,
and cells lie the same whoever runs beside it, which makes results repeatable to the bit. Free text is written by all
slots in passes of one context, each in a stream of its own: a pass over the weights costs nearly the same for one token
as for several, and attention looks at a sequence's own cells.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from masa.backends.llama import LlamaBackend
from masa.backends.llama_library import quiet
from masa.errors import BackendError
from masa_training.models.choice import ROOT, Tree
from masa_training.models.slots import Ask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEAVES = 63
"""Candidates of one pass; llama.cpp takes 64 sequences a context, and sequence 0 is the conversation."""

_TREE = 1024
"""Most tokens of the branches of one pass, if it has more than one branch."""

_PREFIXES = 16
_SHARED = 2
"""Prefixes kept beside conversations that write; each takes as much memory as a slot."""

_CELLS = 256
"""llama.cpp rounds a stream's cells to a multiple of this."""

CACHE_TYPES = {"f32": 0, "f16": 1}  # ggml's numbers


def _passes(paths: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Branches in groups that fit one pass; one group without branches if there are none."""
    groups: list[list[tuple[int, ...]]] = [[]]
    tokens = 0
    for path in paths:
        if groups[-1] and (len(groups[-1]) == _LEAVES or tokens + len(path) > _TREE):
            groups.append([])
            tokens = 0
        groups[-1].append(path)
        tokens += len(path)
    return groups


class LlamaTrees:
    """An `Engine` for candidates: one context per slot, opened when the slot is first used."""

    exact = True

    def __init__(self, backend: LlamaBackend, *, slots: int, length: int, batch: int = 512, cache: str = "f16") -> None:
        self.slots = slots
        self.length = length
        self._type = CACHE_TYPES[cache]
        self._backend = backend
        self._llama = backend.library
        self._room = batch
        self._contexts: dict[int, Any] = {}
        self._used = [0] * slots
        self._prefixes: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._batch = self._llama.llama_batch_init(batch, 0, _LEAVES + 1)
        self._closed = False

    def start(self, slot: int, prefix: Sequence[int]) -> bool:
        context, key = self._context(slot), tuple(prefix)
        if key not in self._prefixes:
            return False
        self._prefixes.move_to_end(key)
        self._llama.llama_memory_clear(self._llama.llama_get_memory(context), False)
        state = self._prefixes[key]
        if not self._llama.llama_state_seq_set_data(context, state, len(state), 0):
            raise BackendError("llama.cpp did not take back the cache of a shared prefix")
        self._used[slot] = len(key)
        return True

    def keep(self, slot: int, prefix: Sequence[int]) -> None:
        context = self._context(slot)
        size = self._llama.llama_state_seq_get_size(context, 0)
        state = (ctypes.c_uint8 * size)()
        self._llama.llama_state_seq_get_data(context, state, size, 0)
        self._prefixes[tuple(prefix)] = state
        if len(self._prefixes) > _PREFIXES:
            self._prefixes.popitem(last=False)

    def cut(self, slot: int, tokens: int) -> None:
        memory = self._llama.llama_get_memory(self._context(slot))
        if not self._llama.llama_memory_seq_rm(memory, 0, tokens, -1):
            raise BackendError("llama.cpp cannot forget a part of this model's memory; use a model with a KV cache")
        self._used[slot] = tokens

    def append(self, slot: int, tokens: Sequence[int]) -> None:
        start = self._used[slot]
        self._decode(slot, [(token, start + i, (0,), False) for i, token in enumerate(tokens)])
        self._used[slot] = start + len(tokens)

    def run(self, asks: Sequence[Ask]) -> Iterator[NDArray[np.float32]]:
        for ask in asks:
            yield self._look(ask)

    def close(self) -> None:
        for context in self._contexts.values():
            self._llama.llama_free(context)
        self._contexts.clear()
        self._prefixes.clear()
        if not self._closed:
            self._llama.llama_batch_free(self._batch)
        self._closed = True

    def _look(self, ask: Ask) -> NDArray[np.float32]:
        import numpy as np

        tree, start = ask.tree, self._used[ask.slot]
        memory = self._llama.llama_get_memory(self._context(ask.slot))
        place = {node: i for i, node in enumerate(tree.rows)}
        result = np.empty((len(tree.rows), self._backend.vocabulary), np.float32)
        for number, branches in enumerate(_passes(tree.paths())):
            members: dict[int, list[int]] = {}
            for branch, path in enumerate(branches, start=1):
                self._llama.llama_memory_seq_cp(memory, 0, branch, -1, -1)
                for node in path:
                    members.setdefault(node, []).append(branch)
            nodes = sorted(members)
            entries = []
            if number == 0:
                everyone = tuple(range(len(branches) + 1))
                last = len(ask.tokens) - 1
                entries = [(token, start + i, everyone, i == last) for i, token in enumerate(ask.tokens)]
                self._used[ask.slot] = start + len(ask.tokens)
            before = self._used[ask.slot] - 1
            entries += [(tree.tokens[n], before + tree.depths[n], tuple(members[n]), n in place) for n in nodes]
            rows = [*([place[ROOT]] if number == 0 else []), *(place[node] for node in nodes if node in place)]
            self._decode(ask.slot, entries, result, rows)
            for branch in range(1, len(branches) + 1):
                self._llama.llama_memory_seq_rm(memory, branch, -1, -1)
        return result

    def _decode(
        self,
        slot: int,
        entries: Sequence[tuple[int, int, tuple[int, ...], bool]],
        result: NDArray[np.float32] | None = None,
        rows: Sequence[int] = (),
    ) -> None:
        """Compute entries (token, position, sequences, whether logits are wanted); these go to `rows` of `result`."""
        import numpy as np

        context, batch, taken = self._context(slot), self._batch, 0
        for start in range(0, len(entries), self._room):
            piece = entries[start : start + self._room]
            batch.n_tokens = len(piece)
            for i, (token, position, sequences, wanted) in enumerate(piece):
                batch.token[i] = token
                batch.pos[i] = position
                batch.n_seq_id[i] = len(sequences)
                for k, sequence in enumerate(sequences):
                    batch.seq_id[i][k] = sequence
                batch.logits[i] = wanted
            code = self._llama.llama_decode(context, batch)
            if code:
                raise BackendError(f"llama.cpp could not compute {len(piece)} tokens (code {code})")
            count = sum(wanted for *_, wanted in piece)
            if count and result is not None:
                pointer = self._llama.llama_get_logits(context)
                found = np.ctypeslib.as_array(pointer, (count, self._backend.vocabulary))
                result[list(rows[taken : taken + count])] = found
                taken += count

    def _context(self, slot: int) -> Any:
        if self._closed:
            raise BackendError("the model was closed in the middle of a request")
        if slot not in self._contexts:
            self._contexts[slot] = self._open()
        return self._contexts[slot]

    def _open(self) -> Any:
        # A tree lies in the same cache as the conversation.
        cells = self.length + _TREE
        return _open_context(self._backend, _LEAVES + 1, cells, self._room, self._type)


class LlamaTexts:
    """An `Engine` for free text, which takes no trees: all sequences are computed in the same passes.

    A pass may hold one token of one sequence and many of another; llama.cpp cuts it into pieces of equal length.
    """

    exact = False

    def __init__(self, backend: LlamaBackend, *, slots: int, length: int, batch: int = 512) -> None:
        self.slots = slots
        self.length = length
        self._backend = backend
        self._llama = backend.library
        self._room = batch
        self._used = [0] * slots
        self._prefixes: OrderedDict[tuple[int, ...], int] = OrderedDict()
        self._free = list(range(slots, slots + _SHARED))
        self._batch = self._llama.llama_batch_init(batch, 0, 1)
        streams, kind = slots + _SHARED, CACHE_TYPES["f16"]
        cells = -(-length // _CELLS) * _CELLS * streams
        self._context = _open_context(backend, streams, cells, batch, kind, unified=False)
        self._memory = self._llama.llama_get_memory(self._context)

    def start(self, slot: int, prefix: Sequence[int]) -> bool:
        key = tuple(prefix)
        if key not in self._prefixes:
            return False
        self._prefixes.move_to_end(key)
        self.cut(slot, 0)
        self._llama.llama_memory_seq_cp(self._memory, self._prefixes[key], slot, -1, -1)
        self._used[slot] = len(key)
        return True

    def keep(self, slot: int, prefix: Sequence[int]) -> None:
        if not self._free:
            _, sequence = self._prefixes.popitem(last=False)
            self._llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            self._free.append(sequence)
        sequence = self._free.pop()
        self._llama.llama_memory_seq_cp(self._memory, slot, sequence, -1, -1)
        self._prefixes[tuple(prefix)] = sequence

    def cut(self, slot: int, tokens: int) -> None:
        self._open_still()
        if not self._llama.llama_memory_seq_rm(self._memory, slot, tokens, -1):
            raise BackendError("llama.cpp cannot forget a part of this model's memory; use a model with a KV cache")
        self._used[slot] = tokens

    def append(self, slot: int, tokens: Sequence[int]) -> None:
        for _ in self._passes([Ask(slot, tokens, Tree(rows=()))]):
            pass

    def run(self, asks: Sequence[Ask]) -> Iterator[NDArray[np.float32]]:
        # llama.cpp computes neighbouring streams together where they come in order.
        order = sorted(range(len(asks)), key=lambda i: asks[i].slot)
        found = dict(zip(order, self._passes([asks[i] for i in order]), strict=True))
        for i in range(len(asks)):
            yield found[i].reshape(1, -1)

    def close(self) -> None:
        if self._context:
            self._llama.llama_batch_free(self._batch)
            self._llama.llama_free(self._context)
            self._context = None
            self._prefixes.clear()

    def _passes(self, asks: Sequence[Ask]) -> Iterator[NDArray[np.float32]]:
        """Compute all tokens; the logits behind each ask that wants them, in order."""
        import numpy as np

        self._open_still()
        entries = []
        for ask in asks:
            first, last = self._used[ask.slot], len(ask.tokens) - 1
            entries += [
                (ask.slot, token, first + i, i == last and bool(ask.tree.rows)) for i, token in enumerate(ask.tokens)
            ]
            self._used[ask.slot] = first + len(ask.tokens)
        batch = self._batch
        for start in range(0, len(entries), self._room):
            piece = entries[start : start + self._room]
            batch.n_tokens = len(piece)
            for i, (slot, token, position, wanted) in enumerate(piece):
                batch.token[i] = token
                batch.pos[i] = position
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = slot
                batch.logits[i] = wanted
            if code := self._llama.llama_decode(self._context, batch):
                raise BackendError(f"llama.cpp could not compute {len(piece)} tokens (code {code})")
            for i, (*_, wanted) in enumerate(piece):
                if wanted:
                    pointer = self._llama.llama_get_logits_ith(self._context, i)
                    yield np.ctypeslib.as_array(pointer, (self._backend.vocabulary,)).copy()

    def _open_still(self) -> None:
        if not self._context:
            raise BackendError("the model was closed in the middle of a request")


def _open_context(
    backend: LlamaBackend, sequences: int, cells: int, batch: int, cache: int, *, unified: bool = True
) -> Any:
    """A context of so many cells, which its sequences share, or else divide among them in equal streams.

    On a CPU flash attention is slower than none, and makes a sequence's numbers depend on what is computed beside it.
    """
    llama = backend.library
    params = llama.llama_context_default_params()
    params.n_seq_max = sequences
    params.n_ctx = cells
    params.n_batch = params.n_ubatch = batch
    params.n_threads = params.n_threads_batch = backend.threads
    params.kv_unified = unified
    params.type_k = params.type_v = cache
    # A cache of sliding layers would forget cells that a shorter conversation needs again.
    params.swa_full = True
    if not backend.on_gpu:
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.no_perf = True
    with quiet(llama) as messages:
        context = llama.llama_init_from_model(backend.model, params)
    if not context:
        why = next((line for line in reversed(messages) if line.strip()), "").strip()
        raise BackendError(f"no memory for a cache of {cells} tokens ({why}); use fewer slots or a smaller `length`")
    if backend.adapter:
        lora = (llama.llama_adapter_lora_p_ctypes * 1)(backend.adapter[0])
        if llama.llama_set_adapters_lora(context, lora, 1, (ctypes.c_float * 1)(backend.adapter[1])):
            llama.llama_free(context)
            raise BackendError("llama.cpp refused to attach the LoRA adapter")
    return context
