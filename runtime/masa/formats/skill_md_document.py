"""One SKILL.md as raw pieces whose concatenation is the file.

The file is: head (byte order mark, front matter, blank lines, headings without text at the very top),
sections, tail. A *section* is a heading at the top level of the Markdown with the text up to the next one;
text before the first heading is a section without a heading. A heading without text of its own (`# Guide`
directly above `## First step`) is no section: it is layout and stays in front of the section that follows it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from masa.errors import FormatError
from masa.files import ParseError, parse_yaml
from masa.skills import Skill

EXTRA = "skill_md"
"""Key of `Skill.extra` under which a section's origin is kept: {"level", "section", "description"}."""

_BOM = "\ufeff"
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")  # the line ends of YAML and CommonMark; splitlines() has more
LINE_BREAK = re.compile(r"\r\n|\n|\r")
_BLANK_LINES = re.compile(r"(?:[ \t]*(?:\r\n|\n|\r))*")
_BLANK = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of the body: lead + heading + gap + text + tail are its exact characters.

    Attributes:
        lead: headings without text that stand before this section.
        heading: the raw heading with its line end; empty for text before the first heading.
        level: 1 to 6; 0 without a heading.
        title: the heading's Markdown in one line, or the name of the skill folder.
        gap, tail: blank lines around `text`.
    """

    lead: str
    heading: str
    level: int
    title: str
    gap: str
    text: str
    tail: str

    @property
    def principle(self) -> str:
        """The text with every line end as a line feed."""
        return LINE_BREAK.sub("\n", self.text)


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed SKILL.md; `fields` is the front matter, section numbers are 1-based."""

    name: str
    fields: Mapping[str, Any]
    head: str
    sections: tuple[Section, ...]
    tail: str
    newline: str

    @property
    def description(self) -> str:
        """The front matter's description, or nothing where it has none that is text."""
        description = self.fields.get("description")
        return description if isinstance(description, str) else ""

    def skills(self) -> tuple[Skill, ...]:
        """The sections as skills."""
        return tuple(
            Skill(
                skill_id=f"{self.name}#{number}",
                title=section.title,
                principle=section.principle,
                extra={
                    EXTRA: {"level": section.level, "section": number, "description": self.description},
                },
            )
            for number, section in enumerate(self.sections, start=1)
        )


def parse_document(raw: bytes, where: str) -> Document:
    """Take a SKILL.md apart; `where` names the file in errors.

    Raises:
        FormatError: if it is not UTF-8, has no (terminated, valid) front matter with a name, or no body text.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FormatError(f"{where}, line {line}: not UTF-8; save the file as UTF-8") from error
    front, yaml_text, body = _split_front_matter(text, where)
    fields = _load_yaml(yaml_text, where)
    name = fields.get("name")
    if name is None:
        raise FormatError(f"{where}: the front matter has no name; add a line like `name: my-skill`")
    if not isinstance(name, str) or not name.strip():
        raise FormatError(f"{where}: the front matter's name is {name!r}, not a text; put it in quotes")
    return _split_body(name.strip(), fields, front, body, where)


def _split_front_matter(text: str, where: str) -> tuple[str, str, str]:
    # A line `---` in the first column always ends a YAML document, whatever scalar surrounds it, so the first
    # one is the end; `---` indented in a block scalar or inside a line is not.
    start = len(_BOM) if text.startswith(_BOM) else 0
    position = start
    yaml_start = None
    for match in _LINE.finditer(text, start):
        position = match.end()
        marker = match.group().rstrip(_BLANK) == "---"
        if yaml_start is None:
            if not marker:
                break
            yaml_start = position
        elif marker:
            return text[:position], text[yaml_start : match.start()], text[position:]
    if yaml_start is None:
        raise FormatError(f"{where}: no front matter; the first line must be `---`, then name and description")
    raise FormatError(f"{where}: the front matter is not terminated; end it with a line `---`")


def _load_yaml(text: str, where: str) -> Mapping[str, Any]:
    try:
        fields = parse_yaml(text)
    except ParseError as error:
        line = "" if error.line is None else f", line {error.line + 1}"  # below the opening `---`
        raise FormatError(f"{where}{line}: the front matter is not valid YAML ({error.problem}); correct it") from None
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise FormatError(f"{where}: the front matter is a {type(fields).__name__}, not `key: value` lines")
    return fields


def _split_body(name: str, fields: Mapping[str, Any], front: str, body: str, where: str) -> Document:
    lines = _LINE.findall(body)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    marks = [(0, 0, 0, name)]
    marks += [(starts[first], starts[end], level, title) for first, end, level, title in _headings(body)]
    ends = [start for start, *_ in marks[1:]] + [len(body)]

    head, lead, sections = front, "", list[Section]()
    for (start, text_start, level, title), end in zip(marks, ends, strict=True):
        content = body[text_start:end]
        if not content.strip():
            lead += body[start:end]
            continue
        gap = _BLANK_LINES.match(content).group()  # type: ignore[union-attr]  # it matches nothing, too
        text = content[len(gap) :].rstrip(_BLANK)
        tail = content[len(gap) + len(text) :]
        if not sections:
            head, lead = head + lead, ""
        sections.append(Section(lead, body[start:text_start], level, title, gap, text, tail))
        lead = ""
    if not sections:
        raise FormatError(f"{where}: the body below the front matter has no text; there is nothing to rewrite")
    if not sections[0].level:  # blank lines above the first text belong to the top of the file
        head, sections[0] = head + sections[0].gap, replace(sections[0], gap="")
    breaks = Counter(LINE_BREAK.findall(front + body))
    return Document(name, fields, head, tuple(sections), lead, breaks.most_common(1)[0][0])


def _headings(markdown: str) -> list[tuple[int, int, int, str]]:
    """(first line, line after, level, title) of every titled heading at the top level; lines from 0."""
    from markdown_it import MarkdownIt

    # Only the block structure is needed; without the inline rules no text can be slow to read.
    tokens = MarkdownIt("commonmark").disable("inline").parse(markdown)
    found = []
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            title = " ".join(inline.content.split())
            if title:
                found.append((token.map[0], token.map[1], int(token.tag[1:]), title))
    return found
