"""The pages of the shop: what each shows and where its links lead."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

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


PER_PAGE = 10

SEARCH, PREVIOUS, NEXT, BUY = "back to search", "< prev", "next >", "buy now"
DETAILS = ("description", "features", "reviews")

_LONGEST_TEXT = 4000

Kind = Literal["search", "results", "item", "description", "features", "reviews", "bought"]


@dataclass(frozen=True, slots=True)
class Page:
    """Where the agent is; two equal pages show the same.

    Attributes:
        query, hits: the last search and what it found; empty on the search page.
        number: which page of the results, from 1.
        asin: the open product; empty where none is.
        chosen: option name → value, in the order of the choices.
    """

    kind: Kind = "search"
    query: str = ""
    hits: tuple[str, ...] = ()
    number: int = 1
    asin: str = ""
    chosen: tuple[tuple[str, str], ...] = ()


def results(shop: Shop, query: str) -> Page:
    """The first page of what a search finds."""
    return Page("results", query=query, hits=shop.search(query))


def links(page: Page, shop: Shop) -> Mapping[str, Callable[[], Page]]:
    """What can be clicked → what makes the page it leads to, in the order of the page; labels are lower case.

    As in the published environment a button hides an option value of the same name, and where two options share a
    value, the click goes to the later one.
    """
    if page.kind in ("search", "bought"):
        return {}
    found: dict[str, Callable[[], Page]] = {SEARCH: Page}
    if page.kind == "results":
        if page.number > 1:
            found[PREVIOUS] = partial(replace, page, number=page.number - 1)
        if page.number * PER_PAGE < len(page.hits):
            found[NEXT] = partial(replace, page, number=page.number + 1)
        found.update({asin.lower(): partial(replace, page, kind="item", asin=asin) for asin in _shown(page)})
        return found
    if page.kind != "item":
        found[PREVIOUS] = partial(replace, page, kind="item")
        return found
    found[PREVIOUS] = partial(replace, page, kind="results", asin="", chosen=())
    found.update({kind: partial(replace, page, kind=kind) for kind in DETAILS})
    found[BUY] = partial(replace, page, kind="bought")
    buttons = tuple(found)
    for name, values in product_of(page, shop).options:
        found.update({value: partial(_choose, page, name, value) for value in values if value not in buttons})
    return found


def render(page: Page, shop: Shop) -> str:
    """The page as text; what can be clicked stands in square brackets."""
    if page.kind == "search":
        return "Search page.\n[Search]"
    if page.kind == "results":
        return _render_results(page, shop)
    product = product_of(page, shop)
    if page.kind == "item":
        return _render_item(page, product)
    if page.kind == "bought":
        return f"You bought {product.asin}. Thank you for shopping with us."
    return "\n".join((_detail(page.kind, product), "[< Prev] [Back to Search]"))


def product_of(page: Page, shop: Shop) -> Product:
    """The product that the page is about.

    Raises:
        LookupError: if it is about none.
    """
    product = shop.catalogue.find(page.asin)
    if product is None:
        raise LookupError(f"no product on the page {page.kind}")
    return product


def _shown(page: Page) -> tuple[str, ...]:
    return page.hits[(page.number - 1) * PER_PAGE : page.number * PER_PAGE]


def _choose(page: Page, name: str, value: str) -> Page:
    return replace(page, chosen=tuple({**dict(page.chosen), name: value}.items()))


def _render_results(page: Page, shop: Shop) -> str:
    pages = max(1, -(-len(page.hits) // PER_PAGE))
    lines = [f'Results for "{page.query}": page {page.number} of {pages}, {len(page.hits)} products.']
    for asin in _shown(page):
        product = shop.catalogue.find(asin)
        if product is not None:
            lines.append(f"[{asin}] {_line(product.title)} {product.price_tag}")
    buttons = ["[Back to Search]"]
    if page.number > 1:
        buttons.append("[< Prev]")
    if page.number < pages:
        buttons.append("[Next >]")
    return "\n".join([*lines, " ".join(buttons)])


def _render_item(page: Page, product: Product) -> str:
    lines = [_line(product.title), f"Price: {product.price_tag}", f"Rating: {product.rating}"]
    lines += [f"{name}: {' '.join(f'[{value}]' for value in values)}" for name, values in product.options]
    if page.chosen:
        lines.append("Chosen: " + ", ".join(f"{name}: {value}" for name, value in page.chosen))
    lines.append("[Description] [Features] [Reviews] [Buy Now] [< Prev] [Back to Search]")
    return "\n".join(lines)


def _detail(kind: Kind, product: Product) -> str:
    if kind == "reviews":
        # The official download carries none.
        return "There are no reviews."
    if kind == "features":
        text = "\n".join(f"- {_line(feature)}" for feature in product.features if feature.strip())
    else:
        text = product.description.strip()
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]} […, {len(text) - _LONGEST_TEXT} more characters]"
    return text or f"There is no {kind}."


def _line(text: str) -> str:
    return " ".join(text.split())
