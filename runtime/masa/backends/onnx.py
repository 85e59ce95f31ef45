"""ONNX Runtime as a backend, for graphs that `masa export onnx` wrote.

Such a graph attends by ONNX Runtime's GroupQueryAttention: a cache of fixed size for every sequence, which a pass
extends in place, and a length for every sequence of its own. So sequences of different lengths share a pass without
padding, and nothing is copied from step to step.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from masa.backends.onnx_library import PROVIDERS, choose_provider, library
from masa.backends.onnx_session import OnnxSession
from masa.backends.onnx_tokenizer import TOKENIZER_NAME, JsonTokenizer
from masa.backends.tokenizing import Tokenizing
from masa.errors import BackendError

GRAPH = "1"
"""The version of the graph's inputs and outputs, in its metadata as `masa.graph`."""


class OnnxBackend(Tokenizing):
    """A graph and its tokenizer. Use `load`."""

    def __init__(self, session: Any, tokenizer: JsonTokenizer, *, context_length: int, batch: int, where: str) -> None:
        super().__init__(tokenizer)
        self.vocabulary = int(session.get_outputs()[0].shape[-1])
        self.context_length = context_length
        self.provider = next(name for name, long in PROVIDERS.items() if long == session.get_providers()[0])
        self._session = session
        self._batch = batch
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
        batch: int = 512,
    ) -> OnnxBackend:
        """Load a graph and the tokenizer.json beside it.

        `threads` defaults to the machine's cores, `provider` is one of `PROVIDERS` (default: the best one that is
        there), `batch` the most prompt tokens computed at once (memory grows with it).

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
        options.intra_op_num_threads = threads or _default_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # a library prints nothing; what goes wrong is in the exception
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
            Path(tokenizer or path.parent / TOKENIZER_NAME), vocabulary=vocabulary, eos=int(notes["masa.eos_token"])
        )
        context = int(notes["masa.context_length"])
        return cls(session, words, context_length=context, batch=batch, where=str(path))

    def grammar_tokenizer(self) -> Any:
        with self._lock:
            return super().grammar_tokenizer()

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


def _default_threads() -> int:
    import os

    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
