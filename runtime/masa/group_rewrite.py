"""From a group to a piece of work for the model, and from the model's output back to a group.

This is where the two output languages meet everything else: which edits a skill admits, how long an output may
get, what an output means, and whether the guard lets it through. Pinned skills never reach the model: they
are taken out before and put back after.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from masa.card_calls import calls_of
from masa.codec import skills_from_json, skills_to_json
from masa.edits import EditCall, Plan, apply_plan, available_edits
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
from masa.skills import COUNTED, GENERAL, Group, Skill
from masa.wording import DETERMINISTIC, LEAST_WORDS, OPERATIONS, binding, doubts, losses, most_words, parse_wording

if TYPE_CHECKING:
    from masa.guard import Violation

TEXT_GROWTH = 2.5
"""A rewritten text may take this many times the tokens of its prompt; published ones reach 4.6, most stay below 2.5."""

_PLAN_TOKENS_PER_SKILL = 24
_TOKENS_PER_WORD = 2.5
"""English takes 1.3; commands, paths and figures more."""

CAUTIOUS_EDITS = ("keep", "condition-action", "steps", "syntax", "example", "emphasise")
"""Edits that keep every statement of a skill: all that a rewriter may choose that was not trained to choose."""


_NUMBERING = frozenset(("first", "merge-up", "drop", "warn"))
"""Edits after which not every skill is one skill at its place."""


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
    without: frozenset[str] = frozenset()
    """Plan language: edits that are taken out of the plan. A trained rewriter that may not write them writes others."""
    worded: bool = False
    """Plan language: what `DETERMINISTIC` cannot do to a skill will be done in words, and is admitted."""

    @property
    def counted(self) -> bool:
        """Whether every skill stays one skill at its place, as the description of a tool does (`COUNTED`)."""
        return any(skill.extra.get(COUNTED) for skill in self.whole.skills)

    @property
    def off(self) -> frozenset[str]:
        """Plan language: what is taken out of the plan."""
        return self.without | _NUMBERING if self.counted else self.without

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
            if self.worded and len(skill.principle.split()) >= LEAST_WORDS:
                names = (*names, *(name for name in DETERMINISTIC if name not in names))
            # The first skill is at the front already and has none above it.
            useless = ("first", "merge-up") if place == 0 else ()
            chosen = (n for n in names if n not in useless and (not self.cautious or n in CAUTIOUS_EDITS))
            allowed.append(tuple(chosen))
        return tuple(allowed)

    def plan(self, raw: str) -> tuple[Plan, tuple[str, ...]]:
        """Plan language: the plan that was written without what is switched off, and the names of that.

        Raises:
            ParseError: if `raw` is no plan for this group.
        """
        plan = parse_plan(raw, self.allowed, warnings=self.warnings)
        names = [call.name for line in plan.lines for call in line.edits] + ["warn" for _ in plan.warnings]
        off = tuple(dict.fromkeys(name for name in names if name in self.off))
        if not off:
            return plan, ()
        lines = []
        for line in plan.lines:
            left = tuple(call for call in line.edits if call.name not in off)
            lines.append(replace(line, edits=left or (EditCall("keep"),)))
        return Plan(tuple(lines), () if "warn" in off else plan.warnings), off

    def grammar(self) -> tuple[str, bool]:
        """The constraint of the output, and whether it is a regular expression (else a Lark grammar)."""
        if self.language == "text":
            return text_pattern(len(self.request.group)), True
        if self.language == "wording":
            return OPERATIONS[self.request.operation].form, True
        return plan_grammar(self.allowed, warnings=self.warnings), False

    def most_tokens(self, prompt_tokens: int) -> int:
        """The longest output, in tokens, that is waited for."""
        if self.language == "text":
            return int(prompt_tokens * TEXT_GROWTH) + 64
        if self.language == "wording":
            texts = [skill.principle for skill in self.request.group.skills]
            return int(most_words(OPERATIONS[self.request.operation], texts) * _TOKENS_PER_WORD)
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
            "skills": skills_to_json(self.whole.skills),
            "pinned": sorted(self.pinned),
            "card": [[key, value] for key, value in self.request.card.items()],
            "task": self.request.task,
            "environment": self.request.environment,
            "facts": repr(facts) if facts else None,
            **({"without": sorted(self.without)} if self.without else {}),
            **({COUNTED: True} if self.counted else {}),
            **({"worded": True} if self.worded else {}),
            **({"operation": self.request.operation, "keep": self.request.keep} if self.request.operation else {}),
        }


def prepare(
    request: Request,
    pinned: frozenset[str],
    language: str,
    *,
    cautious: bool = False,
    without: frozenset[str] = frozenset(),
    worded: bool = False,
) -> Work:
    """`request.group` is the whole group, `pinned` are ids of its skills, `without` edits that are switched off."""
    whole = request.group
    fixed = frozenset(n for n, skill in enumerate(whole.skills, start=1) if skill.skill_id in pinned)
    free = tuple(skill for n, skill in enumerate(whole.skills, start=1) if n not in fixed)
    group = Group(whole.task_type, free)
    plan = language == "plan"
    return Work(whole, replace(request, group=group), language, fixed, cautious and plan, without, worded and plan)


def halves(work: Work) -> tuple[Work, Work] | None:
    """A group in two, for a rewriter that cannot read all of it; None if it is a single skill.

    It is cut between skills, near the middle of the text, and where the skills are sections of a SKILL.md before the
    highest heading there.
    """
    sizes = list(itertools.accumulate(len(skill.text) for skill in work.whole.skills))
    if len(sizes) < 2 or work.language == "wording":
        return None

    def cost(place: int) -> tuple[bool, int, float]:
        share = sizes[place - 1] / max(1, sizes[-1])
        origin = work.whole.skills[place].extra.get("skill_md")
        level = origin.get("level", 0) if isinstance(origin, Mapping) else 0
        return not 0.25 <= share <= 0.75, level, abs(share - 0.5)

    place = min(range(1, len(sizes)), key=cost)
    return _slice(work, 0, place), _slice(work, place, len(sizes))


def _slice(work: Work, start: int, end: int) -> Work:
    fixed = frozenset(number - start for number in work.pinned if start < number <= end)
    skills = work.whole.skills[start:end]
    free = tuple(skill for number, skill in enumerate(skills, start=1) if number not in fixed)
    request = replace(work.request, group=replace(work.request.group, skills=free))
    return replace(work, whole=replace(work.whole, skills=skills), request=request, pinned=fixed)


def joined(work: Work, parts: Sequence[GroupResult]) -> GroupResult:
    """The result of a group that was rewritten in parts, in their order. Figures are summed.

    Of the skills that several parts added, one with the same text is kept, and of warnings the first `work.warnings`.
    """
    missing = sum(part.status == "cancelled" for part in parts)
    if missing:
        return refuse(work, f"cancelled after {len(parts) - missing} of its {len(parts)} parts", "cancelled")
    skills: list[Skill] = []
    fates: list[SkillFate] = []
    added: list[int] = []
    taken = {skill.skill_id for skill in work.whole.skills}
    for part in parts:
        places: dict[int, int] = {}
        for place, skill in enumerate(part.output.skills):
            if place in part.added:
                if any(skill.text == skills[i].text for i in added):
                    continue
                if work.language == "plan" and len(added) >= work.warnings:
                    continue
                while skill.skill_id in taken:
                    skill = replace(skill, skill_id=f"{skill.skill_id}_2")
                taken.add(skill.skill_id)
                added.append(len(skills))
            places[place] = len(skills)
            skills.append(skill)
        first = len(fates)
        for fate in part.fates:
            outputs = tuple(places[i] for i in fate.outputs)
            fates.append(replace(fate, number=first + fate.number, outputs=outputs))
    statuses = {part.status for part in parts}
    status: GroupStatus = next((one for one in _BY_WEIGHT if one in statuses), "kept")
    told = [part for part in parts if part.reason and (status == "kept" or part.status != "kept")]
    return GroupResult(
        key=work.whole.key,
        source=work.whole,
        output=replace(work.whole, skills=tuple(skills)) if status == "rewritten" else work.whole,
        status=status,
        reason="; ".join((f"written in {len(parts)} parts", *dict.fromkeys(part.reason for part in told))),
        violations=tuple(replace(v, skill=None) for part in parts for v in part.violations),
        fates=tuple(fates),
        added=tuple(added),
        raw="\n\n".join(part.raw for part in parts),
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        tokens=sum(part.tokens for part in parts),
        steps=sum(part.steps for part in parts),
        seconds=sum(part.seconds for part in parts),
    )


_BY_WEIGHT: tuple[GroupStatus, ...] = ("rewritten", "fell back", "kept")


def without_repeats(results: Sequence[GroupResult], general: Sequence[Skill]) -> tuple[GroupResult, ...]:
    """The results without the warnings, in groups of a task type, that the general skills carry already.

    Who reads the skills of a type reads the general ones above them.

    Args:
        general: the general skills of the bank, for where they are not among the results.
    """
    found = next((result.output.skills for result in results if result.key == GENERAL), general)
    told = frozenset(skill.text for skill in found)
    return tuple(result if result.key == GENERAL else _without(result, told) for result in results)


def _without(result: GroupResult, told: frozenset[str]) -> GroupResult:
    skills = result.output.skills
    gone = {place for place in result.added if skills[place].text in told}
    if not gone:
        return result
    places = {old: new for new, old in enumerate(place for place in range(len(skills)) if place not in gone)}
    left = tuple(skills[place] for place in places)
    same = left == result.source.skills
    return replace(
        result,
        output=result.source if same else replace(result.output, skills=left),
        status="kept" if same else result.status,
        reason="; ".join(filter(None, (result.reason, "the warning stands in the general skills"))),
        fates=tuple(replace(fate, outputs=tuple(places[place] for place in fate.outputs)) for fate in result.fates),
        added=tuple(places[place] for place in result.added if place in places),
    )


def accept(work: Work, raw: str, control_tokens: Sequence[str]) -> GroupResult:
    """What the output `raw` makes of the group: the rewritten group, with the source's words where it is refused.

    What the guard refuses falls back alone: a skill, or the skills that were merged into one. If what is left does
    not pass either, the whole group stays as it was.
    """
    if work.language == "wording":
        return _accept_wording(work, raw, control_tokens)
    try:
        draft = _with_pinned(work, _read(work, raw))
    except ParseError as error:
        return refuse(work, f"the output does not parse: {error}")
    violations = _judge(work, work.whole, draft, control_tokens)
    refused: frozenset[int] = frozenset()
    if violations:
        attempts = _without_refused(work, draft, control_tokens)
        spared = next((one for one in attempts if not _judge(work, work.whole, one[0], control_tokens)), None)
        if spared is None:
            return refuse(work, f"the guard refused the output: {_told(violations)}", violations=violations)
        draft, refused, violations = spared
    fates = fates_of(work.whole, draft, work.pinned, refused)
    order = [fate.outputs[0] for fate in fates if fate.outputs]
    added = tuple(i for i, sources in enumerate(draft.sources) if not sources)
    changed = order != sorted(order) or any(fate.status not in ("kept", "pinned", "fell back") for fate in fates)
    status: GroupStatus = "rewritten" if changed or added else "fell back" if violations else "kept"
    if status == "kept":
        reason = _why_kept(work, fates, raw)
    elif violations:
        what = (
            f"{len(refused)} of {len(work.whole)} skills stay as they were" if refused else "an added skill is left out"
        )
        reason = f"{what}: the guard refused {_told(violations)}"
    else:
        reason = ""
    return GroupResult(
        key=work.whole.key,
        source=work.whole,
        output=draft.group if status == "rewritten" else work.whole,
        status=status,
        reason=reason,
        violations=violations,
        fates=fates,
        added=added,
        raw=raw,
        prompt_tokens=0,
        tokens=0,
        steps=0,
        seconds=0.0,
    )


_LABEL = re.compile(r"^(?:Skill|Operation|Keep|When):", re.MULTILINE)
"""How the lines of a prompt begin."""
_LOSES = re.compile(r"loses '(.+?)'(?: of '|$)", re.DOTALL)


def _accept_wording(work: Work, raw: str, control_tokens: Sequence[str]) -> GroupResult:
    """The skill reworded; as it was where the answer has lost something or the guard refuses it."""
    from masa.guard import Violation

    operation, source = OPERATIONS[work.request.operation], work.whole
    texts = [skill.principle for skill in source.skills]
    try:
        parts = parse_wording(raw.strip(), operation)
    except ParseError as error:
        return refuse(work, f"the output does not parse: {error}")
    if any(_LABEL.search(part) for part in parts) and not any(map(_LABEL.search, texts)):
        return refuse(work, "the output repeats the prompt")
    if lost := losses(operation, texts, raw):
        found = tuple(Violation("lost", span, 1) for span in lost)
        return refuse(work, f"the rewording has lost {', '.join(repr(span) for span in lost)}", violations=found)
    first = source.skills[0]
    if operation.appended:
        parts = (f"{first.principle.rstrip()}\n\n{parts[0]}",)
    skills = [replace(first, principle=parts[0])]
    skills += [
        Skill(f"{first.skill_id}_{n}", first.title, part, first.when_to_apply) for n, part in enumerate(parts[1:], 2)
    ]
    output = replace(source, skills=tuple(skills))
    found = _judge(work, source, Draft(output, tuple((1,) for _ in skills)), control_tokens)
    # Words that only grammar wants may go from a rewording; others that a mere cut has lost are named as losses.
    cut = {violation: _LOSES.search(violation.message) for violation in found if violation.rule == "statements"}
    harmless = {violation for violation, match in cut.items() if match and not binding(match.group(1))}
    found = tuple(
        replace(violation, rule="lost", message=match.group(1)) if (match := cut.get(violation)) else violation
        for violation in found
        if violation not in harmless
    )
    prohibitions, clauses = doubts(operation, texts, raw)
    # A shortened skill leaves whole clauses out where they bind nothing; that is told, and asked about once.
    doubtful = prohibitions if operation.name == "shorten" else (*prohibitions, *clauses)
    if not found and doubtful:
        found = tuple(Violation("lost", clause, 1) for clause in doubtful)
    if found:
        return refuse(work, f"the guard refused the rewording: {_told(found)}", violations=found)
    status: GroupStatus = "kept" if parts == (first.principle,) else "rewritten"
    fates = tuple(
        SkillFate(
            number,
            skill.skill_id,
            "kept" if status == "kept" else "merged" if len(source) > 1 else "rewritten",
            (operation.name,),
            tuple(range(len(skills))),
        )
        for number, skill in enumerate(source.skills, start=1)
    )
    reason = "the rewriter wrote the skill as it was" if status == "kept" else "; ".join(clauses)
    return replace(refuse(work, reason, status), output=output, fates=fates)


def _judge(work: Work, source: Group, draft: Draft, control_tokens: Sequence[str]) -> tuple[Violation, ...]:
    from masa.guard import check  # only now: a rewrite that the cache answers does without its patterns

    return check(
        source,
        draft.group,
        facts=work.request.facts,
        control_tokens=control_tokens,
        prompt_text=INSTRUCTIONS[work.language],
        plan=draft.plan,
    )


def _told(violations: Sequence[Violation]) -> str:
    return "; ".join(dict.fromkeys(violation.message for violation in violations))


def _why_kept(work: Work, fates: Sequence[SkillFate], raw: str) -> str:
    """Why the group is as it was, though its rewrite was accepted."""
    tried = dict.fromkeys(edit for fate in fates for edit in fate.edits if edit != "keep")
    if tried:
        said = f"the edits that were chosen change nothing here ({', '.join(tried)})"
    elif work.language == "plan" and (off := work.plan(raw)[1]):
        return f"what was chosen is left out ({', '.join(off)})"
    elif work.language == "plan":
        said = "the rewriter chose to keep every skill"
    else:
        said = "the rewriter wrote every skill as it was"
    weaknesses = str(work.request.card.get("weaknesses") or "")
    if not weaknesses:
        return f"{said}; this card has no weaknesses{'' if work.request.card.get('strengths') else ' and no strengths'}"
    return said if tried or calls_of(weaknesses).edits else f"{said}; no edit is known to answer what its card says"


def _without_refused(
    work: Work, draft: Draft, control_tokens: Sequence[str]
) -> Iterator[tuple[Draft, frozenset[int], tuple[Violation, ...]]]:
    """Drafts with the source's words where the guard refuses what was made of them, the mildest first.

    Each with the numbers of the skills that fell back and what was found about them. First what fails on its own; then
    also every skill that was dropped, since what it said may have been elsewhere in what is gone now. A text that was
    refused in part is not believed about what it leaves out.
    """
    refused: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    found: list[Violation] = []
    parts = _parts(len(work.whole), draft)
    for numbers, outputs in parts:
        if not outputs:
            continue
        skills = tuple(draft.group.skills[i] for i in outputs)
        if numbers:
            part = replace(work.whole, skills=tuple(work.whole.skills[n - 1] for n in numbers))
            sources = tuple(tuple(numbers.index(n) + 1 for n in draft.sources[i]) for i in outputs)
            edits = tuple(draft.edits[n - 1] for n in numbers) if draft.edits else ()
        else:  # an added skill, which must go with the group as it was
            part, skills = work.whole, (*work.whole.skills, *skills)
            sources, edits = (*((n,) for n in range(1, len(work.whole) + 1)), ()), ()
        made = Draft(replace(work.whole, skills=skills), sources, edits)
        if violations := _judge(work, part, made, control_tokens):
            refused.append((numbers, outputs))
            found += [replace(violation, skill=None) for violation in violations]
    dropped = [(numbers, outputs) for numbers, outputs in parts if not outputs]
    attempts = [refused + dropped] if work.language == "text" or not refused else [refused, refused + dropped]
    for back in attempts if refused or dropped else ():
        spared, fallen = _put_back(work.whole, draft, back)
        yield spared, fallen, tuple(found) or _judge(work, work.whole, draft, control_tokens)


def _parts(skills: int, draft: Draft) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The draft in its smallest independent parts: source numbers and the places of the outputs made of them."""
    parts: list[tuple[set[int], set[int]]] = [({number}, set()) for number in range(1, skills + 1)]
    for place, sources in enumerate(draft.sources):
        touched = [part for part in parts if part[0] & set(sources)]
        parts = [part for part in parts if part not in touched]
        parts.append((set().union(*(part[0] for part in touched)), {place}.union(*(part[1] for part in touched))))
    return [(tuple(sorted(numbers)), tuple(sorted(outputs))) for numbers, outputs in parts]


def _put_back(
    whole: Group, draft: Draft, parts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
) -> tuple[Draft, frozenset[int]]:
    """The draft with the source skills of these parts in the place of what was made of them."""
    gone = {place for _, outputs in parts for place in outputs}
    numbers = frozenset(number for sources, _ in parts for number in sources)
    kept = [(draft.group.skills[i], sources) for i, sources in enumerate(draft.sources) if i not in gone]
    for number in sorted(numbers):
        # Behind the last skill of a smaller number, so that the order of the source is kept.
        place = max((i + 1 for i, (_, sources) in enumerate(kept) if sources and min(sources) < number), default=0)
        kept.insert(place, (whole.skills[number - 1], (number,)))
    group = replace(whole, skills=tuple(skill for skill, _ in kept))
    edits = tuple(() if number in numbers else names for number, names in enumerate(draft.edits, start=1))
    return Draft(group, tuple(sources for _, sources in kept), edits), numbers


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
    plan, _ = work.plan(raw)
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
        "fates": [[f.number, f.skill_id, f.status, list(f.edits), list(f.outputs), list(f.lost)] for f in result.fates],
        "added": list(result.added),
        "skills": None if result.output is result.source else skills_to_json(result.output.skills),
        "raw": result.raw,
        "figures": [result.prompt_tokens, result.tokens, result.steps, result.seconds],
    }


def _violation(item: Sequence[Any]) -> Violation:
    from masa.guard import Violation

    return Violation(*item)


def from_cache(work: Work, value: Mapping[str, Any]) -> GroupResult | None:
    """The result that was cached, or None if the value is not of that form."""
    try:
        extras = {skill.skill_id: skill for skill in reversed(work.whole.skills)}
        output = work.whole
        if value["skills"] is not None:
            skills = []
            for made in skills_from_json(value["skills"]):
                origin = extras.get(made.skill_id)
                skills.append(replace(made, extra=origin.extra) if origin else made)
            output = Group(work.whole.task_type, tuple(skills))
        prompt_tokens, tokens, steps, seconds = value["figures"]
        return GroupResult(
            key=work.whole.key,
            source=work.whole,
            output=output,
            status=value["status"],
            reason=value["reason"],
            violations=tuple(map(_violation, value["violations"])),
            fates=tuple(SkillFate(n, i, s, tuple(e), tuple(o), tuple(lost)) for n, i, s, e, o, lost in value["fates"]),
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
