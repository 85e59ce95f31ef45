"""Generation: what a rewriter writes for the samples, through the same engine, parser and guard as on the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from masa.engine import Engine
from masa.group_rewrite import Work, accept, prepare
from masa.languages import ParseError, parse_plan
from masa.progress import Tracker
from masa.prompt import ChatTemplate, render_prompt
from masa.provenance import GroupResult, edit_distance
from masa.sampling import Sampling
from masa.skills import Group
from masa_training.encoding import with_fields
from masa_training.samples import Sample

Row = dict[str, Any]

CHANGED = ("rewritten", "edited", "merged", "dropped")
"""Fates of a skill that was changed in any way."""

_TOGETHER = 8


def generate(
    engine: Engine,
    template: ChatTemplate,
    samples: Iterable[Sample],
    *,
    cautious: bool = False,
    fields: Sequence[str] | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Sample, Row]]:
    """Let the rewriter write every sample's group, greedily, and yield what came of it.

    Samples are decoded a few side by side; those with the same instruction and setting share it. What is cancelled is
    not yielded.
    """
    for together in _together(samples, template):
        works = []
        for sample in together:
            request = with_fields(sample.request, fields)
            works.append(prepare(request, frozenset(), sample.language, cautious=cautious))
        for index, result in engine.run(works, Sampling(), Tracker(len(works), None), cancel):
            if result.status != "cancelled":
                yield together[index], row_of(together[index], works[index], result, template.controls)


def row_of(sample: Sample, work: Work, result: GroupResult, controls: Sequence[str]) -> Row:
    """The facts of one output.

    `valid`: it was finished and parses. `guarded`: it also passed the guard. Distances are Levenshtein distances in
    words divided by the longer text's words; `to_target` is None where the output fell back or the target itself does
    not pass the guard. `edits` are, for the plan language, (right, invented, missed) by name of edit.
    """
    valid = result.status != "fell back" or bool(result.violations)
    guarded = result.status != "fell back" and not result.violations
    target = accept(work, sample.target, controls)
    target_guarded = target.status != "fell back" and not target.violations
    row: Row = {
        "status": result.status,
        "reason": "" if guarded else result.reason,
        "valid": valid,
        "guarded": guarded,
        "target_guarded": target_guarded,
        "skills": len(result.fates),
        "changed": sum(fate.status in CHANGED for fate in result.fates),
        "output": result.raw,
        "tokens": result.tokens,
        "seconds": round(result.seconds, 3),
        "length_ratio": _length(result.output) / max(1, _length(result.source)) if guarded else None,
        "to_source": distance(result.output, result.source) if guarded else None,
        "to_target": distance(result.output, target.output) if guarded and target_guarded else None,
    }
    if sample.language == "plan":
        row["exact"] = result.raw == sample.target
        row["edits"] = compare_plans(result.raw if valid else "", sample.target, work)
    return row


def compare_plans(output: str, target: str, work: Work) -> dict[str, list[int]]:
    """By name of edit: how many calls are right, invented and missed.

    A call is right where the target has it at the same skill with the same argument. A warning counts as the edit
    `warn`, whatever skill it follows from. An output that is no plan has no calls.
    """
    found, wanted = _calls(output, work), _calls(target, work)
    table: dict[str, list[int]] = {}
    for call in sorted(found | wanted):
        counts = table.setdefault(call[1].split(" ")[0], [0, 0, 0])
        counts[0 if call in found and call in wanted else 1 if call in found else 2] += 1
    return table


def distance(left: Group, right: Group) -> float:
    """Levenshtein distance in words, from 0 (equal) to 1."""
    a, b = _words(left), _words(right)
    found = edit_distance(a, b)
    assert found is not None  # there is no limit
    return found / max(len(a), len(b), 1)


def _calls(text: str, work: Work) -> set[tuple[int, str]]:
    try:
        plan = parse_plan(text, work.allowed, warnings=work.warnings)
    except ParseError:
        return set()
    calls = {(line.source, str(call)) for line in plan.lines for call in line.edits}
    return calls | {(0, f"warn {kind}") for kind in plan.warnings}


def _length(group: Group) -> int:
    return sum(len(skill.text) for skill in group.skills)


def _words(group: Group) -> list[str]:
    return [word for skill in group.skills for word in skill.text.split()]


def _together(samples: Iterable[Sample], template: ChatTemplate) -> Iterator[list[Sample]]:
    """Runs of samples whose prompts have the same shared part, which one session requires."""
    pending: list[Sample] = []
    shared: Any = None
    for sample in samples:
        own = render_prompt(sample.request, sample.language, template).shared
        if pending and (own != shared or len(pending) == _TOGETHER):
            yield pending
            pending = []
        pending.append(sample)
        shared = own
    if pending:
        yield pending


def pairs(rows: Sequence[tuple[Sample, Row]], tag: str) -> Counter[tuple[bool, bool]]:
    """Pairs of cards for the same skills: (should their outputs differ, do they), counted.

    The same skills are those of one tree, or, for samples without the tag, of one input group.
    """
    together: dict[Any, list[tuple[Sample, Row]]] = {}
    for sample, row in rows:
        group = sample.request.group
        key = sample.tags.get(tag) or (group.key, tuple(skill.text for skill in group.skills), sample.environment)
        together.setdefault(key, []).append((sample, row))
    counts: Counter[tuple[bool, bool]] = Counter()
    for members in together.values():
        for i, (sample, row) in enumerate(members):
            for other, their in members[i + 1 :]:
                if dict(sample.request.card) != dict(other.request.card):
                    counts[sample.target != other.target, row["output"] != their["output"]] += 1
    return counts
