"""What a rewrite changed, skill by skill and word by word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from masa.skills import Group, Skill

_WORDS = re.compile(r"\S+\s*|\s+")
_MOST = 4_000_000
"""Products of word counts beyond which comparing word by word would take seconds."""

Change = Literal["same", "added", "removed"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text, and whether it is in both versions or in one."""

    text: str
    change: Change


@dataclass(frozen=True, slots=True)
class SkillDifference:
    """One skill that is not the same in both groups; title, condition and principle as pieces."""

    skill_id: str
    change: Literal["added", "removed", "changed"]
    title: tuple[Piece, ...]
    when: tuple[Piece, ...]
    principle: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """How a group differs from another.

    Attributes:
        skills: those that differ, in the order of the new group, then those that are gone.
        same: how many are the same.
        reordered: whether skills that both groups have changed places.
    """

    skills: tuple[SkillDifference, ...]
    same: int
    reordered: bool


def difference(old: Group, new: Group) -> Difference:
    """From `old` to `new`. A skill is matched with one that equals it, else by identifier, else by title."""
    matched = _matched(old.skills, new.skills)
    found: list[SkillDifference] = []
    same = 0
    for place, skill in enumerate(new.skills):
        before = matched.get(place)
        if before is None:
            found.append(_whole(skill, "added"))
        elif old.skills[before] == skill:
            same += 1
        else:
            found.append(_changed(old.skills[before], skill))
    gone = set(range(len(old.skills))) - set(matched.values())
    found += [_whole(old.skills[place], "removed") for place in sorted(gone)]
    order = [matched[place] for place in sorted(matched)]
    return Difference(tuple(found), same, order != sorted(order))


def pieces(old: str, new: str) -> tuple[Piece, ...]:
    """The words of both texts: without those "added" they are the old text, without those "removed" the new one."""
    if old == new:
        return (Piece(new, "same"),) if new else ()
    before, after = _WORDS.findall(old), _WORDS.findall(new)
    if len(before) * len(after) > _MOST:
        return _only((Piece(old, "removed"), Piece(new, "added")))
    found: list[Piece] = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            found.append(Piece("".join(before[i:j]), "same"))
        else:
            found += [Piece("".join(before[i:j]), "removed"), Piece("".join(after[k:m]), "added")]
    return _only(found)


def _only(found: Sequence[Piece]) -> tuple[Piece, ...]:
    return tuple(piece for piece in found if piece.text)


def _matched(old: Sequence[Skill], new: Sequence[Skill]) -> dict[int, int]:
    """By place in `new` the place in `old`; each at most once."""
    found: dict[int, int] = {}
    keys: tuple[Callable[[Skill], object], ...] = (lambda s: s, lambda s: s.skill_id, lambda s: s.title)
    for key in keys:
        taken = set(found.values())
        free: dict[object, list[int]] = {}
        for place, skill in enumerate(old):
            if place not in taken and key(skill):
                free.setdefault(key(skill), []).append(place)
        for place, skill in enumerate(new):
            if place not in found and free.get(key(skill)):
                found[place] = free[key(skill)].pop(0)
    return found


def _changed(old: Skill, new: Skill) -> SkillDifference:
    return SkillDifference(
        new.skill_id,
        "changed",
        pieces(old.title, new.title),
        pieces(old.when_to_apply, new.when_to_apply),
        pieces(old.principle, new.principle),
    )


def _whole(skill: Skill, change: Literal["added", "removed"]) -> SkillDifference:
    title, when, principle = (
        _only([Piece(text, change)]) for text in (skill.title, skill.when_to_apply, skill.principle)
    )
    return SkillDifference(skill.skill_id, change, title, when, principle)
