"""`condition-action` and `emphasise`: what stands in front of a command."""

from __future__ import annotations

import re

from masa.edits.english import capitalized, has_command, lowered, starts_with_condition
from masa.markdown import blocks, join, sentences

EMPHASIS = "IMPORTANT: "

_EMPHASISED = re.compile(r"\b(?:IMPORTANT|CRITICAL|WARNING|CAUTION|ATTENTION)\b|⚠|❗")
_SUBORDINATE = re.compile(
    r"(?:(?:right|just|immediately|directly|soon|shortly|only|even|or) )?"
    r"(?:if|when|whenever|while|once|after|before|upon|until|unless|during|as soon as|as long as"
    r"|the moment|the instant"
    r"|every time|each time|any ?time|throughout|prior to|following|in case|at|on|in|within|for|from"
    r"|with|without|as"
    r"|immediately)\b",
    re.IGNORECASE,
)
_PARTICIPLE = re.compile(
    r"(?:just )?(?:holding|encountering|carrying|having|being|searching|looking|deciding|facing)\b"
    r"|about to\b",
    re.I,
)
_OBSERVED = re.compile(r"just [a-z]+ed\b", re.IGNORECASE)
_PERIOD = re.compile(
    r"(?:every|each|any)\b(?: single)? (?:step|turn|response|action|search|navigation|move|query|answer"
    r"|decision)s?\b",
    re.I,
)
_FINITE = re.compile(
    r"^(?:(?!\b(?:that|which|who|whose|where|with|without|saying|asking|containing|requiring"
    r"|to)\b)[^,;])*?\b(?:is|are|was|were|has|have"
    r"|can|cannot|does|do|must|see|need|needs|contains?|offers?|lists?|appears?|requires?|asks?"
    r"|involves?|specif(?:y|ies)"
    r"|maps?|shows?|returns?|mentions?|provides?|matches|says?|arrives?|reveals?|includes?|fails?|reach"
    r"|reaches)\b",
    re.IGNORECASE,
)


def conditioned(text: str, condition: str) -> str:
    """`When <condition>: <text>`, or `text` itself if it already opens with a condition or none is known.

    The text stands word for word behind the condition. Headings stay on top; in front of a list, a table or
    code the condition is a line of its own.
    """
    phrase = condition_phrase(condition)
    parts = blocks(text)
    index = next((i for i, part in enumerate(parts) if part.kind not in ("other", "heading")), None)
    if not phrase or index is None or phrase in text:
        return text
    opening = parts[index]
    if opening.prose and starts_with_condition(opening.text):
        return text
    if opening.kind != "paragraph":
        return f"{join(parts[:index])}{phrase}\n\n{join(parts[index:])}"
    return join([*parts[:index], opening.with_text(f"{phrase} {opening.text}"), *parts[index + 1 :]])


def condition_phrase(condition: str) -> str:
    """A skill's `when_to_apply` as the opening of a command: `When X:`, `After X:`, `For X:`; or nothing.

    Only its first sentence counts; the field keeps the rest.
    """
    pieces = sentences(" ".join(condition.split()))
    phrase = pieces[0].strip().rstrip(".!:;, ") if pieces else ""
    phrase = re.sub(r"^(?:always|only) (?=when|before|after|at|if|while)", "", phrase, flags=re.IGNORECASE)
    if not phrase:
        return ""
    if _PARTICIPLE.match(phrase) or _OBSERVED.match(phrase):
        verb = "When you have " if _OBSERVED.match(phrase) else "When "
        return f"{verb}{lowered(phrase)}:"
    if _PERIOD.match(phrase):
        return f"At {lowered(phrase)}:" if phrase.lower().startswith(("every", "each")) else f"For {lowered(phrase)}:"
    if _SUBORDINATE.match(phrase):
        return f"{capitalized(phrase)}:"
    return f"{'When' if _FINITE.match(phrase) else 'For'} {lowered(phrase)}:"


def emphasised(text: str) -> str:
    """Text with `IMPORTANT: ` before its first command; unchanged if something in it is already marked so."""
    if _EMPHASISED.search(text):
        return text
    parts = blocks(text)
    prose = [part for part in parts if part.prose]
    if not prose:
        return text
    target = next((part for part in prose if any(map(_core, sentences(part.text)))), prose[0])
    pieces = sentences(target.text)
    index = next((number for number, piece in enumerate(pieces) if _core(piece)), 0)
    body = pieces[index].lstrip()
    space = pieces[index][: len(pieces[index]) - len(body)]
    enumerator = re.match(r"(?:\(?\w{1,2}[.)]|[Ss]tep \d+:|\[[ xX]\])\s+", body)
    at = enumerator.end() if enumerator else 0
    pieces[index] = space + body[:at] + EMPHASIS + body[at:]
    return join(part.with_text("".join(pieces)) if part is target else part for part in parts)


def _core(sentence: str) -> bool:
    return has_command(sentence) or starts_with_condition(sentence)
