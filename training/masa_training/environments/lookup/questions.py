"""Questions about a world: what is asked, what is right, and which searches lead there."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from masa_training.environments.lookup.kinds import ATTRIBUTES, BY_KEY, COMPARISONS, Attribute, attributes_of
from masa_training.environments.lookup.world import World

TASK_TYPES = ("direct_retrieval", "entity_attribute_lookup", "multi_hop_reasoning", "comparison")
"""Which entity another one is related to; a plain value of an entity; a value of a related entity; which of two
entities has the earlier or later year."""

PER_TYPE = 100
"""Questions of each type in a split, where the world is large enough."""

_ORDERS = ("earlier", "later")


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        type: of `TASK_TYPES`.
        text: as the agent reads it.
        entities: that the text names: two for comparison, else one.
        asked: key of the attribute whose value decides.
        answer: the right one.
        hop: key of the relation that leads to the entity asked about; empty where there is one hop.
    """

    type: str
    text: str
    entities: tuple[str, ...]
    asked: str
    answer: str
    hop: str = ""

    def payload(self) -> dict[str, Any]:
        """As JSON values; `from_payload` is the inverse."""
        return {"entities": list(self.entities), "asked": self.asked, "answer": self.answer, "hop": self.hop}


def from_payload(type_: str, text: str, payload: Mapping[str, Any]) -> Question:
    """The question whose `payload` it is.

    Raises:
        KeyError: if an entry is missing.
    """
    return Question(
        type_, text, tuple(payload["entities"]), str(payload["asked"]), str(payload["answer"]), str(payload["hop"])
    )


def make_questions(world: World, rng: random.Random) -> tuple[Question, ...]:
    """At most `PER_TYPE` of each type, the types taking turns; all can be answered by `route`."""
    makers = (_direct, _attribute, _multi_hop, _comparison)
    columns = [
        list(islice((found for found in make(world, rng) if route(found, world) is not None), PER_TYPE))
        for make in makers
    ]
    longest = max(len(column) for column in columns)
    return tuple(column[row] for row in range(longest) for column in columns if row < len(column))


def queries(entity: str, attribute: str) -> tuple[str, str]:
    """An entity's name with each of the two words for an attribute."""
    first, second = BY_KEY[attribute].words
    return f"{entity} {first}", f"{entity} {second}"


def route(question: Question, world: World) -> tuple[str, ...] | None:
    """Queries whose best passages hold all that the answer follows from; None if the usual queries do not find it."""
    found = []
    for entity, attribute in _wanted(question, world):
        goal = (world.told[entity, attribute],)
        query = next((text for text in queries(entity, attribute) if world.search.best(text, 1) == goal), None)
        if query is None:
            return None
        found.append(query)
    return tuple(found)


def tried(question: Question, world: World, passages: int) -> tuple[str, ...]:
    """Queries of one who words them in their usual order until the `passages` best ones hold each needed fact."""
    made = []
    for entity, attribute in _wanted(question, world):
        for query in sorted(queries(entity, attribute)):
            made.append(query)
            if world.told[entity, attribute] in world.search.best(query, passages):
                break
    return tuple(made)


def _wanted(question: Question, world: World) -> list[tuple[str, str]]:
    """The facts that the answer follows from, as (entity, attribute), in the order in which they can be looked up."""
    wanted = [(entity, question.hop or question.asked) for entity in question.entities]
    if question.hop:
        wanted.append((world.value(question.entities[0], question.hop), question.asked))
    return wanted


def _shuffled(world: World, rng: random.Random, attributes: tuple[Attribute, ...]) -> list[tuple[str, Attribute]]:
    pairs = [(name, attribute) for attribute in attributes for name in world.of_kind(attribute.kind)]
    rng.shuffle(pairs)
    return pairs


def _direct(world: World, rng: random.Random) -> Iterator[Question]:
    relations = tuple(attribute for attribute in ATTRIBUTES if attribute.is_relation)
    yield from _one_hop("direct_retrieval", world, rng, relations)


def _attribute(world: World, rng: random.Random) -> Iterator[Question]:
    plain = tuple(attribute for attribute in ATTRIBUTES if not attribute.is_relation)
    yield from _one_hop("entity_attribute_lookup", world, rng, plain)


def _one_hop(type_: str, world: World, rng: random.Random, about: tuple[Attribute, ...]) -> Iterator[Question]:
    for name, attribute in _shuffled(world, rng, about):
        text = rng.choice(attribute.questions).format(e=name)
        yield Question(type_, text, (name,), attribute.key, world.value(name, attribute.key))


def _multi_hop(world: World, rng: random.Random) -> Iterator[Question]:
    for name, relation in _shuffled(world, rng, tuple(attribute for attribute in ATTRIBUTES if attribute.is_relation)):
        asked = rng.choice(attributes_of(relation.value))
        answer = world.value(world.value(name, relation.key), asked.key)
        if answer == name:
            continue  # the mayor of the town where somebody was born may be nobody else
        text = rng.choice(asked.questions).format(e=relation.phrase.format(e=name))
        yield Question("multi_hop_reasoning", text, (name,), asked.key, answer, relation.key)


def _comparison(world: World, rng: random.Random) -> Iterator[Question]:
    asked = tuple(BY_KEY[key] for key in COMPARISONS)
    for name, attribute in _shuffled(world, rng, asked):
        other = rng.choice(world.of_kind(attribute.kind))
        years = {entity: int(world.value(entity, attribute.key)) for entity in (name, other)}
        if len(set(years.values())) < 2:
            continue
        order = rng.choice(_ORDERS)
        answer = (min if order == _ORDERS[0] else max)(years, key=years.__getitem__)
        text = COMPARISONS[attribute.key].format(order=order, a=name, b=other)
        yield Question("comparison", text, (name, other), attribute.key, answer)
