"""Samples from evolved cells: the inputs of the four sources, always with the cell's best evolved group as target.

The sources are those of the paper: search *intermediates*, the best groups of *other backbones*, one-shot teacher
rewrites (*adapter*), and *augmented* variants of all of these. Which inputs are taken follows from the seed and the
cell's own inputs, so that another environment or task type changes nothing about these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from masa.languages import ParseError, parse_blocks, render_blocks, render_plan
from masa.prompt import Request
from masa.skills import Group
from masa_training.dataset.aligning import aligned_blocks
from masa_training.dataset.augment import variants
from masa_training.dataset.cells import STAGES, EvolvedCell, Intermediate, Omissions
from masa_training.dataset.composing import in_language
from masa_training.dataset.config import Augmentation, Counts
from masa_training.dataset.holdouts import texts_of
from masa_training.encoding import SHORT_CARD
from masa_training.samples import Sample

HINTS = ("strengths", "weaknesses")
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Input:
    """An input group: its source, what it is called there, and facts for breaking results down."""

    source: str
    name: str
    group: Group
    tags: tuple[tuple[str, str], ...] = ()


def text_samples(
    cell: EvolvedCell,
    others: Sequence[EvolvedCell],
    counts: Counts,
    augmentation: Augmentation,
    *,
    seed: int,
    card_variants: Sequence[str] = ("full",),
    omissions: Omissions,
) -> list[Sample]:
    """Samples of one cell in the text language.

    `others` are the cells of the same environment and group whose results this cell's samples may show. An input that
    equals the target teaches nothing and is left out.
    """
    samples = []
    for number, chosen in enumerate(text_inputs(cell, others, counts, augmentation, seed), start=1):
        name = f"{cell.name}/{chosen.source.replace(' ', '-')}/{number}"
        if texts_of(chosen.group) == texts_of(cell.evolved):
            omissions.add("the input is the target", name)
            continue
        target = render_blocks(aligned_blocks(cell.evolved, chosen.group))
        try:
            parse_blocks(target, len(chosen.group))
        except ParseError:
            omissions.add("the evolved group cannot be written in the text language", name)
            continue
        for variant in card_variants:
            samples.append(_sample(name, cell, chosen, "text", target, variant))
    return samples


def plan_samples(
    cell: EvolvedCell,
    counts: Counts,
    *,
    seed: int,
    card_variants: Sequence[str] = ("full",),
    omissions: Omissions,
) -> list[Sample]:
    """Samples of one cell in the plan language: intermediates from which recorded plans lead to the evolved group.

    Other sources have no recorded plan. What does not lead there, or what the constraint of the language would not
    admit, is left out and counted.
    """
    usable = []
    for intermediate in cell.intermediates:
        name = f"{cell.name}/{intermediate.name}"
        if intermediate.plan is None:
            if intermediate.no_plan:
                omissions.add(intermediate.no_plan, name)
        elif not in_language(_request(cell, intermediate.group, "full"), intermediate.plan):
            omissions.add("the constraint of the plan language does not admit the plan", name)
        else:
            usable.append(intermediate)
    samples = []
    random = Random(f"{seed}/{cell.name}/intermediate")
    for number, intermediate in enumerate(_staged(usable, counts.intermediate, random), start=1):
        assert intermediate.plan is not None  # only those are usable
        name = f"{cell.name}/intermediate/{number}"
        target = render_plan(intermediate.plan)
        for variant in card_variants:
            samples.append(_sample(name, cell, _as_input(intermediate), "plan", target, variant))
    return samples


def text_inputs(
    cell: EvolvedCell, others: Sequence[EvolvedCell], counts: Counts, augmentation: Augmentation, seed: int
) -> Iterator[Input]:
    """The inputs that are taken for a cell, by source."""
    key = cell.name
    intermediates = [_as_input(i) for i in _staged(cell.intermediates, counts.intermediate, _random(seed, key, "i"))]
    neighbours = sorted((other for other in others if other.cell != cell.cell), key=lambda other: other.cell)
    evolved = [
        Input("other backbone", other.cell.backbone, other.evolved, (("of", other.cell.backbone),))
        for other in neighbours
    ]
    adapters = [
        Input("adapter", other.cell.backbone, other.adapter, (("of", other.cell.backbone),))
        for other in (cell, *neighbours)
        if other.adapter is not None
    ]
    yield from intermediates
    yield from _some(evolved, counts.other_backbone, _random(seed, key, "o"))
    # The cell's own one-shot rewrite first: it is what a user without search would have.
    own = [each for each in adapters if each.name == cell.cell.backbone]
    foreign = [each for each in adapters if each.name != cell.cell.backbone]
    yield from own[: counts.adapter]
    yield from _some(foreign, counts.adapter - len(own), _random(seed, key, "a"))
    everything = [*map(_as_input, cell.intermediates), *evolved, *adapters]
    yield from _augmented(everything, counts.augmented, augmentation, _random(seed, key, "v"))


def _augmented(inputs: Sequence[Input], count: int, settings: Augmentation, random: Random) -> Iterator[Input]:
    """`count` augmented variants: the inputs in random order, the augmentations in turn."""
    made = variants(settings)
    if not made or not inputs:
        return
    names = list(made)
    first = random.randrange(len(names))
    order = random.sample(inputs, len(inputs))
    for number in range(count):
        chosen = order[number % len(order)]
        # Chance may leave everything as it was (and a single skill is always kept), a copy of another sample.
        tries = [names[(first + number + turn // _TRIES) % len(names)] for turn in range(_TRIES * len(names))]
        for name in tries:
            group = made[name](chosen.group, random)
            if group != chosen.group:
                break
        tags = (*chosen.tags, ("augmentation", name), ("augmented", chosen.source))
        yield Input("augmented", chosen.name, group, tags)


def _staged(intermediates: Sequence[Intermediate], count: int, random: Random) -> list[Intermediate]:
    """At most `count`: the group that the search began with, then early, middle and late ones in turn."""
    if not intermediates or not count:
        return []
    chosen = [intermediates[0]]
    rest = {stage: [each for each in intermediates[1:] if each.stage == stage] for stage in STAGES}
    for each in rest.values():
        random.shuffle(each)
    turn = 0
    while len(chosen) < count and any(rest.values()):
        turn += 1
        stage = rest[STAGES[turn % len(STAGES)]]
        if stage:
            chosen.append(stage.pop())
    return chosen


def _some(inputs: Sequence[Input], count: int, random: Random) -> list[Input]:
    return random.sample(inputs, min(max(count, 0), len(inputs)))


def _random(seed: int, cell: str, source: str) -> Random:
    return Random(f"{seed}/{cell}/{source}")


def _as_input(intermediate: Intermediate) -> Input:
    return Input("intermediate", intermediate.name, intermediate.group, (("stage", intermediate.stage),))


def _request(cell: EvolvedCell, group: Group, variant: str) -> Request:
    return Request(group, _card(cell.card, variant), cell.task, cell.description or cell.cell.environment, cell.facts)


def _card(card: Mapping[str, object], variant: str) -> dict[str, object]:
    if variant == "no hints":
        return {key: value for key, value in card.items() if key not in HINTS}
    if variant == "short":
        return {key: value for key, value in card.items() if key in SHORT_CARD}
    return dict(card)


def _sample(name: str, cell: EvolvedCell, chosen: Input, language: str, target: str, variant: str) -> Sample:
    return Sample(
        id=name if variant == "full" else f"{name}/{variant.replace(' ', '-')}",
        request=_request(cell, chosen.group, variant),
        language=language,
        target=target,
        backbone=cell.cell.backbone,
        environment=cell.cell.environment,
        source=chosen.source,
        synthetic=False,
        origin=cell.origin,
        tags={"input": chosen.name, **dict(chosen.tags), "card": variant},
    )
