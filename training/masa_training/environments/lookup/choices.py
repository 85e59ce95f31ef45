"""The short list of actions that a small model chooses among."""

from __future__ import annotations

import random
from collections.abc import Sequence

from masa_training.environments.lookup.kinds import BY_KEY, POOLS, YEARS
from masa_training.environments.lookup.questions import Question, queries
from masa_training.environments.lookup.world import World

MOST_SEARCHES = 6
LEAST_ANSWERS, MOST_ANSWERS = 3, 4
_MOST_READ = 2


def choices(question: Question, world: World, read: Sequence[int], fillers: Sequence[str]) -> tuple[str, ...]:
    """Sensible searches, then plausible answers, each in an order that tells nothing.

    `read` has the numbers of the passages read so far, the last ones first. An answer is offered once it was read,
    beside `fillers`; for a comparison the two entities are offered from the start.
    """
    searches = sorted(_searches(question, world, read)[:MOST_SEARCHES])
    answers = sorted(_answers(question, world, read, fillers))
    return (*(f"search {query}" for query in searches), *(f"answer {text}" for text in answers))


def make_fillers(question: Question, world: World, rng: random.Random) -> tuple[str, ...]:
    """Wrong answers of the right kind: for a comparison, entities with similar names."""
    wrong = {question.answer, *question.entities}
    kind = BY_KEY[question.asked].value
    if question.type == "comparison":
        similar = [name for entity in question.entities for name in world.relatives[entity]]
        # A family may be one name short, so that others have to help out.
        pool: Sequence[str] = [*similar, *world.of_kind(BY_KEY[question.asked].kind)]
        return tuple(name for name in dict.fromkeys(pool) if name not in wrong)[: MOST_ANSWERS - 2]
    pool = [str(year) for year in YEARS] if kind == "year" else POOLS.get(kind) or world.of_kind(kind)
    drawn = rng.sample(pool, LEAST_ANSWERS + len(wrong))
    return tuple(text for text in drawn if text not in wrong)[:LEAST_ANSWERS]


def _searches(question: Question, world: World, read: Sequence[int]) -> list[str]:
    asked, entities = question.asked, question.entities
    if question.type == "comparison":
        first, second = (queries(entity, asked) for entity in entities)
        return [*first, *second, *entities]
    found = _entities(question, world, read)
    if not question.hop:
        return [*queries(entities[0], asked), entities[0], *found[:_MOST_READ]]
    onwards = [name for name in found if world.kinds[name] == BY_KEY[asked].kind][:_MOST_READ]
    ahead = [query for name in onwards for query in queries(name, asked)]
    # Asking for the last hop straight away is the mistake that this task type is about.
    return [*queries(entities[0], question.hop), *ahead, entities[0], queries(entities[0], asked)[0]]


def _entities(question: Question, world: World, read: Sequence[int]) -> list[str]:
    """Those that were read and that the question does not name, the last ones first."""
    passages = [world.passages[number] for number in read]
    names = dict.fromkeys(name for passage in passages for name in (passage.entity, passage.value))
    return [name for name in names if name in world.kinds and name not in question.entities]


def _answers(question: Question, world: World, read: Sequence[int], fillers: Sequence[str]) -> list[str]:
    if question.type == "comparison":
        return [*question.entities, *fillers]
    kind = BY_KEY[question.asked].value
    if kind in POOLS or kind == "year":
        passages = [world.passages[number] for number in read]
        seen = [passage.value for passage in passages if BY_KEY[passage.attribute].value == kind]
    else:
        seen = [name for name in _entities(question, world, read) if world.kinds[name] == kind]
    several = list(dict.fromkeys(seen))[:MOST_ANSWERS]
    others = [text for text in fillers if text not in several]
    return [*several, *others[: max(LEAST_ANSWERS - len(several), MOST_ANSWERS - len(several) - 1, 0)]]
