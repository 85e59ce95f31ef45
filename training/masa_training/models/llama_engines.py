"""llama.cpp as an engine: candidates in one pass by a tree of sequences, free text side by side.

Candidates need sequences that share cells, which llama.cpp offers only inside one cache; attention then looks at all
cells of that cache. So every slot has a context with a cache of its own: a pass costs what its own conversation costs,
and cells lie the same whoever runs beside it, which makes results repeatable to the bit. Free text goes through
`masa.backends`, whose sessions decode many sequences in one pass.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from masa.backends.llama import LlamaBackend
from masa.backends.llama_library import quiet
from masa.errors import BackendError
from masa_training.models.choice import ROOT
from masa_training.models.slots import Ask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEAVES = 63
"""Candidates of one pass; llama.cpp takes 64 sequences a context, and sequence 0 is the conversation."""

_TREE = 1024
"""Most tokens of the branches of one pass, if it has more than one branch."""

_PREFIXES = 16
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
        context = self._context(slot)
        self._llama.llama_memory_clear(self._llama.llama_get_memory(context), False)
        self._used[slot] = 0
        key = tuple(prefix)
        if not key:
            return False
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
            state = self._prefixes[key]
            if not self._llama.llama_state_seq_set_data(context, state, len(state), 0):
                raise BackendError("llama.cpp did not take back the cache of a shared prefix")
            self._used[slot] = len(key)
            return True
        self.append(slot, key)
        size = self._llama.llama_state_seq_get_size(context, 0)
        state = (ctypes.c_uint8 * size)()
        self._llama.llama_state_seq_get_data(context, state, size, 0)
        self._prefixes[key] = state
        if len(self._prefixes) > _PREFIXES:
            self._prefixes.popitem(last=False)
        return False

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
        llama, backend = self._llama, self._backend
        params = llama.llama_context_default_params()
        params.n_seq_max = _LEAVES + 1
        # A tree lies in the same cache as the conversation.
        params.n_ctx = self.length + _TREE
        params.n_batch = params.n_ubatch = self._room
        params.n_threads = params.n_threads_batch = backend.threads
        params.kv_unified = True
        params.type_k = params.type_v = self._type
        # A cache of sliding layers would forget cells that a shorter conversation needs again.
        params.swa_full = True
        if not backend.on_gpu:
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_perf = True
        with quiet(llama) as messages:
            context = llama.llama_init_from_model(backend.model, params)
        if not context:
            why = next((line for line in reversed(messages) if line.strip()), "").strip()
            raise BackendError(f"no memory for another conversation of {self.length} tokens ({why}); use fewer slots")
        if backend.adapter:
            lora = (llama.llama_adapter_lora_p_ctypes * 1)(backend.adapter[0])
            if llama.llama_set_adapters_lora(context, lora, 1, (ctypes.c_float * 1)(backend.adapter[1])):
                llama.llama_free(context)
                raise BackendError("llama.cpp refused to attach the LoRA adapter")
        return context


class LlamaTexts:
    """An `Engine` for free text over a session of `masa.backends`; it takes no trees."""

    def __init__(self, backend: LlamaBackend, *, slots: int, length: int) -> None:
        self._session = backend.session(slots=slots, length=length)
        self.slots = slots
        self.length = self._session.length
        self._used = [0] * slots
        self._prefix: dict[int, tuple[int, ...]] = {}
        self._shared: tuple[int, ...] = ()

    def start(self, slot: int, prefix: Sequence[int]) -> bool:
        # A session copies the prefix when the sequence begins, which needs a token behind it.
        self._prefix[slot] = tuple(prefix)
        self._used[slot] = 0
        return bool(prefix) and self._prefix[slot] == self._shared

    def cut(self, slot: int, tokens: int) -> None:
        self._session.rewind(slot, self._used[slot] - tokens)
        self._used[slot] = tokens

    def append(self, slot: int, tokens: Sequence[int]) -> None:
        self._one(slot, tokens)

    def run(self, asks: Sequence[Ask]) -> Iterator[NDArray[np.float32]]:
        # Prompts one by one, so that a sequence's numbers do not depend on who else begins.
        together = [ask for ask in asks if len(ask.tokens) == 1 and ask.slot not in self._prefix]
        if len(together) == len(asks):
            rows = self._session.step([(ask.slot, ask.tokens) for ask in asks], [1] * len(asks))
            for ask in asks:
                self._used[ask.slot] += 1
            yield from rows
            return
        for ask in asks:
            yield self._one(ask.slot, ask.tokens)

    def close(self) -> None:
        self._session.close()

    def _one(self, slot: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        prefix = self._prefix.pop(slot, None)
        if prefix is None:
            self._used[slot] += len(tokens)
            return self._session.step([(slot, tokens)], [1])[0]
        self._session.share(prefix)
        self._shared = prefix
        self._used[slot] = len(prefix) + len(tokens)
        return self._session.begin(slot, tokens).reshape(1, -1)
