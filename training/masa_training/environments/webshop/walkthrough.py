"""How a goal's own product is found and bought."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from masa_training.environments.webshop.catalogue import Product
from masa_training.environments.webshop.pages import NEXT, PER_PAGE
from masa_training.environments.webshop.queries import offered_queries
from masa_training.environments.webshop.reward import Goal, alike, same_option
from masa_training.environments.webshop.shop import Shop
from masa_training.errors import TrainingError


def find_walkthrough(
    shop: Shop, goal: Goal, named: Mapping[str, str] | None, instruction: str, most: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Actions from the search page to the purchase of the goal's product, and the option values they choose.

    The search is one of `offered_queries` of three words or more, else the product's title, else a shorter offered one;
    of several the one that needs the fewest pages. `named` are the wanted options by name; without names
    each wanted value is chosen where the product has one that counts as the same, the most alike first.

    Raises:
        TrainingError: if the product cannot be found and bought in `most` actions.
    """
    product = shop.catalogue.find(goal.asin)
    if product is None:
        raise TrainingError(f"webshop: no product {goal.asin} in the files; use the files that the task was made from")
    values = tuple(named.values()) if named is not None else _nearest(product, goal.options)
    for _, page, _, query in sorted(_places(shop, product, offered_queries(instruction))):
        pages = (f"click[{NEXT}]",) * page
        found = (f"search[{query}]", *pages, f"click[{goal.asin.lower()}]")
        actions = (*found, *(f"click[{value}]" for value in values), "click[buy now]")
        if len(actions) <= most:
            return actions, values
    raise TrainingError(f"webshop: no search finds {goal.asin} so that it is bought within {most} actions")


def _places(shop: Shop, product: Product, offered: tuple[str, ...]) -> Iterator[tuple[int, int, int, str]]:
    """Searches that find the product: how sensible (0 is best), pages to turn, preference, words."""
    for preference, query in enumerate((*offered, " ".join(product.title.lower().split()))):
        hits = shop.search(query)
        if product.asin in hits:
            kind = 1 if preference == len(offered) else 0 if query.count(" ") >= 2 else 2
            yield kind, hits.index(product.asin) // PER_PAGE, preference, query


def _nearest(product: Product, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """For each wanted value the most alike one of an option that is still free, if it counts as the same."""
    free = dict(product.options)
    chosen = []
    for want in wanted:
        ranked = [
            (value == want, alike(value, want), -order, name, value)
            for order, (name, values) in enumerate(free.items())
            for value in values
            if same_option(value, want)
        ]
        if ranked:
            *_, name, value = max(ranked)
            del free[name]
            chosen.append(value)
    return tuple(chosen)
