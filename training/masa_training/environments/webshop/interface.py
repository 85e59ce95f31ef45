"""Interface facts of the web shop, with an example that is played in an invented one."""

from __future__ import annotations

from functools import cache

from masa.facts import ActionForm, Facts
from masa_training.environments.webshop.catalogue import Product, make_catalogue
from masa_training.environments.webshop.pages import BUY, DETAILS, NEXT, PER_PAGE, PREVIOUS, SEARCH
from masa_training.environments.webshop.reward import Goal
from masa_training.environments.webshop.shop import HITS, make_shop
from masa_training.environments.webshop.walkthrough import find_walkthrough

_DETAIL_OF = {"description": "read its description", "features": "read its features", "reviews": "read its reviews"}


@cache
def interface_facts(environment: str) -> Facts:
    """The forms of action and the rules that always hold; numbers and labels come from the engine."""
    return Facts(
        environment=environment,
        actions=(
            ActionForm("search[{words}]", "search the shop", "search[red cotton scarf]"),
            ActionForm("click[{product}]", "open a product of the results by its code", "click[b000000001]"),
            ActionForm("click[{option}]", "on a product's page, choose a value of an option", "click[red]"),
            ActionForm(f"click[{BUY}]", "buy the open product with the chosen options; ends the task"),
            ActionForm(f"click[{NEXT}]", "next page of the results"),
            ActionForm(f"click[{PREVIOUS}]", "one page back"),
            ActionForm(f"click[{SEARCH}]", "back to the search page"),
            *(ActionForm(f"click[{label}]", _DETAIL_OF[label]) for label in DETAILS),
        ),
        rules=(
            f"A search finds at most {HITS} products and shows {PER_PAGE} on a page.",
            "Only what stands in square brackets on the page can be clicked.",
            "Each option takes one value, and choosing another replaces it; leaving the product's page forgets it.",
            "What was not chosen is not bought: choose every option that the task names before buying.",
            "The first purchase ends the task.",
        ),
        examples=(_example(),),
    )


def _example() -> str:
    scarf = _invented("B000000001", "Harbour red cotton scarf", (("color", ("red", "blue")),))
    kettle = _invented("B000000002", "Small steel kettle", ())
    instruction = "Find me a cotton scarf with color: blue, and price lower than 20.00 dollars"
    goal = Goal(scarf.asin, scarf.title, scarf.query, scarf.product_category, ("cotton",), ("blue",), 20.0)
    actions, _ = find_walkthrough(make_shop(make_catalogue((scarf, kettle))), goal, None, instruction, 15)
    return "\n".join((f"Task: {instruction}", *(f"> {action}" for action in actions)))


def _invented(asin: str, title: str, options: tuple[tuple[str, tuple[str, ...]], ...]) -> Product:
    return Product(
        asin=asin,
        title=title,
        description=title,
        features=(),
        department="fashion",
        query=title.split()[-1],
        product_category="",
        prices=(12.0,),
        price_tag="$12.0",
        rating="N.A.",
        options=options,
        attributes=("cotton",),
        instruction=None,
        wanted=(),
    )
