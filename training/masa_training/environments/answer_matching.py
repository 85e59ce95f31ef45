"""Whether an answer is right: exact match, F1 and cover-exact-match.

Normalisation and F1 are those of SQuAD's evaluation (Rajpurkar et al., 2016): lower case, without punctuation, without
the articles a, an and the, white space squeezed. HotpotQA's (Yang et al., 2018) differs in F1 for "yes", "no" and
"noanswer" only: there, part of an answer is worth nothing.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_WHOLE = frozenset({"yes", "no", "noanswer"})


@dataclass(frozen=True, slots=True)
class Match:
    """How well an answer matches, each from 0 to 1 and the best over all right answers.

    Attributes:
        exact: 1 if the normalised texts are equal.
        f1: harmonic mean of the precision and recall of words, counted with their repetitions.
        cover: 1 if the words of a right answer stand one after the other somewhere in the answer. Whole words: "7"
            is not covered by "1970", as it is in evaluations that compare substrings.
    """

    exact: float
    f1: float
    cover: float


def normalise(answer: str) -> str:
    """The text that is compared."""
    return " ".join(_ARTICLE.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def match(answer: str, right: Sequence[str]) -> Match:
    """Compare an answer with every right one; all 0 where there is none."""
    given = normalise(answer)
    wanted = [normalise(text) for text in right]
    return Match(
        exact=max((float(given == text) for text in wanted), default=0.0),
        f1=max((_f1(given, text) for text in wanted), default=0.0),
        cover=max((_cover(given, text) for text in wanted), default=0.0),
    )


def _f1(given: str, wanted: str) -> float:
    if given == wanted:
        return 1.0
    if given in _WHOLE or wanted in _WHOLE:
        return 0.0
    mine, theirs = given.split(), wanted.split()
    shared = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * shared / (len(mine) + len(theirs))


def _cover(given: str, wanted: str) -> float:
    # What is nothing but articles and punctuation would stand in every answer.
    return float(f" {wanted} " in f" {given} ") if wanted else float(not given)
