"""WebShop's products and instructions, read from the files of the official download (Yao et al., 2022)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from masa.files import parse_json
from masa_training.dataset.config import DATA_VARIABLE
from masa_training.errors import TrainingError

Size = Literal["1000", "all"]
SIZES: tuple[Size, ...] = get_args(Size)

UNKNOWN_PRICE = 100.0
"""What the published engine charges for a product without a price."""

_FILES: Mapping[Size, tuple[str, str]] = {
    "1000": ("items_shuffle_1000.json", "items_ins_v2_1000.json"),
    "all": ("items_shuffle.json", "items_ins_v2.json"),
}
_HUMAN = "items_human_ins.json"
_LONGEST_ASIN = 10


@dataclass(frozen=True, slots=True)
class Product:
    """One product as the shop shows it.

    Attributes:
        asin: its code, upper case.
        department: one of the shop's five (`category` in the files).
        query: the search that once found it, lower case; the published reward compares it.
        product_category: its place among Amazon's categories, broad to narrow, separated by `›`.
        prices: one price in dollars, or the lowest and the highest.
        price_tag: the price as pages show it.
        options: name → values, both lower case, in the order of the files.
        attributes: short phrases that WebShop's authors mined from its text.
        instruction: the wish that a synthetic goal starts with; None if it is no goal.
        wanted: which of the attributes the instruction asks for.
    """

    asin: str
    title: str
    description: str
    features: tuple[str, ...]
    department: str
    query: str
    product_category: str
    prices: tuple[float, ...]
    price_tag: str
    rating: str
    options: tuple[tuple[str, tuple[str, ...]], ...]
    attributes: tuple[str, ...]
    instruction: str | None
    wanted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HumanInstruction:
    """What a person asked for when shown a product: the wish, and which attributes and option values it names."""

    asin: str
    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """All products in the order of their file, and people's instructions for them. Nothing in it can be changed."""

    products: tuple[Product, ...]
    human: tuple[HumanInstruction, ...]
    positions: Mapping[str, int]

    def find(self, asin: str) -> Product | None:
        """The product with this code, or None."""
        position = self.positions.get(asin)
        return None if position is None else self.products[position]


def make_catalogue(products: Sequence[Product], human: Sequence[HumanInstruction] = ()) -> Catalogue:
    """A catalogue of these products; instructions for other products are left out."""
    positions = {product.asin: position for position, product in enumerate(products)}
    known = tuple(instruction for instruction in human if instruction.asin in positions)
    return Catalogue(tuple(products), known, MappingProxyType(positions))


def find_folder(data_dir: str | os.PathLike[str] | None, size: Size) -> Path:
    """The folder with WebShop's product files: `data_dir` or `$MASA_DATA`, or its `webshop` or `data` inside.

    Raises:
        TrainingError: if there is none; the message says what to download.
    """
    given = data_dir or os.environ.get(DATA_VARIABLE)
    wanted = _FILES[size][0]
    if given:
        for folder in (Path(given) / "webshop", Path(given), Path(given) / "data"):
            if (folder / wanted).is_file():
                return folder
    where = f"no {wanted} in {given} or its folders webshop and data" if given else "no folder of data was named"
    option = "small" if size == "1000" else "all"
    raise TrainingError(
        f"webshop: {where}; run `./setup.sh -d {option}` of github.com/princeton-nlp/WebShop and name its folder by "
        f"--data-dir, or set {DATA_VARIABLE} to a folder that holds webshop/{wanted}"
    )


def read_catalogue(folder: Path, size: Size) -> Catalogue:
    """Read the product files of a folder, as the published engine does.

    Products whose code is missing, longer than ten characters or a repetition are passed over.

    Raises:
        TrainingError: if a file is missing, damaged or not of the official form.
    """
    products_file, instructions_file = (folder / name for name in _FILES[size])
    instructions = _read(instructions_file, dict)
    entries: dict[str, Product] = {}
    for index, raw in enumerate(_read(products_file, list)):
        with _explain(products_file, f"product {index}"):
            asin = raw["asin"].upper()
            if asin == "NAN" or len(asin) > _LONGEST_ASIN or asin in entries:
                continue
            entries[asin] = _product(asin, raw, instructions.get(raw["asin"]) or {})
    if not entries:
        raise TrainingError(f"{products_file}: no product in it; download the file again")
    human = folder / _HUMAN
    return make_catalogue(tuple(entries.values()), tuple(_human(human)) if human.is_file() else ())


def _product(asin: str, raw: Mapping[str, Any], instruction: Mapping[str, Any]) -> Product:
    prices, tag = _prices(raw.get("pricing"))
    features = raw["small_description"]
    return Product(
        asin=asin,
        title=raw["name"],
        description=raw["full_description"] or "",
        features=tuple(features) if isinstance(features, list) else (features or "",),
        department=raw["category"],
        query=raw["query"].lower().strip(),
        product_category=raw["product_category"],
        prices=prices,
        price_tag=tag,
        rating=str(raw.get("average_rating") or "N.A."),
        options=tuple(
            {
                name.lower(): tuple(_value(content["value"]) for content in contents)
                for name, contents in (raw.get("customization_options") or {}).items()
                if contents is not None
            }.items()
        ),
        attributes=tuple(instruction.get("attributes") or ()),
        instruction=instruction.get("instruction"),
        wanted=tuple(instruction.get("instruction_attributes") or ()),
    )


def _value(text: str) -> str:
    # White space is made plain, so that what a page shows can be typed.
    return " ".join(text.replace("/", " | ").lower().split())


def _prices(text: str | None) -> tuple[tuple[float, ...], str]:
    amounts = [float(re.sub(r"[^\d.]", "", part)) for part in (text or "").split("$")[1:]]
    if not amounts:
        return (UNKNOWN_PRICE,), f"${UNKNOWN_PRICE}"
    if len(amounts) == 1:
        return (amounts[0],), f"${amounts[0]}"
    return (amounts[0], amounts[1]), f"${amounts[0]} to ${amounts[1]}"


def _human(path: Path) -> Iterator[HumanInstruction]:
    for asin, entries in _read(path, dict).items():
        with _explain(path, f"the instructions of {asin}"):
            for entry in entries:
                yield HumanInstruction(
                    asin=asin.upper(),
                    text=entry["instruction"],
                    attributes=tuple(entry["instruction_attributes"]),
                    options=tuple(_value(option) for option in entry["instruction_options"]),
                )


def _read(path: Path, kind: type) -> Any:
    try:
        data = parse_json(path.read_bytes())
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be read ({error.strerror}); complete the official WebShop download"
        ) from error
    except ValueError as error:
        raise TrainingError(f"{path}: not JSON ({error}); download the file again") from error
    if not isinstance(data, kind):
        raise TrainingError(f"{path}: holds no {kind.__name__} of WebShop's form; download the file again")
    return data


@contextmanager
def _explain(path: Path, entry: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TrainingError(
            f"{path}: {entry} is not of WebShop's form ({type(error).__name__}: {error}); download the file again"
        ) from error
