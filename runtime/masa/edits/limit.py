"""`limit N`: the first sentences and list items, whatever has a literal in it, and what that speaks of.

The one edit besides `drop` that takes orders away; the report of a rewrite names each sentence that it took.
"""

from __future__ import annotations

import re

from masa.edits.english import BACK_REFERENCE, LED
from masa.markdown import Block, blocks, join, protected_ranges, sentences

_MARKER = re.compile(r"(?P<indent>\s*)(?P<number>\d{1,9})(?P<dot>[.)])(?P<space>\s+)\Z")

_LEADS_IN = re.compile(r":[*_~\"'”’)]*\s*\Z")
_OF_THE_CODE = re.compile(
    r"\b(?:never|not|avoid|cannot|only|following|below|this|these|instead|wrong|bad)\b|n['’]t\b", re.IGNORECASE
)
"""Words of a sentence right above a code block without which the code could read as an order."""

_STEP = re.compile(r"\b(?:steps?|items?|points?|numbers?|rules?) \(?\d", re.IGNORECASE)


def limited(text: str, count: int) -> str:
    """Text with at most its first `count` sentences or list items; code, links and quoted text stay.

    A later sentence or item stays if it carries one of those, if something that stays hangs below it, or if the
    sentence behind it stays and opens with words that speak of it.
    """
    parts = blocks(text)
    kept: list[Block | None] = []
    before: list[int] = []  # how many sentences and items stand above each part
    taken = 0
    for part in parts:
        before.append(taken)
        if not part.prose:
            kept.append(part)
        elif part.kind == "item":
            taken += 1
            kept.append(part if taken <= count or protected_ranges(part.text) else None)
        else:
            shorter, taken = _first_sentences(part, taken, count)
            kept.append(shorter)
    _keep_parents(parts, kept, before, count)
    if all(part is None or part.kind == "other" for part in kept):
        return text
    if list(kept) == list(parts):
        return text
    left = _closed_up(kept)
    if not any(part.prose and _STEP.search(part.text) for part in left):  # "go back to step 3" needs its number
        left = _lone(_renumbered(left))
    body = join(left)
    return body.rstrip() + text[len(text.rstrip()) :]


def _first_sentences(part: Block, taken: int, count: int, introduces: bool = False) -> tuple[Block | None, int]:
    """What stays of a paragraph; its last sentence does if it introduces what stays below."""
    pieces = sentences(part.text)
    stays: list[bool] = []
    for piece in pieces:
        leads = _LEADS_IN.search(piece) is not None
        if not leads:
            taken += 1
        stays.append(taken < count + (0 if leads else 1) or bool(protected_ranges(piece)))
    stays[-1] = stays[-1] or introduces
    for index in range(len(pieces) - 1, 0, -1):
        led = next((place for place in range(index - 1, -1, -1) if _leads(pieces[place])), None)
        if stays[index] and led is not None:  # "Never do this: Run `x`." without its lead-in would be an order
            stays[led] = True
        if stays[index] and BACK_REFERENCE.search(" ".join(pieces[index].split()[:4])):
            stays[index - 1] = True
    keep = [piece for piece, kept in zip(pieces, stays, strict=True) if kept]
    if len(keep) == len(pieces):
        return part, taken
    while not introduces and len(keep) > 1 and _LEADS_IN.search(keep[-1]):
        keep.pop()
    return (part.with_text("".join(keep).rstrip().removesuffix("\\")) if keep else None), taken


def _keep_parents(parts: tuple[Block, ...], kept: list[Block | None], before: list[int], count: int) -> None:
    """Bring back the sentence that leads in to something kept, and an item with something kept below it."""
    below: Block | None = None
    for index in range(len(parts) - 1, -1, -1):
        part = parts[index]
        if part.kind == "other" and not part.raw.strip():
            continue
        if part.prose and kept[index] != part and below is not None and below.kind not in ("heading", "rule"):
            nested = part.kind == "item" and (below.kind == "inner" or _indent(below) > _indent(part))
            if nested or (part.kind == "item" and _LEADS_IN.search(part.text)):
                kept[index] = part
            elif part.kind != "item" and _introduces(part.text, below):
                kept[index] = _first_sentences(part, before[index], count, introduces=True)[0]
        if kept[index] is not None:
            below = part
        elif part.kind in ("paragraph", "item"):
            below = below if part.kind == "item" and below is not None and _indent(below) < _indent(part) else None


def _leads(sentence: str) -> bool:
    return _LEADS_IN.search(sentence) is not None or LED.search(sentence) is not None


def _introduces(text: str, below: Block) -> bool:
    if _LEADS_IN.search(text):
        return True
    return below.kind == "code" and _OF_THE_CODE.search(sentences(text)[-1]) is not None


def _indent(part: Block) -> int:
    raw = part.raw.expandtabs(4)
    return len(raw) - len(raw.lstrip())


def _closed_up(kept: list[Block | None]) -> list[Block]:
    """What is kept, without the blank lines behind paragraphs that are not."""
    result: list[Block] = []
    gone = False
    for remaining in kept:
        if remaining is None:
            gone = True
        elif gone and remaining.kind == "other" and not remaining.raw.strip() and result and not result[-1].raw.strip():
            gone = False
        else:
            result.append(remaining)
            gone = gone and remaining.kind == "other"
    return result


def _lone(parts: list[Block]) -> list[Block]:
    """Without the number of a step that is all there is: one step is no list."""
    stay = [part for part in parts if part.raw.strip()]
    if len(stay) != 1 or stay[0].kind != "item" or not _MARKER.fullmatch(stay[0].prefix):
        return parts
    return [Block("paragraph", "", stay[0].text, stay[0].suffix, stay[0].line)]


def _renumbered(parts: list[Block]) -> list[Block]:
    """Ordered lists that count without gaps, from the number they began with."""
    result: list[Block] = []
    last: dict[str, int] = {}
    for part in parts:
        marker = _MARKER.match(part.prefix) if part.kind == "item" else None
        if part.kind in ("paragraph", "heading"):
            last.clear()
        if marker is not None:
            indent = marker["indent"]
            number = last[indent] + 1 if indent in last else int(marker["number"])
            last[indent] = number
            if number != int(marker["number"]):
                prefix = f"{indent}{number}{marker['dot']}{marker['space']}"
                part = Block(part.kind, prefix, part.text, part.suffix, part.line)
        result.append(part)
    return result
