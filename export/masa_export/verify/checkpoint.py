"""The checkpoint that artifacts are compared with: transformers behind the runtime's protocol, asked once.

So the same engine, grammar and guard run the checkpoint and the artifact, and every difference is the export's. What it
writes is kept in memory. Its logits, hundreds of megabytes for some dozens of samples, are kept in files that are gone
with the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from masa.backends import Backend, Session
from masa.prompt import ChatTemplate
from masa_export.errors import ExportError
from masa_export.source import Source, open_source
from masa_export.verify.outputs import Written
from masa_training.bases import Base
from masa_training.checkpoint import RECORD, read_record
from masa_training.evaluate.rewriter.scoring import PIECE, target_logits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Reference:
    """A checkpoint that is not loaded yet: one of `masa distill`, or a Hugging Face folder, whose `source` is None.

    `base` has the tokenizer and the chat template that it was trained with; of a folder it is the model itself.
    """

    path: Path
    name: str
    base: Base
    source: Source | None

    @property
    def language(self) -> str | None:
        return None if self.source is None else self.source.checkpoint.language

    @property
    def prompt_version(self) -> int | None:
        return None if self.source is None else self.source.checkpoint.prompt_version

    @property
    def template(self) -> ChatTemplate | None:
        return None if self.source is None else self.source.checkpoint.template

    def open(self, dtype: str = "float32") -> Backend:
        """The model, loaded.

        Raises:
            MasaError: if a library cannot load it, or its memory is not there.
        """
        import torch

        from masa_training.transformers_backend import TransformersBackend, load_trained

        kind = getattr(torch, dtype)
        try:
            if self.source is None:
                model = self.base.model(kind)
            else:
                model = load_trained(self.source.checkpoint, self.base, kind, merged=True)
        except MemoryError:
            raise ExportError(f"{self.path}: not enough memory for the checkpoint; use --dtype bfloat16") from None
        return TransformersBackend(model, self.base.tokenizer(), context_length=self.base.context_length)


def find_reference(path: Path, base: str | None = None) -> Reference:
    """The checkpoint of `masa distill`, or the Hugging Face folder of a rewriter that was trained elsewhere.

    Raises:
        MasaError: if it is neither, or its base is not there.
    """
    config = path / "config.json"
    if not (path / RECORD).is_file() and config.is_file():
        context = read_record(config).content.get("max_position_embeddings")
        if not isinstance(context, int) or context < 1:
            raise ExportError(f"{config}: does not tell max_position_embeddings; add it")
        return Reference(path, path.name, Base(str(path), "hf", path, context, ChatTemplate((), (), (), ())), None)
    source = open_source(path, base, full=True)
    return Reference(path, source.checkpoint.base.name, source.base, source)


class AskedCheckpoint:
    """A checkpoint to compare with, loaded when it is needed.

    With `several`, what it answers is kept for the artifacts that come next.
    """

    def __init__(self, reference: Reference, dtype: str, *, several: bool = False) -> None:
        self.reference, self.dtype = reference, dtype
        self._backend: Backend | None = None
        self._written: dict[Hashable, dict[str, Written]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="masa-verify-") if several else None

    def backend(self) -> Backend:
        """The model, loaded once.

        Raises:
            MasaError: see `Reference.open`.
        """
        if self._backend is None:
            self._backend = self.reference.open(self.dtype)
        return self._backend

    @property
    def loaded(self) -> bool:
        return self._backend is not None

    def written(self, key: Hashable, write: Callable[[], dict[str, Written]]) -> dict[str, Written]:
        """What it writes when asked as `key` tells, by `write` the first time."""
        if key not in self._written:
            self._written[key] = write()
        return self._written[key]

    def reader(self, length: int, shared: Sequence[int]) -> Reader:
        """Its side of a score."""
        return Reader(self.backend(), length, shared, None if self._folder is None else Path(self._folder.name))

    def close(self) -> None:
        """Free the model, and forget its answers."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        self._written.clear()
        if self._folder is not None:
            self._folder.cleanup()


class Reader:
    """Reads targets behind prompts that begin with `shared`, up to `length` tokens in all: a model's side of a score.

    What it read is kept in `folder`, where one is given, and read there the next time. The model's memory is opened for
    the first target that is not there.
    """

    def __init__(self, backend: Backend, length: int, shared: Sequence[int], folder: Path | None = None) -> None:
        self._backend, self._length, self._shared, self._folder = backend, length, shared, folder
        self._session: Session | None = None

    def walk(self, own: Sequence[int], answer: Sequence[int]) -> Iterator[tuple[NDArray[np.float32], Sequence[int]]]:
        """Logits piece by piece, with the tokens that stand where they point; valid until the next piece is taken."""
        import numpy as np

        path = self._place(own, answer)
        if path is not None and path.is_file():
            kept = np.load(path, mmap_mode="r")
            for start, end in ((0, 1), *((at, at + PIECE) for at in range(1, len(answer), PIECE))):
                yield kept[start:end], answer[start:end]
            return
        if self._session is None:
            self._session = self._backend.session(slots=1, length=self._length)
            self._session.share(self._shared)
        rows = []
        for _, logits, tokens in target_logits(self._session, [own], answer):
            if path is not None:
                rows.append(logits.copy())
            yield logits, tokens
        if path is not None:
            with contextlib.suppress(OSError):  # a full disk costs time, not the comparison
                temporary = path.with_suffix(".part")
                with temporary.open("wb") as file:
                    np.save(file, np.concatenate(rows))
                temporary.rename(path)

    def close(self) -> None:
        """Free the model's memory."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _place(self, own: Sequence[int], answer: Sequence[int]) -> Path | None:
        import numpy as np

        if self._folder is None:
            return None
        tokens = np.array([len(answer), *self._shared, *own, *answer], np.int64)
        return self._folder / f"{hashlib.sha256(tokens.tobytes()).hexdigest()}.npy"
