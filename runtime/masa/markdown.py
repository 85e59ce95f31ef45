"""Reading Markdown as prose and everything else: blocks, sentences, and the spans that no rewrite may lose.

Edits change prose only. `blocks` says what is prose, with a Markdown parser; `sentences` splits prose, with a
sentence splitter; `protected_spans` lists what must survive whatever happens around it, by the patterns of
`masa.literals`. All three work on plain text as well, which is Markdown of one paragraph.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

PROSE = frozenset({"paragraph", "item", "inner"})

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_ENUMERATOR = re.compile(r"[(\[]?(?:\d{1,2}|[A-Za-z])[.)\]]+|(?i:step|cycle|sub-?q|rule)\s*\d+[.:)]", re.ASCII)
_LAST_NUMBER = re.compile(r"(?<=[:;.!?]\s)\(?\d{1,2}[.)]\s+\Z")
_LEAD_IN = re.compile(r":\s+(?=\(?[1aA]\)\s|1\.\s)")
_PARENTHESES = re.compile(r"\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)")
_NUMBERED_END = re.compile(r"(?:[^\W\d][\w-]*[ #]\d+|\b[XYZN])[.!?]+\s+(?=[A-Z\"'“‘(<`\[])")
_FENCE = re.compile(r"(?:(?:[-*+>]|\d{1,9}[.)])[ \t]*)*(`{3,}|~{3,})")
_TAG_LINE = re.compile(r"</?(?!(?:pre|script|style|textarea)\b)[A-Za-z][\w-]*(?:[\s/>]|$)", re.IGNORECASE)
_DELIMITERS = re.compile(r"(?<!\\)(?:\*+|_+|~~)")
_HARD_BREAK = re.compile(r"\\(?=\r?\n)")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|approx|incl|no|fig|resp)\.", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Block:
    """A run of whole lines of Markdown: `prefix + text + suffix` is exactly those lines.

    Attributes:
        kind: `paragraph` (top level), `item` (first paragraph of a list item), `inner` (a later one), all
            prose; `heading`, `code`, `html`, `table`, `quote`, `rule`, `other` (blank lines, definitions).
        prefix: indentation and list marker; empty unless prose.
        text: the prose, its line breaks included; all of the lines where the block is not prose.
        suffix: white space behind the prose, the line break included.
        line: 0-based number of its first line.
    """

    kind: str
    prefix: str
    text: str
    suffix: str
    line: int

    @property
    def prose(self) -> bool:
        return self.kind in PROSE

    @property
    def raw(self) -> str:
        return self.prefix + self.text + self.suffix

    def with_text(self, text: str) -> Block:
        return replace(self, text=text)


def blocks(text: str) -> tuple[Block, ...]:
    """Cut Markdown into blocks, in order; the concatenation of their `raw` is `text`."""
    return _blocks(text)


def join(parts: Iterable[Block]) -> str:
    """The inverse of `blocks`."""
    return "".join(part.raw for part in parts)


def is_plain(text: str) -> bool:
    """Whether Markdown sees one paragraph and nothing else, as in most principles of skill banks."""
    parts = _blocks(text)
    return len(parts) == 1 and parts[0].kind == "paragraph"


def sentences(text: str) -> list[str]:
    """Split prose into sentences; their concatenation is `text`, each carries the white space behind it.

    Protected spans, emphasis, brackets and quotations are never cut; `1.`, `(2)`, `Step 3:` stay with what they
    number.
    """
    if not text:
        return []
    import sentencex

    masked = _mask(text)
    pieces = [str(piece) for piece in sentencex.segment("en", masked)]
    if sum(map(len, pieces)) != len(masked):  # the splitter promises it; without it every offset would be wrong
        return [text]
    cuts = {0, len(text)}
    position = 0
    for piece in pieces:
        position += len(piece)
        cuts.add(position)
    # It takes "desk 1. Then" for an enumeration and "find X. Then" for a name; in skills both end a sentence.
    cuts.update(match.end() for match in _NUMBERED_END.finditer(masked))
    cuts.update(match.end() for match in _LEAD_IN.finditer(text) if masked[match.start()] == ":")
    whole = whole_ranges(text)
    cuts = {cut for cut in cuts if not any(start < cut < end for start, end in whole)}
    return _merged([text[start:end] for start, end in itertools.pairwise(sorted(cuts))])


def protected_spans(text: str) -> tuple[str, ...]:
    """What every edit must carry over verbatim, in order of appearance.

    Code blocks, and everything of `masa.literals`: code, links, files, placeholders, commands, identifiers,
    numbers with their units, limits, quoted text. A span inside another is not listed twice.
    """
    return tuple(text[start:end] for start, end in protected_ranges(text))


def code_spans(text: str) -> tuple[str, ...]:
    """The protected spans that a program reads: those that not even `drop` may lose."""
    return tuple(text[start:end] for start, end in _ranges(text, wordings=False))


def protected_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Start and end of each protected span; ranges do not overlap."""
    return _ranges(text, wordings=True)


@functools.lru_cache(maxsize=512)
def _ranges(text: str, *, wordings: bool) -> tuple[tuple[int, int], ...]:
    from masa import literals  # only now: its patterns take longer to compile than a bank takes to read

    found: list[tuple[int, int]] = []
    position = 0
    for block in _blocks(text):
        raw = block.raw
        if block.kind == "code":
            found.append((position, position + len(raw.rstrip())))
        else:
            found += [(position + start, position + end) for start, end in literals.code_ranges(raw)]
            if wordings:  # the numbers of a list are layout
                inner = position + len(block.prefix)
                found += [(inner + start, inner + end) for start, end in literals.wording_ranges(block.text)]
        position += len(raw)
    return literals.union(found)


def whole_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Start and end of what no cut may go through: protected spans, emphasis with its markers, brackets."""
    from masa.literals import union

    found = list(protected_ranges(text)) + emphasis_ranges(text)
    found += [match.span() for match in _PARENTHESES.finditer(text)]
    return union(found)


def emphasis_ranges(text: str) -> list[tuple[int, int]]:
    """Start and end of each pair of `*`, `_` or `~~` runs and what stands between, as CommonMark pairs them.

    Runs inside protected spans are text, as are those without a partner.
    """
    literal = protected_ranges(text)
    found: list[tuple[int, int]] = []
    opened: list[tuple[str, int, int]] = []  # character, run length left, start
    for match in _DELIMITERS.finditer(text):
        start, end = match.span()
        if any(begin < end and start < stop for begin, stop in literal):
            continue
        before, after = text[start - 1 : start], text[end : end + 1]
        opens = bool(after.strip()) and not (match[0][0] == "_" and before.isalnum())
        closes = bool(before.strip()) and not (match[0][0] == "_" and after.isalnum())
        # A run between a letter and a symbol leans to the letter: `**Stop.** Go` closes, `(**Go**` opens.
        if opens and closes and not before.isalnum() and after.isalnum():
            closes = any(mark == match[0][0] for mark, _, _ in opened) and before in ".!?,:;)]\"'”’"
        left = end - start
        while closes and left:
            index = next((i for i in range(len(opened) - 1, -1, -1) if opened[i][0] == match[0][0]), None)
            if index is None:
                break
            mark, length, origin = opened[index]
            used = min(left, length)
            found.append((origin, end))
            left -= used
            opened[index:] = [(mark, length - used, origin)] if length > used else []
        if opens and left == end - start:
            opened.append((match[0][0], left, start))
    return found


def _mask(text: str) -> str:
    """Text of the same length in which nothing but the ends of sentences looks like one.

    The splitter keeps whatever stands in brackets or quotes together, and pairs an apostrophe with the next.
    """
    masked = list(text)
    for match in _PARENTHESES.finditer(text):
        enumerator = _ENUMERATOR.fullmatch(match[0])
        masked[match.start() : match.end()] = ("Xx" if enumerator else "xx") + "x" * (len(match[0]) - 2)
        _keep_end(masked, text, match.start(), match.end())
    for start, end in (*protected_ranges(text), *emphasis_ranges(text)):
        if re.search(r"[^\w\s]", text[start:end]):
            masked[start:end] = "x" * (end - start)
            _keep_end(masked, text, start, end)
    for match in re.finditer(r"(?<=\w)['’](?=\w)", text):
        masked[match.start()] = "x"
    for match in _ABBREVIATION.finditer(text):
        masked[match.start() : match.end()] = ["x"] * (match.end() - match.start())
        if match[0].lower() == "etc." and re.match(r"\s+[A-Z]", text[match.end() : match.end() + 3]):
            masked[match.end() - 1] = "."
    for match in _HARD_BREAK.finditer(text):
        masked[match.start()] = " "
    return "".join(masked)


def _keep_end(masked: list[str], text: str, start: int, end: int) -> None:
    """A quote or aside that ends its own sentence (`… "Nothing happens." Then …`) ends the one around it."""
    inner = text[start:end].rstrip("'\"”’)*_~")
    if (
        inner.endswith((".", "!", "?"))
        and not inner.endswith("...")
        and re.match(r"\s+[A-Z(]", text[end : end + 3])
        and not _ABBREVIATION.search(inner[-5:])
    ):
        masked[end - 1] = inner[-1]


def _merged(pieces: list[str]) -> list[str]:
    """Join blank pieces to the sentence before them and bare enumerators to the one behind."""
    result: list[str] = []
    pending = ""
    for piece in pieces:
        if result and not pending and not piece.strip():
            result[-1] += piece
        elif not piece.strip() or _ENUMERATOR.fullmatch(piece.strip()):
            pending += piece
        else:
            number = _LAST_NUMBER.search(piece)  # "In order: 1. " in front of "Take it. "
            result.append(pending + piece[: number.start() if number else None])
            pending = number[0] if number else ""
    if pending:
        if result:
            result[-1] += pending
        else:
            result.append(pending)
    return result


@functools.lru_cache(maxsize=512)
def _blocks(text: str) -> tuple[Block, ...]:
    lines = _LINE.findall(text)
    parts: list[Block] = []
    reached = 0
    for kind, start, end, content in _leaves(_parser().parse(with_open_fences(text))):
        start, end = max(start, reached), min(end, len(lines))
        while end > start and not lines[end - 1].strip():
            end -= 1
        if end <= start:
            continue
        if start > reached:
            parts.append(Block("other", "", "".join(lines[reached:start]), "", reached))
        parts.append(_block(kind, "".join(lines[start:end]), content, start))
        reached = end
    if reached < len(lines):
        parts.append(Block("other", "", "".join(lines[reached:]), "", reached))
    return tuple(parts)


def with_open_fences(text: str) -> str:
    """The text as its author meant it where a tag stands right above a code fence, line for line.

    To CommonMark `<Good>` opens a block of HTML that runs to the next blank line and swallows a fence below it; then
    the closing fence opens one, and code and prose change places. Such tag lines are blank here.
    """
    if "<" not in text or ("```" not in text and "~~~" not in text):
        return text
    lines = _LINE.findall(text)
    fence = ""
    tags: list[int] = []  # lines that open with a tag, since the last blank line
    for number, line in enumerate(lines):
        bare = line.strip()
        mark = _FENCE.match(bare)
        if fence:
            bare = bare.lstrip("> \t")
            if bare.startswith(fence) and not bare.strip(fence[0]):
                fence = ""
        elif mark and not (mark[1][0] == "`" and "`" in bare[mark.end() :]):
            fence = mark[1]
            for tag in tags:
                lines[tag] = lines[tag][len(lines[tag].rstrip("\r\n")) :] or "\n"
            tags = []
        elif not bare:
            tags = []
        elif _TAG_LINE.match(bare):
            tags.append(number)
    return "".join(lines)


@functools.lru_cache(maxsize=1)
def _parser() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table")


_LEAF_KINDS = {
    "heading_open": "heading",
    "fence": "code",
    "code_block": "code",
    "html_block": "html",
    "table_open": "table",
    "blockquote_open": "quote",
    "hr": "rule",
}


def _leaves(tokens: list[Any]) -> Iterator[tuple[str, int, int, str]]:
    """(kind, first line, line behind the last, prose) of the innermost blocks; a quote or table is one."""
    opaque = 0
    item_starts: set[int] = set()
    for index, token in enumerate(tokens):
        if token.type in ("blockquote_open", "table_open"):
            if not opaque:
                yield _LEAF_KINDS[token.type], token.map[0], token.map[1], ""
            opaque += 1
        elif token.type in ("blockquote_close", "table_close"):
            opaque -= 1
        elif opaque or token.map is None:
            continue
        elif token.type == "list_item_open":
            item_starts.add(token.map[0])
        elif token.type == "paragraph_open":
            kind = "paragraph" if token.level == 0 else "item" if token.map[0] in item_starts else "inner"
            yield kind, token.map[0], token.map[1], tokens[index + 1].content
        elif token.type in _LEAF_KINDS:
            yield _LEAF_KINDS[token.type], token.map[0], token.map[1], ""


def _block(kind: str, raw: str, content: str, line: int) -> Block:
    if kind not in PROSE:
        return Block(kind, "", raw, "", line)
    body = raw.rstrip()
    first = re.split(r"\r\n|\r|\n", body, maxsplit=1)[0]
    opening = content.split("\n", 1)[0].rstrip()
    start = len(first.rstrip()) - len(opening)
    if start < 0 or not opening or first.rstrip()[start:] != opening:
        return Block("other", "", raw, "", line)  # tabs or NUL rewritten by the parser: leave it alone
    return Block(kind, raw[:start], raw[start : len(body)], raw[len(body) :], line)
