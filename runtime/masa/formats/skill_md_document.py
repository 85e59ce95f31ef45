"""One SKILL.md as raw pieces whose concatenation is the file.

The file is: head (byte order mark, front matter, blank lines, headings without text at the very top),
sections, tail. A *section* is a heading at the top level of the Markdown with the text up to the next one;
text before the first heading is a section without a heading. A heading without text of its own (`# Guide`
directly above `## First step`) is no section: it is layout and stays in front of the section that follows it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from masa.errors import FormatError
from masa.files import ParseError, parse_yaml_texts
from masa.markdown import with_open_fences
from masa.skills import Problem, Skill

EXTRA = "skill_md"
"""Key of `Skill.extra` under which a section's origin is kept: {"level", "section", "description"}."""

_BOM = "\ufeff"
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")  # the line ends of YAML and CommonMark; splitlines() has more
LINE_BREAK = re.compile(r"\r\n|\n|\r")
_BLANK_LINES = re.compile(r"(?:[ \t]*(?:\r\n|\n|\r))*")
_BLANK = " \t\r\n"
_MOST_MENDS = 20


class BrokenFileError(FormatError):
    """A SKILL.md that cannot be read, as a `Problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


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
    """A parsed SKILL.md; section numbers are 1-based.

    Attributes:
        name: the front matter's name, or the folder's.
        fields: the front matter. Every scalar is text, as it is spelled: `version: 1.10` is "1.10".
        lines: the line of the file on which each field stands.
        problems: what was read only by being lenient.
    """

    name: str
    fields: Mapping[str, Any]
    lines: Mapping[str, int]
    problems: tuple[Problem, ...]
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


def parse_document(raw: bytes, where: str, *, folder: str = "") -> Document:
    """Take a SKILL.md apart; `where` names the file in problems, `folder` is the name to use where it has none.

    What agentskills.io's guide asks clients to accept is read and told: values that YAML cannot read because they
    are not quoted, tabs, a missing name.

    Raises:
        BrokenFileError: if it is not UTF-8, has no terminated front matter, its front matter cannot be read, or there
            is neither a name nor a `folder`; with severity `note` if the body has no text.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BrokenFileError(Problem(where, line, "not UTF-8; save the file as UTF-8")) from error
    front, yaml_text, body = _split_front_matter(text, where)
    fields, lines, problems = _load_yaml(yaml_text, where)
    name = fields.get("name", "")
    if not isinstance(name, str) or not name.strip():
        line = lines.get("name", 1)
        found = "the front matter has no name" if "name" not in fields or name == "" else "the name is not a text"
        if not folder:
            raise BrokenFileError(Problem(where, line, f"{found}; add a line like `name: my-skill`"))
        message = f"{found}, the folder's is taken; add a line `name: {folder}`"
        problems.append(Problem(where, line, message, "warning"))
        name = folder
    if not isinstance(description := fields.get("description", ""), str) or not description.strip():
        message = "the front matter has no description, so clients will not offer the skill; add one"
        problems.append(Problem(where, lines.get("description", 1), message, "warning"))
    document = _split_body(" ".join(name.split()), front, body, where)
    return replace(document, fields=fields, lines=lines, problems=tuple(problems))


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
        message = "no front matter; the first line must be `---`, then name, description and another `---`"
    else:
        message = "the front matter is not terminated; end it with a line `---`"
    raise BrokenFileError(Problem(where, 1, message))


def _load_yaml(text: str, where: str) -> tuple[dict[str, Any], dict[str, int], list[Problem]]:
    """Fields, the line of each, and what had to be mended to read them; line 2 is the first of the text."""
    lines = LINE_BREAK.sub("\n", text).split("\n")
    mended: dict[tuple[int, str], str] = {}
    while True:
        try:
            fields, entries = parse_yaml_texts("\n".join(lines))
            break
        except ParseError as error:
            # What was opened and not closed is at fault where it begins.
            places = [line for line in (error.began, error.line) if line is not None]
            if len(mended) == _MOST_MENDS or not any(_mend(lines, line - 1, mended) for line in places):
                message = f"the front matter is not valid YAML ({error.problem}); correct it"
                raise BrokenFileError(Problem(where, (places or [1])[0] + 1, message)) from None
    fields = {} if fields is None else fields
    if not isinstance(fields, dict):
        message = f"the front matter is a {'list' if isinstance(fields, list) else 'text'}, not `key: value` lines"
        raise BrokenFileError(Problem(where, 2, f"{message}; write it so"))
    problems = [Problem(where, line + 2, message, "warning") for (line, _), message in sorted(mended.items())]
    numbers: dict[str, int] = {}
    for key, line in entries:
        if key in numbers:
            message = f"{key!r} stands twice, the last one is taken; many clients refuse that, remove one"
            problems.append(Problem(where, line + 1, message, "warning"))
        numbers[key] = line + 1
    return fields, numbers, problems


def _mend(lines: list[str], at: int, mended: dict[tuple[int, str], str]) -> bool:
    """Make the entry at line `at` (from 0) readable in place, and note in `mended` what was done; False if nothing.

    Tabs become spaces. Else the value is taken as it is written, over all its lines: as if it had been quoted. Lines
    keep their numbers.
    """
    at = min(at, len(lines) - 1)
    if "\t" in lines[at]:
        lines[at] = lines[at].replace("\t", "  ").rstrip()
        mended[at, "tab"] = "has a tab, which YAML does not allow there; use spaces"
        return True
    top = next((i for i in range(at, -1, -1) if lines[i].strip() and not lines[i].startswith(" ")), at)
    end = next((i for i in range(top + 1, len(lines)) if lines[i].strip() and not lines[i].startswith(" ")), len(lines))
    entry = _entry(lines[top])
    if entry is None and at > top:  # an entry of a nested map or list, on one line
        top, end, entry = at, at + 1, _entry(lines[at])
    if entry is None or (top, "value") in mended or entry[1][0] in "|>":
        return False
    if any((i, "tab") in mended for i in range(top + 1, end)):
        return False  # indented by tabs: who wrote it saw no continuation
    key, value = entry
    value = " ".join(filter(None, (value, *(line.strip() for line in lines[top + 1 : end]))))
    lines[top] = f"{key}: {json.dumps(value, ensure_ascii=False)}"
    lines[top + 1 : end] = [""] * (end - top - 1)
    name = key.strip(" -")
    mended[top, "value"] = f"the value of {name!r} is taken as it is written; put it in quotes for YAML to read it"
    return True


def _entry(line: str) -> tuple[str, str] | None:
    """Key, with what stands before it, and value of a line `key: value`; None if it is no such line."""
    key, colon, value = line.partition(":")
    name = key.lstrip(" ").removeprefix("- ").strip()
    plain = bool(name) and name[0] not in "#'\"[]{}&*!|>%@`-?,"
    return (key.rstrip(), value.strip()) if plain and colon and value[:1] == " " and value.strip() else None


def _split_body(name: str, front: str, body: str, where: str) -> Document:
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
        line = len(LINE_BREAK.findall(front)) + 1
        message = "no text below the front matter, so there is nothing to rewrite; it stays as it is"
        raise BrokenFileError(Problem(where, line, message, "note"))
    if not sections[0].level:  # blank lines above the first text belong to the top of the file
        head, sections[0] = head + sections[0].gap, replace(sections[0], gap="")
    breaks = Counter(LINE_BREAK.findall(front + body))
    return Document(name, {}, {}, (), head, tuple(sections), lead, breaks.most_common(1)[0][0])


def _headings(markdown: str) -> list[tuple[int, int, int, str]]:
    """(first line, line after, level, title) of every titled heading at the top level; lines from 0."""
    from markdown_it import MarkdownIt

    # Only the block structure is needed; without the inline rules no text can be slow to read.
    tokens = MarkdownIt("commonmark").disable("inline").parse(with_open_fences(markdown))
    found = []
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            title = " ".join(inline.content.split())
            if title:
                found.append((token.map[0], token.map[1], int(token.tag[1:]), title))
    return found
