"""A world of invented facts, and the passages that tell them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from masa_training.environments.lookup.kinds import ATTRIBUTES, POOLS, SHARES, YEARS, Kind, attributes_of
from masa_training.environments.lookup.names import deal_names
from masa_training.environments.passage_search import PassageSearch
from masa_training.environments.protocol import SPLITS, Split


@dataclass(frozen=True, slots=True)
class Passage:
    """One sentence that tells one fact.

    Attributes:
        text: the sentence.
        entity: whom it is about.
        attribute: key of the attribute.
        value: of the attribute; an entity's name where the attribute is a relation.
    """

    text: str
    entity: str
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class World:
    """Everything that is true in a split. It never changes, so that all episodes of a process share it.

    Attributes:
        kinds: of every entity by name, in a fixed order.
        relatives: of every entity, the others whose names share words with its name.
        passages: one for each fact.
        told: the number of the passage that tells an entity's attribute, by name and key.
        search: over the texts of `passages`.
    """

    kinds: Mapping[str, Kind]
    relatives: Mapping[str, tuple[str, ...]]
    passages: tuple[Passage, ...]
    told: Mapping[tuple[str, str], int]
    search: PassageSearch

    def value(self, entity: str, attribute: str) -> str:
        """What is true of an entity."""
        return self.passages[self.told[entity, attribute]].value

    def of_kind(self, kind: str) -> tuple[str, ...]:
        """All entities of a kind, in a fixed order."""
        return tuple(name for name, its in self.kinds.items() if its == kind)


@lru_cache(maxsize=12)
def open_world(seed: int, size: int, split: Split) -> World:
    """The world of a split: `size` entities whose names occur in no other split of that seed."""
    counts: dict[Kind, int] = {kind: round(size * share) for kind, share in SHARES.items()}
    families = deal_names(counts, len(SPLITS), seed)[SPLITS.index(split)]
    rng = random.Random(f"world {seed} {size} {split}")
    kinds: dict[str, Kind] = {}
    relatives: dict[str, tuple[str, ...]] = {}
    for kind, its in families.items():
        for family in its:
            for name in family:
                kinds[name] = kind
                relatives[name] = tuple(other for other in family if other != name)
    by_kind = {kind: [name for name, its in kinds.items() if its == kind] for kind in SHARES}
    passages = [
        _passage(rng, name, attribute.key, by_kind) for name, kind in kinds.items() for attribute in attributes_of(kind)
    ]
    rng.shuffle(passages)  # equal scores fall back on this order, which must not follow the entities
    told = {(passage.entity, passage.attribute): number for number, passage in enumerate(passages)}
    return World(kinds, relatives, tuple(passages), told, PassageSearch([passage.text for passage in passages]))


def _passage(rng: random.Random, name: str, key: str, by_kind: Mapping[Kind, list[str]]) -> Passage:
    attribute = next(attribute for attribute in ATTRIBUTES if attribute.key == key)
    if attribute.value in POOLS:
        value = rng.choice(POOLS[attribute.value])
    elif attribute.value == "year":
        value = str(rng.choice(YEARS))
    else:
        value = rng.choice(next(names for kind, names in by_kind.items() if kind == attribute.value))
    text = rng.choice(rng.choice(attribute.passages)).format(e=name, v=value)
    return Passage(text[0].upper() + text[1:], name, key, value)
