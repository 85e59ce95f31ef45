"""From a group to a piece of work for the model, and from the model's output back to a group.

This is where the two output languages meet everything else: which edits a skill admits, how long an output may
get, what an output means, and whether the guard lets it through. Pinned skills never reach the model: they
are taken out before and put back after.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from masa.edits import apply_plan, available_edits
from masa.guard import Violation, check
from masa.languages import (
    MAX_WARNINGS,
    ParseError,
    parse_blocks,
    parse_plan,
    plan_grammar,
    skills_from_blocks,
    text_pattern,
)
from masa.prompt import INSTRUCTIONS, Request
from masa.provenance import Draft, GroupResult, GroupStatus, SkillFate, fates_of, unchanged_fates
from masa.skills import Group, Skill

TEXT_GROWTH = 2.5
"""A rewritten text may take this many times the tokens of its prompt; published ones reach 4.6, most stay below 2.5."""

_PLAN_TOKENS_PER_SKILL = 24

CAUTIOUS_EDITS = ("keep", "condition-action", "steps", "syntax", "example", "emphasise")
"""Edits that keep every statement of a skill: all that a rewriter may choose that was not trained to choose."""


@dataclass(frozen=True)
class Work:
    """A group to rewrite: `whole` as it stands in the bank, `request.group` without its pinned skills."""

    whole: Group
    request: Request
    language: str
    pinned: frozenset[int]
    """1-based numbers in `whole` of the skills that stay as they are."""
    cautious: bool = False
    """Plan language: admit `CAUTIOUS_EDITS` only, and no warnings."""

    @property
    def warnings(self) -> int:
        """Plan language: how many warnings may be added."""
        return 0 if self.cautious else MAX_WARNINGS

    @functools.cached_property
    def allowed(self) -> tuple[tuple[str, ...], ...]:
        """Plan language: the edits that each skill of `request.group` admits.

        Trying the edits takes milliseconds a skill, which a rewrite that the cache answers never pays.
        """
        allowed = []
        for place, skill in enumerate(self.request.group.skills):
            names = available_edits(skill, self.request.facts)
            # The first skill is at the front already and has none above it.
            useless = ("first", "merge-up") if place == 0 else ()
            chosen = (n for n in names if n not in useless and (not self.cautious or n in CAUTIOUS_EDITS))
            allowed.append(tuple(chosen))
        return tuple(allowed)

    def grammar(self) -> tuple[str, bool]:
        """The constraint of the output, and whether it is a regular expression (else a Lark grammar)."""
        if self.language == "text":
            return text_pattern(len(self.request.group)), True
        return plan_grammar(self.allowed, warnings=self.warnings), False

    def most_tokens(self, prompt_tokens: int) -> int:
        """The longest output, in tokens, that is waited for."""
        if self.language == "text":
            return int(prompt_tokens * TEXT_GROWTH) + 64
        return _PLAN_TOKENS_PER_SKILL * (len(self.request.group) + 2)

    def numbers(self) -> tuple[int, ...]:
        """For each skill that the model sees, its 1-based number in the whole group."""
        return tuple(n for n in range(1, len(self.whole) + 1) if n not in self.pinned)

    def identity(self) -> dict[str, object]:
        """What the outcome depends on, as JSON values, for the cache."""
        facts = self.request.facts
        return {
            "language": self.language,
            "cautious": self.cautious,
            "group": self.whole.key,
            "skills": [[s.skill_id, s.title, s.principle, s.when_to_apply] for s in self.whole.skills],
            "pinned": sorted(self.pinned),
            "card": [[key, value] for key, value in self.request.card.items()],
            "task": self.request.task,
            "environment": self.request.environment,
            "facts": repr(facts) if facts else None,
        }


def prepare(request: Request, pinned: frozenset[str], language: str, *, cautious: bool = False) -> Work:
    """`request.group` is the whole group, `pinned` are ids of its skills."""
    whole = request.group
    fixed = frozenset(n for n, skill in enumerate(whole.skills, start=1) if skill.skill_id in pinned)
    free = tuple(skill for n, skill in enumerate(whole.skills, start=1) if n not in fixed)
    group = Group(whole.task_type, free)
    return Work(whole, replace(request, group=group), language, fixed, cautious and language == "plan")


def accept(work: Work, raw: str, control_tokens: Sequence[str]) -> GroupResult:
    """What the output `raw` makes of the group: the rewritten group, or the original if it is refused."""
    try:
        draft = _read(work, raw)
    except ParseError as error:
        return refuse(work, f"the output does not parse: {error}")
    draft = _with_pinned(work, draft)
    violations = check(
        work.whole,
        draft.group,
        facts=work.request.facts,
        control_tokens=control_tokens,
        prompt_text=INSTRUCTIONS[work.language],
    )
    fates = fates_of(work.whole, draft, work.pinned)
    order = [fate.outputs[0] for fate in fates if fate.outputs]
    changed = order != sorted(order) or any(fate.status not in ("kept", "pinned") for fate in fates)
    added = tuple(i for i, sources in enumerate(draft.sources) if not sources)
    if violations:
        reason = "; ".join(dict.fromkeys(violation.message for violation in violations))
        return refuse(work, f"the guard refused the output: {reason}", violations=violations)
    return GroupResult(
        key=work.whole.key,
        source=work.whole,
        output=draft.group,
        status="rewritten" if changed or added else "kept",
        reason="",
        violations=(),
        fates=fates,
        added=added,
        raw=raw,
        prompt_tokens=0,
        tokens=0,
        steps=0,
        seconds=0.0,
    )


def refuse(
    work: Work, reason: str, status: GroupStatus = "fell back", violations: tuple[Violation, ...] = ()
) -> GroupResult:
    """The group stays as it is: it fell back, was cancelled, or was kept because all of it is pinned."""
    return GroupResult(
        key=work.whole.key,
        source=work.whole,
        output=work.whole,
        status=status,
        reason=reason,
        violations=violations,
        fates=unchanged_fates(work.whole, status, work.pinned),
        added=(),
        raw="",
        prompt_tokens=0,
        tokens=0,
        steps=0,
        seconds=0.0,
    )


def _read(work: Work, raw: str) -> Draft:
    group = work.request.group
    if work.language == "text":
        blocks = parse_blocks(raw, len(group))
        made = Group(group.task_type, skills_from_blocks(blocks, group, work.whole))
        return Draft(made, tuple(block.sources for block in blocks))
    plan = parse_plan(raw, work.allowed, warnings=work.warnings)
    planned = apply_plan(group, plan, work.request.facts)
    names = tuple(tuple(str(call) for call in line.edits) for line in plan.lines)
    return Draft(planned.group, planned.sources, names)


def _with_pinned(work: Work, draft: Draft) -> Draft:
    """Put the pinned skills back at their old places, and number the sources as in the whole group."""
    numbers = work.numbers()
    skills = list(draft.group.skills)
    sources = [tuple(numbers[n - 1] for n in group) for group in draft.sources]
    for number in sorted(work.pinned):
        place = min(number - 1, len(skills))
        skills.insert(place, work.whole.skills[number - 1])
        sources.insert(place, (number,))
    edits: tuple[tuple[str, ...], ...] = ()
    if draft.edits:
        by_number = dict(zip(numbers, draft.edits, strict=True))
        edits = tuple(by_number.get(n, ()) for n in range(1, len(work.whole) + 1))
    return Draft(Group(work.whole.task_type, tuple(skills)), tuple(sources), edits)


def to_cache(result: GroupResult) -> dict[str, Any]:
    """A result as a JSON object that `from_cache` reads."""
    return {
        "status": result.status,
        "reason": result.reason,
        "violations": [[v.rule, v.message, v.skill] for v in result.violations],
        "fates": [[f.number, f.skill_id, f.status, list(f.edits), list(f.outputs)] for f in result.fates],
        "added": list(result.added),
        "skills": None
        if result.output is result.source
        else [[s.skill_id, s.title, s.principle, s.when_to_apply] for s in result.output.skills],
        "raw": result.raw,
        "figures": [result.prompt_tokens, result.tokens, result.steps, result.seconds],
    }


def from_cache(work: Work, value: Mapping[str, Any]) -> GroupResult | None:
    """The result that was cached, or None if the value is not of that form."""
    try:
        extras = {skill.skill_id: skill for skill in reversed(work.whole.skills)}
        output = work.whole
        if value["skills"] is not None:
            skills = []
            for identifier, title, principle, when in value["skills"]:
                origin = extras.get(identifier)
                made = Skill(identifier, title, principle, when)
                skills.append(replace(made, extra=origin.extra) if origin else made)
            output = Group(work.whole.task_type, tuple(skills))
        prompt_tokens, tokens, steps, seconds = value["figures"]
        return GroupResult(
            key=work.whole.key,
            source=work.whole,
            output=output,
            status=value["status"],
            reason=value["reason"],
            violations=tuple(Violation(*item) for item in value["violations"]),
            fates=tuple(SkillFate(n, i, s, tuple(e), tuple(o)) for n, i, s, e, o in value["fates"]),
            added=tuple(value["added"]),
            raw=value["raw"],
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            steps=steps,
            seconds=seconds,
            cached=True,
        )
    except (KeyError, TypeError, ValueError):
        return None
