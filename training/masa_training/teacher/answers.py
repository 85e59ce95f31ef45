"""What a language model answers a teacher's questions with, read strictly where it counts and kindly where not.

Code fences, words around the answer and missing blank lines are put right; everything else is a reason to ask again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from masa.guard import check
from masa.languages import ParseError, parse_blocks, skills_from_blocks
from masa.skills import Group
from masa_training.teacher.card_claims import claims
from masa_training.teacher.protocol import Asked, words_of
from masa_training.teacher.symptoms import SYMPTOMS

OTHER: Final = "other"
KINDS: Final = (*SYMPTOMS, OTHER)
"""The kinds of failure that an attribution may name."""

_MOST_REASONS = 5
_LONGEST_TEXT = 600
_HEADING = re.compile(r"^##(?!#)\s*(?:\[\s*([+\d,\s]*)\s*\]|(\d+)[.):])?\s*(.*)$")
_WHEN = re.compile(r"^[*_]*when(?:[ _]to[ _]apply)?[*_]*\s*:[*_]*\s*(.*)$", re.IGNORECASE)
_NOT_PRINTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class AnswerError(ValueError):
    """An answer cannot be used; the message gives the reasons to whoever wrote it."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why one episode failed.

    Attributes:
        episode: its number in the question.
        kind: one of `KINDS`.
        step, skill: where it went wrong and which skill of the group had to do with it, by number; None if none.
    """

    episode: int
    kind: str
    cause: str
    step: int | None = None
    skill: int | None = None


@dataclass(frozen=True, slots=True)
class Attribution:
    """What went wrong, as the teacher sees it. `advice` is its own conclusion in a sentence or two."""

    causes: tuple[Cause, ...] = ()
    advice: str = ""

    def shares(self) -> dict[str, float]:
        """The share of the attributed episodes that show each kind, most frequent first."""
        shown = {(cause.episode, cause.kind) for cause in self.causes}
        failed = len({cause.episode for cause in self.causes})
        counts = Counter(kind for _, kind in shown)
        ranked = sorted(counts, key=lambda kind: (-counts[kind], KINDS.index(kind)))
        return {kind: counts[kind] / failed for kind in ranked}


def read_attribution(text: str, steps: Mapping[int, int], skills: int) -> Attribution:
    """The attribution in a JSON answer; `steps` has the number of steps of every failed episode that was shown.

    Raises:
        AnswerError: if it is none, or names an episode, a step or a skill that there is not.
    """
    value = _json(text)
    listed = value.get("failures")
    if not isinstance(listed, list) or not listed:
        raise AnswerError('it has no list "failures" with one object for each failed episode')
    found, problems = [], []
    for place, item in enumerate(listed, start=1):
        try:
            found.append(_cause(item, steps, skills))
        except AnswerError as error:
            problems.append(f"failure {place}: {error}")
    if problems:
        raise AnswerError("; ".join(problems[:_MOST_REASONS]))
    advice = value.get("advice") or ""
    if not isinstance(advice, str):
        raise AnswerError('"advice" is no text')
    return Attribution(tuple(found), tidy(advice))


def read_group(text: str, asked: Asked) -> Group:
    """The group in an answer in the text language (`masa.languages`), if it may replace the group at hand.

    Raises:
        AnswerError: if it is none, is too long, is not new, or breaks a rule of the guard.
    """
    source = asked.group
    plain = _as_blocks(text)
    if not plain:
        raise AnswerError("it has no skill; every skill begins with a heading such as ## [1] Title")
    for numbers in re.findall(r"^## \[([\d,]+)\]", plain, re.MULTILINE):
        wrong = [n for n in numbers.split(",") if not 1 <= int(n) <= len(source)]
        if wrong:
            raise AnswerError(f"it names the skill {wrong[0]}; the group has the skills 1 to {len(source)}")
    try:
        blocks = parse_blocks(plain, len(source))
    except ParseError as error:
        raise AnswerError(str(error)) from None
    group = Group(source.task_type, skills_from_blocks(blocks, source))
    if (words := words_of(group)) > asked.words:
        raise AnswerError(f"it has {words} words; at most {asked.words} are allowed")
    if violations := check(source, group, facts=asked.facts):
        raise AnswerError("; ".join(violation.message for violation in violations[:_MOST_REASONS]))
    if _texts(group) in (_texts(source), _texts(asked.original)):
        raise AnswerError("it changes nothing")
    if any(_texts(group) == _texts(other) for other, _ in asked.refused):
        raise AnswerError("it is a group that was tried already and not accepted")
    if any(_texts(group) == _texts(other) for other, _ in asked.best):
        raise AnswerError("it is one of the best groups, which are known already")
    return group


def read_weaknesses(text: str) -> str:
    """The summary in an answer, on one line.

    Raises:
        AnswerError: if there is none, or it says what no card of ours may (`claims`).
    """
    line = " ".join(_unfenced(text).split()).strip("\"'` ").removeprefix("weaknesses:").removeprefix("Weaknesses:")
    line = line.strip().rstrip(".").strip()
    if not line:
        raise AnswerError("it is empty")
    if _NOT_PRINTED.search(line):
        raise AnswerError("it holds characters that cannot be printed")
    if found := claims(line, ours=True):
        raise AnswerError("; ".join(found))
    return line


def tidy(text: str, longest: int = _LONGEST_TEXT) -> str:
    """A model's free words on one line, printable, at most so long: they go into events and into the next question."""
    line = " ".join(_NOT_PRINTED.sub(" ", text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _cause(item: Any, steps: Mapping[int, int], skills: int) -> Cause:
    if not isinstance(item, dict):
        raise AnswerError("it is no object")
    episode = _whole(item.get("episode"))
    if episode is None or episode not in steps:
        raise AnswerError(f"there is no failed episode {item.get('episode')!r}; there are {_listed(steps)}")
    kind = item.get("kind")
    if kind not in KINDS:
        raise AnswerError(f"kind is {str(kind)[:40]!r}; it must be one of {', '.join(KINDS)}")
    cause = item.get("cause")
    if not isinstance(cause, str) or not cause.strip():
        raise AnswerError('"cause" is missing; say in a sentence what went wrong')
    step, skill = _whole(item.get("step")), _whole(item.get("skill"))
    if step is not None and not 1 <= step <= steps[episode]:
        raise AnswerError(f"episode {episode} has no step {step}; it has {steps[episode]}")
    if skill is not None and not 1 <= skill <= skills:
        raise AnswerError(f"there is no skill {skill}; the group has the skills 1 to {skills}, or give null")
    return Cause(episode, kind, tidy(cause), step, skill)


def _whole(value: Any) -> int | None:
    """A whole number, also where it is written as a text; None for null, and -1 for anything else."""
    if value is None:
        return None
    if isinstance(value, bool):
        return -1
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,6}\s*", value):
        return int(value)
    return -1


def _listed(numbers: Mapping[int, int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _json(text: str) -> dict[str, Any]:
    """The first JSON object of a text."""
    start = text.find("{")
    if start < 0:
        raise AnswerError("it holds no JSON object")
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"it is no valid JSON ({tidy(str(error), 100)})") from None
    assert isinstance(value, dict)  # it begins with a brace
    return value


def _unfenced(text: str) -> str:
    """Without the code fence around an answer; one inside of it stays."""
    lines = text.strip().splitlines()
    if len(lines) >= 2 and lines[0].startswith("```") and lines[-1].strip() == "```":
        lines = lines[1:-1]
    return "\n".join(lines)


def _as_blocks(text: str) -> str:
    """The skills of an answer in the form that the parser wants; empty if there is none."""
    lines = [line.rstrip() for line in _unfenced(text.replace("\r\n", "\n")).split("\n")]
    starts = [number for number, line in enumerate(lines) if _HEADING.match(line)]
    ends = [*starts, len(lines)][1:] if starts else []
    return "\n\n".join(_as_block(lines[start], lines[start + 1 : end]) for start, end in zip(starts, ends, strict=True))


def _as_block(heading: str, lines: Sequence[str]) -> str:
    match = _HEADING.match(heading)
    assert match is not None
    numbers = re.sub(r"\s", "", match[1] or match[2] or "").strip(",") or "+"
    body = _trimmed(lines)
    when = ""
    if body and (said := _WHEN.match(body[0])):
        when, body = said[1], _trimmed(body[1:])
    return f"## [{numbers}] {match[3]}\nWhen:{' ' * bool(when)}{when}\n" + "\n".join(body)


def _trimmed(lines: Sequence[str]) -> list[str]:
    """Without empty lines and rules at both ends."""
    found = list(lines)
    while found and found[-1].strip() in ("", "---", "***"):
        found.pop()
    while found and not found[0]:
        found.pop(0)
    return found


def _texts(group: Group) -> tuple[str, ...]:
    return tuple(skill.text for skill in group.skills)
