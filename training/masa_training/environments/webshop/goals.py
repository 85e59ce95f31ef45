"""Goals: what agents are told to buy, made from a catalogue as the published engine makes them."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product as combinations
from typing import Literal, get_args

from masa_training.environments.protocol import Split, Task
from masa_training.environments.webshop.catalogue import Catalogue, Product
from masa_training.environments.webshop.vocabulary import ACCESSORIES, FOOTWEAR

Kind = Literal["synthetic", "human"]
KINDS: tuple[Kind, ...] = get_args(Kind)

TASK_TYPES = ("apparel", "footwear", "home_decor", "electronics", "accessories", "beauty_health", "other")
"""As SkillRL's skill bank for WebShop names them."""

_LIMITS = tuple(10.0 * step for step in range(1, 100))
_NEAREST = 4
_TEST_SHARE, _VAL_SHARE = 0.1, 0.15

_TYPE_OF_DEPARTMENT = {
    "fashion": "apparel",
    "garden": "home_decor",
    "electronics": "electronics",
    "beauty": "beauty_health",
}
_ACCESSORY_PARTS = frozenset({"Accessories", "Jewelry", "Watches"})
_CARRIED = ("bags & cases", "hair accessories")


def price_of(product: Product, seed: int) -> float:
    """What the product costs: its price, or one drawn from its range, the same for the same seed."""
    if len(product.prices) == 1:
        return product.prices[0]
    return round(_draw(seed, "price", product.asin).uniform(*product.prices), 2)


def make_tasks(catalogue: Catalogue, kind: Kind, seed: int) -> tuple[Task, ...]:
    """Every goal of the catalogue as a task, in a fixed order.

    `synthetic`: for each product with an instruction one goal for every combination of its options' values, with a
    price limit drawn once for the product: of the next four multiples of 10 dollars above its price (up to 990) two are
    drawn and the larger is taken; where fewer than two are left there is no limit. Values that a product lists twice
    give the same goal twice, as published. `human`: one goal for every instruction of a person that names attributes,
    with a limit drawn for the instruction.

    The split depends on a hash of the wish alone (product, attributes and options; 10 % test, 15 % val, the rest
    train), neither on `seed` nor on what else the catalogue holds, so that equal goals fall into the same split. The
    order takes the first goal of each product, then the second, and so on, products by hash: the first n tasks are
    spread over as many products as there are.
    """
    goals = _synthetic(catalogue, seed) if kind == "synthetic" else _human(catalogue, seed)
    return tuple(task for _, _, task in sorted(_ranked(goals), key=lambda entry: entry[:2]))


def task_type(product: Product) -> str:
    """One of `TASK_TYPES`, by the first rule that applies.

    1. A fashion product whose query names footwear: footwear.
    2. A product whose query names something worn with clothes or carried ("bags & cases" and "hair accessories"
       too), or a fashion product with `Accessories`, `Jewelry` or `Watches` among the parts of its category:
       accessories.
    3. By department: fashion is apparel, garden home_decor, electronics electronics, beauty beauty_health.
    4. other: groceries above all.
    """
    words = set(re.findall(r"[a-z]+", product.query))
    if product.department == "fashion" and words & FOOTWEAR:
        return "footwear"
    parts = {part.strip() for part in product.product_category.split("›")} if product.department == "fashion" else set()
    if words & ACCESSORIES or product.query in _CARRIED or parts & _ACCESSORY_PARTS:
        return "accessories"
    return _TYPE_OF_DEPARTMENT.get(product.department, "other")


def _synthetic(catalogue: Catalogue, seed: int) -> Iterator[tuple[Product, str, Task]]:
    for product in catalogue.products:
        if not product.instruction:
            continue
        limit = _price_limit(product, seed, "synthetic", product.asin)
        options = sorted(product.options)
        for number, values in enumerate(combinations(*(values for _, values in options))):
            chosen = {name: value for (name, _), value in zip(options, values, strict=True)}
            told = ", and ".join(f"{name}: {value}" for name, value in chosen.items())
            text = product.instruction + (f" with {told}" if told else "")
            yield product, *_task(f"{product.asin}-{number}", text, product, product.wanted, chosen, limit)


def _human(catalogue: Catalogue, seed: int) -> Iterator[tuple[Product, str, Task]]:
    numbers: dict[str, int] = {}
    for entry in catalogue.human:
        product = catalogue.find(entry.asin)
        if product is None or not entry.attributes:
            continue
        number = numbers[entry.asin] = numbers.get(entry.asin, -1) + 1
        name = f"{entry.asin}-human-{number}"
        limit = _price_limit(product, seed, "human", name)
        yield product, *_task(name, entry.text.strip("."), product, entry.attributes, list(entry.options), limit)


def _task(
    name: str,
    text: str,
    product: Product,
    attributes: Sequence[str],
    options: dict[str, str] | list[str],
    limit: float | None,
) -> tuple[str, Task]:
    values = sorted(options.values() if isinstance(options, dict) else options)
    wish = "\n".join((product.asin, text if isinstance(options, list) else "", *sorted(attributes), "", *values))
    goal = text if limit is None else f"{text}, and price lower than {limit:.2f} dollars"
    payload = {"asin": product.asin, "attributes": list(attributes), "options": options, "price_limit": limit}
    return wish, Task(name, task_type(product), goal, _split(wish), payload)


def _ranked(goals: Iterable[tuple[Product, str, Task]]) -> Iterator[tuple[int, tuple[float, str], Task]]:
    by_product: dict[str, list[tuple[float, str, Task]]] = {}
    for product, wish, task in goals:
        by_product.setdefault(product.asin, []).append((_share(wish), task.id, task))
    for asin, entries in by_product.items():
        for rank, (_, _, task) in enumerate(sorted(entries, key=lambda entry: entry[:2])):
            yield rank, (_share(asin), task.id), task


def _split(wish: str) -> Split:
    share = _share(f"split\n{wish}")
    if share < _TEST_SHARE:
        return "test"
    return "val" if share < _TEST_SHARE + _VAL_SHARE else "train"


def _share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _price_limit(product: Product, seed: int, *names: str) -> float | None:
    price = price_of(product, seed)
    above = [limit for limit in _LIMITS if limit > price][:_NEAREST]
    return max(_draw(seed, "limit", *names).sample(above, 2)) if len(above) >= 2 else None


def _draw(seed: int, *names: str) -> random.Random:
    # Seeding with text is by SHA-512: the same on every machine and in every process.
    return random.Random("\n".join((str(seed), *names)))
