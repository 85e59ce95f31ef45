"""BM25 over short texts, for environments whose agents search."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w\w+")


class PassageSearch:
    """An index that never changes once it is built, so that any number of episodes may read it at a time.

    BM25 (Robertson and Zaragoza, 2009) with Lucene's inverse document frequency, k1 = 1.5, b = 0.75, computed by
    bm25s. Words are runs of two or more letters or digits in lower case, English stop words left out.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s  # type: ignore[import-untyped]
        from bm25s.stopwords import STOPWORDS_EN  # type: ignore[import-untyped]

        self._ignored = frozenset(STOPWORDS_EN)
        words = [self._words(text) for text in texts]
        self._known = frozenset(word for text in words for word in text)
        self._index = bm25s.BM25(method="lucene", backend="numpy") if self._known else None
        if self._index is not None:
            self._index.index(words, show_progress=False)

    def best(self, query: str, count: int) -> tuple[int, ...]:
        """Numbers of at most `count` texts that share a word with the query, best first, equal ones in their order."""
        import numpy as np

        wanted = [word for word in self._words(query) if word in self._known]
        if self._index is None or not wanted:
            return ()
        scores = self._index.get_scores(wanted)
        matching = np.flatnonzero(scores > 0)
        order = matching[np.argsort(-scores[matching], kind="stable")[:count]]
        return tuple(int(number) for number in order)

    def _words(self, text: str) -> list[str]:
        return [word for word in _WORD.findall(text.lower()) if word not in self._ignored]
