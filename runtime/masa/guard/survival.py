"""Rules on what must survive a rewrite: code, links, files, placeholders, slots, command literals.

Deliberately not built on `masa.markdown`, which the edits use: a guard that shares code with what it guards
shares its mistakes. What this module finds is a part of what `markdown.protected_spans` finds, in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from masa.guard.case import Case, Rule, Violation, quote
from masa.guard.invention import paths
from masa.skills import Skill

_INLINE_CODE = re.compile(r"(?<!`)(`{1,3})(?!`)([^`\n]{1,500})\1(?!`)")
_LINK_TARGET = re.compile(r"\]\(([^()\s]{1,500})(?:[ \t]+[\"'][^\"'\n]{0,200}[\"'])?\)")
_URL = re.compile(r"\b(?:https?|ftp|file)://[^\s<>()\[\]{}\"'`“”‘’]*[^\s<>()\[\]{}\"'`“”‘’.,;:!?]")
# What a program fills in; `<x>` and `[x]` are notation for readers and fall under the rule "slots".
_PLACEHOLDER = re.compile(
    r"\$?\{\{[^{}\n]{1,80}\}\}|\$?\{[^{}\n]{1,80}\}|\$[A-Za-z_]\w{0,80}|%\([A-Za-z_]\w{0,80}\)[sdf]"
)
# What a program reads though nothing marks it as code: flags, tools, environment variables, references.
_BARE = re.compile(
    r"(?<![\w-])--[A-Za-z][\w-]{0,60}|(?<!\w)[A-Za-z0-9]{1,60}(?:_[A-Za-z0-9]{1,60}){0,6}__[A-Za-z0-9_]{1,80}(?!\w)"
    r"|(?<!\w)[A-Z][A-Z0-9]{0,40}(?:_[A-Z0-9]{1,40}){1,6}(?!\w)|(?<![\w$])\$\d(?![\d.,])"
    r"|(?<![\w:])[A-Za-z]\w{1,60}:[A-Za-z]\w{0,60}_\w{1,60}|(?<![\w@])@[A-Za-z][\w.-]{0,60}/[\w./-]{0,60}\w"
)
_FENCE = re.compile(r"[ \t]{0,40}(?:(?:[-*+>]|\d{1,3}[.)])[ \t]{0,8})?(`{3,}|~{3,})")


def code_blocks(text: str) -> tuple[list[str], str, bool]:
    """Fenced code blocks with their fences, the text without them, and whether the last one is left open."""
    blocks: list[str] = []
    rest: list[str] = []
    inside: list[str] = []
    fence = ""
    for line in text.splitlines():
        match = _FENCE.match(line)
        if inside:
            inside.append(line)
            if match and match[1].startswith(fence) and not line.strip().strip(fence[0]):
                blocks.append("\n".join(inside).strip())
                inside = []
        elif match and "`" not in line[match.end() :]:
            inside, fence = [line], match[1]
        else:
            rest.append(line)
    if inside:
        blocks.append("\n".join(inside).strip())
    return blocks, "\n".join(rest), bool(inside)


def protected(text: str) -> Iterator[tuple[str, str]]:
    """(kind, span) of everything that a rewrite must carry over verbatim."""
    blocks, text, _ = code_blocks(text)
    for block in blocks:
        yield "code block", block
    for match in _INLINE_CODE.finditer(text):
        yield "inline code", match.group()
    for match in _LINK_TARGET.finditer(text):
        yield "link", match[1]
    for match in _URL.finditer(text):
        yield "link", match.group()
    for path in paths(text):
        yield "file reference", path
    for match in _PLACEHOLDER.finditer(text):
        yield "placeholder", match.group()
    for match in _BARE.finditer(text):
        yield "literal", match.group()


def survival(case: Case) -> Iterator[Violation]:
    held = {span for _, span in protected(case.raw_output)}
    for skill in case.source.skills:
        if skill.text in case.raw_output:
            continue
        for kind, span in dict.fromkeys(protected(skill.text)):
            if span not in held and not _holds(case.raw_output, span, whole=kind in ("link", "file reference")):
                message = f"the {kind} {quote(span)} of {quote(skill.title)} is missing from the group"
                yield Violation("survival", message)
    open_before = any(code_blocks(skill.principle)[2] for skill in case.source.skills)
    for index, skill in enumerate(case.output.skills):
        if not open_before and code_blocks(skill.principle)[2]:
            yield Violation("survival", f"skill {index + 1} opens a code block and never closes it", index)


_CONTINUES = re.compile(r"[\w/]|[.?=&#%+-]\w")


def _holds(text: str, span: str, *, whole: bool) -> bool:
    if not whole:
        return span in text or ("\n" in span and span in "\n".join(text.splitlines()))
    # A longer link or another file is not the one that was there.
    start = text.find(span)
    while start >= 0:
        end = start + len(span)
        if not text[start - 1 : start].isalnum() and not _CONTINUES.match(text, end):
            return True
        start = text.find(span, start + 1)
    return False


# --- slots and quoted commands of skills that are still recognisable

_SLOT = re.compile(r"</?[A-Za-z][\w -]{0,40}>|\[[A-Za-z][\w -]{0,40}\](?!\()")
_QUOTED = re.compile(r"(?<![\w'])'([^'\n]{2,80})'(?!\w)|\"([^\"\n]{2,80})\"|“([^”\n]{2,80})”|‘([^’\n]{2,80})’(?!\w)")
_WORD = re.compile(r"\w+")
_RECOGNISABLE = 0.9


def slots(case: Case) -> Iterator[Violation]:
    """Radical rewrites reword their examples; what is left nearly as it was must keep its slots."""
    bags = [_words(skill.text) for skill in case.output.skills]
    held = {match.group() for match in _SLOT.finditer(case.raw_output)}
    for skill in case.source.skills:
        if skill.text in case.raw_output:
            continue
        found = (match.group() for match in _SLOT.finditer(skill.text))
        missing = next((slot for slot in found if slot not in held and slot not in case.raw_output), "")
        if missing and _recognisable(skill, bags):
            message = f"the slot {quote(missing)} of {quote(skill.title)} is missing from the group"
            yield Violation("slots", message)


def _recognisable(skill: Skill, bags: Sequence[set[str]]) -> bool:
    own = _words(_SLOT.sub(" ", skill.text))
    return bool(own) and any(len(own & bag) >= _RECOGNISABLE * len(own) for bag in bags)


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}


# --- command literals of the environment

_FORM_SLOT = re.compile(r"\{[^{}\n]{0,60}\}|<[^<>\n]{0,60}>|\[[^\[\]\n]{0,60}\]")
_FILLED = r"(?:\{[^{}\n]{1,60}\}|<[^<>\n]{1,60}>|\[[^\[\]\n]{1,60}\]|[\w-]{1,40}(?:[ \t]+[\w-]{1,40}){0,3}?)"


def _form_pattern(form: str) -> re.Pattern[str] | None:
    words = _FORM_SLOT.sub(" \0 ", form).split()
    if not any(word != "\0" for word in words) or len(words) > 24:
        return None
    parts = [_FILLED if word == "\0" else re.escape(word) for word in words]
    return re.compile(r"(?<!\w)" + r"[ \t]+".join(parts) + r"(?!\w)", re.I)


def commands(case: Case) -> Iterator[Violation]:
    if case.facts is None:
        return
    quoted = [next(filter(None, match.groups()), "") for match in _QUOTED.finditer(case.raw_source)]
    quoted += [match[2] for match in _INLINE_CODE.finditer(case.raw_source)]
    quoted = [text.strip(" \t.,;:!?…") for text in quoted]
    for action in case.facts.actions:
        pattern = _form_pattern(action.form)
        if pattern is None:
            continue
        verb = _FORM_SLOT.split(action.form.strip(), maxsplit=1)[0].strip()
        # Unquoted, a single word such as "look" is prose; a form with its slots spelled out is not.
        whole = any(pattern.fullmatch(text) for text in quoted) or (
            _FORM_SLOT.search(action.form) is not None and action.form in case.raw_source
        )
        if whole and not pattern.search(case.raw_output):
            yield Violation("commands", f"the command {quote(action.form)} is missing from the group")
        elif verb and any(verb.casefold() == text.casefold() for text in quoted) and not _mentions(case, verb):
            yield Violation("commands", f"the command word {quote(verb)} is missing from the group")


def _mentions(case: Case, words: str) -> bool:
    # Any inflection counts: a rewrite may turn "'take' the object" into "after taking it".
    stem = words.casefold().removesuffix("e") if len(words) > 3 else words.casefold()
    return stem in case.raw_output.casefold()


RULES = (
    Rule(
        "survival",
        "Code, links, file references, placeholders, flags and names of tools survive; no code block stays open.",
        survival,
    ),
    Rule("slots", "A skill that is still recognisable keeps its <slots> and [slots].", slots),
    Rule("commands", "Commands that the facts list and the source quotes are still in the group.", commands),
)
