"""Skills, groups and skill banks: the data every other module speaks of.

A bank holds general skills, task-specific skills by task type, and common mistakes. The unit of
rewriting is the *group*: the general skills, or the skills of one task type. Common mistakes pass
through untouched. These types know nothing of files; `masa.formats` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from masa.errors import UnknownNameError

GENERAL = "general_skills"
"""Key of the general group; every other group's key is its task type."""
COUNTED = "counted"
"""Key of `Skill.extra`, true where no rewrite may drop, merge, move or add skills in the skill's group."""


@dataclass(frozen=True, slots=True)
class Skill:
    """One short procedure that an agent reads before it acts.

    Attributes:
        skill_id: identifier, unique within its bank where the file is well formed.
        title: one line.
        principle: the text; plain sentences or Markdown, possibly several lines.
        when_to_apply: the condition under which it helps; may be empty.
        extra: fields of the source file that masa does not know. Kept by every rewrite of the skill
            and left out of comparisons.
    """

    skill_id: str
    title: str
    principle: str
    when_to_apply: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def text(self) -> str:
        """Everything a reader sees, for measuring and searching: title, condition, principle."""
        return "\n".join(part for part in (self.title, self.when_to_apply, self.principle) if part)


@dataclass(frozen=True, slots=True)
class Group:
    """The unit of rewriting: the general skills (`task_type` None) or those of one task type."""

    task_type: str | None
    skills: tuple[Skill, ...]

    @property
    def key(self) -> str:
        return GENERAL if self.task_type is None else self.task_type

    def __len__(self) -> int:
        return len(self.skills)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a person should know about a file of a bank: one sentence with its remedy.

    Attributes:
        file: path of the file or folder.
        line: 1-based line; None where the file as a whole is meant.
        message: what was found and what to do.
        severity: `error` (it was not read, and stays as it is), `warning` (it was read all the same, others may
            refuse it), `note` (passed over by rule; nothing is wrong).
    """

    file: str
    line: int | None
    message: str
    severity: Literal["error", "warning", "note"] = "error"

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class SkillBank:
    """General skills, task-specific skills by task type, common mistakes, and what the file said besides.

    `common_mistakes` are the file's own objects, never rewritten. `source` is for the format that
    loaded the bank (layout, unknown fields, original bytes); nobody else reads it. `problems` are what loading
    passed over or read only by being lenient.
    """

    general: tuple[Skill, ...]
    task_specific: Mapping[str, tuple[Skill, ...]]
    common_mistakes: tuple[Mapping[str, Any], ...] = ()
    source: Any = field(default=None, compare=False, repr=False)
    problems: tuple[Problem, ...] = field(default=(), compare=False, repr=False)

    def groups(self) -> Iterator[Group]:
        """Every group in file order, the general skills first; empty groups are included."""
        yield Group(None, self.general)
        for task_type, skills in self.task_specific.items():
            yield Group(task_type, skills)

    def group(self, key: str) -> Group:
        """The group called `key` (`GENERAL` or a task type).

        Raises:
            UnknownNameError: if the bank has no such group.
        """
        for group in self.groups():
            if group.key == key:
                return group
        from masa.json_fields import did_you_mean

        known = [group.key for group in self.groups() if len(group) or group.key != GENERAL]
        hint = did_you_mean(str(key), known) or f"; it has: {', '.join(known)}"
        raise UnknownNameError(f"no group {key!r} in this bank{hint}")

    def with_groups(self, groups: Mapping[str, Group]) -> SkillBank:
        """A copy in which the groups named by key are replaced; order and everything else stay."""
        for key in groups:
            self.group(key)
        general = groups[GENERAL].skills if GENERAL in groups else self.general
        specific = {
            name: groups[name].skills if name in groups else skills for name, skills in self.task_specific.items()
        }
        return replace(self, general=general, task_specific=specific)

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups())
