"""`shorten`: the imperative core of a skill.

Works by leaving out: aside in brackets, rationale, filler, a leading condition that `when_to_apply` already
states, sentences that command nothing. No word is added or moved, so what is left was written by the
skill's author.
"""

from __future__ import annotations

import re

from masa.edits.english import (
    capitalized,
    content_words,
    has_command,
    has_imperative,
    is_imperative,
    starts_with_condition,
    without,
)
from masa.markdown import Block, blocks, join, literal_ranges, sentences

_PURPOSES = (
    "avoid|prevent|ensure|make sure|maximi[sz]e|minimi[sz]e|reduce"
    "|save|speed|improve|increase|guarantee|widen"
    "|surface|pull|satisfy|preserve|enable|boost|cut down|eliminate|conserve|streamline|facilitate"
)
_PURPOSE = rf"(?:in order to|so as to|to (?:help |better |further )?(?:{_PURPOSES}))\b"
_REQUESTS = (  # before "to avoid": then the purpose is what the sentence asks for
    *("need", "needs", "sure", "careful", "try", "have", "how", "want", "wants", "remember"),
    *("not", "able", "required", "used", "aim", "is", "are"),
)
_NEEDED = "".join(rf"(?<!\b{word} )" for word in _REQUESTS)
_RESULTS = (
    "ensuring|allowing|preventing|enabling|helping|reducing|maximizing|minimizing|saving|improving|increasing"
    "|giving|making it|which"
)
_SUBJECTS = "the|it|you|it['’]s|that|this|each|every|we|they|your|future|later|subsequent|nothing"
_TAIL_PURPOSE, _TAIL_CLAUSE = 0, 5
_TAILS = (
    re.compile(rf"(?:,| and)? {_NEEDED}(?<!: ){_PURPOSE}", re.IGNORECASE),
    re.compile(r",? (?:because|so that|which means)\b", re.IGNORECASE),
    re.compile(rf"(?<!\bdo)(?<!\bdoing)(?<!\bif)(?<!\band)(?<!\bnot),? so (?:{_SUBJECTS})\b", re.IGNORECASE),
    re.compile(
        r", (?:as|since) (?!soon\b|well\b|long\b|many\b|much\b|needed\b|if\b|in\b|shown\b|required\b|an?\b)",
        re.IGNORECASE,
    ),
    re.compile(rf", (?:thus |thereby |hence )?(?:{_RESULTS})\b", re.IGNORECASE),
    re.compile(r"; (?:this|that|it|these|those|doing so|they)\b", re.IGNORECASE),
)
_TAIL_END = re.compile(
    r"[;:](?= |$)|[ ]?[—–]|[.!?:]+[\"'”’)]*\s*$|, (?=(?:and |then |and then |but )?(?P<next>[\w'’]+ \S+))"
)
_KEEPS_MEANING = re.compile(r"\b(?:before|until|unless|if|without|instead|only|never|except|not)\b", re.I)
_DASH = re.compile(r"(?:\s+[—–-]\s+|—)(?P<aside>[^—–;]*?)(?=\s+[—–-]\s+|—|;|[.!?]+[\"'”’)]*\s*$|$)")
_ASIDE = re.compile(r"\s*\((?!\w{1,2}\))[^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)(?!:)")
_POLITE = (
    r"please|note that|keep in mind that|it is (?:important|essential|crucial|best) to"
    r"|make sure (?:to|that you)"
    r"|be sure to|remember to|you (?:should|need to|have to|will need to)(?: always)?"
)
_OPENING = re.compile(rf"\s*(?:\(?\w{{1,2}}[.)]\s+)?(?P<filler>(?:(?:{_POLITE})\s+)+)(?=\w)", re.IGNORECASE)
_FILLER = re.compile(
    r"\b(?:systematically|methodically|carefully|simply|basically|essentially|actually|really|literally"
    r"|proactively|efficiently|in order(?= to)|of course|in fact|as needed|if possible)\s+(?=\w)",
    re.IGNORECASE,
)
_PURPOSE_FIRST = re.compile(rf"\s*{_PURPOSE}[^,;:.]*,\s+", re.IGNORECASE)
_CONDITION_FIRST = re.compile(r"\s*[^,;:.()]*,\s+")
_REFERS_BACK = re.compile(
    r"\s*(?:It|They|This|These|Those|That|Otherwise|If (?:so|yes|no|not|it|they|this|none|either)\b"
    r"|In (?:this|that) case)\b"
)
_REFERENT = re.compile(r"\b(?:that|those|these|this|such) (?P<noun>[a-z]{3,})")
_VARIABLE = re.compile(r"\b[B-HJ-Z]\b|\bA\b(?! [a-z]{3,} )")  # a letter that the rest may speak of
_PRONOUN = re.compile(r"\b(?:it|its|them|they|there|this|that one|one)\b", re.IGNORECASE)
_LIST = re.compile(r"[\w-]+, (?:[\w-]+,? )*(?:or|and) ")  # "after you clean, heat, or cool it, look"
_EXPLAINS = re.compile(
    r"\s*(?:This|That|Doing so|It|These)(?: also)? (?:ensures?|avoids?|prevents?|maximi[sz]es?|minimi[sz]es?"
    r"|reduces?|helps?|focuses|allows?|makes?|keeps?|saves?|guarantees?|lets?|targets?|improves?|increases?"
    r"|narrows?|speeds?)\b"
)
_SUBSTANCE = re.compile(r"[\d:→≠=?]")


def shortened(text: str, condition: str) -> str:
    """Text with its prose cut down to commands; `text` itself when that would not be noticeably shorter.

    `condition` is the skill's `when_to_apply`. The words left are a subsequence of the words of `text`;
    code, links, placeholders and quoted text are all there; running it on its own result changes nothing.
    """
    current = text
    while True:
        parts = blocks(current)
        first = next((part for part in parts if part.prose), None)
        shorter = join(_block(part, condition if part is first else "") for part in parts)
        if not shorter.strip() or len(shorter) >= len(current):
            break
        current = shorter
    return current if len(current) <= len(text) - 4 else text


def _block(block: Block, condition: str) -> Block:
    if not block.prose:
        return block
    pieces = sentences(block.text)
    commands = [_commands(piece) for piece in pieces]
    if any(has_command(piece) for piece in pieces):
        for index in range(len(pieces) - 2, -1, -1):
            if commands[index + 1] and _needs(pieces[index + 1], pieces[index]):
                commands[index] = True
    else:
        commands = [True] * len(pieces)
    cores = [_core(piece, condition if index == 0 else "") for index, piece in enumerate(pieces)]
    text = "".join(core for core, keep in zip(cores, commands, strict=True) if keep)
    return block.with_text(text.rstrip()) if text.strip() else block


def _commands(sentence: str) -> bool:
    """Whether a sentence belongs to the core: a command, a literal, a number, a definition."""
    if _EXPLAINS.match(sentence):
        return bool(literal_ranges(sentence))
    if has_command(sentence) or literal_ranges(sentence) or _SUBSTANCE.search(sentence):
        return True
    return bool(_VARIABLE.search(sentence)) or ("," in sentence and starts_with_condition(sentence))


def _needs(sentence: str, before: str) -> bool:
    """Whether a sentence points back at the one before it."""
    if _REFERS_BACK.match(sentence):
        return True
    return any(match["noun"].rstrip("s") in before.lower() for match in _REFERENT.finditer(sentence))


def _core(sentence: str, condition: str) -> str:
    body = sentence.rstrip()
    space = sentence[len(body) :]
    for cut in (_asides, _dashes, _tails, _fillers):
        body = _without(body, cut(body))
    body = _without(body, _leading(body, condition))
    return body + space


def _without(body: str, ranges: list[tuple[int, int]]) -> str:
    """Body less the ranges, mended; body itself when too little would be left to be a command."""
    if not ranges:
        return body
    left = _mended(without(body, ranges), body)
    enough = len(re.findall(r"\w+", left)) >= 2 and (has_command(left) or not has_command(body))
    return left if enough else body


def _mended(left: str, original: str) -> str:
    left = re.sub(r"(?<=\S)[ ]{2,}", " ", left)
    left = re.sub(r" +(?=[,;.!?](?:\s|$))", "", left)
    left = re.sub(r"[,;](?=[.!?;])", "", left).strip()
    left = left.rstrip(",;—– ") if left != original else left
    ending = re.search(r"[.!?:]+[\"'”’)]*$", original)
    if ending and not re.search(r"[.!?:][\"'”’)]*$", left):
        left += original[ending.start()]
    return capitalized(left) if original[:1].isupper() else left


def _asides(body: str) -> list[tuple[int, int]]:
    if re.search(r"\(\w{1,2}\)", body):  # (a) … and (b) …: brackets number things here
        return [m.span() for m in _ASIDE.finditer(body) if re.match(r"\s*\((?:e\.g\.|i\.e\.|such as|like)", m[0])]
    return [
        match.span()
        for match in _ASIDE.finditer(body)
        if not _KEEPS_MEANING.search(match[0])
        and not _VARIABLE.search(match[0])
        and not has_imperative(match[0].strip(" ()"))
    ]


def _dashes(body: str) -> list[tuple[int, int]]:
    found = list(_DASH.finditer(body))
    if len(found) != 1:  # a pair encloses a part of the sentence that goes on behind it
        return []
    start, aside = found[0].start(), found[0]["aside"]
    if has_command(aside.replace(" and ", ", ")) or _SUBSTANCE.search(aside) or not has_command(body[:start]):
        return []
    return [found[0].span()]


def _tails(body: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for index, pattern in enumerate(_TAILS):
        for match in pattern.finditer(body):
            if not has_command(body[: match.start()]) or _inside_brackets(body, match.start()):
                continue
            end = _tail_end(body, match.end())
            if index == _TAIL_PURPOSE and _KEEPS_MEANING.search(body[match.end() : end]):
                continue
            if index == _TAIL_CLAUSE and has_command(body[match.end() : end]):
                continue
            found.append((match.start(), end))
    return found


def _tail_end(body: str, start: int) -> int:
    for match in _TAIL_END.finditer(body, start):
        if match["next"] is not None and not is_imperative(body[match.end() :]):
            continue
        if not _inside_brackets(body, match.start()):
            return match.start()
    return len(body)


def _inside_brackets(body: str, position: int) -> bool:
    return body.count("(", 0, position) > body.count(")", 0, position)


def _fillers(body: str) -> list[tuple[int, int]]:
    found = [match.span() for match in _FILLER.finditer(body)]
    opening = _OPENING.match(body)
    if opening and is_imperative(body[opening.end("filler") :]):
        found.append(opening.span("filler"))
    return found


def _leading(body: str, condition: str) -> list[tuple[int, int]]:
    """A purpose before the command, or a condition that the skill's own condition already states."""
    purpose = _PURPOSE_FIRST.match(body)
    if purpose and is_imperative(body[purpose.end() :]):
        return [purpose.span()]
    clause = _CONDITION_FIRST.match(body)
    if not condition or not clause or not starts_with_condition(body) or not is_imperative(body[clause.end() :]):
        return []
    stated, said = content_words(condition), content_words(clause[0])
    command = re.split(r"[,;—]", body[clause.end() :])[0]
    if _PRONOUN.search(command) or _VARIABLE.search(clause[0]) or _LIST.match(body, clause.end()):
        return []
    if len(said & stated) * 2 < len(said) or re.match(r"\s*(?:if|unless)\b", clause[0], re.I):
        return []
    return [clause.span()]
