"""Plans: the list of edits that turns a group into another."""

from __future__ import annotations

from dataclasses import dataclass

from masa.skills import Group


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
