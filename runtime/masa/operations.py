"""What a model card calls for, before any model is asked: which words of it ask for which edits.

The words are those that `docs/write-a-card.md` names and `masa profile --probe` writes. The rewriter decides, and
understands others as well; this is for telling a person what to expect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from masa.edits import EDITS

if TYPE_CHECKING:
    from masa.artifact import Artifact
    from masa.cards import ModelCard
    from masa.provenance import GroupResult, RewriteResult
    from masa.skills import Group, SkillBank

NO_WEAKNESSES = "this card has no weaknesses, so that nothing calls for an edit"

CALLS: Mapping[str, str] = MappingProxyType({
    "only acts on the first sentence": "limit",
    "loses the thread in long text": "shorten",
    "skips steps": "steps",
    "applies rules where they do not hold": "condition-action",
    "overlooks instructions": "emphasise",
    "writes commands with the wrong syntax": "syntax",
    "learns by imitation": "example",
    "repeats the same action": "warn loop",
    "invents actions": "warn invalid-action",
    "searches the same place twice": "warn revisiting",
    "never puts it down": "warn undelivered-object",
    "takes a similar object": "warn wrong-object",
    "answers in a full sentence": "warn answer-form",
    "stops before the task is done": "warn premature-stop",
    "writes far more than needed": "warn verbosity",
})  # fmt: skip
"""Beginnings of a weakness, in fixed words, and the edit that it asks for."""

SWITCHES = tuple(name for name, edit in EDITS.items() if name != "keep")
"""What `--without` switches off: every edit but `keep`; `warn` stands for all warnings."""


@dataclass(frozen=True, slots=True)
class Calls:
    """What a card says of its backbone: each weakness with the edit that it asks for, empty where no fixed words do."""

    weaknesses: tuple[tuple[str, str], ...]

    @property
    def edits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(edit for _, edit in self.weaknesses if edit))


def calls_of(card: ModelCard) -> Calls:
    """What the weaknesses of a card ask for, one by one."""
    said = [part.strip() for part in re.split(r"[;\n]|\.\s", card.weaknesses or "") if part.strip(" .")]
    return Calls(tuple((words, _edit(words)) for words in said))


def nothing_to_do(card: ModelCard, artifact: Artifact) -> bool:
    """Whether nothing in a card calls for an edit: no weakness is known, and it was not pre-trained only.

    Holds for rewriters that learned from stated rules (`docs/write-a-card.md` has the figures of the shipped one);
    what another makes of such a card only it can tell.
    """
    by_rules = artifact.trained and bool(artifact.training_data and artifact.training_data.synthetic)
    return by_rules and not card.weaknesses and card.base_or_instruct != "base"


def kept_result(bank: SkillBank, card: ModelCard, artifact: Artifact, language: str) -> RewriteResult:
    """What a rewrite comes to where nothing is to be done: every group as it is, and no model asked."""
    from masa.provenance import GroupResult, RewriteResult, unchanged_fates

    def kept(group: Group) -> GroupResult:
        fates = unchanged_fates(group, "kept", frozenset())
        return GroupResult(group.key, group, group, "kept", NO_WEAKNESSES, (), fates, (), "", 0, 0, 0, 0.0)

    return RewriteResult(
        bank=bank,
        groups=tuple(kept(group) for group in bank.groups() if len(group)),
        artifact=artifact.name,
        artifact_fingerprint=artifact.fingerprint,
        trained=artifact.trained,
        synthetic=True,
        language=language,
        card=card.name,
        card_fingerprint=card.fingerprint,
        seconds=0.0,
        tokens=0,
        read=0,
    )


def _edit(words: str) -> str:
    plain = " ".join(re.findall(r"[a-z']+", words.casefold()))
    return next((edit for fixed, edit in CALLS.items() if fixed in plain), "")
