"""Two embedders for selection: a GGUF model in this process, or an OpenAI-compatible embedding server.

Both remember the vectors of the texts they saw last, so that the skills of a bank are embedded once and not
at every decision. Both are safe to use from several threads.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.errors import BackendError, MissingExtraError
from masa.files import parse_json
from masa.http_client import NoAnswerError, ask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_REMEMBERED = 4096
_LARGEST_REPLY = 256 * 1024 * 1024


class _RememberingEmbedder(ABC):
    def __init__(self) -> None:
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    @abstractmethod
    def _embed_new(self, texts: list[str]) -> list[NDArray[np.float32]]:
        """The vectors of `texts`, in order."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row per text, in order; texts seen before cost nothing.

        Raises:
            BackendError: if the model or server fails or gives vectors of different lengths.
        """
        import numpy as np

        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        with self._lock:
            new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
            found = {text: self._vectors[text] for text in texts if text in self._vectors}
            if new:
                found.update(zip(new, self._embed_new(new), strict=True))
            if len({vector.shape for vector in found.values()}) > 1:
                raise BackendError("the embedding model gave vectors of different lengths; use another one")
            for text, vector in found.items():
                self._vectors[text] = vector
                self._vectors.move_to_end(text)
            while len(self._vectors) > _REMEMBERED:
                self._vectors.popitem(last=False)
        return np.stack([found[text] for text in texts])

    def close(self) -> None:
        """Free what is held; calling it again does nothing."""
        with self._lock:
            self._vectors.clear()


class LlamaEmbedder(_RememberingEmbedder):
    """Embeds with a GGUF model through llama.cpp, in this process.

    The model's own pooling is used; a model without one (a language model) gets the mean over its tokens.
    Texts of more than `context` tokens are cut, with a warning in the log.

    Raises:
        MissingExtraError: if llama-cpp-python is not installed.
        BackendError: if the file is missing or is no model that llama.cpp can load.
    """

    def __init__(self, model: Path, *, context: int = 512, threads: int | None = None, gpu_layers: int = 0) -> None:
        super().__init__()
        try:
            import llama_cpp
        except ImportError as error:
            raise MissingExtraError("embedding with a GGUF model", "llama") from error
        if not Path(model).is_file():
            raise BackendError(f"{model}: no such file; give a GGUF embedding model")
        self._context = context
        try:
            self._llama: Any = llama_cpp.Llama(
                str(model),
                embedding=True,
                n_ctx=context,
                n_batch=context,
                n_ubatch=context,
                n_threads=threads,
                n_gpu_layers=gpu_layers,
                verbose=False,
            )
        except Exception as error:  # llama-cpp-python raises ValueError, AssertionError, RuntimeError
            raise BackendError(f"{model}: llama.cpp cannot load it as a model ({error})") from error

    def _embed_new(self, texts: list[str]) -> list[NDArray[np.float32]]:
        import numpy as np

        if self._llama is None:
            raise BackendError("this embedder is closed; make a new one")
        vectors: list[NDArray[np.float32]] = []
        for text in texts:  # one by one: batches need a sequence count that the library sets to one
            text = text.encode("utf-8", "replace").decode()  # a lone surrogate is no text to the tokenizer
            try:
                tokens = len(self._llama.tokenize(text.encode()))
                if tokens > self._context:
                    logger.warning("a text of %d tokens is cut to %d for embedding", tokens, self._context)
                vector = np.asarray(self._llama.embed(text, normalize=False, truncate=True), dtype=np.float32)
            except Exception as error:
                raise BackendError(f"llama.cpp could not embed a text ({error})") from error
            vectors.append(vector.mean(axis=0) if vector.ndim == 2 else vector)
        return vectors

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        super().close()
        with self._lock:
            if self._llama is not None:
                self._llama.close()
                self._llama = None


class ServerEmbedder(_RememberingEmbedder):
    """Embeds with an OpenAI-compatible server (`/v1/embeddings`). The only embedder that opens a socket.

    `url` is the server's address with or without `/v1`. `api_key_env` names the environment variable that
    holds the key; the key is sent to this address only (`masa.http_client`). `timeout` is in seconds per request,
    each with at most `batch` texts.
    """

    def __init__(
        self, url: str, model: str, *, api_key_env: str | None = None, batch: int = 64, timeout: float = 30.0
    ) -> None:
        super().__init__()
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BackendError(f"{url!r} is no server address; it must look like http://127.0.0.1:8080/v1")
        if batch < 1 or timeout <= 0:
            raise ValueError(f"batch and timeout must be positive, not {batch} and {timeout}")
        path = parts.path.rstrip("/").removesuffix("/embeddings")
        path = path if path.endswith("/v1") else f"{path}/v1"
        self.url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, f"{path}/embeddings", "", ""))
        self.model = model
        self._api_key_env = api_key_env
        self._batch = batch
        self._timeout = timeout

    def _embed_new(self, texts: list[str]) -> list[NDArray[np.float32]]:
        starts = range(0, len(texts), self._batch)
        return [vector for start in starts for vector in self._request(texts[start : start + self._batch])]

    def _request(self, texts: list[str]) -> list[NDArray[np.float32]]:
        key = None
        if self._api_key_env is not None:
            key = os.environ.get(self._api_key_env, "").strip()
            if not key:
                raise BackendError(f"the environment variable {self._api_key_env} is not set; put the key there")
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        deadline = time.monotonic() + self._timeout
        try:
            answer = ask(self.url, body=body, key=key, deadline=deadline, longest=_LARGEST_REPLY)
        except NoAnswerError as error:
            raise BackendError(f"{self.url}: no answer ({error}); is the embedding server running?") from error
        if answer.status != 200:
            said = " ".join(answer.data[:2000].decode("utf-8", "replace").split())[:300]
            raise BackendError(f"{self.url}: HTTP {answer.status} {answer.reason}: {said or 'no explanation'}")
        return self._vectors_of(answer.data, len(texts))

    def _vectors_of(self, raw: bytes, count: int) -> list[NDArray[np.float32]]:
        import numpy as np

        try:
            items = parse_json(raw)["data"]
            by_index = {int(item.get("index", place)): item["embedding"] for place, item in enumerate(items)}
            vectors = [np.asarray(by_index[place], dtype=np.float32) for place in range(count)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackendError(
                f"{self.url}: the answer holds no embeddings for {count} texts; is {self.model!r} an embedding model?"
            ) from error
        if not all(vector.ndim == 1 and vector.size for vector in vectors):
            raise BackendError(f"{self.url}: the answer's embeddings are no vectors; use another model")
        return vectors
