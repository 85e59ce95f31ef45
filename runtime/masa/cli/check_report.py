"""What `masa check` says: how often each arm is right, the verdict, and every answer on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from masa.cli.output import clean, count, table
from masa.cli.report import html_changes

if TYPE_CHECKING:
    from masa.checking import Arm, CheckResult, Comparison
    from masa.evals import Eval
    from masa.html_report import Section
    from masa.provenance import GroupResult

_HEAD = ("arm", "right", "checks met", "tokens read", "written", "cut")


def result_text(result: CheckResult, left_out: int, why: str) -> str:
    """A row an arm, and the verdict."""
    return "\n".join([table(_arms(result), _HEAD, right=(3, 4, 5)), "", *map(clean, _verdict(result, left_out, why))])


def result_html(
    result: CheckResult,
    evals: Sequence[Eval],
    texts: Mapping[Arm, str],
    group: GroupResult | None,
    *,
    backbone: str,
    left_out: int,
    why: str,
) -> str:
    """The same as one page, with the skill before and after, and every answer below its prompt.

    Args:
        texts: the skill of each arm.
        group: what the rewriter did; None where the adapted skill was brought.
    """
    from masa.html_report import Change, Section, Table, render_page

    if group is None or group.status != "rewritten":
        changes = [Change("SKILL.md", texts["original"], texts["adapted"])]
    else:
        changes = list(html_changes(group))
    lines = [] if group is None else [group.reason] if group.reason else []
    lines += [f"The guard ({violation.rule}): {violation.message}" for violation in group.violations] if group else []
    skill = Section("The skill", "unchanged" if result.same else "adapted", None, lines, changes=changes)
    verdict = result.verdict
    return render_page(
        f"{verdict.capitalize()}: the adapted skill for {backbone}",
        _verdict(result, left_out, why),
        [skill, *(_answers(result, one) for one in evals)],
        [Table(_HEAD, _arms(result), right=(3, 4, 5))],
    )


def _answers(result: CheckResult, one: Eval) -> Section:
    from masa.html_report import Section, Table

    answers = [answer for answer in result.answers if answer.key == one.key]
    rows = []
    for answer in answers:
        missed = ", ".join(check.kind for check, met in zip(one.checks, answer.checks, strict=True) if not met)
        text = answer.reply.text + ("" if answer.reply.finished else " … (cut)")
        rows.append((answer.arm, str(answer.run + 1), f"wrong: {missed}" if missed else "right", text))
    checks = [f"{check.kind}: {check.value}" for check in one.checks]
    right = sum(answer.right for answer in answers)
    head = ("arm", "run", "", "answer")
    return Section(
        f"Prompt {one.key}", f"{right} of {len(answers)} right", None, [one.prompt, *checks], [Table(head, rows)]
    )


def _arms(result: CheckResult) -> list[tuple[str, ...]]:
    from masa.checking import ARMS

    rows: list[tuple[str, ...]] = []
    for arm in ARMS:
        answers = result.arm(arm)
        if answers:
            tokens = result.tokens(arm)
            met, of = sum(sum(one.checks) for one in answers), sum(len(one.checks) for one in answers)
            right = sum(one.right for one in answers)
            cut = sum(not one.reply.finished for one in answers)
            read, written = (f"{tokens[0]:.0f}", f"{tokens[1]:.0f}") if tokens else ("–", "–")
            rows.append((arm, f"{right} of {len(answers)}", f"{met} of {of}", read, written, str(cut)))
    return rows


def _verdict(result: CheckResult, left_out: int, why: str) -> list[str]:
    lines = []
    if result.same:
        lines.append(f"The adapted skill is the original{': ' + why if why else ''}.")
    else:
        lines.append("adapted against original: " + _sentence(result.compare("adapted", "original")))
        if result.saved is not None:
            lines.append(f"tokens saved per answer: {round(result.saved)}")
    lines.append("original against none: " + _sentence(result.compare("original", "none")))
    if left_out:
        lines.append(f"{count(left_out, 'check')} that need a judge left out; --judge MODEL judges them")
    if result.stopped:
        lines.append(f"Stopped: {result.stopped}; --resume continues.")
    return lines


def _sentence(comparison: Comparison) -> str:
    if not comparison.pairs:
        return "no pair was asked"
    low, high = comparison.interval
    points = f"{100 * (comparison.difference or 0):+.0f} points ({100 * low:+.0f} to {100 * high:+.0f})"
    pairs = f"{comparison.gained} gained, {comparison.lost} lost in {count(comparison.pairs, 'pair')}"
    told = f"{comparison.verdict}, {points}; {pairs}"
    if comparison.verdict != "undecided":
        return told
    more = comparison.more
    return told + (
        f"; about {count(more, 'more pair')} would decide" if more else "; no number of runs is in sight that decides"
    )
