"""What a rule of the guard looks at: a source group, the output that wants to replace it, and both prepared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from masa.facts import Facts
from masa.skills import Group, Skill

if TYPE_CHECKING:
    from masa.edits import PlannedGroup


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise of the guard that an output breaks.

    Attributes:
        rule: name of the rule, a key of `masa.guard.RULES`.
        message: what was found and where, one sentence.
        skill: 0-based index of the output skill at fault; None if it is the group as a whole.
    """

    rule: str
    message: str
    skill: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the guard. Lengths are characters of `Skill.text`, summed over a group.

    The published evolved groups (48 of them, ALFWorld and Search, four backbones) range from 0.20 to 4.55
    times the length of the group they came from, add at most 7,365 characters, 2 skills, and have principles
    of up to 1,116 characters, titles of up to 92 and conditions of up to 240. The defaults leave room beyond that.

    Attributes:
        min_ratio, max_ratio: length of the output group over that of the source group.
        allowance: characters that a group may always add, whatever the ratio says; facts come on top.
        max_growth: characters that a group may add at most, whatever the ratio says; facts come on top.
        max_skill_chars: length of one skill; a merger of the whole source group may exceed it by that group.
        max_title_chars, max_when_chars: the same for titles and conditions.
        max_repeats: how often in a row a phrase may stand.
        max_counted_repeats: the same where the repetitions differ in numbers only ("cabinet 1, cabinet 2, …").
        max_copies: how often one sentence may stand in a group.
        min_compression: zlib size over UTF-8 size, for texts of 400 characters and more.
    """

    min_ratio: float = 0.15
    max_ratio: float = 5.0
    allowance: int = 2_000
    max_growth: int = 20_000
    max_skill_chars: int = 2_000
    max_title_chars: int = 200
    max_when_chars: int = 500
    max_repeats: int = 4
    max_counted_repeats: int = 8
    max_copies: int = 4
    min_compression: float = 0.25


@dataclass(frozen=True, slots=True)
class Case:
    """One output to judge, and what it may draw on.

    Attributes:
        plan: which source skills each output skill came of, where a plan made the output.
        known: everything an output may legitimately repeat: the source group and the facts, folded.
        raw_source: the source group as it stands, one string.
        raw_output: the output group as it stands, one string.
        texts: per output skill, identifier and text as they stand.
        folded: the same, folded (see `fold`).
    """

    source: Group
    output: Group
    facts: Facts | None
    control_tokens: tuple[str, ...]
    prompt_text: str
    limits: Limits
    plan: PlannedGroup | None
    facts_text: str
    known: str
    raw_source: str
    raw_output: str
    texts: tuple[str, ...]
    folded: tuple[str, ...]

    def new_texts(self) -> Iterator[tuple[int, str]]:
        """Index and folded text of the output skills that are not a verbatim copy of one of the source."""
        kept = {(skill.skill_id, skill.text) for skill in self.source.skills}
        for index, skill in enumerate(self.output.skills):
            if (skill.skill_id, skill.text) not in kept:
                yield index, self.folded[index]


Check = Callable[[Case], Iterator[Violation]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A named promise. `promise` is one sentence for people; `check` yields a violation per finding."""

    name: str
    promise: str
    check: Check


def make_case(
    source: Group,
    output: Group,
    facts: Facts | None,
    control_tokens: Sequence[str],
    prompt_text: str,
    limits: Limits,
    plan: PlannedGroup | None = None,
) -> Case:
    """Prepare a case; every text is read once here so that rules stay cheap."""
    texts = tuple(f"{skill.skill_id}\n{skill.text}" for skill in output.skills)
    raw_source = group_text(source.skills)
    facts_text = facts_lines(facts)
    return Case(
        source=source,
        output=output,
        facts=facts,
        control_tokens=tuple(control_tokens),
        prompt_text=prompt_text,
        limits=limits,
        plan=plan,
        facts_text=facts_text,
        known=fold("\n".join([*(f"{skill.skill_id}\n{skill.text}" for skill in source.skills), facts_text])),
        raw_source=raw_source,
        raw_output=group_text(output.skills),
        texts=texts,
        folded=tuple(fold(text) for text in texts),
    )


def group_text(skills: Sequence[Skill]) -> str:
    """The texts of all skills, one after the other."""
    return "\n".join(skill.text for skill in skills)


def facts_lines(facts: Facts | None) -> str:
    """Everything the interface facts say, one entry a line."""
    if facts is None:
        return ""
    lines = [facts.environment, *facts.rules, *facts.examples]
    for action in facts.actions:
        lines += [action.form, action.meaning, action.example]
    return "\n".join(line for line in lines if line)


# Characters without a glyph of their own (Unicode's Default_Ignorable_Code_Point, shortened to those in use).
# They split a forbidden word for a pattern, not for a reader or a tokenizer that drops them.
IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_IGNORABLE = re.compile(f"[{IGNORABLE}]+")

# One Arabic ligature decomposes into 18 characters, another into 8.
_EXPANDING = re.compile("[\ufdfa\ufdfb]")
# Brackets and bars that look like those of control tokens; NFKD already maps the full-width ones.
_LOOKALIKES = str.maketrans(
    {
        **dict.fromkeys("‹⟨〈❮❰˂ᐸ", "<"),
        **dict.fromkeys("›⟩〉❯❱˃ᐳ", ">"),
        **dict.fromkeys("∣│┃❘❙❚ǀ¦⎮⏐╎", "|"),
        "«": "<<",
        "»": ">>",
        "《": "<<",
        "》": ">>",
        "【": "[",
        "】": "]",
    }
)


def fold(text: str) -> str:
    """Text as a determined reader sees it: no invisible characters, compatibility forms and lookalikes mapped.

    NFKD rather than NFKC: composition would let a combining mark hide the bracket before it.
    """
    if text.isascii():
        return text
    visible = _EXPANDING.sub(" ", _IGNORABLE.sub("", text))
    return unicodedata.normalize("NFKD", visible).translate(_LOOKALIKES)


def quote(text: str, length: int = 40) -> str:
    """A finding as it is shown in a message: printable, on one line, cut."""
    flat = " ".join(text.split())
    cut = flat if len(flat) <= length else flat[: length - 1] + "…"
    return repr(cut.encode("utf-8", "replace").decode("utf-8"))


def where(index: int | None) -> str:
    """How messages name the output skill, counted from 1 as people do."""
    return "the group" if index is None else f"skill {index + 1}"
