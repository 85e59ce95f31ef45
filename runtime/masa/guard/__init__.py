"""The guard: what every rewrite must pass before it replaces the text it came from.

A device never gets worse text because of a bad generation: a group that breaks one rule falls back to its
original, and the violations say why. Most rules work on groups, because good rewrites merge, split, reorder and drop
skills; the bounds are calibrated on published rewrites (`tests/runtime/test_guard.py` repeats that). What a plan may
take out of a skill is judged skill by skill: `masa.guard.statements` states that promise. The rules share no code with
the edits.

The source is trusted as far as it goes: what it says may stay, with one exception. Chat-template tokens may
not, so a source that contains them is never accepted as its own rewrite, and its group stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

from masa.facts import Facts
from masa.guard import degeneration, invention, orders, statements, structure, survival, tokens
from masa.guard.case import Limits, Rule, Violation, make_case
from masa.guard.tokens import CONTROL_TOKENS
from masa.skills import Group

if TYPE_CHECKING:
    from masa.edits import PlannedGroup

__all__ = ["CONTROL_TOKENS", "RULES", "Limits", "Rule", "Violation", "check"]

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        rule.name: rule
        for module in (structure, tokens, degeneration, survival, statements, invention, orders)
        for rule in module.RULES
    }
)
"""Every rule by name, in the order in which violations are reported."""

_DEFAULT = Limits()
_MOST_FINDINGS = 20
"""Findings of one rule that are reported; a broken generation can break one rule thousands of times."""
_TOO_LONG = frozenset({"group-length", "skill-length", "skill-count"})


def check(
    source: Group,
    output: Group,
    *,
    facts: Facts | None = None,
    control_tokens: Sequence[str] = (),
    prompt_text: str = "",
    limits: Limits = _DEFAULT,
    plan: PlannedGroup | None = None,
) -> tuple[Violation, ...]:
    """Judge whether `output` may replace `source`. The empty tuple means that it may.

    Never raises, whatever the texts, and is linear in their length: an output that is out of bounds is
    refused without reading it closely.

    Args:
        facts: interface facts that the rewriter was given. What they say is not invented, their length is
            allowed on top, and their commands must survive where the source quotes them.
        control_tokens: special tokens of the tokenizers at hand (rewriter, backbone), refused like
            `CONTROL_TOKENS`; of the vocabulary's types only "control", since user-defined ones include HTML.
        prompt_text: the rewriter's instruction; an output that repeats eight words of it in a row is refused.
        plan: what `apply_plan` made of `source`, where a plan made `output`; it says which skill came of which, and
            which ones were limited or dropped.
    """
    case = make_case(source, output, facts, control_tokens, prompt_text, limits, plan)
    found: list[Violation] = []
    for rule in structure.RULES:
        found += rule.check(case)
    if any(violation.rule in _TOO_LONG for violation in found):
        return tuple(found)
    for rule in RULES.values():
        if rule not in structure.RULES:
            found += islice(rule.check(case), _MOST_FINDINGS)
    return tuple(found)
