"""ONNX Runtime as a backend, for graphs that `masa export onnx` wrote.

Such a graph attends by ONNX Runtime's GroupQueryAttention: a cache of fixed size for every sequence, which a pass
extends in place, and a length for every sequence of its own. So sequences of different lengths share a pass without
padding, and nothing is copied from step to step.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.backends import Feed
from masa.backends.llama_library import give_memory_back
from masa.backends.onnx_tokenizer import TOKENIZER_NAME, JsonTokenizer, parse_tokenizer
from masa.backends.tokenizing import Tokenizing
from masa.cpu import usable_cores
from masa.errors import BackendError, MissingExtraError
from masa.extras import pip_install

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
from collections.abc import Mapping

PROVIDERS: Mapping[str, str] = {
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""masa's name of a provider -> ONNX Runtime's."""
PREFERRED = ("cuda", "directml", "cpu")
"""What is taken where nothing is asked for, the first one that is there. TensorRT and CoreML compile a graph for every
shape, which takes longer than a rewrite: they are for those who ask."""
_ADVICE = {
    "cuda": "install the build for NVIDIA GPUs: pip uninstall onnxruntime, then {install}",
    "tensorrt": "install the build for NVIDIA GPUs: pip uninstall onnxruntime, then {install}, and TensorRT",
    "directml": "install the build for Windows: pip uninstall onnxruntime, then pip install onnxruntime-directml",
    "coreml": "use a build of onnxruntime for macOS",
    "cpu": "reinstall onnxruntime",
}


def library() -> Any:
    """The module `onnxruntime`, its telemetry off.

    Raises:
        MissingExtraError: if it is not installed.
        BackendError: if it does not load here.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise MissingExtraError("the ONNX backend", "onnx") from None
    except (ImportError, OSError) as error:
        raise BackendError(f"onnxruntime does not load here ({error}); reinstall it for this machine") from None
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def choose_provider(wanted: str | None, available: Sequence[str]) -> str:
    """The provider to use, by masa's name: the one that is `wanted`, else the best one of `available` (ONNX Runtime's
    names).

    Raises:
        BackendError: if it is unknown, or this onnxruntime was built without it.
    """
    there = [name for name, long in PROVIDERS.items() if long in available]
    if wanted is None:
        return next((name for name in PREFERRED if name in there), "cpu")
    if wanted not in PROVIDERS:
        raise BackendError(f"unknown provider {wanted!r}; known: {', '.join(PROVIDERS)}")
    if wanted not in there:
        raise BackendError(
            f"the provider {wanted} is not in this onnxruntime (it has {', '.join(there) or 'none that masa knows'}); "
            f"{_ADVICE[wanted].format(install=pip_install('onnx-gpu'))}"
        )
    return wanted


_PAST, _PRESENT = "past_key_values.", "present."


class _Prefix:
    """What sessions that compute side by side have in common: the tokens, and their cells in each layer's cache."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tokens: tuple[int, ...] = ()
        self.cells: list[NDArray[np.float32]] = []


class OnnxSession:
    """The cache of a number of sequences, and the passes that extend it.

    The sequences that run lie in rows 0, 1, … of the cache without a gap, so that one pass computes them all. A pass
    reads and writes the rows where they are.
    """

    def __init__(self, session: Any, *, slots: int, length: int, batch: int, prefix: _Prefix | None = None) -> None:
        import numpy as np

        self.slots, self.length = slots, length
        self._session = session
        self._batch = batch
        self._vocabulary = int(session.get_outputs()[0].shape[-1])
        pasts = [entry for entry in session.get_inputs() if entry.name.startswith(_PAST)]
        self._names = [(entry.name, _PRESENT + entry.name.removeprefix(_PAST)) for entry in pasts]
        _, heads, _, width = pasts[0].shape
        # One cell more: in a pass, a sequence that rests computes a token behind its end, which nothing reads.
        shape = (slots, heads, length + 1, width)
        # Zeros take no memory until they are written to.
        self._cache: list[NDArray[np.float32]] | None = [np.zeros(shape, np.float32) for _ in pasts]
        self._prefix = prefix or _Prefix()
        self._row: dict[int, int] = {}
        self._used: dict[int, int] = {}

    def share(self, tokens: Sequence[int]) -> None:
        with self._prefix.lock:  # who computes beside this one waits for it
            if tuple(tokens) == self._prefix.tokens:
                return
            self._prefix.tokens, row = (), len(self._row)
            self._read(row, 0, tokens)
            self._prefix.cells = [array[row, :, : len(tokens)].copy() for array in self._cache or ()]
            self._prefix.tokens = tuple(tokens)

    def begin(self, slot: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        row, shared = len(self._row), len(self._prefix.tokens)
        for array, cells in zip(self._cache or (), self._prefix.cells, strict=False):
            array[row, :, :shared] = cells
        logits = self._read(row, shared, tokens)
        self._row[slot], self._used[slot] = row, shared + len(tokens)
        return logits

    def step(self, feeds: Sequence[Feed], wanted: Sequence[int]) -> list[NDArray[np.float32]]:
        import numpy as np

        results: list[list[NDArray[np.float32]]] = [[] for _ in feeds]
        longest = max(len(tokens) for _, tokens in feeds)
        several = [i for i, (_, tokens) in enumerate(feeds) if len(tokens) > 1]
        single = [i for i, (_, tokens) in enumerate(feeds) if len(tokens) == 1]
        # GroupQueryAttention computes several tokens of one sequence in a pass, or one of each of several sequences.
        # A pass reads all weights whatever it computes, so the way with fewer passes is taken.
        if longest <= len(several) + bool(single):
            for number in range(longest):
                taking = [i for i, (_, tokens) in enumerate(feeds) if number < len(tokens)]
                rows = self._one_each({feeds[i][0]: feeds[i][1][number] for i in taking})
                for i in taking:
                    if len(feeds[i][1]) - number <= wanted[i]:
                        results[i].append(rows[feeds[i][0]])
        else:
            for i in several:
                slot, tokens = feeds[i]
                start = self._used[slot]
                results[i].append(self._run(self._row[slot], [tokens], [start + len(tokens)], wanted[i])[0])
                self._used[slot] = start + len(tokens)
            if single:
                rows = self._one_each({feeds[i][0]: feeds[i][1][0] for i in single})
                for i in single:
                    results[i].append(rows[feeds[i][0]])
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in results]

    def rewind(self, slot: int, tokens: int) -> None:
        self._used[slot] -= tokens

    def release(self, slot: int) -> None:
        row = self._row.pop(slot, None)
        self._used.pop(slot, None)
        if row is None or not self._row or self._cache is None:
            return
        other = max(self._row, key=lambda slot: self._row[slot])
        if self._row[other] > row:
            for array in self._cache:
                array[row, :, : self._used[other]] = array[self._row[other], :, : self._used[other]]
            self._row[other] = row

    def beside(self) -> OnnxSession:
        """Another session like this, which may compute at the same time and has the prefix in common with it."""
        return OnnxSession(self._session, slots=self.slots, length=self.length, batch=self._batch, prefix=self._prefix)

    def close(self) -> None:
        self._cache = None
        self._session = None

    def _read(self, row: int, start: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Compute a prompt in one row, piece by piece; logits after its last token."""
        import numpy as np

        logits: NDArray[np.float32] = np.empty(0, np.float32)
        for begin in range(0, len(tokens), self._batch):
            piece = tokens[begin : begin + self._batch]
            logits = self._run(row, [piece], [start + begin + len(piece)], 1)[0, 0]
        return logits

    def _one_each(self, tokens: dict[int, int]) -> dict[int, NDArray[np.float32]]:
        """Append one token to each of some slots, in one pass over the rows from the first to the last of them."""
        slot_of = {row: slot for slot, row in self._row.items()}
        rows = [self._row[slot] for slot in tokens]
        first = min(rows)
        slots = [slot_of[row] for row in range(first, max(rows) + 1)]
        # A row between them that rests computes some token behind its end; its length stays what it is.
        logits = self._run(first, [[tokens.get(slot, 0)] for slot in slots], [self._used[s] + 1 for s in slots], 1)
        for slot in tokens:
            self._used[slot] += 1
        return {slot: logits[number] for number, slot in enumerate(slots) if slot in tokens}

    def _run(
        self, first: int, tokens: Sequence[Sequence[int]], ends: Sequence[int], wanted: int
    ) -> NDArray[np.float32]:
        """One pass over the rows from `first`: `tokens` are appended, after which the rows are `ends` tokens long.

        Returns logits of the last `wanted` tokens: rows x wanted x vocabulary.
        """
        import numpy as np

        # Held until the pass is over: another thread may close this session meanwhile.
        session, cache = self._session, self._cache
        if session is None or cache is None:
            raise BackendError("the rewriter was closed in the middle of a rewrite")
        count = len(tokens)
        logits = np.empty((count, wanted, self._vocabulary), np.float32)
        binding = session.io_binding()
        binding.bind_cpu_input("input_ids", np.array(tokens, np.int64))
        binding.bind_cpu_input("seqlens_k", np.array(ends, np.int32) - 1)
        binding.bind_cpu_input("total_sequence_length", np.array([max(ends)], np.int32))
        binding.bind_cpu_input("wanted", np.array([wanted], np.int64))
        for (past, present), array in zip(self._names, cache, strict=True):
            part = array[first : first + count]
            # One and the same memory for both: the new cells are written into it, the others are not touched.
            binding.bind_input(past, "cpu", 0, np.float32, part.shape, part.ctypes.data)
            binding.bind_output(present, "cpu", 0, np.float32, part.shape, part.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's errors have no other base
            raise BackendError(
                f"ONNX Runtime could not compute {count} x {len(tokens[0])} tokens ({str(error).strip()[:200]})"
            ) from error
        return logits


GRAPH = "1"
"""The version of the graph's inputs and outputs, in its metadata as `masa.graph`."""


class OnnxBackend(Tokenizing):
    """A graph and its tokenizer. Use `load`."""

    def __init__(
        self, session: Any, tokenizer: JsonTokenizer, *, context_length: int, batch: int, threads: int, where: str
    ) -> None:
        super().__init__(tokenizer)
        self.vocabulary = int(session.get_outputs()[0].shape[-1])
        self.context_length = context_length
        self.provider = next(name for name, long in PROVIDERS.items() if long == session.get_providers()[0])
        self._session = session
        self._batch = batch
        self._threads = threads
        self._where = where
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        tokenizer: str | Path | None = None,
        threads: int | None = None,
        provider: str | None = None,
        batch: int = 128,
    ) -> OnnxBackend:
        """Load a graph and the tokenizer.json beside it.

        `threads` defaults to the machine's cores, `provider` is one of `PROVIDERS` (default: the best one that is
        there), `batch` the most prompt tokens computed at once (attention takes memory and time by its square).

        Raises:
            MissingExtraError: without onnxruntime or tokenizers.
            BackendError: if the graph is none of masa's, or the provider is not there or cannot run it.
        """
        runtime = library()
        path = Path(path)
        if not path.is_file():
            raise BackendError(f"{path}: no such file; an ONNX graph was expected")
        chosen = choose_provider(provider, runtime.get_available_providers())
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        # A thread that spins while it waits takes a core from the passes beside it, and from the host.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # a library prints nothing; what goes wrong is in the exception
        words_path = Path(tokenizer or path.parent / TOKENIZER_NAME)
        with ThreadPoolExecutor(1) as beside:  # the tokenizer is read while ONNX Runtime lays out the weights
            parsed = beside.submit(parse_tokenizer, words_path)
            try:
                session = runtime.InferenceSession(
                    str(path), options, providers=list(dict.fromkeys((PROVIDERS[chosen], PROVIDERS["cpu"])))
                )
            except Exception as error:  # ONNX Runtime's errors have no other base
                raise BackendError(
                    f"{path}: ONNX Runtime cannot load this file ({_first_line(error)}); it may be truncated, no ONNX "
                    "graph, or made for a newer onnxruntime"
                ) from None
        if session.get_providers()[0] != PROVIDERS[chosen]:
            raise BackendError(
                f"{path}: the provider {chosen} did not start, ONNX Runtime fell back to another one; "
                "check its driver and libraries, or choose cpu"
            )
        notes = session.get_modelmeta().custom_metadata_map
        if notes.get("masa.graph") != GRAPH:
            found = notes.get("masa.graph")
            raise BackendError(
                f"{path}: {'no graph of masa' if found is None else f'a graph of version {found}'}, this masa runs "
                f"version {GRAPH}; make it with masa export onnx"
            )
        vocabulary = int(session.get_outputs()[0].shape[-1])
        words = JsonTokenizer(
            words_path, vocabulary=vocabulary, eos=int(notes["masa.eos_token"]), parsed=parsed.result()
        )
        context = int(notes["masa.context_length"])
        give_memory_back()  # of reading both files: a tenth of what stays
        return cls(
            session,
            words,
            context_length=context,
            batch=batch,
            threads=options.intra_op_num_threads,
            where=str(path),
        )

    def grammar_tokenizer(self) -> Any:
        with self._lock:
            return super().grammar_tokenizer()

    def side_by_side(self, *, slots: int, length: int) -> list[OnnxSession]:
        """On a CPU as many as it has threads: much of a pass does not gain by a second thread, another pass does."""
        count = min(self._threads, slots) if self.provider == "cpu" else 1
        first = self.session(slots=slots // count, length=length)
        return [first, *(first.beside() for _ in range(count - 1))]

    def session(self, *, slots: int, length: int) -> OnnxSession:
        if self._session is None:
            raise BackendError(f"{self._where}: the model is closed; load it again")
        if length > self.context_length:
            raise BackendError(
                f"{self._where}: a sequence of {length} tokens does not fit the context of {self.context_length}"
            )
        return OnnxSession(self._session, slots=slots, length=length, batch=self._batch)

    def set_adapter(self, path: str | None, *, scale: float = 1.0) -> None:
        if path is not None:
            raise BackendError(
                f"{path}: an ONNX graph takes no adapter, its checkpoint is merged into it; "
                "export that checkpoint with masa export onnx"
            )

    def close(self) -> None:
        self._session = None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
