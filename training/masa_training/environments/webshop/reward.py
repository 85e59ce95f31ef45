"""WebShop's reward for a purchase (Yao et al., 2022, section 3.2 and the published engine)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rapidfuzz import fuzz, utils

from masa_training.environments.webshop.catalogue import Product
from masa_training.environments.webshop.vocabulary import COLOURS, Nouns

_ALIKE = 85
_LATIN_1 = dict.fromkeys(range(128, 256))


@dataclass(frozen=True, slots=True)
class Goal:
    """What a purchase is compared with.

    Attributes:
        asin, title, query, product_category: of the product that the goal was made from.
        attributes: phrases that the bought product must have.
        options: values that must have been chosen, whatever the option is called.
        price_limit: in dollars; None if any price will do.
    """

    asin: str
    title: str
    query: str
    product_category: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    price_limit: float | None


@dataclass(frozen=True, slots=True)
class Score:
    """A reward and what it is made of: the type factor, and how many of `of` demands are met."""

    type: float
    attributes: int
    options: int
    price: bool
    of: int

    @property
    def reward(self) -> float:
        """`type · (attributes + options + price) / of`, from 0 to 1."""
        return self.type * (self.attributes + self.options + self.price) / self.of


def score(goal: Goal, bought: Product, chosen: Iterable[str], price: float, nouns: Nouns) -> Score:
    """Compare a purchase with the goal.

    `chosen` are the values of the options that were chosen, `price` is what was paid. The published code compares
    synthetic option values together with their names by an oversight; here, as in its description, values are compared.
    """
    values = tuple(chosen)
    return Score(
        type=type_factor(goal, bought, nouns),
        attributes=sum(_has_attribute(bought, attribute) for attribute in goal.attributes),
        options=sum(any(same_option(value, wanted) for value in values) for wanted in goal.options),
        price=goal.price_limit is None or price <= goal.price_limit,
        of=len(goal.attributes) + len(goal.options) + 1,
    )


def type_factor(goal: Goal, bought: Product, nouns: Nouns) -> float:
    """1.0, 0.5, 0.1 or 0.0: whether the purchase is the kind of thing that the goal names.

    Overlap is the share of the goal title's nouns, with repetitions, that occur in the bought title; 0.2 if it has
    none. No overlap gives 0.0, less than 0.1 gives 0.1. Else the factor is 1.0 if the search queries are equal, or two
    or more parts of the categories, or the overlap exceeds 0.2; and 0.5 if none of these holds.
    """
    wanted = nouns(goal.title)
    overlap = len(set(wanted) & set(nouns(bought.title))) / len(wanted) if wanted else 0.2
    if overlap < 0.1:
        return 0.1 if overlap else 0.0
    shared = _parts(goal.product_category) & _parts(bought.product_category)
    return 1.0 if goal.query == bought.query or len(shared) >= 2 or overlap > 0.2 else 0.5


def same_option(value: str, wanted: str) -> bool:
    """Whether two values of options count as the same: alike, after colours are reduced to their first known word."""
    return alike(_plain_colour(value), _plain_colour(wanted)) > _ALIKE


def alike(one: str, other: str) -> int:
    """Token-set ratio from 0 to 100, of letters and digits only, as `thefuzz` (0.22) rounds it."""
    clean = (utils.default_process(text.translate(_LATIN_1)) for text in (one, other))
    return round(fuzz.token_set_ratio(*clean))


def _has_attribute(bought: Product, attribute: str) -> bool:
    if any(alike(own, attribute) > _ALIKE for own in bought.attributes):
        return True
    texts = (bought.title, " ".join(bought.features), bought.description)
    return any(attribute in text.lower() for text in texts)


def _plain_colour(value: str) -> str:
    return next((colour for colour in COLOURS if colour in value), value)


def _parts(product_category: str) -> set[str]:
    return {part.strip() for part in product_category.split("›")}
