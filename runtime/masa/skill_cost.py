"""What a skill costs the context of its reader, in three tiers, and what of its folder nothing refers to.

Progressive disclosure as agentskills.io has it: name and description are in the prompt of every session, the body is
read when the skill is used, and other files when the body sends the reader there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from masa.formats.skill_md_document import Document
from masa.formats.skill_md_tree import is_skill_file, walk

BODY_ADVICE = 5_000
"""Tokens that agentskills.io advises a body to stay below."""

_PROGRAMS = frozenset({
    ".py", ".sh", ".bash", ".js", ".mjs", ".ts", ".tsx", ".rb", ".pl", ".ps1", ".bat", ".go", ".rs", ".c", ".h",
    ".cpp", ".java", ".lua", ".r",
})  # fmt: skip
_LARGEST = 1_000_000
_TELLING = 24
"""Characters from which a line says something of its own: shorter ones, such as the rule of a table, may recur."""
_ASIDE = re.compile(r"(?:licen[cs]e|copying|notice|readme|changelog|requirements|package)\b", re.IGNORECASE)
_MARKDOWN_LINK = re.compile(r"\]\(\s*<?([^)>\s]+)")


@dataclass(frozen=True, slots=True)
class SkillCost:
    """Tokens of a skill by tier.

    Attributes:
        always: name and description.
        body: everything below the front matter; `sections` are title and tokens of each, in order.
        files: tokens of each text file that a reader may be sent to, by its path in the folder; programs do not
            count, since they are run and not read.
        unreferenced: files that neither the body nor a file that it refers to names.
        missing: files that the body links to and that are not there.
        repeated: tokens that lines of prose which stand there three times or more cost beyond their first.
    """

    always: int
    body: int
    sections: tuple[tuple[str, int], ...]
    files: Mapping[str, int]
    unreferenced: tuple[str, ...]
    missing: tuple[str, ...]
    repeated: int = 0

    @property
    def on_demand(self) -> int:
        return sum(self.files.values())


def skill_cost(
    document: Document, folder: Path | None, count: Callable[[str], int], *, extra: Mapping[str, str] | None = None
) -> SkillCost:
    """The cost of a SKILL.md in its folder; `extra` are texts of files that are to be added to the folder.

    Raises:
        OSError: if the folder cannot be listed.
    """
    body = body_of(document)
    texts: dict[str, str | None] = {}  # None: no text, or too large to be read
    for entry in walk(folder) if folder is not None else ():
        name = entry.relative.as_posix()
        if entry.kind in ("file", "link") and entry.path.is_file() and not is_skill_file(name):
            texts[name] = _text(entry.path)
    texts |= extra or {}
    reached = _reached(body, texts)
    listed = f"{document.name}: {document.description}"
    return SkillCost(
        count(listed),
        count(body),
        tuple((section.title, count(section.heading + section.gap + section.text)) for section in document.sections),
        {
            name: count(text)
            for name, text in texts.items()
            if text is not None and PurePosixPath(name).suffix.lower() not in _PROGRAMS and not _is_aside(name)
        },
        tuple(name for name in texts if name not in reached and not _is_aside(name)),
        _missing(body, folder, texts),
        _repeated(body, count),
    )


def body_of(document: Document) -> str:
    """Everything below the front matter, as a reader gets it."""
    parts = (s.lead + s.heading + s.gap + s.text + s.tail for s in document.sections)
    return "".join((_after_front_matter(document.head), *parts, document.tail))


def _after_front_matter(head: str) -> str:
    """The headings without text at the top of a body."""
    match = re.match(r"\ufeff?---[ \t]*\r?\n(?:.*?\r?\n)?---[ \t]*(?:\r?\n|$)", head, re.DOTALL)
    return head[match.end() :] if match else head


def _text(path: Path) -> str | None:
    try:
        data = path.read_bytes() if path.stat().st_size <= _LARGEST else b"\0"
        return None if b"\0" in data else data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _is_aside(name: str) -> bool:
    """Whether a file is for people and their tools rather than for the reader of the skill."""
    parts = PurePosixPath(name).parts
    return any(part.startswith((".", "__")) for part in parts) or _ASIDE.match(parts[-1]) is not None


def _reached(body: str, texts: Mapping[str, str | None]) -> set[str]:
    """The files that the body names, those that these name, and so on: by path, by folder, or by their own name."""
    reached: set[str] = set()
    waiting = [body]
    while waiting:
        said = waiting.pop()
        for name, text in texts.items():
            if name in reached:
                continue
            path = PurePosixPath(name)
            own = re.search(rf"(?<![\w.-]){re.escape(path.name)}(?![\w-])", said)
            stem = re.escape(path.stem)
            module = path.suffix == ".py" and re.search(rf"\b(?:import|from)\s+(?:\w+\.)*{stem}\b", said)
            folders = (re.escape(folder.as_posix()) for folder in path.parents if folder.parts)
            # `references/` and `references/*.md` name all that is below; `references/map.md` names one file.
            above = any(re.search(rf"(?<![\w.-]){folder}/(?![\w.-])", said) for folder in folders)
            if name in said or own or module or above:
                reached.add(name)
                waiting += [text] if text else []
    return reached


def _prose(body: str) -> str:
    from masa.markdown import blocks

    return "\n".join(block.raw for block in blocks(body) if block.kind not in ("code", "html"))


def _repeated(body: str, count: Callable[[str], int]) -> int:
    lines = Counter(line.strip() for line in _prose(body).splitlines())
    return sum((times - 1) * count(line) for line, times in lines.items() if times > 2 and len(line) > _TELLING)


def _missing(body: str, folder: Path | None, texts: Mapping[str, str | None]) -> tuple[str, ...]:
    prose = _prose(body)
    missing: dict[str, None] = {}
    for target in _MARKDOWN_LINK.findall(re.sub(r"(`+).*?\1", "", prose)):
        name = unquote(target.partition("#")[0])
        if not name or re.match(r"[a-z][a-z0-9+.-]*:|/|\{|\$|\.\./", name, re.IGNORECASE):
            continue
        plain = PurePosixPath(name).as_posix()
        if plain not in texts and (folder is None or not (folder / plain).exists()):
            missing[name] = None
    return tuple(missing)
