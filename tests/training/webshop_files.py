"""A small invented shop in the files of the official WebShop download."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LAMP = "B0000LAMP1"
_BEAUTY = "Beauty & Personal Care › Hair Care"
_HOME = "Home & Kitchen › Furniture"
_CLOTHES = "Clothing, Shoes & Jewelry › Women › Clothing"

PRODUCTS: list[dict[str, Any]] = []
INSTRUCTIONS: dict[str, dict[str, Any]] = {}
HUMAN: dict[str, list[dict[str, Any]]] = {}


def _add(
    asin: str,
    name: str,
    place: tuple[str, str, str],
    *,
    pricing: str | None = "$35.00",
    options: Mapping[str, Sequence[str] | None] | None = None,
    attributes: Sequence[str] = (),
    instruction: tuple[str, Sequence[str]] | None = None,
    description: str = "",
    features: Sequence[str] = (),
) -> None:
    """`place` is department, query and category; `instruction` a wish and the attributes it names."""
    PRODUCTS.append(
        {
            "asin": asin,
            "name": name,
            "category": place[0],
            "query": place[1],
            "product_category": place[2],
            "full_description": description,
            "small_description": list(features) or "",
            "pricing": pricing,
            "images": [""],
            "average_rating": "",
            "customization_options": ""
            if options is None
            else {
                key: values and [{"value": value, "image": None} for value in values] for key, values in options.items()
            },
        }
    )
    INSTRUCTIONS[asin] = {"attributes": list(attributes)}
    if instruction:
        INSTRUCTIONS[asin] |= {"instruction": instruction[0], "instruction_attributes": list(instruction[1])}


_add(
    LAMP,
    "Brass Desk Lamp with Green Shade",
    ("garden", "Table Lamps ", f"{_HOME} › Lamps"),
    options={"Color": ["Forest Green", "Sea Green", "Black"], "Size": ["Small", "X-Large"]},
    attributes=["easy assemble", "brass finish", "living room"],
    instruction=("Find me easy assemble table lamps with brass finish", ["easy assemble", "brass finish"]),
    description="A lamp for late readers.",
    features=["Warm light", "Comes with a bulb"],
)
_add(
    "B0000LAMP2",
    "Copper Bedside Lamp",
    ("garden", "table lamps", "Tools › Lighting"),
    attributes=["easy assembly"],
    features=["Ships in two", "parts"],
)
_add("B0000DESK1", "Oak Writing Desk", ("garden", "desks", f"{_HOME} › Desks"), attributes=["solid wood"])
_add(
    "B0000SAIL1",
    "Garden Shade Sail",
    ("garden", "sails", "Outdoor › Shade"),
    description="With a Brass Finish at the rings.",
)
_add("B0000BOX01", "Green Desk Organizer", ("electronics", "boxes", "Office"), pricing="$12.5")
_add(
    "B0000ROPE1",
    "Hemp Rope",
    ("garden", "table lamps", "Tools › Lighting"),
    attributes=["easy assemble", "brass finish"],
)
_add(
    "B0000SOAP1",
    "Rosemary Shampoo Bar Vegan Handmade Natural Argan Coconut Oat Milk Soap Travel Tin Gift",
    ("beauty", "shampoo", _BEAUTY),
    pricing="$8.00$14.00",
    options={"Scent": ["Rosemary", "Lemon / Mint"], "Color": None},
    attributes=["sulfate free", "dry hair"],
    instruction=("Find me sulfate free shampoo for dry hair", ["sulfate free", "dry hair"]),
)
_add("B0000SOAP2", "Castile Wash Gift", ("beauty", "shampoo", _BEAUTY), attributes=["sulfate free"], pricing="")
_add("B0000SEVEN", "24 7", ("beauty", "perfume", "Fragrance"), attributes=["long lasting"], pricing=None)
_add(
    "B0000SHOE1",
    "Canvas Walking Sandals",
    ("fashion", "women's sandals", "Clothing, Shoes & Jewelry › Women › Shoes"),
    options={"Size": ["6", "7", "7"], "Color": ["tan", "tangerine"]},
    attributes=["rubber sole"],
    instruction=("Find me women's sandals with rubber sole", ["rubber sole"]),
)
_add("B0000BELT1", "Woven Waist Belt", ("fashion", "women's belts", f"{_CLOTHES} › Belts"))
_add("B0000PURSE", "Felt Coin Purse", ("fashion", "women's socks & hosiery", "Clothing › Women › Accessories"))
_add(
    "B0000DRESS",
    "Linen Summer Dress",
    ("fashion", "women's dresses", f"{_CLOTHES} › Dresses"),
    pricing="$975.00",
    options={"Size": ["Small", "Medium"]},
    attributes=["hand wash"],
    instruction=("Find me hand wash women's dresses", ["hand wash"]),
)
_add(
    "B0000PHONE",
    "Folding Phone Stand",
    ("electronics", "mounts", "Cell Phones › Stands"),
    pricing="$985.00",
    attributes=["quick release"],
    instruction=("Find me quick release mounts", ["quick release"]),
)
_add(
    "B0000RICE1",
    "Puffed Rice Squares",
    ("grocery", "puffed snacks", "Grocery › Snacks"),
    attributes=["gluten free"],
    instruction=("Find me gluten free puffed snacks", ["gluten free"]),
)
_add("B0000BAG01", "Travel Wash Bag", ("beauty", "bags & cases", "Beauty › Bags"))
for _number in range(12):
    _add(
        f"B00PILLOW{_number % 10}"[:9] + "abcdefghijkl"[_number],
        f"Striped Pillow Number {_number}",
        ("garden", "decorative pillows", f"{_HOME} › Pillows"),
        options={"Size": ["Small", "Large"]},
    )

HUMAN[LAMP] = [
    {
        "asin": LAMP,
        "instruction": "I need a small brass lamp in a dark green for my desk.",
        "instruction_attributes": ["brass finish"],
        "instruction_options": ["green", "small"],
    },
    {"asin": LAMP, "instruction": "any lamp", "instruction_attributes": [], "instruction_options": []},
]
HUMAN["B0000RICE1"] = [
    {
        "asin": "B0000RICE1",
        "instruction": "rice squares with chili",
        "instruction_attributes": ["gluten free"],
        "instruction_options": ["chili"],
    }
]
HUMAN["B0000OTHER"] = [
    {"asin": "B0000OTHER", "instruction": "x", "instruction_attributes": ["y"], "instruction_options": []}
]


def write_shop(folder: Path, *, products: object = None, instructions: object = None) -> Path:
    """Write the files of the small set, by default those of the invented shop."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (
        ("items_shuffle_1000.json", PRODUCTS if products is None else products),
        ("items_ins_v2_1000.json", INSTRUCTIONS if instructions is None else instructions),
        ("items_human_ins.json", HUMAN),
    ):
        (folder / name).write_text(json.dumps(data), encoding="utf-8")
    return folder
