"""Skill bank JSON as SkillRL and the MASA authors publish it.

Both dialects are read: task-specific skills under `task_specific_skills`, or under `query_type_skills`
as SkillRL's search bank calls them. Fields masa does not know stay where they are. A bank that was
not changed is written back byte for byte; a changed one keeps the file's indentation, escaping and
final newline, and the key order of every skill that survived.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.errors import FormatError, one_line
from masa.files import ParseError, parse_json
from masa.skills import GENERAL, Problem, Skill, SkillBank

_SPECIFIC_KEYS = ("task_specific_skills", "query_type_skills")
_SKILL_FIELDS = ("skill_id", "title", "principle", "when_to_apply")
_ORDER = "__key_order__"
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the file was written, so that it can be written that way again."""

    where: str
    original: bytes
    document: Mapping[str, Any]
    specific_key: str
    bank: tuple[Any, ...]
    indent: int | str | None
    separators: tuple[str, str]
    ensure_ascii: bool
    ending: str
    bom: bool
    literals: Mapping[str, str]
    """Strings that the file spells otherwise than `json.dumps` would (a file may mix escapes), by the latter."""


def loads_bank(data: bytes, *, where: str = "skill bank") -> SkillBank:
    """Parse the bytes of a skill bank JSON file; `where` names it in errors."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{where}: not UTF-8 (byte {error.start} is {data[error.start]:#04x}); save the file as UTF-8"
        ) from None
    try:
        document = parse_json(text, object_pairs_hook=lambda pairs: _object(pairs, where))
    except ParseError as error:
        raise FormatError(f"{where}: not JSON ({error})") from None
    if not isinstance(document, dict):
        raise FormatError(f"{where}: not a skill bank (a JSON {_kind(document)}, expected an object)")
    present = [key for key in _SPECIFIC_KEYS if key in document]
    if GENERAL not in document and not present:
        keys = one_line(", ".join(sorted(document)[:6])) or "none"
        raise FormatError(f"{where}: not a skill bank (keys: {keys}); expected {GENERAL} and task_specific_skills")
    if len(present) == 2:
        raise FormatError(f"{where}: has both {present[0]} and {present[1]}; keep one")
    specific_key = present[0] if present else _SPECIFIC_KEYS[0]

    general = _skills(document.get(GENERAL, []), f"{where}: {GENERAL}")
    specific = document.get(specific_key, {})
    if not isinstance(specific, dict):
        raise FormatError(f"{where}: {specific_key} is a {_kind(specific)}, expected an object of lists")
    if GENERAL in specific:
        raise FormatError(f"{where}: a task type may not be called {GENERAL!r}; rename it")
    by_type = {name: _skills(items, f"{where}: {specific_key}.{one_line(name)}") for name, items in specific.items()}
    mistakes = document.get("common_mistakes", [])
    if not isinstance(mistakes, list) or not all(isinstance(item, dict) for item in mistakes):
        raise FormatError(f"{where}: common_mistakes is not a list of objects")
    if not general and not any(by_type.values()):
        raise FormatError(f"{where}: the bank is empty (no general and no task-specific skills)")

    bank = SkillBank(general, by_type, tuple(mistakes))
    style = _style(text)
    bom = data[:3] == b"\xef\xbb\xbf"
    layout = _Layout(where, data, document, specific_key, _content(bank), *style, bom, _spellings(text, style[2]))
    return SkillBank(general, by_type, tuple(mistakes), layout, tuple(_empty_parts(bank, document, text, where)))


def loaded_from(bank: SkillBank) -> Path | None:
    """The file that a bank was loaded from, if it came from bank JSON and that is still there."""
    where = Path(bank.source.where) if isinstance(bank.source, _Layout) else None
    return where if where is not None and where.is_file() else None


def dump_bank(bank: SkillBank) -> bytes:
    """The bank as JSON bytes: identical to the file where nothing changed, in its layout where something did."""
    layout = bank.source if isinstance(bank.source, _Layout) else None
    if layout is not None and layout.bank == _content(bank):
        return layout.original
    document: dict[str, Any] = dict(layout.document) if layout else {}
    key = layout.specific_key if layout else _SPECIFIC_KEYS[0]
    if bank.general or GENERAL in document or not layout:
        document[GENERAL] = [_plain(skill) for skill in bank.general]
    if bank.task_specific or key in document or not layout:
        document[key] = {name: [_plain(s) for s in skills] for name, skills in bank.task_specific.items()}
    if bank.common_mistakes or "common_mistakes" in document:
        document["common_mistakes"] = [dict(item) for item in bank.common_mistakes]
    text = json.dumps(
        document,
        ensure_ascii=layout.ensure_ascii if layout else False,
        indent=layout.indent if layout else 2,
        separators=layout.separators if layout else (",", ": "),
    )
    if layout and layout.literals:
        text = _STRING.sub(lambda match: layout.literals.get(match.group(), match.group()), text)
    text += layout.ending if layout else "\n"
    if layout and "\r\n" in layout.ending:
        text = text.replace("\r\n", "\n").replace("\n", "\r\n")
    # A lone surrogate is legal in a JSON escape and cannot be encoded: escape such text instead of failing.
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        encoded = re.sub("[\ud800-\udfff]", lambda m: f"\\u{ord(m.group()):04x}", text).encode("utf-8")
    return (b"\xef\xbb\xbf" if layout and layout.bom else b"") + encoded


def _empty_parts(bank: SkillBank, document: Mapping[str, Any], text: str, where: str) -> Iterator[Problem]:
    """Groups and texts that are there and hold nothing; a rewrite passes over such a group."""
    for group in bank.groups():
        if not group.skills and (group.task_type is not None or GENERAL in document):
            place = re.search(rf"{re.escape(json.dumps(group.key, ensure_ascii=text.isascii()))}\s*:\s*\[\s*\]", text)
            line = text.count("\n", 0, place.start()) + 1 if place else None
            yield Problem(
                where, line, f"{group.key} has no skills, so it is passed over; add some or remove it", "note"
            )
        for number, skill in enumerate(group.skills, start=1):
            if not skill.title.strip() or not skill.principle.strip():
                what = f"{group.key}, skill {number} ({skill.skill_id or skill.title})"
                yield Problem(where, None, f"{what}: title or principle is empty; write it or remove the skill", "note")


def _object(pairs: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise FormatError(f"{where}: the key {twice!r} stands twice in one object; one of them would be lost")
    return result


def _skills(items: Any, where: str) -> tuple[Skill, ...]:
    if not isinstance(items, list):
        raise FormatError(f"{where} is a {_kind(items)}, expected a list of skills")
    return tuple(_skill(item, f"{where}[{index}]") for index, item in enumerate(items))


def _skill(item: Any, where: str) -> Skill:
    if not isinstance(item, dict):
        raise FormatError(f"{where} is a {_kind(item)}, expected a skill (an object with title and principle)")
    for name in ("title", "principle"):
        if name not in item:
            raise FormatError(f"{where} has no {name!r}; its keys are {one_line(', '.join(item)) or 'none'}")
    for name in _SKILL_FIELDS:
        if name in item and not isinstance(item[name], str):
            raise FormatError(f"{where}.{name} is a {_kind(item[name])}, expected text")
    extra = {key: value for key, value in item.items() if key not in _SKILL_FIELDS}
    extra[_ORDER] = tuple(item)
    return Skill(
        item.get("skill_id", ""),
        item["title"],
        item["principle"],
        item.get("when_to_apply", ""),
        extra,
    )


def _plain(skill: Skill) -> dict[str, Any]:
    """The skill as a JSON object, in the key order of the file it came from."""
    values: dict[str, Any] = {name: getattr(skill, name) for name in _SKILL_FIELDS}
    values.update({key: value for key, value in skill.extra.items() if not key.startswith("__")})
    order = skill.extra.get(_ORDER, ())
    keys = list(order) + [key for key in values if key not in order]
    # A field that the source did not have and that is empty is not invented.
    return {
        key: values[key]
        for key in keys
        if key in values and (key in order or values[key] != "" or key in ("title", "principle"))
    }


def _content(bank: SkillBank) -> tuple[Any, ...]:
    return (bank.general, tuple(bank.task_specific.items()), bank.common_mistakes)


def _style(text: str) -> tuple[int | str | None, tuple[str, str], bool, str]:
    """Indentation, separators, escaping and ending of a JSON text, as far as `json.dumps` can repeat them."""
    match = re.match(r"\s*[\[{]\r?\n([ \t]+)", text)
    white = match.group(1) if match else ""
    indent: int | str | None = (len(white) if white == " " * len(white) else white) if white else None
    colon = re.search(r'"(\s*:\s*)', text)
    comma = "," if indent is not None or not re.search(r'[}\]"], ', text) else ", "
    separators = (comma, colon.group(1) if colon else ": ")
    stripped = text.rstrip()
    return indent, separators, text.isascii(), text[len(stripped) :]


def _spellings(text: str, ensure_ascii: bool) -> dict[str, str]:
    found = {}
    for literal in _STRING.findall(text):
        usual = json.dumps(parse_json(literal), ensure_ascii=ensure_ascii)
        if usual != literal:
            found[usual] = literal
    return found


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "number")
