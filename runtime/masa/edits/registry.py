"""The registry of edits: small, pure, deterministic functions on skills, each with its contract.

Shared by the offline teacher, the plan language and the guard. Every edit leaves `skill_id` and `extra`
alone, keeps every protected span of the skill (see `masa.markdown.protected_spans`), and never leaves a
title or principle empty; where a change would break that, the skill stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from masa.edits.additions import (
    WARN_KINDS,
    chosen_example,
    has_warning,
    missing_forms,
    with_example,
    with_syntax,
    with_warning,
)
from masa.facts import Facts
from masa.markdown import code_spans, protected_spans
from masa.skills import Skill

LIMITS = ("1", "2", "3", "4")


@dataclass(frozen=True, slots=True)
class Edit:
    """A named deterministic change of a skill.

    Attributes:
        name: what a plan calls it.
        changes: what it may change.
        preserves: what it promises to keep.
        argument: the arguments it takes, None if it takes none.
        structural: whether it stands alone on a plan line. `drop` and `merge-up` concern the group, so
            `apply` returns the skill as it is and `apply_plan` does the rest; the same holds for `first`.
        idempotent: whether applying it to its own result changes nothing.
    """

    name: str
    changes: str
    preserves: str
    argument: tuple[str, ...] | None = None
    structural: bool = False
    idempotent: bool = True
    _principle: Callable[[Skill, str, Facts | None], str] | None = None
    _useful: Callable[[Skill, Facts | None], bool] | None = None

    def applies(self, skill: Skill, facts: Facts | None = None) -> bool:
        """Whether the edit, with one of its arguments, would change this skill usefully."""
        if self._useful is not None:
            return self._useful(skill, facts)
        return any(self.apply(skill, argument, facts) != skill for argument in self.argument or (None,))

    def apply(self, skill: Skill, argument: str | None = None, facts: Facts | None = None) -> Skill:
        """The changed skill, or `skill` itself where there is nothing to change.

        Raises:
            ValueError: if the argument is missing, unknown, or not taken.
        """
        self.check(argument)
        if self._principle is None:
            return skill
        principle = self._principle(skill, argument or "", facts)
        if "\r\n" in skill.principle:
            principle = re.sub(r"(?<!\r)\n", "\r\n", principle)  # the line breaks of the file it came from
        kept = principle.strip() and all(span in principle for span in protected_spans(skill.principle))
        return replace(skill, principle=principle) if kept and principle != skill.principle else skill

    def check(self, argument: str | None) -> None:
        """Raise ValueError unless the edit takes this argument."""
        if self.argument is None and argument is not None:
            raise ValueError(f"the edit {self.name!r} takes no argument, found {argument!r}; leave it out")
        if self.argument is not None and argument not in self.argument:
            found = "none" if argument is None else repr(argument)
            raise ValueError(f"the edit {self.name!r} takes one of {', '.join(self.argument)}, found {found}")


# What knows English is imported when it is first applied: its patterns take long to compile, and a rewrite that the
# cache answers applies nothing.


def _shortened(skill: Skill, argument: str, facts: Facts | None) -> str:
    from masa.edits.shorten import shortened

    return shortened(skill.principle, skill.when_to_apply)


def _conditioned(skill: Skill, argument: str, facts: Facts | None) -> str:
    from masa.edits.condition import conditioned

    return conditioned(skill.principle, skill.when_to_apply)


def _numbered(skill: Skill, argument: str, facts: Facts | None) -> str:
    from masa.edits.steps import numbered

    return numbered(skill.principle)


def _emphasised(skill: Skill, argument: str, facts: Facts | None) -> str:
    from masa.edits.condition import emphasised

    return emphasised(skill.principle)


def _limited(skill: Skill, argument: str, facts: Facts | None) -> str:
    from masa.edits.limit import limited

    return limited(skill.principle, int(argument))


_REGISTRY = (
    Edit(
        "keep",
        changes="nothing",
        preserves="the skill, byte for byte",
        structural=True,
        _useful=lambda skill, facts: True,
    ),
    Edit(
        "drop",
        changes="takes the skill out of the group",
        preserves="skills with code, links, placeholders, commands or identifiers, which cannot be dropped",
        structural=True,
        _useful=lambda skill, facts: droppable(skill),
    ),
    Edit(
        "merge-up",
        changes="appends the skill to the one that survives above it and joins titles and conditions",
        preserves="both texts word for word",
        structural=True,
        _useful=lambda skill, facts: True,
    ),
    Edit(
        "first",
        changes="moves the skill to the front of the group",
        preserves="the skill, byte for byte",
        _useful=lambda skill, facts: True,
    ),
    Edit(
        "shorten",
        changes="leaves out reasons, examples in brackets, polite openings, repetitions, a condition of when_to_apply",
        preserves="every order, condition, exception, number, negation and literal, and what is not understood",
        _principle=_shortened,
    ),
    Edit(
        "condition-action",
        changes="puts the condition of when_to_apply in front of the principle",
        preserves="when_to_apply and the principle, word for word",
        _principle=_conditioned,
    ),
    Edit(
        "steps",
        changes="turns paragraphs of two or more steps into numbered lists",
        preserves="every word but the 'and' or 'then' between two steps, and existing lists and code",
        _principle=_numbered,
    ),
    Edit(
        "syntax",
        changes="appends the exact command forms that the skill speaks of, from the interface facts",
        preserves="the principle, word for word",
        _principle=lambda skill, argument, facts: with_syntax(skill, facts),
        _useful=lambda skill, facts: bool(missing_forms(skill, facts)),
    ),
    Edit(
        "example",
        changes="appends the worked example of the interface facts that fits best",
        preserves="the principle, word for word",
        _principle=lambda skill, argument, facts: with_example(skill, facts),
        _useful=lambda skill, facts: chosen_example(skill, facts) is not None,
    ),
    Edit(
        "emphasise",
        changes="puts 'IMPORTANT: ' before the first command",
        preserves="the principle, word for word",
        _principle=_emphasised,
    ),
    Edit(
        "warn",
        changes="appends the warning of a kind, with the commands it is about where facts are known",
        preserves="the principle, word for word",
        argument=WARN_KINDS,
        _principle=lambda skill, argument, facts: with_warning(skill.principle, argument, facts),
        _useful=lambda skill, facts: not all(has_warning(skill.principle, kind) for kind in WARN_KINDS),
    ),
    Edit(
        "limit",
        changes="leaves at most the first N sentences or list items",
        preserves="code, tables, headings, and every sentence with quoted text or a protected span",
        argument=LIMITS,
        _principle=_limited,
    ),
)

EDITS: Mapping[str, Edit] = MappingProxyType({edit.name: edit for edit in _REGISTRY})
"""Every edit by name, in canonical order: structural ones, then transformations as they combine."""


def droppable(skill: Skill) -> bool:
    """Whether a skill may be dropped: it carries nothing that a program reads."""
    return not any(map(code_spans, (skill.title, skill.when_to_apply, skill.principle)))


def available_edits(skill: Skill, facts: Facts | None = None) -> tuple[str, ...]:
    """The names of the edits that would change this skill usefully, in canonical order, `keep` included."""
    return tuple(name for name, edit in EDITS.items() if edit.applies(skill, facts))
