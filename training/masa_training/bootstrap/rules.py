"""The stated rules of the bootstrap corpus: (traits of a card, group, facts) → plan.

Nothing here was measured on a backbone. A rule says which edit a need asks for, and the skill decides whether that
edit has anything to change. `docs/bootstrap.md` shows the same table.

- Size: below one billion parameters a reader needs brevity and order, below five billion brevity, unless a strength
  takes it back. Larger, or of unknown size: nothing follows.
- A reader that was pre-trained only needs demonstration, unless a strength takes it back.
- What the card says in so many words always counts. With `profile_first`, weaknesses that ask for an edit leave nothing
  to size or tuning: what was seen of a reader is better evidence than how large it is.
- No rule drops, merges or moves a skill: nothing in a card says that a skill is useless, or where it belongs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from masa.edits import EDITS, WARN_KINDS, EditCall, Plan, PlanLine
from masa.facts import Facts
from masa.group_rewrite import prepare
from masa.languages import MAX_EDITS_PER_LINE, MAX_WARNINGS
from masa.model_names import parse_size
from masa.prompt import Request
from masa.skills import Group

Size = Literal["tiny", "small", "large", "unknown"]

TRANSFORMING = ("limit", "brevity", "order", "conditions", "interface", "attention", "demonstration")
"""Needs that change skills, the most urgent first: it decides which edits a line keeps that has too many."""
NEEDS = (*TRANSFORMING, *WARN_KINDS)
TINY, SMALL = 1e9, 5e9
"""Parameters below which a reader is tiny, or small."""
IMPLIED_BY_SIZE: Mapping[str, tuple[str, ...]] = {"tiny": ("brevity", "order"), "small": ("brevity",)}
"""Needs that follow from the size alone; a strength can take each back."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the rules know of a reader.

    Attributes:
        size: by number of parameters.
        pretrained: whether it was never tuned to follow instructions.
        said: needs that the weaknesses of the card tell.
        strong: needs that the strengths of the card take back, where they only follow from size or tuning.
    """

    size: Size
    pretrained: bool
    said: frozenset[str] = frozenset()
    strong: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Place:
    """A skill as the rules see it: the edits that it admits, and the largest limit that would take something."""

    first_example: bool
    facts: bool
    admits: frozenset[str]
    limit: int
    """Largest N of 1, 2, 3 for which `limit N` leaves something out; 0 if none does."""


def traits_of(card: Mapping[str, object], said: Iterable[str] = (), strong: Iterable[str] = ()) -> Traits:
    """The traits of a card; `said` and `strong` are what its texts were made to say (empty for a real card)."""
    parameters = parse_size(str(card.get("parameter_count", "")))
    size: Size = "unknown"
    if parameters:
        size = "tiny" if parameters < TINY else "small" if parameters < SMALL else "large"
    return Traits(size, card.get("base_or_instruct") == "base", frozenset(said), frozenset(strong))


def needs_of(traits: Traits, *, profile_first: bool = False) -> tuple[str, ...]:
    """The needs that follow from the traits, in the order of `NEEDS`."""
    implied = set(IMPLIED_BY_SIZE.get(traits.size, ()))
    if traits.pretrained:
        implied.add("demonstration")
    if profile_first and not traits.said.isdisjoint(TRANSFORMING):
        implied.clear()
    needs = traits.said | (implied - traits.strong)
    return tuple(need for need in NEEDS if need in needs)


def plan_for(traits: Traits, group: Group, facts: Facts | None = None, *, profile_first: bool = False) -> Plan:
    """The plan that the rules give; every edit is one that the skill admits with these facts."""
    needs = needs_of(traits, profile_first=profile_first)
    lines = []
    for number, place in enumerate(_places(group, facts), start=1):
        wanted: list[EditCall] = []
        for need in needs:
            call = _edit(need, place)
            if call is not None and call.name not in {other.name for other in wanted}:
                wanted.append(call)
        kept = wanted[:MAX_EDITS_PER_LINE]
        order = list(EDITS)
        lines.append(PlanLine(number, tuple(sorted(kept, key=lambda c: order.index(c.name))) or (EditCall("keep"),)))
    warned = {"invalid-action" if need == "interface" else need for need in needs}
    return Plan(tuple(lines), tuple(kind for kind in WARN_KINDS if kind in warned)[:MAX_WARNINGS])


def choices_of(group: Group, facts: Facts | None = None) -> float:
    """Edits that the rules could ask for, per skill: how much a group lets its plan depend on the card."""
    places = _places(group, facts)
    return sum(sum(_edit(need, place) is not None for need in TRANSFORMING) for place in places) / len(places)


def _edit(need: str, place: _Place) -> EditCall | None:
    """The edit that a need asks for at one skill; None where there is nothing to change."""
    match need:
        case "brevity":
            return _if_admitted("shorten", place)
        case "limit":
            return EditCall("limit", str(min(2, place.limit))) if place.limit else None
        case "order":
            return _if_admitted("steps", place)
        case "conditions":
            return _if_admitted("condition-action", place)
        case "interface":
            return _if_admitted("syntax", place)
        case "attention":
            return _if_admitted("emphasise", place)
        case "demonstration":
            if place.first_example:
                return EditCall("example")
            return None if place.facts else _if_admitted("steps", place)
    return None


def _if_admitted(name: str, place: _Place) -> EditCall | None:
    return EditCall(name) if name in place.admits else None


@functools.lru_cache(maxsize=1024)
def _places(group: Group, facts: Facts | None) -> tuple[_Place, ...]:
    allowed = prepare(Request(group, {}, facts=facts), frozenset(), "plan").allowed
    first = next((index for index, names in enumerate(allowed) if "example" in names), -1)
    limit = EDITS["limit"]
    return tuple(
        _Place(
            index == first,
            first >= 0,
            frozenset(names),
            max((n for n in (1, 2, 3) if limit.apply(skill, str(n)) != skill), default=0) if "limit" in names else 0,
        )
        for index, (names, skill) in enumerate(zip(allowed, group.skills, strict=True))
    )
