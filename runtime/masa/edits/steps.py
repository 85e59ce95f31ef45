"""`steps`: paragraphs as numbered lists."""

from __future__ import annotations

import itertools
import re

from masa.edits.english import capitalized, has_command, is_imperative, opening, starts_with_condition
from masa.markdown import Block, blocks, protected_ranges, sentences, whole_ranges

_RUNS = (  # enumerations inside a paragraph, by style
    re.compile(r"(?:(?<=\s)|^)\((?P<n>\d{1,2}|[a-h]|[A-H])\)\s+"),
    re.compile(r"(?:(?<=\s)|^)(?P<n>\d{1,2})\)\s+"),
    re.compile(r"(?:(?<=[.:;!?]\s)|^)(?P<n>\d{1,2})\.\s+(?=[A-Z'\"“`<])"),
    re.compile(r"(?:(?<=[.:;!?]\s)|^)[Ss]tep (?P<n>\d{1,2})\s*[:.–—-]\s+"),
)
_GOES_ON = re.compile(
    r"(?:if (?:so|not|yes|no|it|they|this|that|neither|none|either)|otherwise|either way|in (?:this|that|either) case"
    r"|the same|e\.g|for example|examples?|it|they|this|that|these|those|such|(?:do|repeat) (?:so|it|this|that))\b",
    re.IGNORECASE,
)
"""Sentences that speak of the step before them and stay with it."""
_LAID_OUT = re.compile(r"\\?\r?\n[ \t]*(?:[^\w\s\"'“‘(<`*_\[]|\(?\w{1,3}[.)]\s)|(?:\\|[ ]{2})\r?\n")
"""A line within a paragraph that begins with a mark or a number, or that ends by hand: the author laid it out."""
_NUMBER = re.compile(r"\(?\d{1,3}[.)]\s")
_BOUND = re.compile(
    r"(?:only |even |and |or |but )?(?:if|unless|when(?:ever)?|while|where(?:ver)?|for|in case|as long as|until|without"
    r"|except|except for|every time|each time|during|before|with)\b",
    re.IGNORECASE,
)
"""What holds for a whole sentence: a step cut off from it would hold always."""
_BOUNDARY = re.compile(r"(?P<semicolon>;\s+)|(?P<comma>,\s+)")
_JOINER = re.compile(r"(?:and then|then|and|next|finally)\s+(?!again\b)", re.IGNORECASE)
_OBJECT = re.compile(
    r"(?:\S+\s+)?\S+\s+(?:the|a|an|it|them|its|their|your|any|all|each|every|one|that|this|these|those"
    r"|only|exactly|up|down|off|out|back|straight|directly|(?:to|on|into|in|at|for|with|from)(?=\s)|['\"‘“`<\[{])",
    re.I,
)
"""A preposition with nothing behind it names an action, as in `the forms take from, move to`, and gives no order."""


_CONTRAST = re.compile(
    r"(?:and |but )?(?:never|not)\s+(?:from|in(?:to)?|on(?:to)?|at|to|by|with(?:out)?|for|of|as|the|an?|its|their|your"
    r"|this|that|these|those|more|less|just|only|after|before|all|both|every|any)\b",
    re.IGNORECASE,
)
"""`…, never from memory`: the other half of the order before it, with no verb of its own."""


def numbered(text: str) -> str:
    """Text whose top-level paragraphs of two or more steps are numbered lists; lists, code and headings stay.

    The numbering goes on from paragraph to paragraph and starts again below a heading or a line that leads
    in. Paragraphs that lead in to a list or comment on one stay as they are.
    """
    parts = _as_paragraph(blocks(text))
    result: list[str] = []
    count = 0
    listed = False  # whether a list of the text itself stands right above
    for position, part in enumerate(parts):
        if part.kind == "other" and not part.raw.strip():
            result.append(part.raw)
            continue
        free = part.kind == "paragraph" and not listed and not _bound(parts[position + 1 :])
        lines = step_lines(part.text) if free else None
        if part.kind in ("heading", "item"):
            count = 0
        listed = part.kind in ("item", "inner")
        if lines is None:
            result.append(part.raw)
            continue
        lead, steps, rest = lines
        count = 0 if lead else count
        block = "\n".join([*([lead] if lead else []), *(f"{n}. {step}" for n, step in enumerate(steps, count + 1))])
        count += len(steps)
        if rest:
            block += f"\n\n{rest}"
            count = 0
        result.append(part.prefix + block + part.suffix)
    return "".join(result)


def _bound(following: tuple[Block, ...]) -> bool:
    """Whether what follows belongs to the paragraph above it, or would be swallowed by a list above it."""
    if following and following[0].kind == "item":
        return True
    below = next((part for part in following if part.kind != "other"), None)
    return below is not None and below.kind == "code" and below.raw.startswith(("    ", "\t", " \t", "  \t"))


def _as_paragraph(parts: tuple[Block, ...]) -> tuple[Block, ...]:
    """`1. Take it. 2. Go.` on one line is an enumeration in prose; Markdown sees a list of one item."""
    if len(parts) != 1 or parts[0].kind != "item" or "\n" in parts[0].text:
        return parts
    raw = parts[0].prefix + parts[0].text
    if not any(len(_run(raw, style)) > 1 for style in _RUNS):
        return parts
    return (Block("paragraph", "", raw, parts[0].suffix, 0),)


def step_lines(text: str) -> tuple[str, list[str], str] | None:
    """(what leads in, the steps, what follows) of a paragraph; None if it has fewer than two steps."""
    if literal_breaks(text) or _LAID_OUT.search(text.strip()):
        return None
    flat = " ".join(text.split())
    for style in _RUNS:
        run = _run(flat, style)
        if len(run) > 1:
            return _enumerated(flat, run)
    lead = ""
    steps: list[str] = []
    for sentence in sentences(flat):
        piece = sentence.strip()
        if _NUMBER.match(piece):
            return None  # numbers of the text's own
        if not steps and not lead and (piece.endswith(":") or not has_command(piece)):
            lead = piece
        elif steps and ((not has_command(piece) and not starts_with_condition(piece)) or _GOES_ON.match(piece)):
            steps[-1] += f" {piece}"
        else:
            steps += _clauses(piece)
    return (lead, steps, "") if len(steps) > 1 else None


def literal_breaks(text: str) -> bool:
    """Whether something that must stay whole runs over a line break."""
    return any("\n" in text[start:end] for start, end in whole_ranges(text))


def _run(text: str, style: re.Pattern[str]) -> list[re.Match[str]]:
    """The longest enumeration 1, 2, 3 … (or a, b, c …) of one style that starts at its first number."""
    whole = protected_ranges(text)
    run: list[re.Match[str]] = []
    for match in style.finditer(text):
        if any(start < match.end() and match.start() < end for start, end in whole):
            continue
        number = match["n"].lower()
        value = int(number) if number.isdigit() else ord(number) - ord("a") + 1
        if value == len(run) + 1:
            run.append(match)
        elif value == 1 and len(run) < 2:
            run = [match]
        elif value == 1:
            return []  # two enumerations in one paragraph: whose number would a step have?
    return run


def _enumerated(text: str, run: list[re.Match[str]]) -> tuple[str, list[str], str]:
    lead = text[: run[0].start()].strip()
    steps = [_finished(text[match.end() : following.start()]) for match, following in itertools.pairwise(run)]
    last, *others = sentences(text[run[-1].end() :])
    while others and _GOES_ON.match(others[0]):
        last += others.pop(0)
    return lead, [*steps, _finished(last)], "".join(others).strip()


def _finished(piece: str) -> str:
    """One step as a sentence of its own."""
    body = re.sub(r"[,;]?\s+(?:and|then|and then)?\s*$|[,;]\s*$", "", piece.strip() + " ").strip().rstrip(",;")
    body = capitalized(body)
    return body if re.search(r"[.!?:…][\"'”’)]*$", body) else body + "."


def _clauses(sentence: str) -> list[str]:
    """A sentence cut where a command ends and the next begins; `[sentence]` unless that is unmistakable."""
    if _BOUND.match(sentence[opening(sentence) :]):
        return [sentence]
    whole = whole_ranges(sentence)
    cuts: list[tuple[int, int]] = []
    start = 0
    commanded = False
    for match in _BOUNDARY.finditer(sentence):
        before, after = sentence[start : match.start()], sentence[match.end() :]
        if any(begin < match.end() and match.start() < end for begin, end in whole):
            continue
        commanded = commanded or is_imperative(before) or (match["semicolon"] is not None and has_command(before))
        joiner = _JOINER.match(after)
        clause = after[joiner.end() :] if joiner else after
        if match["semicolon"]:
            if not commanded or not has_command(clause):
                continue
        elif not commanded or not _plain_command(before, clause, sentence):
            commanded = commanded or (
                is_imperative(after) and not cuts and start == 0 and starts_with_condition(before)
            )
            continue
        cuts.append((match.start(), match.end() + (joiner.end() if joiner else 0)))
        start = cuts[-1][1]
        commanded = is_imperative(clause)
    pieces = []
    position = 0
    for begin, end in cuts:
        pieces.append(_finished(sentence[position:begin]))
        position = end
    return [*pieces, _finished(sentence[position:])] if cuts else [sentence]


def _plain_command(before: str, clause: str, sentence: str) -> bool:
    """Whether what stands behind a comma is a command of its own, not the next member of a list."""
    if re.search(r", (?:or|nor) ", sentence) or re.search(
        r"\b(?:never|not|don['’]t|either|by|to)\b(?:\s+\w+){0,2}$", before, re.I
    ):
        return False
    if re.search(r"\b(?:never|not|don['’]t|without|instead of|avoid)\b", before, re.IGNORECASE):
        return False
    return is_imperative(clause) and not _CONTRAST.match(clause) and _OBJECT.match(clause) is not None
