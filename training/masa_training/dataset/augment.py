"""Augmented variants of an input group. Targets are never augmented.

The paper names the three variants "noise 0.3, keep 0.6, verbose" and says no more. What we take them to mean:

- noise p: each sentence of each principle is, with probability p, disturbed in one of three ways, equally likely: every
  fifth of its words on average is left out; two neighbouring words change places; or it changes places with a sentence
  of another skill. Sentences with code, links, placeholders or quoted text stay as they are.
- keep p: each skill stays with probability p, at least one does; the order stays.
- verbose: behind each principle comes a redundant sentence from a fixed list of ours, and one that restates the
  skill's own condition if it has any.

Everything is decided by the random generator that is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from random import Random

from masa.markdown import protected_ranges, sentences
from masa.skills import Group, Skill
from masa_training.dataset.config import Augmentation

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
