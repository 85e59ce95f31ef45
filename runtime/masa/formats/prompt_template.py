"""A prompt template: a Markdown or text file with placeholders, whose sections are skills.

It is read and written as the body of a SKILL.md is (`skill_md_document`), with front matter or without. Placeholders
(`{name}`, `{{name}}`, `${NAME}`, `<name>`) survive a rewrite as code and links do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from masa.files import decode
from masa.formats.skill_md_document import Document, parse_document
from masa.formats.skill_md_render import render_document
from masa.skills import GENERAL, SkillBank

_FRONT = "---\nname: {}\ndescription: a prompt\n---\n"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """`SkillBank.source` of a bank from a template.

    Attributes:
        key: its group.
        front: characters of a front matter that the file has not and the document has.
    """

    where: str
    key: str
    document: Document
    front: int


def loads_template(data: bytes, path: Path) -> SkillBank:
    """The bank of a template, with one group.

    Raises:
        FormatError: if it is not UTF-8 or has no text.
    """
    text = decode(data, str(path))
    own = text.removeprefix("\ufeff").splitlines()[:1] == ["---"]
    name = path.name.partition(".")[0] or "prompt"
    front = "" if own else _FRONT.format(f"'{name}'" if "'" not in name else "prompt")
    document = parse_document((front + text).encode("utf-8"), str(path), folder=name)
    key = document.name if document.name != GENERAL else f"./{document.name}"
    problems = document.problems if own else ()
    source = PromptTemplate(str(path), key, document, len(front.encode("utf-8")))
    return SkillBank((), {key: document.skills()}, source=source, problems=problems)


def dump_template(bank: SkillBank) -> bytes:
    """The file with the bank's sections; what did not change keeps its bytes."""
    source = bank.source
    assert isinstance(source, PromptTemplate)
    return render_document(source.document, bank.task_specific[source.key], source.where)[source.front :]
