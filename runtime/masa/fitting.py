"""Making a skill fit its reader's context: shorter descriptions, bodies within a budget, the rest on demand.

Nothing is lost. A section that leaves the body becomes a file in `references/`, word for word, and its heading stays
with a line that sends the reader there. From a description only sentences go that say neither what the skill is for
nor when to use it, and that hold nothing a request could name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from masa.errors import FormatError
from masa.files import ParseError, parse_yaml_texts
from masa.formats.skill_md_document import LINE_BREAK, Document, parse_document
from masa.formats.skill_md_render import render_document
from masa.markdown import protected_spans, sentences
from masa.skill_cost import body_of

if TYPE_CHECKING:
    from masa.skills import Skill

Count = Callable[[str], int]

_TRIGGER = re.compile(
    r"\b(?:use|using|used|invoke|load|apply|call|trigger\w*|choose|pick|works? (?:with|on)|handles?|supports?)\b"
    r"|\b(?:when|whenever|if|unless|before|after|during|not|never|only|don['’]t|except|instead)\b|n['’]t\b",
    re.IGNORECASE,
)
_NAMES = re.compile(r"[\"'“‘`][^\"'”’`]+[\"'”’`]|\.[a-z0-9]{1,5}\b|\b[A-Z]{2,}\b|(?<=[a-z,;] )[A-Z][a-z]+|\d")
_FORBIDS = re.compile(r"\b(?:never|do not|don['’]t|must|always|only|warning|caution|important|stop)\b", re.IGNORECASE)
_ASIDE = re.compile(
    r"\b(?:examples?|appendix|reference|background|details?|notes?|faq|troubleshoot\w*|advanced|further|more|history"
    r"|glossary|resources|formats?|options|limits|tables?|tips|why)\b",
    re.IGNORECASE,
)
_LINK_DEFINITION = re.compile(r"^ {0,3}\[[^\]\n]+\]:[ \t]*\S|\[[^\]\n]+\]\[[^\]\n]*\]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A skill made to fit: its text, the files that it now refers to, and in words what was not reached."""

    text: bytes
    added: Mapping[str, bytes] = field(default_factory=dict)
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Unit:
    """A section with those below it: places of the first and behind the last, the heading's level."""

    start: int
    end: int
    level: int


def fit(
    raw: bytes, where: str, count: Count, *, body: int | None, description: int | None, taken: Sequence[str] = ()
) -> Fitted:
    """`raw`, a SKILL.md, with at most `description` tokens of description and `body` of body, as far as that goes.

    `taken` are paths in the skill's folder that a new file must not have.

    Raises:
        FormatError: if `raw` is no SKILL.md.
    """
    folder = re.split(r"[/\\]", where)[-2] if re.search(r"[/\\]", where) else ""
    told = []
    document = parse_document(raw, where, folder=folder)
    if description is not None and count(document.description) > description:
        shorter = shorter_description(document.description, count, description)
        raw = with_description(raw, document, shorter, where, folder) if shorter != document.description else raw
        document = parse_document(raw, where, folder=folder)
        left = count(document.description)
        if left > description:
            told.append(
                f"the description has {left} tokens, {description} were asked for; the rest says what for or when"
            )
    added: Mapping[str, bytes] = {}
    if body is not None and count(body_of(document)) > body:
        raw, added = _moved(document, where, count, body, taken)
        left = count(body_of(parse_document(raw, where, folder=folder)))
        if left > body:
            told.append(f"the body has {left:,} tokens, {body:,} were asked for; no more of it may move")
    return Fitted(raw, added, tuple(told))


# --- descriptions -----------------------------------------------------------------------------------------


def shorter_description(text: str, count: Count, most: int) -> str:
    """`text` without sentences that may go, the last ones first, until it has `most` tokens.

    The first sentence stays, as does each that says when, when not, or with what to use the skill, or that holds a
    name, a number, a file type or quoted words.
    """
    parts = sentences(text)
    free = [
        place
        for place, part in enumerate(parts)
        if place and not _TRIGGER.search(part) and not _NAMES.search(part) and not protected_spans(part)
    ]
    while free and count("".join(parts).strip()) > most:
        parts[free.pop()] = ""
    return "".join(parts).strip()


def with_description(raw: bytes, document: Document, description: str, where: str, folder: str) -> bytes:
    """The same SKILL.md with another description; as it was where its front matter cannot be changed safely."""
    text = raw.decode("utf-8")
    lines = re.findall(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+", text)
    first = document.lines.get("description")
    if first is None or not lines[first - 1].startswith("description:"):
        return raw
    last = first
    while last < len(lines) and (lines[last][:1] in " \t" or not lines[last].strip()):
        last += 1
    ending = LINE_BREAK.search(lines[first - 1])
    line = f"description: {_scalar(description)}{ending.group() if ending else document.newline}"
    written = "".join((*lines[: first - 1], line, *lines[last:])).encode("utf-8")
    try:
        after = parse_document(written, where, folder=folder)
    except FormatError:
        return raw
    same = {**after.fields, "description": ""} == {**document.fields, "description": ""}
    return written if same and after.description == description and body_of(after) == body_of(document) else raw


def _scalar(text: str) -> str:
    """`text` as a YAML value on one line: plain where that reads back, else quoted."""
    try:
        if "\n" not in text and parse_yaml_texts(f"x: {text}")[0] == {"x": text} and not re.search(r"\s#|---", text):
            return text
    except ParseError:
        pass
    return json.dumps(text, ensure_ascii=False)


# --- bodies -----------------------------------------------------------------------------------------------


def _moved(
    document: Document, where: str, count: Count, most: int, taken: Sequence[str]
) -> tuple[bytes, dict[str, bytes]]:
    """The document with sections in files of their own until its body has `most` tokens, and those files."""
    skills = list(document.skills())
    units = _units(document)
    sizes = [count(_text(document, unit)) for unit in units]
    order = sorted(range(1, len(units)), key=lambda place: _cost(document, units[place], sizes[place]))
    left = count(body_of(document))
    moved: dict[int, str] = {}
    names = {name.casefold() for name in taken}
    for place in order:
        if left <= most:
            break
        unit = units[place]
        text = _text(document, unit)
        name = _file_name(document.sections[unit.start].title, names)
        saved = sizes[place] - count(_pointer(document, unit, name))
        if saved <= 0 or _LINK_DEFINITION.search(text) or not document.sections[unit.start].level:
            continue
        names.add(name.casefold())
        moved[place] = name
        left -= saved
    if not moved:
        return render_document(document, skills, where), {}
    added: dict[str, bytes] = {}
    kept: list[Skill] = []
    for place, unit in enumerate(units):
        if place not in moved:
            kept += skills[unit.start : unit.end]
            continue
        section, name = document.sections[unit.start], moved[place]
        line = f"Read [{_plain(section.title)}]({name}) when you come to this."
        kept.append(replace(skills[unit.start], principle=line))
        added[name] = _file(document, unit).encode("utf-8")
    return render_document(document, kept, where), added


def _units(document: Document) -> list[_Unit]:
    """The sections that may move, each with those below it. What stands above the first of them is the first unit."""
    levels = [section.level for section in document.sections]
    inner = [level for level in levels[1:] if level]
    top = min(inner, default=0)
    starts = [0, *(place for place, level in enumerate(levels) if place and level == top)]
    ends = [*starts[1:], len(levels)]
    return [_Unit(start, end, levels[start]) for start, end in zip(starts, ends, strict=True)]


def _cost(document: Document, unit: _Unit, size: int) -> tuple[bool, bool, int]:
    """How much a reader misses who does not follow the line: asides first, orders not to be missed last."""
    sections = document.sections[unit.start : unit.end]
    forbids = any(_FORBIDS.search(section.text) for section in sections)
    return forbids, not _ASIDE.search(sections[0].title), -size


def _text(document: Document, unit: _Unit) -> str:
    parts = (s.lead + s.heading + s.gap + s.text + s.tail for s in document.sections[unit.start : unit.end])
    return "".join(parts)


def _file(document: Document, unit: _Unit) -> str:
    """The text of a section as a file: its headings and words as they are."""
    text = _text(document, unit).strip("\r\n") + document.newline
    if re.search(r"\]\((?![a-z]+:|#|/)[^)\s]+\)", text):
        note = f"Paths on this page start at the folder of SKILL.md.{document.newline * 2}"
        section = document.sections[unit.start]
        head = (section.lead + section.heading).lstrip("\r\n")
        text = head + document.newline + note + text.removeprefix(head).lstrip("\r\n")
    return text


def _pointer(document: Document, unit: _Unit, name: str) -> str:
    section = document.sections[unit.start]
    return f"{section.heading}\nRead [{_plain(section.title)}]({name}) when you come to this.\n\n"


def _plain(title: str) -> str:
    return re.sub(r"[\[\]`*_<>\\]", "", title).strip() or "this section"


def _file_name(title: str, taken: set[str]) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", title.casefold()).strip("-")[:40].strip("-") or "section"
    name, number = f"references/{stem}.md", 1
    while name.casefold() in taken:
        number += 1
        name = f"references/{stem}-{number}.md"
    return name
