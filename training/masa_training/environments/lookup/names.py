"""Invented names in families that share words, so that a careless search finds the wrong member."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from masa_training.environments.lookup.kinds import Kind


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Ordinary short words: tokenizers know them, so that names cost small models few tokens.
_FIRST = _words(
    "Anna Peter Maria Thomas Clara Henry Alice Martin Laura Simon Helen Oscar Julia Victor Emma Walter Rose Paul Nora "
    "Hugo Edith Frank Grace Leon Irene Ralph Sarah Felix Diana Albert"
)
_SURNAME = (
    _words(
        "Stone Wood Black White Green Ash Oak Winter Summer North West Long Hard Silver Gold Wolf Fox Raven Marsh "
        "Bright Cold Fair Hollow Rain"
    ),
    _words("ford bridge well field ley worth ton by more gate burn croft land shaw"),
)
_TOWN = (
    _words(
        "Elm Birch Maple Salt Copper Iron Clear Deep High Mill Lake Sand Thorn Swan Heron Otter Cloud Amber Pine Bell"
    ),
    _words("mere haven port wick dale stead moor cliff brook hurst minster combe"),
)
_TOWN_FORMS = ("{}", "Upper {}", "New {}")
_COMPANY = (
    _words(
        "Blue Golden Crimson Royal Humble Lucky Merry Noble Proud Quiet Rapid Steady Sturdy Trusty Violet Wise Young "
        "Ancient Brave Clever"
    ),
    _words(
        "Anchor Badger Beacon Castle Crown Dragon Eagle Falcon Hammer Harvest Lantern Lion Mitre Needle Oyster Pelican "
        "Rocket Shield Tower Unicorn"
    ),
)
_COMPANY_FORMS = ("{} Company", "{} Brothers")
_BOOK = (
    _words(
        "Silent Distant Broken Hidden Frozen Burning Empty Endless Fading Forgotten Hungry Lonely Narrow Patient "
        "Restless Scarlet Secret Sleeping Stolen Tender Velvet Wandering Weary Wild"
    ),
    _words(
        "Orchard Harbour Garden Letter Mirror Island Window Staircase Carnival Kingdom Journey Promise Season Shadow "
        "Song Storm Summit Valley Voyage Wedding Whisper Witness Forest Feast"
    ),
)
_BOOK_FORMS = ("The {}", "Beyond the {}")

LARGEST = 700
"""Entities that a split can have."""


def _people() -> Iterator[tuple[str, ...]]:
    for number, (head, tail) in enumerate(product(*_SURNAME)):
        yield tuple(f"{_FIRST[(7 * number + 11 * member) % len(_FIRST)]} {head}{tail}" for member in range(3))


def _forms(parts: tuple[Sequence[str], Sequence[str]], between: str, forms: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for first, second in product(*parts):
        yield tuple(form.format(first + between + second) for form in forms)


def _families(kind: Kind) -> list[tuple[str, ...]]:
    if kind == "person":
        return list(_people())
    if kind == "town":
        return list(_forms(_TOWN, "", _TOWN_FORMS))
    if kind == "company":
        return list(_forms(_COMPANY, " ", _COMPANY_FORMS))
    return list(_forms(_BOOK, " ", _BOOK_FORMS))


def deal_names(counts: Mapping[Kind, int], hands: int, seed: int) -> list[dict[Kind, tuple[tuple[str, ...], ...]]]:
    """Families of names for `hands` worlds that share none: per world and kind, `counts` names in whole families.

    The last family of a kind is cut short where the count asks for it.
    """
    dealt: list[dict[Kind, tuple[tuple[str, ...], ...]]] = [{} for _ in range(hands)]
    for kind, count in counts.items():
        families = _families(kind)
        random.Random(f"names {seed} {kind}").shuffle(families)
        rest = iter(families)
        for hand in dealt:
            taken: list[tuple[str, ...]] = []
            left = count
            while left > 0:
                family = next(rest)[:left]
                taken.append(family)
                left -= len(family)
            hand[kind] = tuple(taken)
    return dealt
