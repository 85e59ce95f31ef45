"""Adapting the skills that agents read: from folders that were found to what would stand there for a backbone.

Nothing here writes: `masa.adapted` puts into effect what `adapt` returns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from masa.adapted import Change, State, Store, Version
from masa.errors import MasaError
from masa.files import reason
from masa.fitting import fit
from masa.formats.skill_md_document import Document, parse_document
from masa.formats.skill_md_render import render_document
from masa.places import FoundSkill
from masa.skill_cost import BODY_ADVICE, SkillCost, skill_cost
from masa.skills import Problem, SkillBank

if TYPE_CHECKING:
    from masa.provenance import GroupResult, RewriteResult
    from masa.token_counts import TokenCounter

_MANY_REPEATED = 100
"""Tokens of repeated lines from which that is told."""


@dataclass(frozen=True, slots=True)
class Source:
    """A skill to adapt, as it was before any adaptation.

    Attributes:
        state: what stands in its place; `model` whose version that is, if it is adapted.
        left: why it is not adapted, if so.
        diff: the three-way difference where somebody edited it.
    """

    skill: FoundSkill
    store: Store
    document: Document
    original: bytes
    state: State = "original"
    model: str = ""
    left: str = ""
    diff: str = ""

    @property
    def key(self) -> str:
        return self.skill.key


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What a skill would become: its text, and the account of it. `left` says why nothing is to be written, if so."""

    source: Source
    result: GroupResult | None
    adapted: bytes
    added: Mapping[str, bytes]
    before: SkillCost
    after: SkillCost
    problems: tuple[Problem, ...]
    left: str = ""

    @property
    def changed(self) -> bool:
        return self.adapted != self.source.original or bool(self.added)

    @property
    def edits(self) -> Mapping[str, int]:
        """How many sections each edit changed."""
        if self.result is None or self.result.status != "rewritten":
            return {}
        fates = (fate for fate in self.result.fates if fate.status not in ("kept", "pinned", "fell back"))
        used = Counter(edit for fate in fates for edit in fate.edits if edit != "keep")
        if self.result.added:
            used["warn"] += len(self.result.added)
        return dict(used.most_common())


def sources(skills: Sequence[FoundSkill]) -> list[Source]:
    """The skills with their originals, which the stores have where a skill is adapted already."""
    stores: dict[Path, Store] = {}
    damaged: dict[Path, str] = {}
    result = []
    for skill in skills:
        base = skill.place.base
        store = stores.setdefault(base, Store(base))
        try:
            entries = store.entries() if base not in damaged else {}
        except MasaError as error:
            damaged[base] = str(error)
            entries = {}
        source = Source(skill, store, skill.document, skill.raw, left=skill.left or damaged.get(base, ""))
        inside = skill.real.is_relative_to(store.base)
        entry = entries.get(skill.real.relative_to(store.base).as_posix()) if inside else None
        if entry is not None:
            state, model = store.state(entry)
            source = replace(source, state=state, model=model)
            try:
                if state == "adapted":
                    original = store.text(entry.original)
                    document = parse_document(original, str(skill.file), folder=skill.document.name)
                    source = replace(source, original=original, document=document)
                elif state == "edited":
                    left = "was edited after it was adapted; masa adapt --adopt takes it for a new original"
                    source = replace(source, left=left, diff=store.three_way(entry))
            except MasaError as error:
                source = replace(source, left=source.left or str(error))
        result.append(source)
    return result


def bank_of(chosen: Sequence[Source]) -> SkillBank:
    """The skills to adapt as a bank with a group each, by key."""
    return SkillBank((), {source.key: source.document.skills() for source in chosen if not source.left})


def adapt(
    chosen: Sequence[Source],
    result: RewriteResult | None,
    counter: TokenCounter,
    *,
    budget: int | None = None,
    description: int | None = None,
) -> list[Adaptation]:
    """What each skill would become by the rewrite of `bank_of(chosen)`; None stands for one that keeps everything.

    Args:
        budget: most tokens of all descriptions and any one body together, as far as sections can move.
        description: most tokens of each description, as far as sentences can go.
    """
    by_key = {} if result is None else {group.key: group for group in result.groups}
    made = [_rewritten(source, by_key.get(source.key), counter.count) for source in chosen]
    if budget is None and description is None:
        return made
    made = [_fitted(one, counter.count, None, description) for one in made]
    if budget is None:
        return made
    listed = sum(one.after.always for one in made)
    return [_fitted(one, counter.count, max(0, budget - listed), None) for one in made]


def _rewritten(source: Source, group: GroupResult | None, count: Callable[[str], int]) -> Adaptation:
    adapted, left, document = source.original, source.left, source.document
    if group is not None and not left and group.status == "rewritten":
        try:
            adapted = render_document(document, group.output.skills, str(source.skill.file))
            document = parse_document(adapted, str(source.skill.file), folder=document.name)
        except MasaError as error:
            left = str(error)
    before, problems = _cost(source, source.document, count)
    after = before if document is source.document else _cost(source, document, count)[0]
    problems = (*source.skill.problems, *problems, *_cost_problems(source, before))
    return Adaptation(source, group, adapted, {}, before, after, problems, left)


def _cost(
    source: Source, document: Document, count: Callable[[str], int], added: Mapping[str, bytes] | None = None
) -> tuple[SkillCost, tuple[Problem, ...]]:
    extra = {name: data.decode("utf-8") for name, data in (added or {}).items()}
    try:
        return skill_cost(document, source.skill.folder, count, extra=extra), ()
    except OSError as error:
        where = str(source.skill.file.parent)
        told = Problem(where, None, f"cannot be listed ({reason(error)}), so its files are not counted")
        return skill_cost(document, None, count, extra=extra), (told,)


def _fitted(one: Adaptation, count: Callable[[str], int], body: int | None, description: int | None) -> Adaptation:
    if one.left:
        return one
    source, where = one.source, str(one.source.skill.file.absolute())
    taken = [*one.before.files, *one.before.unreferenced, *one.added]
    fitted = fit(one.adapted, where, count, body=body, description=description, taken=taken)
    problems = tuple(Problem(str(source.skill.file), None, words, "warning") for words in fitted.told)
    if fitted.text == one.adapted:
        return replace(one, problems=(*one.problems, *problems))
    added = {**one.added, **fitted.added}
    document = parse_document(fitted.text, where, folder=source.document.name)
    after = _cost(source, document, count, added)[0]
    return replace(one, adapted=fitted.text, added=added, after=after, problems=(*one.problems, *problems))


def change_of(adaptation: Adaptation, model: str, version: Version) -> Change:
    """The adaptation as the store takes it."""
    source = adaptation.source
    version = replace(version, edits=dict(adaptation.edits))
    return Change(source.skill.real, source.original, adaptation.adapted, adaptation.added, model, version)


def _cost_problems(source: Source, cost: SkillCost) -> list[Problem]:
    where = str(source.skill.file)
    problems = []
    if cost.body > BODY_ADVICE:
        message = f"the body has {cost.body:,} tokens; the specification advises fewer than {BODY_ADVICE:,}"
        problems.append(Problem(where, None, f"{message} (--budget moves sections to references/)", "warning"))
    if cost.repeated > _MANY_REPEATED:
        message = f"lines that stand three times or more cost {cost.repeated:,} tokens of the body; say each once"
        problems.append(Problem(where, None, message, "note"))
    for name in cost.missing:
        problems.append(Problem(where, None, f"links to {name}, which is not there; mend the link", "warning"))
    for name in cost.unreferenced:
        problems.append(Problem(where, None, f"nothing refers to {name}, so no reader finds it", "note"))
    return problems
