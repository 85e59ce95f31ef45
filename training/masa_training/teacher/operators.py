"""The offline teacher: edits and operations in words, chosen from what the failures show. No key, no network.

It tries what the card calls for first, then what searches on real models accepted, then what a symptom calls for, then
other wordings, and marks and warnings last; one at a time and then two together, on the group at hand and on the one
that the search began with, and never what was tried before. Where the backbone did not mind the latest rewrites at all,
it now and then takes the one that is least like what was tried. Its plans are recorded, and are what a plan rewriter
learns from.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

from masa.card_calls import OFF, calls_of
from masa.cards import ModelCard
from masa.edits import EDITS, EditCall, Plan, PlanLine, apply_plan, available_edits
from masa.edits.additions import chosen_example, shared_words
from masa.facts import Facts
from masa.languages import MAX_EDITS_PER_LINE, MAX_WARNINGS
from masa.rewriter import Rewriter
from masa.skills import Group, Skill, SkillBank
from masa_training.teacher.protocol import Asked, Rewrite, Summary, TeacherError, Watched, words_of
from masa_training.teacher.symptoms import attribute, weaknesses_of

REMEDIES: Mapping[str, tuple[str, ...]] = {
    "loop": ("warn loop", "condition-action", "steps"),
    "invalid-action": ("syntax", "warn invalid-action", "example"),
    "revisiting": ("warn revisiting", "steps"),
    "undelivered-object": ("steps", "warn undelivered-object"),
    "answer-form": ("warn answer-form", "example"),
    "wrong-object": ("condition-action", "warn wrong-object"),
    "premature-stop": ("steps", "warn premature-stop", "emphasise"),
    "verbosity": ("shorten", "limit 1"),
    "out-of-steps": ("shorten", "steps", "limit 2"),
}
"""What is tried for a symptom, the likeliest first. These are guesses; the search decides."""

ACCEPTED = ("example",)
"""What searches on models that we did not train have accepted; nothing else so far (`studies/evolution/NOTES.md`)."""

WORDINGS = ("shorten", "steps", "condition-action", "limit 2", "emphasise", "limit 1", "syntax")
"""What is tried where failures show nothing, or what they call for was tried."""


WORDED = ("example", "explain", "steps", "shorten", "define", "positive", "split")
"""Operations in words, as they are tried where a rewriter can carry them out: on all skills, later on one alone."""

INERT = 2
"""After so many rewrites in a row that changed nothing, and again after as many, one is chosen for being different."""


@dataclass(frozen=True, slots=True)
class OperatorTeacher:
    """Proposes the best untried combination of edits.

    Attributes:
        together: most edits in one rewrite.
        worder: a rewriter of the wording language, which carries out what no edit can; None tries edits alone.
    """

    together: int = 2
    worder: Rewriter | None = None

    def rewrite(self, asked: Asked) -> Rewrite:
        found = attribute(asked.seen)
        ranked = _ranked(found, asked.card)
        tried = {asked.group.skills, asked.original.skills, *(group.skills for group, _ in asked.refused)}
        tried |= {group.skills for group, _ in asked.best}
        for untried in self._in_order(asked, found, ranked, tried):
            if asked.inert and asked.inert % INERT == 0:
                rewrite = max(untried, key=lambda made: _novelty(made.group, tried), default=None)
            else:
                rewrite = next(untried, None)
            if rewrite is not None:
                return rewrite
        raise TeacherError(
            f"{asked.group.key}: every combination of up to {self.together} edits was tried or changes nothing"
        )

    def _in_order(
        self, asked: Asked, found: Mapping[str, float], ranked: Sequence[EditCall], tried: Set[tuple[Skill, ...]]
    ) -> Iterator[Iterator[Rewrite]]:
        """Operations in words on all skills, single edits, words on one skill, edits together."""
        if self.worder is not None:
            yield self._worded(asked, found, [None], tried)
        yield self._untried(asked, found, _combinations(ranked, 1), tried)
        if self.worder is not None:
            yield self._worded(asked, found, [skill.skill_id for skill in asked.group.skills], tried)
        for count in range(2, self.together + 1):
            yield self._untried(asked, found, _combinations(ranked, count), tried)

    def _worded(
        self,
        asked: Asked,
        found: Mapping[str, float],
        which: Sequence[str | None],
        tried: Set[tuple[Skill, ...]],
    ) -> Iterator[Rewrite]:
        """What operations in words make of all skills of the group, or of one named by its id."""
        assert self.worder is not None
        bank = SkillBank((), {"group": asked.group.skills})
        for operation in WORDED:
            for only in which:
                pinned = [skill.skill_id for skill in asked.group.skills if only not in (None, skill.skill_id)]
                result = self.worder.rewrite(bank, ModelCard(), operation=operation, pinned=pinned)
                group = replace(asked.group, skills=result.groups[0].output.skills)
                if group.skills not in tried and words_of(group) <= asked.words:
                    where = f"{operation} in words" + (f", of {only}" if only else "")
                    yield Rewrite(group=group, attribution=found, note=f"{where}; {_shown(found)}")

    def _untried(
        self,
        asked: Asked,
        found: Mapping[str, float],
        combinations: Iterable[tuple[EditCall, ...]],
        tried: Set[tuple[Skill, ...]],
    ) -> Iterator[Rewrite]:
        """What the combinations make of the group, and of the first one; without what is too long or was tried."""
        for calls in combinations:
            for source in _sources(asked):
                start = getattr(asked, source)
                plan = plan_of(start, calls, asked.facts)
                if plan is None:
                    continue
                group = apply_plan(start, plan, asked.facts).group
                if group.skills not in tried and words_of(group) <= asked.words:
                    note = _note(calls, found, source)
                    yield Rewrite(group=group, plan=plan, source=source, attribution=found, note=note)

    def summarize(self, watched: Watched) -> Summary:
        """The habits that symptoms show, in words."""
        return Summary(weaknesses=weaknesses_of(watched.seen))


def plan_of(group: Group, calls: Sequence[EditCall], facts: Facts | None) -> Plan | None:
    """The plan that does these edits wherever a skill admits them; None if it changes nothing.

    A worked example is shown once, by the skill that has most words of it.
    """
    warnings = tuple(dict.fromkeys(call.argument or "" for call in calls if call.name == "warn"))[:MAX_WARNINGS]
    changing = [call for call in calls if call.name != "warn"]
    order = list(EDITS)
    lines = []
    showing = _showing(group, facts)
    for number, skill in enumerate(group.skills, start=1):
        admitted = set(available_edits(skill, facts))
        if skill not in showing:
            admitted.discard("example")
        edits: dict[str, EditCall] = {}
        for call in changing:
            if call.name in admitted and EDITS[call.name].apply(skill, call.argument, facts) != skill:
                edits.setdefault(call.name, call)
        kept = sorted(list(edits.values())[:MAX_EDITS_PER_LINE], key=lambda call: order.index(call.name))
        lines.append(PlanLine(number, tuple(kept) or (EditCall("keep"),)))
    if not warnings and all(line.edits[0].name == "keep" for line in lines):
        return None
    return Plan(tuple(lines), tuple(kind for kind in warnings if not _warned(group, kind)))


def _showing(group: Group, facts: Facts | None) -> set[Skill]:
    """The skills that `example` is for: of those that would show the same one, the one that shares most words.

    None for an example that the group shows already.
    """
    best: dict[str, tuple[int, Skill]] = {}
    for skill in group.skills:
        example = chosen_example(skill, facts)
        if example is None or any(example in other.principle for other in group.skills):
            continue
        if shared_words(skill, example) > best.get(example, (-1, skill))[0]:
            best[example] = (shared_words(skill, example), skill)
    return {skill for _, skill in best.values()}


def _warned(group: Group, kind: str) -> bool:
    """Whether a warning of the kind would add nothing, because the group has it."""
    lines = tuple(PlanLine(number, (EditCall("keep"),)) for number in range(1, len(group.skills) + 1))
    return apply_plan(group, Plan(lines, (kind,))).group.skills == group.skills


def _ranked(found: Mapping[str, float], card: Mapping[str, Any]) -> list[EditCall]:
    """Edits that the card calls for, in its order; `ACCEPTED`; by how much the failures call for them; those of `OFF`.

    A symptom's later remedies count for less than its first.
    """
    weights: dict[str, float] = {}
    for symptom, share in found.items():
        told = share * (0.5 if symptom == "out-of-steps" else 1.0)  # it follows from most others
        for place, remedy in enumerate(REMEDIES[symptom]):
            weights[remedy] = weights.get(remedy, 0.0) + told / (place + 1)
    for place, wording in enumerate(WORDINGS):
        weights.setdefault(wording, -float(place + 1))
    called = list(dict.fromkeys((*calls_of(card.get("weaknesses")).edits, *ACCEPTED)))
    names = [*called, *sorted(set(weights) - set(called), key=lambda name: (-weights[name], name))]
    # What harmed a real model and never helped one costs its episodes last.
    names.sort(key=lambda name: name.split(" ")[0] in OFF)
    return [EditCall(*name.split(" ", 1)) for name in names]


def _combinations(calls: Sequence[EditCall], count: int) -> Iterator[tuple[EditCall, ...]]:
    """`count` edits together; those of high rank first, and no two of the same name."""
    for its in sorted(itertools.combinations(range(len(calls)), count), key=lambda its: (sum(its), its)):
        chosen = tuple(calls[place] for place in its)
        names = [call.name for call in chosen if call.name != "warn"]
        if len(set(names)) == len(names):
            yield chosen


def _novelty(group: Group, tried: Iterable[tuple[Skill, ...]]) -> float:
    """Share of words that the group does not have in common with the nearest that was tried, 0 to 1."""
    words = _words(group.skills)
    return min(1 - 2 * (words & other).total() / max(1, words.total() + other.total()) for other in map(_words, tried))


def _words(skills: Iterable[Skill]) -> Counter[str]:
    return Counter(word for skill in skills for word in skill.principle.split())


def _sources(asked: Asked) -> tuple[Literal["group", "original"], ...]:
    """Edits do not undo each other, so another wording may need the text that the search began with."""
    return ("group",) if asked.group.skills == asked.original.skills else ("group", "original")


def _note(calls: Sequence[EditCall], found: Mapping[str, float], source: str) -> str:
    start = "" if source == "group" else ", from the first group"
    return f"{' and '.join(map(str, calls))}{start}; {_shown(found)}"


def _shown(found: Mapping[str, float]) -> str:
    shares = ", ".join(f"{name} in {share:.0%}" for name, share in list(found.items())[:3])
    return f"failures show {shares or 'no symptom'}"
