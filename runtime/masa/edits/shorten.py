"""`shorten`: a skill without its reasons, examples in brackets, polite openings and repetitions.

The burden of proof lies on leaving out. A clause or sentence goes only if it matches one of the patterns below, is made
of ordinary words alone (no number, symbol, name or literal), has no word that may order, deny, limit or condition
(`_CARRIES`), and nothing that follows refers back to it. Everything else stays, whatever it says, in whatever
language. No word is added or moved, so what is left was written by the skill's author.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from masa.edits.english import (
    BACK_REFERENCE,
    capitalized,
    content_words,
    is_imperative,
    opening,
    starts_with_condition,
)
from masa.literals import Range
from masa.markdown import Block, blocks, join, sentences, whole_ranges

_CARRIES = re.compile(
    r"\b(?:no|not|never|none|nothing|nobody|nowhere|neither|nor|cannot|without|except|excluding|unless|only|until|till"
    r"|instead|rather|must|should|shall|ought|needs?|needed|ha(?:s|ve|d) to|supposed|require[sd]?|mandatory|optional"
    r"|forbidden|prohibited|allowed|always|if|when|whenever|whether|while|where|wherever|before|after|once|otherwise"
    r"|else|then|next|first|second|third|last|finally|steps? below|above|below|following|both|twice|times|half|double"
    r"|one|two|three|four|five|six|seven|eight|nine|ten|dozen|most|least|maximum|minimum|limit(?:ed)?|exactly|please"
    r"|make sure|ensure|sure|careful|remember|note|beware|stop|but|however|though|although)\b"
    r"|n['’]t\b",
    re.IGNORECASE,
)
"""Words that may order, deny, limit, condition or count, or begin something that does."""

_PLAIN = re.compile(r"[a-z]+(?:-[a-z]+)?(?:['’](?:s|re|ll|ve))?")
_GOES_ON = re.compile(
    r"\band (?!(?:the|a|an|it|its|they|their|you|your|we|our|this|that|these|those|is|are|was|can)\b)"
)
_BLOCKING = re.compile(r"\b(?:if|when|whether|that|which|who|whom|whose|what|why|how|where|while|until|unless)\b", re.I)
_DENIES = re.compile(r"\b(?:no|not|never|none|nothing|only|just|merely|simply|cannot|avoid|without)\b|n['’]t\b", re.I)

_BAD = (
    r"(?:wasted|lost|missed|repeated|unnecessary|needless|redundant|duplicated?|outdated|incorrect|wrong|irrelevant"
    r"|stale|premature|unsupported|aimless|costly|extra|additional|accidental|endless|infinite|more|any|some)"
)
_TIME = r"(?:time|effort|energy|trips?|steps?)"
_WASTE = (
    rf"(?:{_TIME}|waste|work|confusion|errors?|mistakes?|loops?|surprises?|delays?|rework|frustration|noise|clutter"
    r"|hallucinations?|loss)"
)
_NOUN = r"(?!(?:to|into|onto|in|inside|on|at|as|by|for|from|of|under|below|over|above|with|within|per|than)\b)[a-z-]+"
_PURPOSE = (
    rf"(?:in order )?to (?:save (?:{_BAD} )?{_TIME}"
    rf"|(?:avoid|prevent|reduce|minimi[sz]e|cut down on) (?:(?:wasting|losing|repeating) (?:{_BAD} )?{_WASTE}"
    rf"|(?:{_BAD} ){{0,2}}{_WASTE}(?: of (?:it|them))?|{_BAD}(?: (?:and|or) {_BAD})?(?: {_NOUN}){{1,2}}))"
    rf"(?: (?:and|or) (?:{_BAD} )?{_WASTE})?\b(?=[,.;:!]|$)"
)
"""Bare purposes. One with an object or a target of its own, `to save readings to disk`, is part of the order."""
_TAILS = (
    re.compile(r",? because (?!of\b)(?P<reason>[^,;:]+)", re.IGNORECASE),
    re.compile(r", (?:since|so that) (?P<reason>[^,;:]+)", re.IGNORECASE),
    re.compile(r", so (?:you|it|they|we|the [a-z]+) (?P<reason>(?:can|will|is|are|stays?) [^,;:]+)", re.IGNORECASE),
    re.compile(r", which (?P<reason>[^,;:]+)", re.IGNORECASE),
    re.compile(
        rf", (?:thus |thereby |hence )?(?:(?:allowing|enabling|helping|giving) (?=(?:you|us)\b)"
        rf"|saving (?={_TIME}\.?$)|improving |making it )"
        r"(?P<reason>[^,;:]+)",
        re.IGNORECASE,
    ),
    re.compile(rf",? (?P<reason>{_PURPOSE})", re.IGNORECASE),
    re.compile(
        r"(?:\s+[—–-]\s+|—|; )(?P<reason>(?:it|this|that|they)(?:['’]s| is| are) (?:usually|often|typically|mostly"
        r"|likely|faster|quicker|easier|safer|cheaper|simpler|better|common)\b[^,;:—–]*)",
        re.IGNORECASE,
    ),
)
"""Reasons and purposes at the end of a sentence. Without a comma only those that cannot tell how to do a thing."""

_ASIDE = re.compile(r"\s*\((?:e\.g\.,?|for example,?|for instance,?|such as|because|so that) (?P<reason>[^()]+)\)")
_PURPOSE_FIRST = re.compile(rf"(?P<reason>{_PURPOSE}),\s+", re.IGNORECASE)
_INFINITIVE = re.compile(r"(?:\b(?:and|or|but|nor)|,) (?:not )?to [a-z]", re.IGNORECASE)
_POLITE = re.compile(
    r"(?:(?:please|(?:please )?note that|keep in mind that|it is (?:important|essential|crucial|best) to"
    r"|(?:please )?make sure to|(?:please )?be sure to|(?:please )?remember to|you (?:should|need to|have to))\s+)+"
    r"(?=[a-z])",
    re.IGNORECASE,
)
_EXPLAINS = re.compile(
    r"(?:This|Doing so|Doing this|That way,? it)(?: also)? (?P<reason>(?:helps?|prevents?|avoids?|saves?|reduces?"
    r"|improves?|makes?|keeps?|speeds?|matters|ensures?|allows?|enables?|guarantees?|maximi[sz]es?|minimi[sz]es?)\b"
    r"[^,;:.!]*)"
)
_RESTATES = re.compile(r"(?:In other words|That is|Put differently|To repeat),? ", re.IGNORECASE)
_SAME_TIME = ("when", "whenever", "after", "once", "upon", "as soon as", "while")
_STATED = re.compile(rf"(?P<when>{'|'.join(_SAME_TIME)}) [^,;:.()]*,\s+", re.IGNORECASE)
_PRONOUN = re.compile(r"\b(?:it|its|them|they|their|there|this|that|these|those|one|so|such)\b", re.IGNORECASE)


def shortened(text: str, condition: str) -> str:
    """Text without what is known to be no order, condition, exception, number or negation.

    `condition` is the skill's `when_to_apply`: an opening of the text that says the same goes. The words left are a
    subsequence of the words of `text`; running it on its own result changes nothing.
    """
    current = text
    while True:
        shorter = _pass(current, condition)
        if not shorter.strip() or len(shorter) >= len(current):
            return current
        current = shorter


def _pass(text: str, condition: str) -> str:
    parts = blocks(text)
    prose = [index for index, part in enumerate(parts) if part.prose]
    result = list(parts)
    for place, index in enumerate(prose):
        below = parts[prose[place + 1]].text if place + 1 < len(prose) else ""
        result[index] = _block(parts[index], condition if place == 0 else "", below)
    return join(result)


def _block(block: Block, condition: str, below: str) -> Block:
    pieces = sentences(block.text)
    kept: list[str] = []
    for index, piece in enumerate(pieces):
        following = [*pieces[index + 1 :], below]
        if kept and _goes(piece, "".join(kept), following):
            continue
        kept.append(_core(piece, condition if index == 0 else "", following))
    text = "".join(kept)
    return block.with_text(text.rstrip()) if text != block.text else block


def _goes(sentence: str, before: str, following: list[str]) -> bool:
    """Whether a sentence explains or repeats the one before it, and nothing else."""
    body = sentence.strip()
    explains = _EXPLAINS.match(body)
    if explains and body[explains.end() :] in (".", "!"):
        return _free(explains["reason"], before, following)
    previous = sentences(before)[-1]
    restates = _RESTATES.match(body)
    if restates:
        said = body[restates.end() :].rstrip(".!")
        return content_words(said) <= content_words(previous) and _free(said, before, following)
    # The same sentence twice in a row; a step that comes again later is a step.
    return len(body.split()) > 3 and body == previous.strip() and not _refers_back(following)


def _free(removed: str, kept: str, following: list[str]) -> bool:
    """Whether words may go: ordinary ones that carry nothing and that nothing behind them needs."""
    words = removed.split()
    return (
        bool(words)
        and all(_PLAIN.fullmatch(word) for word in words)
        and not _CARRIES.search(removed)
        and not _GOES_ON.search(removed)
        and not _refers_back(following)
        and not (content_words(removed) - content_words(kept)) & content_words(" ".join(following))
    )


def _refers_back(following: list[str]) -> bool:
    """Whether the next sentence opens with words that may speak of what stands before it."""
    coming = next((piece for piece in following if piece.strip()), "")
    return BACK_REFERENCE.search(" ".join(coming.split()[:6])) is not None


def _core(sentence: str, condition: str, following: list[str]) -> str:
    """A sentence without its reasons, examples, polite opening and a condition that the skill states."""
    body = sentence.rstrip()
    space = sentence[len(body) :]
    for start, end in (*_tails(body, following), *_asides(body, following), *_lead(body, condition)):
        if not any(begin < start < stop or begin < end < stop for begin, stop in whole_ranges(body)):
            left = body[:start].rstrip() + body[end:] if start else capitalized(body[end:])
            return _core(left, condition, following) + space
    return sentence


def _tails(body: str, following: list[str]) -> Iterator[Range]:
    end = len(re.sub(r"[.!]+$", "", body))
    for pattern in _TAILS:
        for match in pattern.finditer(body, 0, end):
            main = body[: match.start()]
            comma = match[0].startswith((",", ";", "—", " —"))
            if match.end() != end or not _commands(main) or _PAIR.search(main) or _REPORTS.search(main):
                continue
            aim = re.match(r"(?:in order )?to ", match["reason"], re.IGNORECASE)
            if aim and (_USE.search(main) or (not comma and (_TAKES_AIM.search(main) or len(main.split()) < 2))):
                continue
            if _DENIES.search(main) and not match[0].lower().startswith(", because"):
                continue
            if not comma and _BLOCKING.search(re.split(r"[,;] ", main)[-1]):
                continue
            if _free(match["reason"], main, following):
                yield match.start(), end


def _commands(main: str) -> bool:
    """Whether a sentence up to its reason is a command, perhaps behind a condition: `If it is open, take it`."""
    return is_imperative(main) or (starts_with_condition(main) and is_imperative(re.split(r"[,;] ", main)[-1]))


_PAIR = re.compile(r"\s[—–-]\s|—|:|\b(?:need|sure|careful|try|care|job|able|tell|ask|want)\b", re.IGNORECASE)
"""What stands before a reason that the sentence is about: `Be careful to avoid …`, `Ask the team to avoid …`."""


_REPORTS = re.compile(
    r"(?<!the )(?<!a )(?<!an )\b(?:write|say|reply|report|answer|respond|announce|explain|inform|notify|warn|remind"
    r"|promise|advise|instruct|mention|state|tell|e-?mail|message)\b"
    r"|\b(?:note|record|log|document|comment|confirm|claim|argue|assume|add|think)\b.* (?:that|why)\b"
    r"|\blet .* know\b",
    re.IGNORECASE,
)
"""What says something to somebody: the reason behind it may belong to the message."""
_USE = re.compile(r"\b(?:use|using|utili[sz]e|apply|employ|rely)\b", re.IGNORECASE)
"""`Use X to …`: what a thing is used for is half of the order."""
_TAKES_AIM = re.compile(
    r"\b(?:aim|seek|work|plan|attempt|decide|choose|prepare|prefer|continue|remember|set|turn|switch|change|ways?"
    r"|methods?|scripts?|tools?|functions?|modes?|settings?|options?|means|commands?|strategy|rules?|chances?)\b",
    re.IGNORECASE,
)
"""Verbs and nouns that an infinitive completes: `a script to reduce noise`, `aim to save time`."""


def _asides(body: str, following: list[str]) -> Iterator[Range]:
    for match in _ASIDE.finditer(body):
        words = match["reason"].replace(",", " ")
        if any(map(is_imperative, match["reason"].split(","))):
            continue
        if _REPORTS.search(body[: match.start()]):
            continue
        again = content_words(words) & content_words(body[match.end() :])
        if is_imperative(body) and not again and _free(words, body[: match.start()], following):
            yield match.span()


def _lead(body: str, condition: str) -> Iterator[Range]:
    """A polite or purposeful opening of a command, or a condition that the skill's own condition states."""
    start = opening(body)
    rest = body[start:]
    polite = _POLITE.match(rest)
    # "Make sure to lock it and to take the key": without its opening the second half would hang in the air.
    hangs = polite is not None and polite.group().rstrip().endswith(" to") and _INFINITIVE.search(rest, polite.end())
    if polite and not hangs and is_imperative(rest[polite.end() :]) and not _DENIES.match(rest, polite.end()):
        yield start, start + polite.end()
    purpose = _PURPOSE_FIRST.match(rest)
    aim = purpose["reason"][0].lower() + purpose["reason"][1:] if purpose else ""
    used = purpose is not None and _USE.search(rest, purpose.end()) is not None
    if purpose and not used and is_imperative(rest[purpose.end() :]) and _free(aim, "", [rest[purpose.end() :]]):
        yield start, start + purpose.end()
    stated = _STATED.match(rest)
    if not stated or not condition or not is_imperative(rest[stated.end() :]):
        return
    if re.match(r"[\w-]+, |[^,]*, (?:and|or) ", rest[stated.end() :]):  # "after you clean, heat, or cool it, look"
        return
    said, known = stated[0].strip(" ,"), condition.strip(" .")
    words = said[len(stated["when"]) :]
    if (
        known.lower().startswith(_SAME_TIME)
        and all(_PLAIN.fullmatch(word) for word in words.split())
        and not _CARRIES.search(words)
        and not _PRONOUN.search(rest[stated.end() :])
        and content_words(words) <= content_words(known)
    ):
        yield start, start + stated.end()
