"""The checkpoint as it is asked: loaded when it is needed, and asked once where several artifacts are compared with it.

What it writes is kept in memory. Its logits, hundreds of megabytes for some dozens of samples, are kept in files that
are gone with the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from masa.backends import Backend, Session
from masa.backends.tokenizing import Tokenizer
from masa_export.verify.outputs import Written
from masa_export.verify.reference import Reference

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Piece = tuple[NDArray[np.float32], Sequence[int]]

_PIECE = 64
"""Target tokens per pass: logits of a whole text target would take a gigabyte with a large vocabulary."""


class Reader:
    """Reads targets behind prompts that begin with `shared`, up to `length` tokens in all: a model's side of a score.

    The model's memory is opened for the first target that is read.
    """

    def __init__(self, backend: Backend, length: int, shared: Sequence[int]) -> None:
        self.backend, self.length, self.shared = backend, length, shared
        self._session: Session | None = None

    def walk(self, own: Sequence[int], answer: Sequence[int]) -> Iterator[Piece]:
        """Logits piece by piece, with the tokens that stand where they point; views until the next piece is taken."""
        session = self._open()
        yield session.begin(0, own).reshape(1, -1), answer[:1]
        for start in range(0, len(answer) - 1, _PIECE):
            piece = answer[start : min(start + _PIECE, len(answer) - 1)]
            yield session.step([(0, piece)], [len(piece)])[0], answer[start + 1 : start + 1 + len(piece)]
        session.release(0)

    def close(self) -> None:
        """Free the model's memory."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _open(self) -> Session:
        if self._session is None:
            self._session = self.backend.session(slots=1, length=self.length)
            self._session.share(self.shared)
        return self._session


class RememberingReader(Reader):
    """One that keeps what it read in `folder`, and reads it there the next time."""

    def __init__(self, backend: Backend, length: int, shared: Sequence[int], folder: Path) -> None:
        super().__init__(backend, length, shared)
        self.folder = folder

    def walk(self, own: Sequence[int], answer: Sequence[int]) -> Iterator[Piece]:
        import numpy as np

        tokens = np.array([len(answer), *self.shared, *own, *answer], np.int64)
        path = self.folder / f"{hashlib.sha256(tokens.tobytes()).hexdigest()}.npy"
        if path.is_file():
            kept = np.load(path, mmap_mode="r")
            yield kept[:1], answer[:1]
            for start in range(1, len(answer), _PIECE):
                yield kept[start : start + _PIECE], answer[start : start + _PIECE]
            return
        rows = []
        for logits, piece in super().walk(own, answer):
            rows.append(logits.copy())
            yield logits, piece
        with contextlib.suppress(OSError):  # a full disk costs time, not the comparison
            temporary = path.with_suffix(".part")
            with temporary.open("wb") as file:
                np.save(file, np.concatenate(rows))
            temporary.rename(path)


class Asked:
    """A checkpoint to compare with. With `several`, what it answers is kept for the artifacts that come next."""

    def __init__(self, reference: Reference, dtype: str, *, several: bool = False) -> None:
        self.reference, self.dtype = reference, dtype
        self._tokenizer: Tokenizer | None = None
        self._backend: Backend | None = None
        self._written: dict[Hashable, dict[str, Written]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="masa-verify-") if several else None

    def tokenizer(self) -> Tokenizer:
        """The tokenizer it was trained with."""
        if self._tokenizer is None:
            self._tokenizer = self.reference.tokenizer()
        return self._tokenizer

    def backend(self) -> Backend:
        """The model, loaded once.

        Raises:
            ExportError: see `Reference.open`.
        """
        if self._backend is None:
            self._backend = self.reference.open(self.tokenizer(), self.dtype)
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
        if self._folder is None:
            return Reader(self.backend(), length, shared)
        return RememberingReader(self.backend(), length, shared, Path(self._folder.name))

    def close(self) -> None:
        """Free the model, and forget its answers."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        self._written.clear()
        if self._folder is not None:
            self._folder.cleanup()
