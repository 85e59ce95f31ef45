"""What became of every skill: the account that a rewrite gives of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from masa.edits import PlannedGroup
from masa.skills import Group, Skill, SkillBank

if TYPE_CHECKING:
    from masa.guard import Violation

SkillStatus = Literal["rewritten", "edited", "merged", "kept", "pinned", "dropped", "fell back", "cancelled"]
GroupStatus = Literal["rewritten", "kept", "fell back", "cancelled"]


@dataclass(frozen=True, slots=True)
class SkillFate:
    """What became of one source skill.

    Attributes:
        number: 1-based place in the source group.
        status: `rewritten` (new text), `edited` (changed or moved by the named edits), `merged` (into one skill with
            others), `kept` (not one character changed), `pinned` (not to be touched), `dropped` (in no output),
            `fell back` (what was written for it was refused, this is the original), `cancelled` (not reached).
        edits: names of the edits of a plan, also where they found nothing to change.
        outputs: 0-based places in the output group of the skills that were made of it.
        lost: the sentences of it that a plan's `drop` or `limit` took away, one by one.
    """

    number: int
    skill_id: str
    status: SkillStatus
    edits: tuple[str, ...] = ()
    outputs: tuple[int, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupResult:
    """One group after a rewrite.

    Attributes:
        key: the group's key in its bank.
        source, output: before and after; equal where the group fell back or was cancelled.
        status: `rewritten` if any skill changed, moved or was added; `kept` if none did and none was refused.
        reason: why the group, or some of its skills, fell back, was cancelled, or is as it was; else empty.
        violations: the guard's findings on what it refused.
        fates: one entry per source skill, in order.
        added: 0-based places of output skills that have no source.
        raw: what the rewriter wrote.
        prompt_tokens: tokens of this group's prompt that are not shared with the others.
        tokens, steps, seconds: tokens written, forward passes, wall time from the prompt to the last token.
        cached: whether the result was read from the cache; the figures are then those of the first time.
    """

    key: str
    source: Group
    output: Group
    status: GroupStatus
    reason: str
    violations: tuple[Violation, ...]
    fates: tuple[SkillFate, ...]
    added: tuple[int, ...]
    raw: str
    prompt_tokens: int
    tokens: int
    steps: int
    seconds: float
    cached: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON object for machines; texts of the skills are in the bank, not here."""
        return {
            "group": self.key,
            "status": self.status,
            "reason": self.reason,
            "violations": [{"rule": v.rule, "message": v.message, "skill": v.skill} for v in self.violations],
            "skills": [
                {
                    "number": fate.number,
                    "skill_id": fate.skill_id,
                    "status": fate.status,
                    "edits": list(fate.edits),
                    "becomes": [self.output.skills[i].skill_id for i in fate.outputs],
                    "lost": list(fate.lost),
                }
                for fate in self.fates
            ],
            "added": [self.output.skills[i].skill_id for i in self.added],
            "skills_before": len(self.source),
            "skills_after": len(self.output),
            "output": self.raw,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
            "cached": self.cached,
        }


@dataclass(frozen=True, slots=True)
class RewriteResult:
    """A rewritten bank and the account of it.

    `seconds` is the wall time of the whole call, `tokens` the tokens written in it (none for cached groups). `trained`
    tells whether the rewriter was trained to write this language; `synthetic`, whether its targets followed from stated
    rules and not from results in an environment. `form` is what ran instead of the artifact as shipped (`masa.forms`),
    None where the artifact itself did, and `form_reason` says in a few words why. `read` is how many skills were read
    where it chose by kinds of skills (`masa.kinds`), None where all were.
    """

    bank: SkillBank
    groups: tuple[GroupResult, ...]
    artifact: str
    artifact_fingerprint: str
    trained: bool
    language: str
    card: str
    card_fingerprint: str
    seconds: float
    tokens: int
    synthetic: bool = False
    form: str | None = None
    form_reason: str = ""
    read: int | None = None

    @property
    def cancelled(self) -> bool:
        return any(group.status == "cancelled" for group in self.groups)

    def count(self, status: SkillStatus) -> int:
        """How many source skills have this status."""
        return sum(fate.status == status for group in self.groups for fate in group.fates)

    def to_json(self) -> dict[str, Any]:
        """A JSON object for machines; the bank itself is written by its format."""
        statuses: tuple[SkillStatus, ...] = (
            "rewritten",
            "edited",
            "merged",
            "kept",
            "pinned",
            "dropped",
            "fell back",
            "cancelled",
        )
        return {
            "artifact": {
                "name": self.artifact,
                "fingerprint": self.artifact_fingerprint,
                "trained": self.trained,
                "synthetic": self.synthetic,
                "language": self.language,
                "form": self.form,
                "form_reason": self.form_reason or None,
            },
            "card": {"name": self.card, "fingerprint": self.card_fingerprint},
            "seconds": round(self.seconds, 3),
            "tokens": self.tokens,
            "skills": {status: self.count(status) for status in statuses},
            "added": sum(len(group.added) for group in self.groups),
            "groups": [group.to_json() for group in self.groups],
        }


@dataclass(frozen=True, slots=True)
class Draft:
    """A parsed output before the guard: the new group and where each of its skills came from (1-based)."""

    group: Group
    sources: tuple[tuple[int, ...], ...]
    edits: tuple[tuple[str, ...], ...] = ()
    """Per source skill the edits of the plan; empty for the text language."""

    @property
    def plan(self) -> PlannedGroup | None:
        """What the guard is told of the plan; None for the text language."""
        if not self.edits:
            return None
        first = {number: {name.split()[0] for name in names} for number, names in enumerate(self.edits, start=1)}
        dropped = tuple(number for number, names in first.items() if "drop" in names)
        limited = tuple(number for number, names in first.items() if "limit" in names)
        return PlannedGroup(self.group, self.sources, dropped, limited)


def fates_of(
    source: Group, draft: Draft, pinned: frozenset[int] = frozenset(), refused: frozenset[int] = frozenset()
) -> tuple[SkillFate, ...]:
    """Account for every source skill of an accepted draft; `refused` are those that it has in their source's words."""
    fates = []
    for number, skill in enumerate(source.skills, start=1):
        outputs = tuple(i for i, sources in enumerate(draft.sources) if number in sources)
        edits = draft.edits[number - 1] if draft.edits else ()
        ahead = [i for i, sources in enumerate(draft.sources) if sources and min(sources) < number]
        moved = "first" in edits and bool(outputs) and any(i > outputs[0] for i in ahead)
        status: SkillStatus
        if number in pinned:
            status = "pinned"
        elif number in refused:
            status = "fell back"
        elif not outputs:
            status = "dropped"
        elif any(len(draft.sources[i]) > 1 for i in outputs):
            status = "merged"
        elif len(outputs) == 1 and skill == draft.group.skills[outputs[0]] and not moved:
            status = "kept"
        else:
            status = "edited" if draft.edits else "rewritten"
        lost = _lost(skill, draft, edits, outputs)
        fates.append(SkillFate(number, skill.skill_id, status, edits, outputs, lost))
    return tuple(fates)


def _lost(skill: Skill, draft: Draft, edits: tuple[str, ...], outputs: tuple[int, ...]) -> tuple[str, ...]:
    if not any(name.split()[0] in ("drop", "limit") for name in edits):
        return ()
    from masa.guard.statements import lost_sentences

    return lost_sentences(skill, draft.group.skills[outputs[0]] if outputs else None)


def unchanged_fates(source: Group, status: SkillStatus, pinned: frozenset[int]) -> tuple[SkillFate, ...]:
    """The account of a group that stays as it is."""
    return tuple(
        SkillFate(number, skill.skill_id, "pinned" if number in pinned else status, (), (number - 1,))
        for number, skill in enumerate(source.skills, start=1)
    )


def edit_distance(left: Sequence[Any], right: Sequence[Any], limit: int | None = None) -> int | None:
    """Levenshtein distance, or None if it exceeds `limit`.

    With a limit k only a band of 2k + 1 cells a row is computed (Ukkonen, 1985).
    """
    bound = max(len(left), len(right)) if limit is None else limit
    if abs(len(left) - len(right)) > bound:
        return None
    beyond = bound + 1
    previous = [j if j <= bound else beyond for j in range(len(right) + 1)]
    for i, item in enumerate(left, start=1):
        low, high = max(1, i - bound), min(len(right), i + bound)
        current = [beyond] * (len(right) + 1)
        if i <= bound:
            current[0] = i
        for j in range(low, high + 1):
            change = previous[j - 1] + (item != right[j - 1])
            current[j] = min(change, previous[j] + 1, current[j - 1] + 1, beyond)
        if min(current) > bound:
            return None
        previous = current
    return previous[-1] if previous[-1] <= bound else None
