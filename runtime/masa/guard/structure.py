"""Rules on the shape of a group: something in every field, sane numbers and lengths, unique identifiers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from masa.guard.case import Case, Rule, Violation, quote, where
from masa.skills import Skill

# Hangul fillers count as letters and show nothing.
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")


def _says_something(text: str) -> bool:
    return any(char.isalnum() and char not in _FILLERS for char in text)


def empty(case: Case) -> Iterator[Violation]:
    if case.source.skills and not case.output.skills:
        yield Violation("empty", "the group has no skills left")
    blank_titles = not all(_says_something(skill.title) for skill in case.source.skills)
    blank_principles = not all(_says_something(skill.principle) for skill in case.source.skills)
    for index, skill in enumerate(case.output.skills):
        if not _says_something(skill.title) and not (blank_titles and _same_in_source(case, skill)):
            yield Violation("empty", f"{where(index)} has no title", index)
        if not _says_something(skill.principle) and not (blank_principles and _same_in_source(case, skill)):
            yield Violation("empty", f"{where(index)} has no principle", index)


def _same_in_source(case: Case, skill: Skill) -> bool:
    # A file may hold a skill without a title or text; keeping it as it stands is no damage.
    return any(skill.title == other.title and skill.principle == other.principle for other in case.source.skills)


def skill_ids(case: Case) -> Iterator[Violation]:
    allowed = Counter(skill.skill_id for skill in case.source.skills)
    seen: Counter[str] = Counter()
    for index, skill in enumerate(case.output.skills):
        seen[skill.skill_id] += 1
        if seen[skill.skill_id] > max(1, allowed[skill.skill_id]):
            yield Violation("skill-ids", f"{where(index)} repeats the skill_id {quote(skill.skill_id)}", index)
        elif not skill.skill_id.strip() and skill.skill_id not in allowed:
            yield Violation("skill-ids", f"{where(index)} has no skill_id", index)


def skill_count(case: Case) -> Iterator[Violation]:
    before, after = len(case.source), len(case.output)
    # Twice as many, and one more for each kind of warning: what a plan can ask for.
    most = 2 * before + 8 if before else 0
    if after > most:
        yield Violation("skill-count", f"the group has {after} skills, more than the {most} that {before} may become")


def group_length(case: Case) -> Iterator[Violation]:
    limits, before, after = case.limits, len(case.raw_source), len(case.raw_output)
    facts = len(case.facts_text)
    most = max(min(limits.max_ratio * before, before + limits.max_growth), before + limits.allowance) + facts
    if after > most:
        yield Violation("group-length", f"the group grew from {before:,} to {after:,} characters, over {most:,.0f}")
    least = limits.min_ratio * before
    if after < least:
        yield Violation("group-length", f"the group shrank from {before:,} to {after:,} characters, under {least:,.0f}")


def skill_length(case: Case) -> Iterator[Violation]:
    limits, skills = case.limits, case.source.skills
    bounds = {
        "text": limits.max_skill_chars + len(case.raw_source) + len(case.facts_text),
        "title": limits.max_title_chars + sum(len(skill.title) for skill in skills),
        "condition": limits.max_when_chars + sum(len(skill.when_to_apply) for skill in skills),
    }
    lines = max((skill.title.count("\n") for skill in skills), default=0)
    for index, skill in enumerate(case.output.skills):
        sizes = {"text": len(skill.text), "title": len(skill.title), "condition": len(skill.when_to_apply)}
        for part, size in sizes.items():
            if size > bounds[part]:
                message = f"{where(index)} has a {part} of {size:,} characters, over {bounds[part]:,}"
                yield Violation("skill-length", message, index)
        if skill.title.count("\n") > lines:
            yield Violation("skill-length", f"{where(index)} has a title of several lines", index)


RULES = (
    Rule("empty", "A group keeps at least one skill, and every skill has a title and a principle.", empty),
    Rule("skill-ids", "No two skills of a group share a skill_id.", skill_ids),
    Rule("skill-count", "A group has at most twice the skills of its source, and eight more.", skill_count),
    Rule("group-length", "The length of a group stays in bounds measured on published rewrites.", group_length),
    Rule("skill-length", "No title, condition or skill is longer than any sensible rewrite.", skill_length),
)
