"""Searches offered to an agent that chooses among listed actions: made from what it was told, nothing else."""

from __future__ import annotations

import re

from bm25s.stopwords import STOPWORDS_EN  # type: ignore[import-untyped]

from masa_training.environments.webshop.vocabulary import ASKING_WORDS

_MOST = 8
_PRICE = re.compile(r",?\s*(?:and\s+)?price lower than [\d.,]+ dollars\W*$", re.IGNORECASE)
_OPTION = re.compile(r"\s*(?:with|and)?\s*[a-z][a-z ]*:\s*", re.IGNORECASE)
_CUT = re.compile(r"[,;?!]\s+(?:and\s+)?|\s+(?:with|for|that|which|and it|in)\s+", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*")
_EMPTY = frozenset(STOPWORDS_EN) | ASKING_WORDS


def offered_queries(instruction: str) -> tuple[str, ...]:
    """At most eight different searches: all words but the price limit, all but the named options, then each phrase.

    Words that only ask (find me, I am looking for) and English stop words are left out, and so are names of options;
    all words are lower case. Where the phrases are too many, the first ones stay.
    """
    phrases = _CUT.split(_PRICE.sub("", instruction))
    words = [_words(_OPTION.sub(" ", phrase)) for phrase in phrases]
    kinds = [text for phrase, text in zip(phrases, words, strict=True) if not _OPTION.match(phrase)]
    queries = (" ".join(filter(None, words)), " ".join(filter(None, kinds)), *words)
    return tuple(dict.fromkeys(filter(None, queries)))[:_MOST]


def _words(text: str) -> str:
    return " ".join(word for word in _WORD.findall(text.lower()) if word not in _EMPTY)
