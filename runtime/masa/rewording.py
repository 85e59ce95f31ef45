"""Carrying out operations in words: each skill a sequence of its own, side by side, checked, and tried twice.

What an answer lost is named in a second attempt. Where that fails too the skill stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from masa.edits import EDITS, EditCall, Plan, PlanLine
from masa.engine import Engine
from masa.facts import Facts
from masa.group_rewrite import Work, accept, prepare
from masa.languages import ParseError, render_plan
from masa.progress import Tracker
from masa.prompt import Request
from masa.provenance import GroupResult, SkillFate
from masa.sampling import Sampling
from masa.skills import Group, Skill
from masa.wording import DETERMINISTIC, LEAST_WORDS, OPERATIONS, must_survive


@dataclass(frozen=True, slots=True)
class Order:
    """One operation on one skill, or on two for `merge`."""

    skills: tuple[Skill, ...]
    operation: str

    def work(self, keep: Sequence[str] = ()) -> Work:
        """The order as a piece of work; `keep` is named beside the literals that must survive."""
        return prepare(wording_request(self.skills, self.operation, keep), frozenset(), "wording")


def wording_request(skills: Sequence[Skill], operation: str, keep: Sequence[str] = ()) -> Request:
    """What a rewriter is asked: the operation, and what must survive: literals, then what is named."""
    spans = must_survive([skill.principle for skill in skills])
    return Request(Group(None, tuple(skills)), {}, operation=operation, keep=(*spans, *keep))


def reword(
    engine: Engine, orders: Sequence[Order], sampling: Sampling, tracker: Tracker, cancel: Callable[[], bool]
) -> list[GroupResult]:
    """The result of each order, in order: a group of the skills that it came to."""
    results: dict[int, GroupResult] = {}
    for index, result in engine.run([order.work() for order in orders], sampling, tracker, cancel):
        results[index] = result
    again = [index for index, result in sorted(results.items()) if _lost(result)]
    works = [orders[index].work(_lost(results[index])) for index in again]
    for place, result in engine.run(works, sampling, tracker, cancel):
        first = results[again[place]]
        better = min((result, first), key=lambda one: (one.status not in ("rewritten", "kept"), len(_lost(one))))
        tokens, steps = first.tokens + result.tokens, first.steps + result.steps
        results[again[place]] = replace(better, tokens=tokens, steps=steps)
    return [results[index] for index in range(len(orders))]


def _lost(result: GroupResult) -> tuple[str, ...]:
    """What an answer lost; of one that was taken, what it may have lost."""
    if result.status == "rewritten":
        return tuple(filter(None, result.reason.split("; ")))
    return tuple(violation.message for violation in result.violations if violation.rule == "lost")


def changes(name: str, skill: Skill, facts: Facts | None = None) -> bool:
    """Whether an operation's deterministic executor, where it has one, changes this skill."""
    return name in DETERMINISTIC and EDITS[name].apply(skill, None, facts) != skill


def plan_of(work: Work, result: GroupResult) -> Plan | None:
    """The plan that a rewriter wrote for a group; None where it was refused or not written."""
    if result.status in ("fell back", "cancelled") or not result.raw:
        return None
    try:
        return work.plan(result.raw)[0]
    except ParseError:  # a group in parts has several
        return None


def forced_plan(work: Work, operation: str) -> Plan:
    """The plan that asks for one operation on every skill that is long enough, however it is carried out."""
    lines = []
    for number, skill in enumerate(work.request.group.skills, start=1):
        wanted = len(skill.principle.split()) >= LEAST_WORDS or changes(operation, skill, work.request.facts)
        lines.append(PlanLine(number, (EditCall(operation if wanted else "keep"),)))
    return Plan(tuple(lines))


def orders_of(work: Work, plan: Plan) -> dict[int, Order]:
    """What of a plan no edit can do, by the number of the skill among those that the model saw: one order a skill."""
    found: dict[int, Order] = {}
    for line in plan.lines:
        skill = work.request.group.skills[line.source - 1]
        for call in line.edits:
            if call.name in OPERATIONS and not changes(call.name, skill, work.request.facts):
                found.setdefault(line.source, Order((skill,), call.name))
    return found


def with_rewordings(
    work: Work, plan: Plan, orders: Mapping[int, Order], reworded: Mapping[int, GroupResult], controls: Sequence[str]
) -> GroupResult:
    """The result of a plan, part of which was carried out in words.

    The rest of the plan is applied to the reworded skills, and judged against these: each was judged against its source
    when it was written.
    """
    numbers = work.numbers()
    seen, whole = list(work.request.group.skills), list(work.whole.skills)
    done = {number: result for number, result in reworded.items() if result.status == "rewritten"}
    for number, result in done.items():
        seen[number - 1] = whole[numbers[number - 1] - 1] = result.output.skills[0]
    request = replace(work.request, group=replace(work.request.group, skills=tuple(seen)))
    rest = replace(work, whole=replace(work.whole, skills=tuple(whole)), request=request, worded=False)
    lines = []
    for line, admitted in zip(plan.lines, rest.allowed, strict=True):
        left = tuple(call for call in line.edits if call.name in admitted)
        lines.append(PlanLine(line.source, left or (EditCall("keep"),)))
    planned = accept(rest, render_plan(Plan(tuple(lines), plan.warnings)), controls)
    told = dict.fromkeys(result.reason for result in reworded.values() if result.status == "fell back")
    fates = list(planned.fates)
    for number, order in orders.items():
        place = numbers[number - 1] - 1
        status = fates[place].status
        if status == "kept":
            status = "rewritten" if number in done else reworded[number].status
        fates[place] = replace(fates[place], status=status, edits=(*_said(fates[place]), order.operation))
    result = replace(
        planned,
        source=work.whole,
        status="rewritten" if done else planned.status if planned.status != "kept" or not told else "fell back",
        reason="; ".join(filter(None, ("" if done and planned.status == "kept" else planned.reason, *told))),
        fates=tuple(fates),
        tokens=planned.tokens + sum(one.tokens for one in reworded.values()),
        steps=planned.steps + sum(one.steps for one in reworded.values()),
    )
    for number in sorted(done, reverse=True):
        if len(done[number].output) > 1:
            result = _with_parts(result, numbers[number - 1], done[number].output.skills[1:])
    return result if result.status == "rewritten" else replace(result, output=work.whole)


def _said(fate: SkillFate) -> tuple[str, ...]:
    return tuple(name for name in fate.edits if name != "keep")


def _with_parts(result: GroupResult, number: int, parts: Sequence[Skill]) -> GroupResult:
    """The result with further skills behind the one that source skill `number` came to."""
    place = result.fates[number - 1].outputs[-1]
    taken = {skill.skill_id for skill in result.output.skills}
    fresh = []
    for part in parts:
        while part.skill_id in taken:
            part = replace(part, skill_id=f"{part.skill_id}_2")
        taken.add(part.skill_id)
        fresh.append(part)
    skills = result.output.skills

    def moved(index: int) -> int:
        return index + (len(fresh) if index > place else 0)

    fates = []
    for fate in result.fates:
        outputs = tuple(moved(index) for index in fate.outputs)
        if fate.number == number:
            outputs = (*outputs, *range(place + 1, place + 1 + len(fresh)))
        fates.append(replace(fate, outputs=outputs))
    output = replace(result.output, skills=(*skills[: place + 1], *fresh, *skills[place + 1 :]))
    return replace(result, output=output, fates=tuple(fates), added=tuple(moved(index) for index in result.added))
