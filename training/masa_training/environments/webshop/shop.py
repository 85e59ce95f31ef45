"""A shop: a catalogue and the index that its search reads."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Any

import bm25s  # type: ignore[import-untyped]
import numpy as np
import Stemmer  # type: ignore[import-not-found, import-untyped, unused-ignore]
from bm25s.stopwords import STOPWORDS_EN  # type: ignore[import-untyped]

from masa_training.environments.webshop.catalogue import Catalogue, Product, Size, find_folder, read_catalogue

HITS = 50
"""Results of a search at most, as in the published engine."""

_K1, _B = 0.9, 0.4  # of Pyserini, by which the published engine searches
_WORD = re.compile(r"\b\w\w+\b")
_STOP_WORDS = frozenset(STOPWORDS_EN)

_SHOPS: dict[tuple[object, ...], Shop] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Shop:
    """A catalogue with its search. Nothing in it changes after it was made."""

    catalogue: Catalogue
    _index: Any

    def search(self, query: str) -> tuple[str, ...]:
        """Codes of at most 50 products that share a word with the query, best first, ties in catalogue order.

        BM25 (Lucene's variant, k1 0.9, b 0.4) over title, description, first feature and options, as the published
        engine indexes them; English stop words are left out and words are stemmed (Porter, 1980).
        """
        words = [word for word in _words(query) if word in self._index.vocab_dict]
        if not words:
            return ()
        scores = self._index.get_scores(words)
        order = np.argsort(-scores, kind="stable")[:HITS]
        return tuple(self.catalogue.products[position].asin for position in order if scores[position] > 0)


def make_shop(catalogue: Catalogue) -> Shop:
    """Index a catalogue."""
    index = bm25s.BM25(method="lucene", k1=_K1, b=_B, backend="numpy")
    index.index([_words(_searched(product)) for product in catalogue.products], show_progress=False)
    return Shop(catalogue, index)


def open_shop(data_dir: str | None, size: Size) -> Shop:
    """The shop of the product files found by `find_folder`, read once per process.

    All environments of a process look at the same object. That is not state that episodes share: a shop holds only
    what the files say and an index computed from it, nothing ever writes to either, and an episode keeps its page, its
    options and its goal in its own environment. The files' sizes and times are part of the key, so changed files are
    read again.

    Raises:
        TrainingError: if files are missing or damaged.
    """
    folder = find_folder(data_dir, size).resolve()
    stamps = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.glob("items_*.json"))
    key = (folder, size, *stamps)
    with _LOCK:
        if key not in _SHOPS:
            _SHOPS[key] = make_shop(read_catalogue(folder, size))
        return _SHOPS[key]


def _searched(product: Product) -> str:
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options)
    return " ".join((product.title, product.description, product.features[0] if product.features else "", options))


def _words(text: str) -> list[str]:
    # A stemmer keeps a cache that threads must not share, hence one for each text.
    words: list[str] = Stemmer.Stemmer("porter").stemWords(
        [word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]
    )
    return words
