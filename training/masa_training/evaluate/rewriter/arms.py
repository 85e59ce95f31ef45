"""Arms: the cards under which a sample is scored.

right     the sample's own card
wrong     another backbone's card; the average over all of them, or over a seeded subset where there are many
contrast  for a generated sample, another card of its tree: same skills, other reader, mostly another plan
none      an empty card
bare      the own card without strengths and weaknesses, which may hint at what the reader prefers
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from masa.prompt import Request
from masa_training.encoding import with_fields
from masa_training.samples import Sample, card_key

ARMS = ("right", "wrong", "contrast", "none", "bare")
HINTS = ("strengths", "weaknesses")
TREE = "tree"
"""Tag of generated samples that share their skills."""

Card = Mapping[str, object]


class Reader(NamedTuple):
    """A backbone's name and the known fields of its card."""

    backbone: str
    card: Card


@dataclass(frozen=True, slots=True)
class Variant:
    """A sample under one card. `arms` are all that it counts for; `backbone` is empty where no card is named."""

    backbone: str
    arms: tuple[str, ...]
    request: Request

    @property
    def key(self) -> str:
        """Tells the variants of a sample apart: `right`, `none`, `bare`, or `card NAME`."""
        return f"card {self.backbone}" if self.backbone else self.arms[0]


@dataclass(frozen=True, slots=True)
class Pool:
    """The cards that may be wrong for a sample.

    Attributes:
        readers: of samples from results in environments: every card of the data set. Of generated samples: the cards
            of the split, because those of the training split are told in other words.
        trees: the cards of each tree.
    """

    readers: tuple[Reader, ...]
    trees: Mapping[str, tuple[Reader, ...]]


def pool_of(samples: Sequence[Sample], cards: Mapping[str, Card]) -> Pool:
    """The pool of a split; `cards` are those that the data set names besides."""
    found: dict[str, Reader] = {name: Reader(name, card) for name, card in cards.items()}
    trees: dict[str, dict[str, Reader]] = {}
    for sample in samples:
        reader = Reader(sample.backbone, dict(sample.request.card))
        found.setdefault(reader.backbone, reader)
        if tree := sample.tags.get(TREE):
            trees.setdefault(tree, {}).setdefault(reader.backbone, reader)
    readers = tuple(found[name] for name in sorted(found))
    return Pool(readers, {tree: tuple(named[n] for n in sorted(named)) for tree, named in trees.items()})


def variants(
    sample: Sample, pool: Pool, *, wrong_cards: int, seed: int, fields: Sequence[str] | None = None
) -> tuple[Variant, ...]:
    """The sample under all cards, the right one first.

    Where more than `wrong_cards` cards are wrong, a subset of that size is drawn, by `seed` and the sample's id; the
    same for the contrast set. `fields` cuts every card to these fields, for a rewriter that was trained so.
    """
    drawn = random.Random(f"wrong cards/{seed}/{sample.id}")
    wrong = _subset(_others(sample, pool.readers), wrong_cards, drawn)
    contrast = _subset(_others(sample, pool.trees.get(sample.tags.get(TREE, ""), ())), wrong_cards, drawn)
    named: dict[str, tuple[Reader, list[str]]] = {}
    for arm, readers in (("wrong", wrong), ("contrast", contrast)):
        for reader in readers:
            named.setdefault(reader.backbone, (reader, []))[1].append(arm)
    own = dict(sample.request.card)
    chosen: list[tuple[str, tuple[str, ...], Card]] = [
        ("", ("right",), own),
        ("", ("none",), {}),
        ("", ("bare",), {key: value for key, value in own.items() if key not in HINTS}),
    ]
    chosen += [(name, tuple(arms), reader.card) for name, (reader, arms) in sorted(named.items())]
    return tuple(
        Variant(backbone, arms, with_fields(replace(sample.request, card=card), fields))
        for backbone, arms, card in chosen
    )


def cluster(sample: Sample) -> Hashable:
    """The independent unit a sample belongs to: its tree where it has one, else (backbone, group).

    The samples of a tree share skills and contrast with each other, so the tree is the unit although every one of them
    has a backbone of its own.
    """
    tree = sample.tags.get(TREE)
    return tree or (sample.environment, sample.backbone, sample.request.group.key)


def chosen(samples: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    """At most `limit` samples, from as many clusters as there are; a larger limit adds to what a smaller one chose.

    Intervals rest on clusters, so one sample of each is taken in seeded order, then a second of each, and so on.
    """
    if limit is None or limit >= len(samples):
        return list(samples)
    clusters: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        clusters.setdefault(cluster(sample), []).append(sample)
    drawn = random.Random(f"samples/{seed}")
    order = list(clusters)
    drawn.shuffle(order)
    for some in clusters.values():
        drawn.shuffle(some)
    most = max(map(len, clusters.values()))
    spread = [clusters[name][depth] for depth in range(most) for name in order if depth < len(clusters[name])]
    return spread[:limit]


def breakdown_tags(samples: Sequence[Sample], *, most_values: int = 8) -> dict[str, tuple[str, ...]]:
    """Tags (and environment, group) worth a breakdown: two to `most_values` values, on average three samples of each.

    Tags that are lists (with a comma in a value) are left out: their values are too many and too rare.
    """
    values: dict[str, set[str]] = {}
    for sample in samples:
        facts = {"environment": sample.environment, "group": sample.request.group.key, **sample.tags}
        for name, value in facts.items():
            values.setdefault(name, set()).add(value)
    return {
        name: tuple(sorted(found))
        for name, found in values.items()
        if 2 <= len(found) <= min(most_values, len(samples) // 3) and not any("," in value for value in found)
    }


def value_of(sample: Sample, tag: str) -> str | None:
    """A sample's value of a tag of `breakdown_tags`."""
    own = {"environment": sample.environment, "group": sample.request.group.key}
    return sample.tags.get(tag, own.get(tag))


def _others(sample: Sample, readers: Sequence[Reader]) -> list[Reader]:
    own = card_key(sample.request.card)
    return [r for r in readers if r.backbone != sample.backbone and card_key(r.card) != own]


def _subset(readers: list[Reader], most: int, drawn: random.Random) -> list[Reader]:
    return readers if len(readers) <= most else drawn.sample(readers, most)
