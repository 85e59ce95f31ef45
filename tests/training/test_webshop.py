"""The web shop: product files, goals, pages, episodes."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.environments import SPLITS, Task, open_environment
from masa_training.environments.contract import check_environment
from masa_training.environments.webshop import WebShop
from masa_training.environments.webshop.catalogue import Catalogue, read_catalogue
from masa_training.environments.webshop.environment import offered_queries
from masa_training.environments.webshop.goals import TASK_TYPES, make_tasks, price_of, task_type
from masa_training.environments.webshop.pages import open_shop
from masa_training.errors import TrainingError
from tests.training.webshop_files import LAMP, PRODUCTS, write_shop

# Option values: lamp 3 · 2, shampoo 2, sandals 3 · 2 (one size is listed twice), dress 2, phone stand and rice 1.
GOALS = 6 + 2 + 6 + 2 + 1 + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("data") / "webshop")


@pytest.fixture(scope="module")
def catalogue(folder: Path) -> Catalogue:
    return read_catalogue(folder, "1000")


@pytest.fixture
def shop(folder: Path) -> Iterator[WebShop]:
    environment = WebShop(str(folder))
    yield environment
    environment.close()


def every_task(environment: WebShop) -> list[Task]:
    return [task for split in SPLITS for task in environment.tasks(split)]


def task_for(environment: WebShop, asin: str) -> Task:
    return next(task for task in every_task(environment) if task.payload["asin"] == asin)


# Files


def test_files_are_found_by_option_or_by_environment_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_option = every_task(WebShop(str(folder)))
    monkeypatch.setenv("MASA_DATA", str(folder.parent))

    assert every_task(WebShop()) == by_option
    assert len(by_option) == GOALS


def test_missing_files_are_told_with_the_download_that_brings_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASA_DATA", raising=False)

    with pytest.raises(TrainingError, match=r"setup\.sh -d small` .*MASA_DATA"):
        WebShop().tasks("train")
    with pytest.raises(TrainingError, match=r"no items_shuffle\.json in .*setup\.sh -d all`"):
        WebShop(str(tmp_path), products="all").tasks("train")


@pytest.mark.parametrize(
    ("products", "instructions", "told"),
    [
        ([{"asin": "B000000001"}], {}, "product 0 is not of WebShop's form"),
        ([PRODUCTS[0], {**PRODUCTS[1], "pricing": 12}], {}, "product 1 is not of WebShop's form"),
        ({"a": 1}, {}, "holds no list"),
        ([], {}, "no product in it"),
        (None, [], "holds no dict"),
    ],
)
def test_damaged_files_are_told_with_file_and_entry(
    tmp_path: Path, products: object, instructions: object, told: str
) -> None:
    write_shop(tmp_path, products=products, instructions=instructions)

    with pytest.raises(TrainingError, match=told) as error:
        WebShop(str(tmp_path)).tasks("train")
    assert str(tmp_path) in str(error.value)


def test_a_file_cut_in_the_middle_is_told(tmp_path: Path) -> None:
    path = write_shop(tmp_path) / "items_shuffle_1000.json"
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(TrainingError, match=r"not JSON .*download the file again"):
        WebShop(str(tmp_path)).tasks("train")


def test_products_are_read_as_the_published_engine_reads_them(catalogue: Catalogue) -> None:
    lamp, soap, seven = (catalogue.find(asin) for asin in (LAMP, "B0000SOAP1", "B0000SEVEN"))
    assert lamp is not None and soap is not None and seven is not None

    assert lamp.query == "table lamps"
    assert lamp.options[0] == ("color", ("forest green", "sea green", "black"))
    assert soap.options == (("scent", ("rosemary", "lemon | mint")),)  # an option without values is none
    assert (soap.prices, soap.price_tag) == ((8.0, 14.0), "$8.0 to $14.0")
    assert (seven.prices, seven.price_tag) == ((100.0,), "$100.0")


def test_repeated_and_malformed_codes_are_passed_over(tmp_path: Path) -> None:
    first = PRODUCTS[0]
    write_shop(
        tmp_path, products=[first, {**first, "name": "twin"}, {**first, "asin": "nan"}, {**first, "asin": "B" * 11}]
    )

    assert [product.title for product in read_catalogue(tmp_path, "1000").products] == [first["name"]]


@pytest.mark.parametrize(
    "options", [{"goals": "robot"}, {"products": 100}, {"nouns": "nltk"}, {"max_steps": 0}], ids=lambda o: next(iter(o))
)
def test_an_option_with_an_unknown_value_is_an_error(options: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match=next(iter(options))):
        open_environment("webshop", **options)


# Goals


def test_every_combination_of_options_is_a_goal_with_its_own_id(shop: WebShop) -> None:
    tasks = every_task(shop)

    assert len(tasks) == len({task.id for task in tasks}) == GOALS
    assert Counter(task.payload["asin"] for task in tasks)[LAMP] == 6
    assert json.loads(json.dumps([dict(task.payload) for task in tasks])) == [task.payload for task in tasks]


def test_a_goal_says_instruction_options_and_price_limit(shop: WebShop) -> None:
    task = next(task for task in every_task(shop) if task.id == f"{LAMP}-0")

    assert task.payload["price_limit"] in (50.0, 60.0, 70.0)  # of 40 to 70, the larger of two
    assert task.goal == (
        "Find me easy assemble table lamps with brass finish with color: forest green, and size: small"
        f", and price lower than {task.payload['price_limit']:.2f} dollars"
    )


def test_a_price_near_the_end_of_the_scale_has_no_limit(shop: WebShop) -> None:
    phone, dress = task_for(shop, "B0000PHONE"), task_for(shop, "B0000DRESS")

    assert phone.payload["price_limit"] is None
    assert "price" not in phone.goal
    assert dress.payload["price_limit"] == 990.0


def test_prices_and_limits_are_drawn_by_seed(catalogue: Catalogue) -> None:
    soap = catalogue.find("B0000SOAP1")
    assert soap is not None
    prices = {price_of(soap, seed) for seed in range(20)}

    assert len(prices) > 10
    assert all(8.0 <= price <= 14.0 for price in prices)
    assert make_tasks(catalogue, "synthetic", 3) == make_tasks(catalogue, "synthetic", 3)
    assert make_tasks(catalogue, "synthetic", 3) != make_tasks(catalogue, "synthetic", 4)


def test_splits_are_disjoint_keep_equal_goals_together_and_do_not_depend_on_the_seed(catalogue: Catalogue) -> None:
    def splits(seed: int) -> dict[str, str]:
        return {task.id: task.split for task in make_tasks(catalogue, "synthetic", seed)}

    by_wish: dict[str, set[str]] = {}
    for task in make_tasks(catalogue, "synthetic", 0):
        by_wish.setdefault(f"{task.payload['asin']} {task.payload['options']}", set()).add(task.split)
    assert splits(0) == splits(1)
    assert all(len(found) == 1 for found in by_wish.values())
    assert len(by_wish) == GOALS - 2  # the size that the sandals list twice


def test_the_first_tasks_are_of_different_products(catalogue: Catalogue) -> None:
    first = make_tasks(catalogue, "synthetic", 0)[:6]

    assert len({task.payload["asin"] for task in first}) == 6


def test_human_goals_leave_out_instructions_without_attributes(folder: Path) -> None:
    human = every_task(WebShop(str(folder), goals="human"))

    assert {task.id for task in human} == {f"{LAMP}-human-0", "B0000RICE1-human-0"}
    assert next(task for task in human if "LAMP" in task.id).goal.startswith("I need a small brass lamp")


@pytest.mark.parametrize(
    ("asin", "expected"),
    [
        (LAMP, "home_decor"),
        ("B0000BOX01", "electronics"),
        ("B0000SOAP1", "beauty_health"),
        ("B0000SHOE1", "footwear"),
        ("B0000BELT1", "accessories"),
        ("B0000PURSE", "accessories"),
        ("B0000BAG01", "accessories"),
        ("B0000DRESS", "apparel"),
        ("B0000RICE1", "other"),
    ],
)
def test_task_types_follow_department_and_query(catalogue: Catalogue, asin: str, expected: str) -> None:
    product = catalogue.find(asin)
    assert product is not None

    assert task_type(product) == expected
    assert expected in TASK_TYPES


def test_offered_searches_come_from_the_instruction_alone() -> None:
    wish = "Find me long lasting lamps with brass finish with color: red, and size: 2 pack"

    assert offered_queries(f"{wish}, and price lower than 50.00 dollars") == (
        "long lasting lamps brass finish red 2 pack",
        "long lasting lamps brass finish",
        "long lasting lamps",
        "brass finish",
        "red",
        "2 pack",
    )
    assert offered_queries("") == ()


# Episodes


def test_an_episode_from_search_to_purchase(shop: WebShop) -> None:
    task = next(task for task in every_task(shop) if task.id == f"{LAMP}-0")
    start = shop.reset(task, 0)
    assert start.admissible is not None
    assert "search[easy assemble table lamps brass finish]" in start.admissible

    found = shop.step("search[brass desk lamp]")
    assert f"[{LAMP}]" in found.observation
    opened = shop.step(f"Click[{LAMP}]")
    assert opened.admissible == (
        "click[back to search]",
        "click[< prev]",
        "click[description]",
        "click[features]",
        "click[reviews]",
        "click[buy now]",
        "click[forest green]",
        "click[sea green]",
        "click[black]",
        "click[small]",
        "click[x-large]",
    )
    assert "late readers" in shop.step("click[description]").observation
    assert "Comes with a bulb" in [shop.step("click[< prev]"), shop.step("click[features]")][1].observation
    shop.step("click[< prev]")
    assert "Chosen: color: sea green" in shop.step("click[sea green]").observation
    shop.step("click[forest green]")
    chosen = shop.step("click[small]")
    assert "Chosen: color: forest green, size: small" in chosen.observation
    assert (chosen.reward, chosen.done, chosen.success) == (0.0, False, False)
    bought = shop.step("click[Buy Now]")
    assert (bought.reward, bought.done, bought.success, bought.admissible) == (1.0, True, True, ())
    after = shop.step("click[buy now]")
    assert (after.reward, after.done, after.success, after.changed, after.valid) == (1.0, True, True, False, False)


def test_a_purchase_without_the_options_is_a_part_of_success(shop: WebShop) -> None:
    shop.reset(next(task for task in every_task(shop) if task.id == f"{LAMP}-0"), 0)
    for action in ("search[brass desk lamp]", f"click[{LAMP.lower()}]"):
        shop.step(action)
    bought = shop.step("click[buy now]")

    assert bought.reward == pytest.approx(3 / 5)
    assert (bought.done, bought.success) == (True, False)


def test_results_have_ten_to_a_page_and_pages_can_be_turned(shop: WebShop) -> None:
    shop.reset(every_task(shop)[0], 0)
    first = shop.step("search[striped pillow]")
    second = shop.step("click[next >]")

    assert "page 1 of 2, 12 products" in first.observation
    assert [first.observation.count("[B"), second.observation.count("[B")] == [10 + 1, 2 + 1]  # and Back to Search
    assert first.admissible is not None and second.admissible is not None
    assert "click[< prev]" not in first.admissible
    assert "click[next >]" not in second.admissible
    assert shop.step("click[< prev]").observation == first.observation


def test_a_search_without_hits_is_answered(shop: WebShop) -> None:
    shop.reset(every_task(shop)[0], 0)
    empty = shop.step("search[zeppelin]")

    assert "0 products" in empty.observation
    assert (empty.valid, empty.changed, empty.admissible) == (True, True, ("click[back to search]",))


def test_leaving_a_product_forgets_its_options(shop: WebShop) -> None:
    shop.reset(task_for(shop, LAMP), 0)
    for action in ("search[brass desk lamp]", f"click[{LAMP}]", "click[black]", "click[< prev]"):
        shop.step(action)

    assert "Chosen" not in shop.step(f"click[{LAMP}]").observation


@pytest.mark.parametrize(
    "action", ["", "buy it", "search[]", "search[  ]", "click[]", "click[b000000000]", "click[next >]", "look[around]"]
)
def test_an_action_that_is_not_understood_is_answered_and_changes_nothing(shop: WebShop, action: str) -> None:
    shop.reset(every_task(shop)[0], 0)
    before = shop.step("search[lamp]")
    answer = shop.step(action)

    assert (answer.valid, answer.changed, answer.done) == (False, False, False)
    assert answer.observation.endswith(before.observation)
    assert answer.admissible == before.admissible


def test_what_leads_nowhere_new_is_understood_but_changes_nothing(shop: WebShop) -> None:
    shop.reset(task_for(shop, LAMP), 0)
    for actions in (("search[lamp]", " SEARCH[ Lamp ] "), (f"click[{LAMP}]",), ("click[black]", "click[BLACK]")):
        steps = [shop.step(action) for action in actions]
        assert steps[0].changed
        assert all(step.valid and not step.changed for step in steps[1:])


def test_reset_forgets_what_went_before(shop: WebShop) -> None:
    task = task_for(shop, LAMP)
    first = shop.reset(task, 0)
    for action in shop.solution(task, 0):
        shop.step(action)

    assert shop.reset(task, 1) == first


def test_environments_side_by_side_share_the_products_and_no_episode(folder: Path) -> None:
    one, other = WebShop(str(folder)), WebShop(str(folder))
    task = task_for(one, LAMP)
    one.reset(task, 0)
    alone = [one.step(action) for action in one.solution(task, 0)]
    one.reset(task, 0)
    other.reset(task_for(other, "B0000SHOE1"), 0)
    mixed = []
    for action in one.solution(task, 0):
        mixed.append(one.step(action))
        other.step("search[sandals]")

    assert mixed == alone
    assert open_shop(str(folder), "1000") is open_shop(str(folder.parent), "1000")


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    write_shop(tmp_path)
    before = open_shop(str(tmp_path), "1000")
    write_shop(tmp_path, products=PRODUCTS[:3])
    os.utime(tmp_path / "items_shuffle_1000.json", (1, 1))

    assert len(open_shop(str(tmp_path), "1000").catalogue.products) == 3 < len(before.catalogue.products)


def test_the_contract_of_an_environment_is_kept(folder: Path) -> None:
    assert check_environment("webshop", {"data_dir": str(folder)}, episodes=4) == []
    assert check_environment("webshop", {"data_dir": str(folder), "goals": "synthetic", "seed": 3}, episodes=4) == []


def test_a_task_of_other_files_is_refused(shop: WebShop) -> None:
    task = task_for(shop, LAMP)

    with pytest.raises(TrainingError, match="no product B0NONE"):
        shop.reset(Task("x", task.type, task.goal, "train", {**task.payload, "asin": "B0NONE"}), 0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), texts=st.lists(st.text(max_size=20), max_size=3))
def test_no_walk_through_the_shop_raises(catalogue: Catalogue, folder: Path, seed: int, texts: list[str]) -> None:
    shop, chance = WebShop(str(folder)), random.Random(seed)
    step = shop.reset(chance.choice(every_task(shop)), seed)
    actions = [*texts, *(f"search[{text}]" for text in texts), *(f"click[{text}]" for text in texts)]
    for _ in range(shop.max_steps):
        assert step.admissible is not None
        offered = chance.random() < 0.8 and step.admissible
        before, step = step, shop.step(chance.choice(step.admissible) if offered else chance.choice([*actions, "x"]))
        assert 0.0 <= step.reward <= 1.0
        assert step.success is (step.reward == 1.0)
        assert step.valid or not step.changed
        assert step.changed or step.admissible == before.admissible
        assert step.valid or not offered


def test_every_walkthrough_wins_within_the_step_limit(shop: WebShop, folder: Path) -> None:
    for environment in (shop, WebShop(str(folder), nouns="words", seed=5)):
        for task in every_task(environment):
            step = environment.reset(task, 0)
            actions = environment.solution(task, 0)
            assert len(actions) <= environment.max_steps
            for action in actions:
                assert not step.done
                step = environment.step(action)
                assert step.valid and step.changed
            assert step.success, task.id


def test_human_goals_are_solved_where_the_product_has_what_is_asked(folder: Path) -> None:
    shop = WebShop(str(folder), goals="human")
    lamp, rice = task_for(shop, LAMP), task_for(shop, "B0000RICE1")
    shop.reset(lamp, 0)

    assert [shop.step(action).success for action in shop.solution(lamp, 0)][-1] is True
    with pytest.raises(TrainingError, match=r"0\.667, not 1"):
        shop.solution(rice, 0)


def test_a_walkthrough_that_needs_more_steps_than_allowed_is_refused(folder: Path) -> None:
    with pytest.raises(TrainingError, match="within 2 actions"):
        shop = WebShop(str(folder), max_steps=2)
        shop.solution(task_for(shop, LAMP), 0)


def test_facts_are_made_without_files_and_their_example_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASA_DATA", raising=False)
    facts = WebShop().facts()

    forms = {action.form for action in facts.actions}
    assert {"search[{words}]", "click[{option}]", "click[buy now]", "click[< prev]", "click[next >]"} <= forms
    assert facts.environment == "webshop"
    assert facts.examples[0].splitlines()[-1] == "> click[buy now]"


# The published files


def test_the_published_products_give_6910_synthetic_goals_over_415_products(shared_data: Path) -> None:
    tasks = every_task(WebShop(str(shared_data)))

    assert len(tasks) == len({task.id for task in tasks}) == 6910
    assert len({task.payload["asin"] for task in tasks}) == 415
    assert {task.type for task in tasks} == set(TASK_TYPES)
    assert len(every_task(WebShop(str(shared_data), goals="human"))) == 13


def test_task_types_are_those_of_the_published_bank(shared_data: Path) -> None:
    bank = json.loads((shared_data / "skillrl" / "webshop.json").read_text(encoding="utf-8"))

    assert set(bank["task_specific_skills"]) == set(TASK_TYPES)


def test_walkthroughs_of_published_goals_win(shared_data: Path) -> None:
    shop = WebShop(str(shared_data))
    people = WebShop(str(shared_data), goals="human")
    for environment, tasks in ((shop, every_task(shop)[::230]), (people, every_task(people))):
        for task in tasks:
            step = environment.reset(task, 0)
            for action in environment.solution(task, 0):
                step = environment.step(action)
            assert step.success, task.id
