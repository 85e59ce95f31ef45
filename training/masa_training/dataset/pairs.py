"""Samples from evolved cells: the inputs of the four sources, always with the cell's best evolved group as target.

`text_samples` writes that group out. `plan_samples` has the plan that leads from an intermediate to it, which
`masa_training.dataset.composing` makes of the steps that `masa_training.dataset.runs` read.

The sources are those of the paper: search *intermediates*, the best groups of *other backbones*, one-shot teacher
rewrites (*adapter*), and *augmented* variants of all of these. Which inputs are taken follows from the seed and the
cell's own inputs, so that another environment or task type changes nothing about these.

The numbers in the headings of the text language, which skills of the input a skill of the target comes from, are an
estimate, since published banks do not say it and share few words with what they came from: cosine similarity of the
content words (crudely stemmed), each weighted by its rarity in the input group. A source is named where its similarity
reaches `THRESHOLD` and 0.7 of the best one's, at most three, the best first; where none does, the heading says `[+]`.

Targets are never augmented. The paper names the variants "noise 0.3, keep 0.6, verbose"; what we take them to mean:

- noise p: each sentence of each principle is, with probability p, disturbed in one of three ways, equally likely: every
  fifth of its words on average is left out; two neighbouring words change places; or it changes places with a sentence
  of another skill. Sentences with code, links, placeholders or quoted text stay as they are.
- keep p: each skill stays with probability p, at least one does; the order stays.
- verbose: behind each principle comes a redundant sentence from a fixed list of ours, and one that restates the
  skill's own condition if it has any.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from masa.edits.english import content_words
from masa.languages import Block, ParseError, parse_blocks, render_blocks, render_plan
from masa.markdown import protected_ranges, sentences
from masa.prompt import Request
from masa.skills import Group, Skill
from masa_training.dataset.cells import STAGES, EvolvedCell, Intermediate, Omissions
from masa_training.dataset.composing import in_language
from masa_training.dataset.config import Augmentation, Counts
from masa_training.dataset.holdouts import texts_of
from masa_training.encoding import SHORT_CARD
from masa_training.samples import Sample

_WORDS_LEFT_OUT = 0.2
_FEWEST_WORDS = 4

_REDUNDANT = (
    "It is worth keeping this in mind throughout the whole task, since it is easily forgotten.",
    "Doing so has proved useful in many situations that are similar to this one.",
    "In other words, take the time to do this properly before you go on with anything else.",
    "This may look obvious, but experience shows that it often makes the difference in the end.",
    "Please note that this holds in general, whatever the details of the task at hand may be.",
    "The reason is simple: whoever follows this advice loses less time later on.",
)


def variants(settings: Augmentation) -> dict[str, Callable[[Group, Random], Group]]:
    """The augmentations that are switched on, by name."""
    made: dict[str, Callable[[Group, Random], Group]] = {}
    if settings.noise > 0:
        made["noise"] = lambda group, random: noise(group, settings.noise, random)
    if settings.keep < 1:
        made["keep"] = lambda group, random: keep(group, settings.keep, random)
    if settings.verbose:
        made["verbose"] = verbose
    return made


def noise(group: Group, probability: float, random: Random) -> Group:
    """Each sentence disturbed with this probability; the number of skills, their titles and conditions stay."""
    split = [sentences(skill.principle) for skill in group.skills]
    free = [(i, j) for i, parts in enumerate(split) for j, part in enumerate(parts) if _free(part)]
    for place in free:
        if random.random() >= probability:
            continue
        i, j = place
        kind = random.choice(("leave out", "neighbours", "exchange"))
        others = [other for other in free if other[0] != i]
        if kind == "exchange" and others:
            k, m = random.choice(others)
            split[i][j], split[k][m] = _spaced(split[k][m], split[i][j]), _spaced(split[i][j], split[k][m])
        elif kind == "neighbours":
            split[i][j] = _neighbours(split[i][j], random)
        else:
            split[i][j] = _thinned(split[i][j], random)
    return _with_principles(group, ["".join(parts) for parts in split])


def keep(group: Group, probability: float, random: Random) -> Group:
    """Each skill with this probability, at least one."""
    kept = [skill for skill in group.skills if random.random() < probability]
    return replace(group, skills=tuple(kept) if kept else (random.choice(group.skills),))


def verbose(group: Group, random: Random) -> Group:
    """Every skill with redundant sentences behind it."""
    principles = []
    for skill in group.skills:
        additions = [random.choice(_REDUNDANT)]
        if skill.when_to_apply.strip():
            additions.append(f"To say it once more, this applies in the following case: {_condition(skill)}.")
        gap = "\n\n" if "\n" in skill.principle.strip() else " "
        principles.append(skill.principle.rstrip() + gap + " ".join(additions))
    return _with_principles(group, principles)


def _condition(skill: Skill) -> str:
    return " ".join(skill.when_to_apply.split()).rstrip(".")


def _with_principles(group: Group, principles: list[str]) -> Group:
    """New principles; one that became empty stays as it was."""
    skills = [
        replace(skill, principle=text if text.strip() else skill.principle)
        for skill, text in zip(group.skills, principles, strict=True)
    ]
    return replace(group, skills=tuple(skills))


def _free(sentence: str) -> bool:
    """Whether noise may touch the sentence: one line of plain words."""
    fixed = protected_ranges(sentence)
    return not fixed and "\n" not in sentence.strip() and len(sentence.split()) >= _FEWEST_WORDS


def _spaced(sentence: str, place: str) -> str:
    """`sentence` with the white space of the one whose place it takes."""
    return place[: len(place) - len(place.lstrip())] + sentence.strip() + place[len(place.rstrip()) :]


def _thinned(sentence: str, random: Random) -> str:
    pieces = re.findall(r"\S+\s*", sentence)
    kept = [piece for piece in pieces[:-1] if random.random() >= _WORDS_LEFT_OUT]
    return sentence[: len(sentence) - len(sentence.lstrip())] + "".join([*kept, pieces[-1]])


def _neighbours(sentence: str, random: Random) -> str:
    words = sentence.split()
    place = random.randrange(len(words) - 1)
    words[place], words[place + 1] = words[place + 1], words[place]
    return _spaced(" ".join(words), sentence)


THRESHOLD = 0.1
_NEAR_BEST = 0.7
_MOST_SOURCES = 3


def aligned_blocks(target: Group, source: Group) -> tuple[Block, ...]:
    """The target's skills as blocks of the text language, with the numbers of their sources in `source`."""
    words = [content_words(skill.text) for skill in source.skills]
    rarity = {
        word: math.log(1 + len(words) / sum(word in others for others in words)) for word in frozenset().union(*words)
    }
    return tuple(
        Block(_sources(skill, words, rarity), skill.title, skill.when_to_apply, skill.principle)
        for skill in target.skills
    )


def _sources(skill: Skill, words: list[frozenset[str]], rarity: dict[str, float]) -> tuple[int, ...]:
    wanted = content_words(skill.text)
    # A word that the input does not know at all is as rare as one that a single skill has.
    unknown = math.log(1 + len(words))

    def square(some: frozenset[str]) -> float:
        # Sorted, because sums of floats depend on their order and sets of texts have none.
        return math.fsum(sorted(rarity.get(word, unknown) ** 2 for word in some))

    scores = []
    for number, others in enumerate(words, start=1):
        product = math.sqrt(square(wanted) * square(others))
        scores.append((square(wanted & others) / product if product else 0.0, number))
    ranked = sorted(scores, key=lambda item: (-item[0], item[1]))
    best = ranked[0][0] if ranked else 0.0
    chosen = [n for score, n in ranked[:_MOST_SOURCES] if score >= max(THRESHOLD, _NEAR_BEST * best)]
    return tuple(chosen)


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
