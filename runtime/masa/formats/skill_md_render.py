"""Writing a SKILL.md back with other sections: what did not change keeps its exact characters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from masa.errors import FormatError
from masa.formats.skill_md_document import EXTRA, LINE_BREAK, Document, Section, parse_document
from masa.markdown import with_open_fences
from masa.skills import Skill

_RAW_HTML = re.compile(r"<(pre|script|style|textarea)\b", re.IGNORECASE)
_HTML_ENDS = {"<!--": "-->", "<?": "?>", "<![CDATA[": "]]>"}


def render_document(document: Document, skills: Sequence[Skill], where: str) -> bytes:
    """The file with its sections replaced by `skills`, in their order.

    Head and unchanged sections keep their exact characters; a skill that keeps its title keeps its heading,
    a new title becomes an ATX heading of the old level, a skill without an origin gets the level its `extra`
    names, else the commonest level of the file. A condition (`when_to_apply`) becomes a first paragraph
    `When: …`, since the front matter is never rewritten. Headings without text stay before the section that
    they preceded, or before the next one left. Code fences and HTML blocks that a rewrite left open are
    closed, and headings lose an indentation that would make them part of a list now above them.

    Raises:
        FormatError: if there is no skill, or one without a title or text, or one that swallows what follows,
            or if the result would not load again.
    """
    if not skills:
        raise FormatError(f"{where}: no section is left to write; keep at least one")
    origins = [_origin(document, skill) for skill in skills]
    leads = _place_leads(document, origins)
    ending = leads.get(len(skills), "") + document.tail
    parts = [document.head]
    settled = True  # whether the section above is as it was, so that a heading can rely on it
    for place, (skill, origin) in enumerate(zip(skills, origins, strict=True)):
        if not skill.title.strip() or not (skill.principle.strip() or skill.when_to_apply.strip()):
            raise FormatError(f"{where}: section {place + 1} to write has no title or no text")
        section = None if origin is None else document.sections[origin]
        settled = settled and origin == (origins[place - 1] or 0) + 1 if place else origin == 0
        above = leads.get(place, "") + _heading(document, section, skill, first=place == 0)
        parts.append(above if settled or not above.startswith("  ") else above.lstrip(" "))
        settled = section is not None and _same_text(section, skill)
        text = section.text if section and settled else _new_text(document, skill)
        if place + 1 < len(skills):
            follows = origin is not None and origins[place + 1] == origin + 1
        else:
            follows = origin == len(document.sections) - 1
        if section and settled and follows:
            parts.append(text + section.tail)
        elif place + 1 == len(skills) and not ending:
            parts.append(text + document.sections[-1].tail)
        else:
            tail = section.tail.rstrip(" \t") if section else ""  # the file's last line may lack its end
            parts.append(_closed(text, document.newline, f"{where}: section {skill.title!r}"))
            parts.append(tail if len(LINE_BREAK.findall(tail)) > 1 else document.newline * 2)
    parts.append(ending)
    try:
        written = "".join(parts).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(f"{where}: a section to write holds characters that are no Unicode text") from error
    parse_document(
        written, f"{where}, rewritten", folder=document.name
    )  # texts that are nothing but headings would leave no section
    return written


def _origin(document: Document, skill: Skill) -> int | None:
    """Index of the section a skill comes from: by what `extra` says, else by its identifier."""
    known = skill.extra.get(EXTRA)
    number = known.get("section") if isinstance(known, Mapping) else None
    if number is None and skill.skill_id.startswith(f"{document.name}#"):
        digits = skill.skill_id.rpartition("#")[2]
        number = int(digits) if digits.isascii() and digits.isdigit() else None
    return number - 1 if isinstance(number, int) and 1 <= number <= len(document.sections) else None


def _place_leads(document: Document, origins: Sequence[int | None]) -> dict[int, str]:
    """Where the headings without text go: place in the output → characters (the last place is the end)."""
    first_place: dict[int, int] = {}
    for place, origin in enumerate(origins):
        if origin is not None:
            first_place.setdefault(origin, place)
    places: dict[int, str] = {}
    for index, section in enumerate(document.sections):
        if section.lead:
            left = [origin for origin in first_place if origin >= index]
            place = first_place[min(left)] if left else len(origins)
            places[place] = places.get(place, "") + section.lead
    return places


def _same_text(section: Section, skill: Skill) -> bool:
    return skill.principle == section.principle and not skill.when_to_apply.strip()


def _heading(document: Document, section: Section | None, skill: Skill, *, first: bool) -> str:
    title = " ".join(skill.title.split())
    if section is not None and title == section.title:
        if section.level:
            return section.heading + section.gap
        if first:  # the text before the first heading needs none as long as it stays there
            return ""
    if re.search(r"(?:^|\s)#+$", title):  # would be read as the closing sequence of the heading
        title += " #"
    gap = section.gap if section is not None and section.level else document.newline
    return "#" * _level(document, section, skill) + f" {title}{document.newline}{gap}"


def _level(document: Document, section: Section | None, skill: Skill) -> int:
    known = skill.extra.get(EXTRA)
    level = known.get("level") if isinstance(known, Mapping) else None
    if section is not None and section.level:
        level = section.level
    if isinstance(level, int) and 1 <= level <= 6:
        return level
    levels = Counter(section.level for section in document.sections if section.level)
    return levels.most_common(1)[0][0] if levels else 2


def _new_text(document: Document, skill: Skill) -> str:
    when = " ".join(skill.when_to_apply.split())
    lines = LINE_BREAK.sub("\n", skill.principle).split("\n")
    while lines and not lines[0].strip():
        del lines[0]  # not lstrip: the first line's indentation may be code
    principle = "\n".join(lines).rstrip()
    text = "\n\n".join(part for part in (f"When: {when}" if when else "", principle) if part)
    return text.replace("\n", document.newline)


def _closed(text: str, newline: str, what: str) -> str:
    """`text` such that a heading after it is a heading: an open fence or HTML block gets its end."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").disable("inline")
    for _ in range(2):
        last = parser.parse(with_open_fences(f"{text}\n\n# x\n"))[-1]
        if last.type == "heading_close" and last.level == 0:
            return text
        if last.type == "fence":
            text += newline + last.markup
        elif last.type == "html_block":
            start = last.content.lstrip()
            raw = _RAW_HTML.match(start)
            ends = (end for opening, end in _HTML_ENDS.items() if start.startswith(opening))
            text += newline + (f"</{raw.group(1)}>" if raw else next(ends, ">"))
    raise FormatError(f"{what} leaves a block open that would swallow the sections after it; close it")
