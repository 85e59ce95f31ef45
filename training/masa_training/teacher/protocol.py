"""What a teacher is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from masa.edits import Plan
from masa.facts import Facts
from masa.skills import Group
from masa_training.environments import Task
from masa_training.errors import TrainingError
from masa_training.rollouts import Episode


class TeacherError(TrainingError):
    """A teacher has no answer to give: a reason for the search to note, never the end of it.

    `tokens` and `dollars` are what was spent on it all the same.
    """

    def __init__(self, message: str, *, tokens: int = 0, dollars: float = 0.0) -> None:
        super().__init__(message)
        self.tokens = tokens
        self.dollars = dollars


@dataclass(frozen=True, slots=True)
class Seen:
    """An episode that the teacher may look at; of the split `train`, with its turns."""

    task: Task
    episode: Episode


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request for a rewrite.

    Attributes:
        group: the skills to rewrite.
        original: the group that the search began with.
        card: fields of the backbone's model card.
        facts: the environment's interface, where it may be told.
        seen: episodes that the backbone played with `group`.
        best: the best groups so far with their mean rewards, best first.
        refused: groups that were not accepted, oldest first, each with the reason.
        inert: how many of the latest refused in a row changed the mean reward by nothing.
        problems: why earlier proposals failed, oldest first.
        words: most words that the new group may have.
    """

    group: Group
    original: Group
    environment: str
    card: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts | None = None
    seen: tuple[Seen, ...] = ()
    best: tuple[tuple[Group, float], ...] = ()
    refused: tuple[tuple[Group, str], ...] = ()
    inert: int = 0
    problems: tuple[str, ...] = ()
    words: int = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """A new group and where it comes from.

    Attributes:
        plan: the edits that make it from the group named by `source`; None where the teacher wrote freely.
        attribution: share of the failed episodes that show each symptom, where it was looked for.
        note: why this rewrite, in a sentence.
        tokens: that the teacher's model read and wrote.
        dollars: what they cost, where prices are known.
    """

    group: Group
    plan: Plan | None = None
    source: Literal["group", "original"] = "group"
    attribution: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    tokens: int = 0
    dollars: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What `masa profile` shows a teacher: episodes that the backbone played before any search."""

    environment: str
    seen: tuple[Seen, ...]
    card: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What goes wrong in episodes, for the `weaknesses` of a model card; None if nothing shows.

    The text passes `masa_training.teacher.card_claims.claims`: no rates, no counts, no preferences.
    """

    weaknesses: str | None
    tokens: int = 0
    dollars: float = 0.0


class Teacher(Protocol):
    """Rewrites groups. One object may be asked from several threads."""

    def rewrite(self, asked: Asked) -> Rewrite:
        """A group that is neither the one asked about nor one of those that were refused.

        Raises:
            TeacherError: if there is none to give.
        """
        ...


class Summarizer(Protocol):
    """Sums up how a backbone behaves."""

    def summarize(self, watched: Watched) -> Summary:
        """What goes wrong in these episodes, in words.

        Raises:
            TeacherError: if there is no summary to give.
        """
        ...


def words_of(group: Group) -> int:
    """Words of all that an agent reads of a group."""
    return sum(len(f"{skill.title} {skill.when_to_apply} {skill.principle}".split()) for skill in group.skills)
