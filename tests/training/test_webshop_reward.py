"""WebShop's published reward: hand-computed purchases, fuzzy matching, colours, nouns."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.environments.webshop import vocabulary as nouns_module
from masa_training.environments.webshop.catalogue import Catalogue, Product, read_catalogue
from masa_training.environments.webshop.reward import Goal, alike, same_option, score, type_factor
from masa_training.environments.webshop.vocabulary import noun_tagger
from masa_training.errors import TrainingError
from tests.training.webshop_files import LAMP, write_shop

NOUNS = noun_tagger("words")
SOAP = "B0000SOAP1"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return read_catalogue(write_shop(tmp_path_factory.mktemp("shop")), "1000")


@cache
def published(folder: Path) -> Catalogue:
    return read_catalogue(folder, "1000")


def product(catalogue: Catalogue, asin: str) -> Product:
    found = catalogue.find(asin)
    assert found is not None
    return found


def goal_for(wanted: Product, options: tuple[str, ...] = (), limit: float | None = 40.0) -> Goal:
    return Goal(wanted.asin, wanted.title, wanted.query, wanted.product_category, wanted.wanted, options, limit)


# Goals: the lamp (two attributes, nouns brass desk lamp green shade) and the soap (two attributes, 14 nouns).
PURCHASES = [
    # goal, wanted options, limit, bought, chosen, price, reward
    (LAMP, ("forest green", "small"), 40, LAMP, ("forest green", "small"), 35, (2 + 2 + 1) / 5),
    (LAMP, ("forest green", "small"), 40, LAMP, (), 35, (2 + 0 + 1) / 5),
    (LAMP, ("forest green", "small"), 40, LAMP, ("sea green", "small"), 35, 1.0),  # both colours are green
    (LAMP, ("forest green", "small"), 40, LAMP, ("black", "small"), 35, (2 + 1 + 1) / 5),
    (LAMP, ("forest green", "small"), 30, LAMP, ("forest green", "small"), 35, (2 + 2 + 0) / 5),
    (LAMP, (), 35, LAMP, ("black",), 35, 1.0),  # the limit itself is allowed, more options than wanted do no harm
    (LAMP, ("small",), None, LAMP, ("x-large",), 9999, (2 + 0 + 1) / 4),
    # Same query; overlap 1/5 is not above 0.2; assembly is like assemble.
    (LAMP, (), 40, "B0000LAMP2", (), 35, (1 + 0 + 1) / 3),
    # Two parts of the category are the same.
    (LAMP, (), 40, "B0000DESK1", (), 35, (0 + 0 + 1) / 3),
    # Overlap 1/5 and nothing else: 0.5; an attribute stands in the description.
    (LAMP, (), 40, "B0000SAIL1", (), 35, 0.5 * (1 + 0 + 1) / 3),
    # Overlap 2/5.
    (LAMP, (), 40, "B0000BOX01", (), 12.5, (0 + 0 + 1) / 3),
    # No overlap, though query and attributes are the same.
    (LAMP, (), 40, "B0000ROPE1", (), 35, 0.0),
    # Overlap 1/14 is below 0.1, though query and category are the same.
    (SOAP, ("rosemary",), 20, "B0000SOAP2", (), 100, 0.1 * (1 + 0 + 0) / 4),
    (SOAP, ("rosemary",), 20, SOAP, ("lemon | mint",), 8, (2 + 0 + 1) / 4),
    (SOAP, ("rosemary",), 20, SOAP, ("rosemary",), 8, 1.0),
]


@pytest.mark.parametrize(
    ("wanted", "options", "limit", "bought", "chosen", "price", "expected"),
    PURCHASES,
)
def test_reward_of_a_purchase_is_the_published_formula(
    shop: Catalogue,
    wanted: str,
    options: tuple[str, ...],
    limit: float | None,
    bought: str,
    chosen: tuple[str, ...],
    price: float,
    expected: float,
) -> None:
    goal = goal_for(product(shop, wanted), options, limit)

    assert score(goal, product(shop, bought), chosen, price, NOUNS).reward == pytest.approx(expected, abs=1e-12)


# Codes and counts of real products; options as (option, value) by position in the file.
REAL_PURCHASES = [
    # goal, wanted, limit, bought, chosen, price, type, attributes, options, price, of
    ("B004TSFEBY", ((0, 0),), 20.0, "B004TSFEBY", ((0, 0),), 13.05, 1.0, 3, 1, True, 5),
    ("B004TSFEBY", ((0, 0),), 20.0, "B004TSFEBY", ((0, 1),), 13.05, 1.0, 3, 0, True, 5),
    ("B004TSFEBY", (), 20.0, "B071S7GPMS", (), 100.0, 0.0, 0, 0, False, 4),
    ("B004TSFEBY", (), 20.0, "B08N16XC83", (), 15.61, 0.1, 0, 0, True, 4),  # 1 of 12 nouns
    ("B004TSFEBY", (), 20.0, "B005F2EVMQ", (), 12.35, 0.5, 0, 0, True, 4),  # 2 of 12 nouns, one part of the category
    ("B07GH3J1Z1", (), 10.0, "B07W92ZTVW", (), 17.24, 0.5, 1, 0, False, 3),  # 2 of 16 nouns
    ("B07GH3J1Z1", (), 250.0, "B00LT8T9F4", (), 100.0, 0.0, 0, 0, True, 3),  # same query, no noun shared
    ("B08KYBVQ46", (), None, "B07R54PMHD", (), 99.0, 1.0, 0, 0, True, 3),  # two parts of the category
    ("B08KYBVQ46", (), 20.0, "B07DKGJR74", (), 25.0, 1.0, 1, 0, False, 3),  # one attribute in the text only
    ("B08KYBVQ46", ((0, 1),), 40.0, "B085S5P7WB", ((0, 0),), 2.0, 1.0, 1, 1, True, 4),  # small is like x-small
    ("B087Y28XLM", ((0, 0), (1, 0)), 40.0, "B004VMVLLU", ((0, 1), (1, 2)), 39.94, 1.0, 0, 1, True, 6),
    ("B07WMMYB6G", (), 20.0, "B09ND9DP7J", (), 43.59, 0.1, 1, 0, False, 4),  # 1 of 14 nouns
    ("B07WMMYB6G", ((0, 0),), 20.0, "B09QSQ8RT9", ((0, 1),), 12.95, 0.1, 1, 0, True, 5),  # the same query does not help
    ("B07WMMYB6G", ((0, 0),), 20.0, "B07WMMYB6G", ((0, 1),), 17.98, 1.0, 3, 1, True, 5),  # the same first colour
    ("B01GEVN2HG", (), 20.0, "B09BVYK2WL", (), 21.99, 0.0, 1, 0, False, 3),
    ("B09HPMWHM4", (), 20.0, "B092CKF9YF", (), 205.99, 0.0, 0, 0, False, 3),
]


@pytest.mark.parametrize("purchase", REAL_PURCHASES, ids=lambda purchase: f"{purchase[0]}-{purchase[3]}")
def test_reward_of_real_purchases_is_the_published_formula(shared_data: Path, purchase: tuple[object, ...]) -> None:
    asin, wanted, limit, bought_asin, chosen, price, factor, attributes, options, in_limit, of = purchase
    catalogue = published(shared_data / "webshop")
    target, bought = product(catalogue, str(asin)), product(catalogue, str(bought_asin))

    def values(of_product: Product, positions: object) -> tuple[str, ...]:
        assert isinstance(positions, tuple)
        return tuple(of_product.options[option][1][value] for option, value in positions)

    assert limit is None or isinstance(limit, float)
    assert isinstance(price, float)
    goal = goal_for(target, values(target, wanted), limit)
    found = score(goal, bought, values(bought, chosen), price, NOUNS)

    assert (found.type, found.attributes, found.options, found.price, found.of) == (
        factor,
        attributes,
        options,
        in_limit,
        of,
    )
    assert isinstance(factor, float)
    assert found.reward == pytest.approx(factor * (found.attributes + found.options + found.price) / found.of)


@pytest.mark.parametrize(
    ("title", "same_query", "factor"),
    [
        ("24 7", True, 1.0),
        ("24 7", False, 0.5),
        ("Mug of Tea Tea Tea Tea", False, 0.5),
        ("Mug of Tea Tea Tea", False, 1.0),
    ],
)
def test_overlap_counts_repeated_nouns_and_is_a_fifth_without_any(
    shop: Catalogue, title: str, same_query: bool, factor: float
) -> None:
    bought = replace(product(shop, LAMP), title="Enamel Mug", query="mugs", product_category="Kitchen")
    goal = replace(goal_for(bought), title=title, query="mugs" if same_query else "tea", product_category="Food")

    assert type_factor(goal, bought, NOUNS) == factor


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sea green", "army green", True),
        ("light blue", "blue", True),  # blue is tried before light
        ("light blue", "light", False),
        ("tangerine", "tan", True),  # contains tan, as the published code has it
        ("2 pack", "pack of 2", True),
        ("large", "x-large", True),  # a subset of the words is fully alike
        ("small", "medium", False),
        ("+", "+", False),  # nothing is left to compare
        ("60x40x40cm", "60X40X40CM ", True),
    ],
)
def test_options_are_compared_after_colours_are_reduced(one: str, other: str, same: bool) -> None:
    assert same_option(one, other) is same


def test_likeness_is_rounded_as_thefuzz_rounds_it() -> None:
    # Common prefix of 5 letters, lengths 5 and 6: 200 · 5 / 11 = 90.9; Latin-1 letters above ASCII are dropped.
    assert alike("abcde", "abcdef") == 91
    assert alike("café", "caf") == 100
    assert alike("", "") == 0


def test_attributes_are_found_in_one_text_but_not_across_texts(shop: Catalogue) -> None:
    lamp = replace(product(shop, LAMP), title="end", features=("of the", "story"), description="begins", attributes=())
    goal = replace(goal_for(lamp), title="end", options=())

    assert score(replace(goal, attributes=("the story",)), lamp, (), 1.0, NOUNS).attributes == 1
    assert score(replace(goal, attributes=("end of",)), lamp, (), 1.0, NOUNS).attributes == 0


WORDS = st.text(alphabet="abcde é-|/", max_size=12)


@given(
    title=WORDS,
    bought_title=WORDS,
    wanted=st.lists(WORDS, max_size=3),
    chosen=st.lists(WORDS, max_size=3),
    attributes=st.lists(WORDS, max_size=3),
    limit=st.none() | st.floats(0, 100),
    price=st.floats(0, 100),
)
@settings(max_examples=50, deadline=None)
def test_reward_is_between_0_and_1_whatever_is_bought(
    title: str,
    bought_title: str,
    wanted: list[str],
    chosen: list[str],
    attributes: list[str],
    limit: float | None,
    price: float,
) -> None:
    bought = Product(
        "B", bought_title, "", (), "beauty", "q", "a › b", (price,), "", "", (), tuple(attributes), None, ()
    )
    goal = Goal("A", title, "q", "a", tuple(attributes), tuple(wanted), limit)

    assert 0.0 <= score(goal, bought, chosen, price, NOUNS).reward <= 1.0


def test_nouns_are_words_without_function_words_and_numbers() -> None:
    assert NOUNS("The 2-Piece Women's Set for 4K and USB3") == ("piece", "women", "set", "usb3")


def test_spacy_tags_nouns_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, fresh_spacy: None) -> None:
    def load(name: str, disable: list[str]) -> object:
        assert name == "en_core_web_sm"
        return lambda title: [
            SimpleNamespace(text=word, pos_="ADJ" if word == "Brass" else "PROPN") for word in title.split()
        ]

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))

    assert noun_tagger("spacy")("Brass Desk Lamp") == ("desk", "lamp")


def test_missing_spacy_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch, fresh_spacy: None) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)

    with pytest.raises(TrainingError, match="en_core_web_sm"):
        noun_tagger("spacy")


@pytest.fixture
def fresh_spacy() -> Iterator[None]:
    nouns_module._spacy_nouns.cache_clear()
    yield
    nouns_module._spacy_nouns.cache_clear()
