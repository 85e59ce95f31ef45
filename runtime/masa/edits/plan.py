"""Plans: the list of edits that turns a group into another, and applying it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from masa.edits.additions import WARN_KINDS, closed, warning_skill
from masa.edits.registry import EDITS, droppable
from masa.facts import Facts
from masa.markdown import is_plain
from masa.skills import Group, Skill


@dataclass(frozen=True, slots=True)
class EditCall:
    """One edit by name; `warn` needs its kind as the argument, `limit` its number, the others none."""

    name: str
    argument: str | None = None

    def __str__(self) -> str:
        return self.name if self.argument is None else f"{self.name} {self.argument}"


@dataclass(frozen=True, slots=True)
class PlanLine:
    """What happens to one source skill: its 1-based number and its edits, never none."""

    source: int
    edits: tuple[EditCall, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One line per source skill, in source order, and the kinds of warning skills to add at the end."""

    lines: tuple[PlanLine, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """A group that a plan made, and where it came from.

    Attributes:
        group: the new group.
        sources: for every skill of the group the 1-based numbers of its source skills, its own first;
            `()` for a warning skill that the plan added.
        dropped: the source skills that are in no output. With `sources` it names every source once.
        limited: the source skills of which the plan keeps the first sentences alone.
    """

    group: Group
    sources: tuple[tuple[int, ...], ...]
    dropped: tuple[int, ...]
    limited: tuple[int, ...] = ()


def apply_plan(group: Group, plan: Plan, facts: Facts | None = None) -> PlannedGroup:
    """Apply a plan: edit each skill, drop and merge, move `first` ones to the front, add warnings at the end.

    Every source skill ends up in the sources of exactly one output skill or in `dropped`. An edit that finds
    nothing to change leaves the skill as it is. Merging happens after the edits of the skill merged into.

    Raises:
        ValueError: if the plan does not fit the group: not one line per skill in order, an unknown edit or
        argument,
            edits out of canonical order or repeated, a structural edit beside others, `merge-up` with no
            surviving skill above, `drop` of a skill with protected spans, nothing left, an unknown or
            repeated warning.
    """
    check_plan(group, plan)
    survivors: list[tuple[Skill, tuple[int, ...], bool]] = []
    dropped: list[int] = []
    for line, skill in zip(plan.lines, group.skills, strict=True):
        names = [call.name for call in line.edits]
        if names == ["drop"]:
            dropped.append(line.source)
        elif names == ["merge-up"]:
            target, sources, ahead = survivors[-1]
            survivors[-1] = (merged(target, skill), (*sources, line.source), ahead)
        else:
            edited = skill
            for call in line.edits:
                edited = EDITS[call.name].apply(edited, call.argument, facts)
            survivors.append((edited, (line.source,), "first" in names))
    ordered = [item for item in survivors if item[2]] + [item for item in survivors if not item[2]]
    skills = [skill for skill, _, _ in ordered]
    taken = {skill.skill_id for skill in group.skills}
    for kind in plan.warnings:
        skills.append(warning_skill(kind, facts, _new_id(kind, taken)))
    origins = tuple(numbers for _, numbers, _ in ordered) + ((),) * len(plan.warnings)
    limited = tuple(line.source for line in plan.lines if any(call.name == "limit" for call in line.edits))
    return PlannedGroup(replace(group, skills=tuple(skills)), origins, tuple(dropped), limited)


def check_plan(group: Group, plan: Plan) -> None:
    """Raise ValueError, saying where, unless the plan fits the group."""
    numbers = [line.source for line in plan.lines]
    if numbers != list(range(1, len(group) + 1)):
        raise ValueError(
            f"the plan has lines for {numbers or 'no'} skills, the group has 1 to {len(group)}; give each one line"
        )
    survivor = False
    for line, skill in zip(plan.lines, group.skills, strict=True):
        _check_line(line)
        name = line.edits[0].name
        if name == "merge-up" and not survivor:
            raise ValueError(f"line {line.source}: 'merge-up' with no surviving skill above; keep one above it")
        if name == "drop" and not droppable(skill):
            raise ValueError(
                f"line {line.source}: 'drop' of a skill with code, links or placeholders; keep or merge it"
            )
        survivor = survivor or name not in ("drop", "merge-up")
    if group.skills and not survivor:
        raise ValueError("the plan drops every skill; keep at least one")
    for position, kind in enumerate(plan.warnings):
        if kind not in WARN_KINDS:
            raise ValueError(f"unknown warning {kind!r}; the kinds are {', '.join(WARN_KINDS)}")
        if kind in plan.warnings[:position]:
            raise ValueError(f"the warning {kind!r} is added twice; once is enough")


def _check_line(line: PlanLine) -> None:
    where = f"line {line.source}"
    if not line.edits:
        raise ValueError(f"{where}: no edit; write 'keep' to leave the skill as it is")
    order = list(EDITS)
    last = -1
    for call in line.edits:
        edit = EDITS.get(call.name)
        if edit is None:
            raise ValueError(f"{where}: unknown edit {call.name!r}; the edits are {', '.join(order)}")
        try:
            edit.check(call.argument)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if edit.structural and len(line.edits) > 1:
            raise ValueError(f"{where}: {call.name!r} stands alone on its line, found {len(line.edits)} edits")
        if order.index(call.name) <= last:
            raise ValueError(f"{where}: {call.name!r} out of order or repeated; the order is {', '.join(order[3:])}")
        last = order.index(call.name)


def merged(target: Skill, skill: Skill) -> Skill:
    """Both skills as one: the first's identifier, joined titles and conditions, one text behind the other."""
    return replace(
        target,
        title=_joined_titles(target.title, skill.title),
        principle=_joined_texts(target.principle, skill.principle),
        when_to_apply=_joined_conditions(target.when_to_apply, skill.when_to_apply),
    )


def _joined_titles(first: str, second: str) -> str:
    """`A; B`, or only the first where it says the second's words already."""
    if not second.strip() or _within(second, first):
        return first
    return f"{first.rstrip(' .;')}; {second.strip()}" if first.strip() else second


def _joined_conditions(first: str, second: str) -> str:
    if not second.strip() or _within(second, first):
        return first
    if not first.strip():
        return second
    from masa.edits.english import lowered

    return f"{first.rstrip(' .;')}; or {lowered(second.strip())}"


def _within(part: str, whole: str) -> bool:
    """Whether the words of `part` stand in a row in `whole`."""
    words = [" ".join(re.findall(r"\w+", text.lower())) for text in (part, whole)]
    return f" {words[0]} " in f" {words[1]} "


def _joined_texts(first: str, second: str) -> str:
    body, addition = first.rstrip(), second.strip("\r\n")
    plain = is_plain(first) and is_plain(second) and "\n" not in body + addition.strip()
    if not plain or body.endswith(":"):
        gap = "\r\n\r\n" if "\r\n" in body else "\n\n"
        return f"{body}{gap}{addition}"
    return f"{closed(body)} {addition.strip()}"


def _new_id(kind: str, taken: set[str]) -> str:
    """An identifier for a new warning skill that the group does not use; the same every time."""
    name = f"warn_{kind.replace('-', '_')}"
    number = 2
    unique = name
    while unique in taken:
        unique = f"{name}_{number}"
        number += 1
    taken.add(unique)
    return unique
