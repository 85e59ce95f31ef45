"""Lists of words that rules of the shop need."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, get_args

from masa_training.errors import TrainingError


def _words(text: str) -> list[str]:
    return text.split()


COLOURS = tuple(
    _words(
        "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel "
        "camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry "
        "cream crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green "
        "grey heather indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot "
        "midnight mint mocha multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple "
        "rainbow red rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan "
        "taupe teal tiger turquoise violet walnut wheat white wine yellow"
    )
)
"""The colour words of the published engine (web_agent_site/engine/normalize.py, MIT), in the order it tries them."""

FUNCTION_WORDS = frozenset(
    _words(
        "a all also and any are as at be both but by each every for from he her his how if in into is it its just "
        "less me more most my no nor not of off on only onto or our out over per plus she so than that the their them "
        "then these they this those to too under up us very via was we were what when where which while who will with "
        "without you your s t"
    )
)
"""Determiners, prepositions, conjunctions, pronouns and auxiliaries: what a title never uses as a noun."""

ASKING_WORDS = frozenset(
    _words(
        "am buy can could find get give hello hi i i'd i'm kind like looking me my need one order pair place please "
        "search should show some something want would you"
    )
)
"""Words of an instruction that only ask."""

FOOTWEAR = frozenset(
    _words("boots clogs flats footwear heels loafers moccasins mules oxfords pumps sandals shoes slippers sneakers")
)
"""Words of queries for footwear."""

ACCESSORIES = frozenset(
    _words(
        "backpacks belts gloves handbags hats jewelry luggage neckties purses scarves sunglasses umbrellas wallets "
        "watches"
    )
)
"""Words of queries for what is worn with clothes or carried."""


Nouns = Callable[[str], tuple[str, ...]]
"""Title → its nouns and proper nouns, lower case, with repetitions."""

Tagger = Literal["words", "spacy"]
TAGGERS: tuple[Tagger, ...] = get_args(Tagger)

_MODEL = "en_core_web_sm"
_WORD = re.compile(r"[^\W_]+")


def noun_tagger(name: Tagger) -> Nouns:
    """How nouns are told from other words.

    `spacy` is the published way: spaCy's model en_core_web_sm, coarse tags NOUN and PROPN. `words` needs nothing: it
    takes every run of letters and digits that starts with a letter and is not a function word, since titles of products
    are strings of names. On WebShop's 1,000 titles it finds 96 % of the nouns of spaCy 3.8, and 93 % of what it finds
    are nouns to spaCy; the type factor is then the same for 94 to 97 % of pairs of products, without bias.

    Raises:
        TrainingError: for `spacy`, if it or its model is not installed.
    """
    return _spacy_nouns() if name == "spacy" else _word_nouns


@lru_cache(maxsize=65536)
def _word_nouns(title: str) -> tuple[str, ...]:
    words = (word.lower() for word in _WORD.findall(title) if not word[0].isdigit())
    return tuple(word for word in words if word not in FUNCTION_WORDS)


@lru_cache(maxsize=1)
def _spacy_nouns() -> Nouns:
    try:
        import spacy  # type: ignore[import-not-found,unused-ignore]

        model: Any = spacy.load(_MODEL, disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise TrainingError(
            f"webshop: nouns=spacy needs spaCy and its model {_MODEL} ({error}); install both by `pip install spacy` "
            f"and `python -m spacy download {_MODEL}`, or leave the option out"
        ) from error

    @lru_cache(maxsize=65536)
    def nouns(title: str) -> tuple[str, ...]:
        return tuple(token.text.lower() for token in model(title) if token.pos_ in ("NOUN", "PROPN"))

    return nouns
