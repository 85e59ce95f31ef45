"""WebShop's text environment (Yao et al., 2022): find, customize and buy the product that an instruction describes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from bm25s.stopwords import STOPWORDS_EN  # type: ignore[import-untyped]

from masa.facts import ActionForm, Facts
from masa_training.environments.protocol import Split, Step, Task
from masa_training.environments.webshop.catalogue import SIZES, Product, Size, make_catalogue
from masa_training.environments.webshop.goals import KINDS, TASK_TYPES, Kind, make_tasks, price_of
from masa_training.environments.webshop.pages import (
    BUY,
    DETAILS,
    HITS,
    NEXT,
    PER_PAGE,
    PREVIOUS,
    SEARCH,
    Page,
    Shop,
    links,
    make_shop,
    open_shop,
    render,
    results,
)
from masa_training.environments.webshop.reward import Goal, alike, same_option, score
from masa_training.environments.webshop.vocabulary import ASKING_WORDS, TAGGERS, Tagger, noun_tagger
from masa_training.errors import TrainingError

_Choice = TypeVar("_Choice", bound=str)

_ACTION = re.compile(r"\s*(search|click)\s*\[(.*)\]\s*", re.IGNORECASE | re.DOTALL)


@dataclass(slots=True)
class _Episode:
    goal: Goal
    queries: tuple[str, ...]
    page: Page
    links: Mapping[str, Callable[[], Page]]
    reward: float = 0.0

    @property
    def bought(self) -> bool:
        return self.page.kind == "bought"


class WebShop:
    """One episode at a time over WebShop's products.

    The reward is 0 until something is bought; then it is the published one, and success is a reward of exactly 1.
    An episode has no chance in it: `reset` ignores its seed. Actions are read without regard to case; `search[…]` is
    understood on every page, as in the published environment, and offered on the search page only.

    Args:
        data_dir: the folder of the official download, or a folder with it in `webshop` or `data`; else `$MASA_DATA`.
        goals: "synthetic" instructions, or the "human" ones.
        products: "1000", the small set, or "all", which takes the memory of 1.2 million products.
        seed: draws prices from their ranges and price limits; other seeds give other tasks with the same ids.
        nouns: how the type reward finds nouns; see `noun_tagger`.
        max_steps: actions after which an episode ends; 15 is what WebShop's users report.
        shop: instead of the files, for tests and shops of one's own.

    Raises:
        TrainingError: for an option with an unknown value.
    """

    name = "webshop"
    description = "a web shop in which you search for a product, choose its options and buy it"
    task_types = TASK_TYPES

    def __init__(
        self,
        data_dir: str | None = None,
        *,
        goals: Kind = "synthetic",
        products: Size | int = "1000",
        seed: int = 0,
        nouns: Tagger = "words",
        max_steps: int = 15,
        shop: Shop | None = None,
    ) -> None:
        if max_steps < 1:
            raise TrainingError(f"webshop: max_steps is {max_steps}; it must be at least 1")
        self.max_steps = max_steps
        self._data_dir, self._seed = data_dir, seed
        self._goals = _one_of("goals", goals, KINDS)
        self._products = _one_of("products", products, SIZES)
        self._nouns = noun_tagger(_one_of("nouns", nouns, TAGGERS))
        self._opened = shop
        self._tasks: Mapping[str, tuple[Task, ...]] | None = None
        self._episode: _Episode | None = None

    def tasks(self, split: Split) -> Sequence[Task]:
        """All goals of a split; see `make_tasks` for their order.

        Raises:
            TrainingError: if the product files are missing or damaged.
        """
        if self._tasks is None:
            made: dict[str, list[Task]] = {}
            for task in make_tasks(self._shop().catalogue, self._goals, self._seed):
                made.setdefault(task.split, []).append(task)
            self._tasks = {name: tuple(of) for name, of in made.items()}
        return self._tasks.get(split, ())

    def facts(self) -> Facts:
        """The action forms and rules, with an example from an invented shop; needs no files."""
        return interface_facts(self.name)

    def reset(self, task: Task, seed: int = 0) -> Step:
        """Open the search page for a task.

        Raises:
            TrainingError: if the product files are missing, or the task was made from other ones.
        """
        self._episode = _Episode(self._goal(task), offered_queries(task.goal), Page(), {})
        return self._step(self._episode, changed=True)

    def step(self, action: str) -> Step:
        """Search, or click on what the page shows.

        Raises:
            RuntimeError: before the first `reset`.
        """
        episode = self._episode
        if episode is None:
            raise RuntimeError("step before reset")
        if episode.bought:
            return self._step(episode, changed=False, refusal="The episode is over.")
        target, refusal = self._follow(episode, action)
        if target is None:
            return self._step(episode, changed=False, refusal=refusal)
        changed = target != episode.page
        episode.page, episode.links = target, links(target, self._shop())
        if episode.bought:
            episode.reward = self._score(episode)
        return self._step(episode, changed=changed)

    def close(self) -> None:
        """Forget the episode."""
        self._episode = None

    def solution(self, task: Task, seed: int = 0) -> Sequence[str]:
        """Actions that buy the goal's product with its options.

        Raises:
            TrainingError: if no purchase of it reaches the full reward, as for some instructions of people whose words
                differ from the product's, or if no search finds it within the step limit.
        """
        goal, payload = self._goal(task), task.payload["options"]
        named = payload if isinstance(payload, dict) else None
        actions, chosen = find_walkthrough(self._shop(), goal, named, task.goal, self.max_steps)
        product = self._product(goal.asin)
        reward = score(goal, product, chosen, price_of(product, self._seed), self._nouns).reward
        if reward < 1.0:
            raise TrainingError(f"webshop: the best known purchase for the task {task.id} is worth {reward:.3f}, not 1")
        return actions

    def _shop(self) -> Shop:
        if self._opened is None:
            self._opened = open_shop(self._data_dir, self._products)
        return self._opened

    def _product(self, asin: str) -> Product:
        product = self._shop().catalogue.find(asin)
        if product is None:
            raise TrainingError(f"webshop: no product {asin} in the files; use the files that the task was made from")
        return product

    def _goal(self, task: Task) -> Goal:
        payload: Mapping[str, Any] = task.payload
        product = self._product(payload["asin"])
        options = payload["options"]
        return Goal(
            asin=product.asin,
            title=product.title,
            query=product.query,
            product_category=product.product_category,
            attributes=tuple(payload["attributes"]),
            options=tuple(options.values() if isinstance(options, dict) else options),
            price_limit=payload["price_limit"],
        )

    def _follow(self, episode: _Episode, action: str) -> tuple[Page | None, str]:
        parsed = _ACTION.fullmatch(action)
        if parsed is None:
            return None, "Not understood; write search[words] or click[something on the page]."
        verb, argument = parsed[1].lower(), " ".join(parsed[2].lower().split())
        if verb == "search":
            return (results(self._shop(), argument), "") if argument else (None, "A search needs words.")
        link = episode.links.get(argument)
        return (link(), "") if link else (None, f"There is no [{argument}] to click on this page.")

    def _score(self, episode: _Episode) -> float:
        product = self._product(episode.page.asin)
        chosen = (value for _, value in episode.page.chosen)
        return score(episode.goal, product, chosen, price_of(product, self._seed), self._nouns).reward

    def _step(self, episode: _Episode, *, changed: bool, refusal: str = "") -> Step:
        page = episode.page
        shown = render(page, self._shop())
        if page.kind == "search":
            admissible = tuple(f"search[{query}]" for query in episode.queries)
        else:
            admissible = tuple(f"click[{label}]" for label in episode.links)
        return Step(
            observation=f"{refusal}\n{shown}" if refusal else shown,
            reward=episode.reward,
            done=episode.bought,
            success=episode.reward == 1.0,
            changed=changed,
            valid=not refusal,
            admissible=admissible,
        )


def _one_of(option: str, value: object, known: Sequence[_Choice]) -> _Choice:
    for choice in known:
        if choice == str(value):
            return choice
    raise TrainingError(f"webshop: {option} is {value!r}; it is one of {', '.join(known)}")


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


_MOST = 8
_PRICE = re.compile(r",?\s*(?:and\s+)?price lower than [\d.,]+ dollars\W*$", re.IGNORECASE)
_OPTION = re.compile(r"\s*(?:with|and)?\s*[a-z][a-z ]*:\s*", re.IGNORECASE)
_CUT = re.compile(r"[,;?!]\s+(?:and\s+)?|\s+(?:with|for|that|which|and it|in)\s+", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*")
_EMPTY = frozenset(STOPWORDS_EN) | ASKING_WORDS


def offered_queries(instruction: str) -> tuple[str, ...]:
    """At most eight different searches: all words but the price limit, all but the named options, then each phrase.

    Words that only ask (find me, I am looking for) and English stop words are left out, and so are names of options;
    all words are lower case. Where the phrases are too many, the first ones stay.
    """
    phrases = _CUT.split(_PRICE.sub("", instruction))
    words = [_words(_OPTION.sub(" ", phrase)) for phrase in phrases]
    kinds = [text for phrase, text in zip(phrases, words, strict=True) if not _OPTION.match(phrase)]
    queries = (" ".join(filter(None, words)), " ".join(filter(None, kinds)), *words)
    return tuple(dict.fromkeys(filter(None, queries)))[:_MOST]


def _words(text: str) -> str:
    return " ".join(word for word in _WORD.findall(text.lower()) if word not in _EMPTY)
