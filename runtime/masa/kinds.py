"""Rewriting a large bank by its kinds of skills: the rewriter reads a few of each kind, and its choice holds for all.

Two skills are of one kind if they admit the same edits. A rewriter that learned from stated rules looks more at the
card and at what a skill admits than at its words, so three hundred sections need not be read for it to choose.
`benchmarks/kinds.py` measures how often both ways choose the same. One that learned from results reads every skill.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from masa.edits import EDITS
from masa.group_rewrite import Work, accept, refuse, without_repeats
from masa.languages import MAX_EDITS_PER_LINE
from masa.provenance import GroupResult, RewriteResult
from masa.skills import Skill, SkillBank

if TYPE_CHECKING:
    from masa.cards import ModelCard
    from masa.rewriter import Options, Rewriter

ENOUGH = 40
"""A bank of so many skills, or fewer, is read whole."""
_READ = 3  # skills of a kind: one group, as the rewriter was trained on
_WARNING = re.compile(r"^\+ warn (\S+)$", re.MULTILINE)


def rewrite_by_kind(
    rewriter: Rewriter,
    bank: SkillBank,
    card: ModelCard,
    *,
    enough: int = ENOUGH,
    before: Callable[[SkillBank], None] = lambda read: None,
    **options: Any,
) -> RewriteResult:
    """As `Rewriter.rewrite`; takes its options.

    Falls back to it for a bank of `enough` skills or fewer, and for a rewriter that learned from results.

    Args:
        before: called with what the rewriter is going to read.
    """
    if len(bank) <= enough or rewriter.language != "plan" or not rewriter.synthetic:
        before(bank)
        return rewriter.rewrite(bank, card, **options)
    started = time.perf_counter()
    works = rewriter.works(bank, card, cast("Options", options))
    kinds: dict[tuple[str, ...], list[Skill]] = {}
    for work in works:
        for skill, allowed in zip(work.request.group.skills, work.allowed, strict=True):
            kinds.setdefault(_kind(allowed), []).append(skill)
    samples: dict[str, tuple[Skill, ...]] = {}
    for skills in kinds.values():
        few = tuple(sorted(skills, key=lambda skill: len(skill.text))[:_READ])
        key = few[0].skill_id.partition("#")[0]  # what the prompt calls them
        while key in samples:
            key += " "
        samples[key] = few
    asked = {name: value for name, value in options.items() if name not in ("only", "pinned")}
    few_of_each = SkillBank((), samples)
    before(few_of_each)
    read = rewriter.rewrite(few_of_each, card, **asked)
    chosen = {kind: _choice(kind, group) for kind, group in zip(kinds, read.groups, strict=True)}
    warnings = _warnings(read.groups)
    results = []
    for work in works:
        if read.cancelled:
            results.append(refuse(work, "cancelled before it was reached", "cancelled"))
        elif not work.request.group.skills:
            results.append(refuse(work, "every skill is pinned", "kept"))
        else:
            results.append(_result(work, chosen, warnings, rewriter.controls))
    ordered = without_repeats(results, bank.general)
    changed = {result.key: result.output for result in ordered if result.output is not result.source}
    return replace(
        read,
        bank=bank.with_groups(changed) if changed else bank,
        groups=ordered,
        seconds=time.perf_counter() - started,
        read=sum(map(len, samples.values())),
    )


def _kind(allowed: Sequence[str]) -> tuple[str, ...]:
    """The edits that tell kinds apart: not what nearly every skill admits, or what depends on its place."""
    return tuple(name for name in allowed if not EDITS[name].structural and name != "first")


def _choice(kind: Sequence[str], group: GroupResult) -> tuple[str, ...]:
    """What most of the skills that were read of a kind are to be changed by; nothing where they differ."""
    votes = Counter(
        tuple(edit for edit in fate.edits if edit.split()[0] in kind)
        for fate in group.fates
        if fate.status not in ("fell back", "cancelled")
    )
    best = votes.most_common(1)
    return best[0][0][:MAX_EDITS_PER_LINE] if best and 2 * best[0][1] > sum(votes.values()) else ()


def _warnings(groups: Sequence[GroupResult]) -> tuple[str, ...]:
    """The warnings that most of the groups that were read got."""
    votes = Counter(kind for group in groups for kind in _WARNING.findall(group.raw))
    return tuple(kind for kind, number in votes.items() if 2 * number > len(groups))


def _result(
    work: Work, chosen: Mapping[tuple[str, ...], tuple[str, ...]], warnings: Sequence[str], controls: Sequence[str]
) -> GroupResult:
    lines = [
        f"{number} " + (" ".join(chosen[_kind(allowed)]) or "keep")
        for number, allowed in enumerate(work.allowed, start=1)
    ]
    lines += [f"+ warn {kind}" for kind in warnings[: work.warnings]]
    return accept(work, "\n".join(lines), controls)
