"""The promise on statements: no cut loses an order, a condition, an exception, a number or a negation.

    In the plan language, skill by skill, everything that a source skill says is in the skill that came of it, unless
    the plan says `drop` or `limit` for it; then the report of the rewrite names what was lost, sentence by sentence.
    What may go without a word is what this module knows to be none of the five: a reason or purpose at the end of a
    sentence, an example in brackets, an explanation of the sentence before, a polite opening, a word that joins two
    steps, the same sentence twice in a row, and a condition that the skill's `when_to_apply` states as well.

Where no plan is known, a skill that keeps its identifier and has no word but its source's, in their order, is held to
the same: it is a cut, whoever made it. A skill in new words is free text, which the other rules judge by the group.

Words are compared, not edits: source and output are aligned word by word, and every run of words that the output
lacks must be harmless. Nothing here is shared with the edits or their reading of Markdown, so a fault there shows.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from masa.guard.case import Case, Rule, Violation, quote
from masa.guard.tokens import CONTROL_TOKENS
from masa.skills import Skill

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE = re.compile(r"(?:[^.!?。！？\n]|[.!?](?=[^\s\"'”’)*_]))*(?:[.!?。！？]+[\"'”’)\]*_]*\s*|\n\s*|\Z)")
_CONTROL = re.compile("|".join([r"<\|[^<>\n]{1,80}\|>", *map(re.escape, CONTROL_TOKENS)]))
_LIST_NUMBER = re.compile(r"^[ \t>]*\d{1,3}[.)](?=\s)", re.MULTILINE)
_GRAM = 3
_REACH = 200
"""Words that an edit may put in before the text goes on: a condition, a list of commands."""
_NEAR = 400
"""Characters of a sentence around a run that are looked at."""
_EXACT = 250_000
"""Words of a source times words of its output up to which a loss is looked at again, with the best alignment."""
_CONVINCING = 20
"""Words in a row that settle where a text goes on."""
_BUDGET = 20
"""Look-ups for each word of an alignment, on average; what is left unread then counts as missing."""

_JOINERS = frozenset({"and", "then", "next", "finally", "afterwards"})
_JOINED = re.compile(r"(?:(?:and|then|next|finally),? \(?)+", re.IGNORECASE)
_NUMBERING = re.compile(r"(?:step )?(?:\d{1,2}|[a-z])", re.IGNORECASE)
_POLITE = re.compile(
    r"(?:please|note that|keep in mind that|it is (?:important|essential|crucial|best) to|make sure to|be sure to"
    r"|remember to|you (?:should|need to|have to))(?: |$)",
    re.IGNORECASE,
)
_BURDEN = re.compile(
    r"\b(?:not?|none|nor|never|nothing|nobody|neither|cannot|without|except\w*|exclud\w+|unless|only|until|till|instead"
    r"|must|should|shall|ought|needs?|needed|ha[sd] to|have to|requir\w+|mandatory|optional|forbidden|prohibited"
    r"|allowed|always|if|when(?:ever)?|whether|while|where(?:ver)?|before|after|once|otherwise|else|then|next|first|second|third"
    r"|last|finally|both|twice|times|half|double|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen"
    r"|hundred|most|least|max\w*|min\w*|limit\w*|exactly|please|make sure|ensure|careful|remember|beware|stop|but"
    r"|however|although|though)\b|n['’]t\b",
    re.IGNORECASE,
)
"""Words that make a run of words carry something, whatever it opens with."""
_FOREIGN = re.compile(r"[^a-zA-Z\s,'’-]")
_REASON = re.compile(
    r"(?:because(?! of\b)|since|so that|so (?:you|it|they|we|the)|which|(?:thus |thereby |hence )?(?:allowing|enabling"
    r"|helping|saving|improving|giving|making it)|(?:in order )?to (?:avoid|prevent|save|reduce|minimi[sz]e|cut down)"
    r"|(?:it|this|that|they)(?:['’]s| is| are))\b",
    re.IGNORECASE,
)
_EXPLAINS = re.compile(
    r"(?:this|doing so|doing this|that way,? it)(?: also)? (?:helps?|prevents?|avoids?|saves?|reduces?|improves?|makes?"
    r"|keeps?|speeds?|matters|ensures?|allows?|enables?|guarantees?|maximi[sz]es?|minimi[sz]es?)\b",
    re.IGNORECASE,
)
_RESTATES = re.compile(r"(?:in other words|that is|put differently|to repeat),? ", re.IGNORECASE)
_EXAMPLE = re.compile(r"\(?(?:e\.?g\.?|for example|for instance|such as|because|so that)\b", re.IGNORECASE)
_ALSO_ORDERS = re.compile(
    r"[;:]|\band (?!(?:the|an?|its?|they|their|you|your|we|our|this|that|these|those|is|are|was|can)\b)", re.IGNORECASE
)
_CONDITION = re.compile(r"(?:when|whenever|after|once|upon|as soon as|while) ", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Loss:
    """A run of words of a source text that its output lacks: the words, and the sentence around them."""

    words: str
    sentence: str


class _Words:
    """A text and its words; where they stand is looked up only for a loss."""

    def __init__(self, text: str) -> None:
        text = _LIST_NUMBER.sub(_blank, text)  # layout, which edits may change
        if "<" in text or "[" in text:
            text = _CONTROL.sub(_blank, text)  # never kept, so never missed
        self.text = text
        self.words = tuple(map(str.casefold, _WORD.findall(text)))

    @functools.cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        return tuple(match.span() for match in _WORD.finditer(self.text))


def _blank(match: re.Match[str]) -> str:
    return " " * len(match.group())


def lost_sentences(skill: Skill, output: Skill | None) -> tuple[str, ...]:
    """The sentences of a skill that are not, or not whole, in the one made of it; all of them if there is none."""
    before = _Words(skill.principle)
    missing = range(len(before.words)) if output is None else _missing(before, _Words(output.principle))
    if not missing:
        return ()
    sentences = [match.span() for match in _SENTENCE.finditer(before.text) if match.end() > match.start()]
    starts = [start for start, _ in sentences]
    touched = dict.fromkeys(bisect_left(starts, before.spans[place][0] + 1) - 1 for place in missing)
    return tuple(" ".join(skill.principle[slice(*sentences[index])].split()) for index in touched)


def _missing(before: _Words, after: _Words) -> Sequence[int]:
    if len(before.words) * len(after.words) <= _EXACT:
        return _best_aligned(before.words, after.words, 0)
    return _aligned(before.words, after.words, 0)[0]


def _aligned(source: tuple[str, ...], output: tuple[str, ...], start: int) -> tuple[list[int], int]:
    """The places in `source` that `output` lacks from place `start` on, and the place reached in it."""
    places: dict[tuple[str, ...], list[int]] = {}
    if output[start : start + len(source)] == source:
        return [], start + len(source)
    missing: list[int] = []
    budget = _BUDGET * len(source) + 10_000
    i, j = 0, start
    while i < len(source):
        if j < len(output) and source[i] == output[j]:
            i, j = i + 1, j + 1
            continue
        places = places or _places(output, j)
        best: tuple[int, int, int] | None = None  # cost, next place in source, next place in output
        ahead = i
        while ahead < len(source) and budget > 0 and (best is None or 2 * (ahead - i - _CONVINCING) < best[0]):
            place = _continues(source, output, places, ahead, j)
            budget -= 1
            if place is not None:
                most = min(_CONVINCING, len(source) - ahead, len(output) - place)
                same = next((n for n in range(most) if source[ahead + n] != output[place + n]), most)
                budget -= same
                cost = 2 * (ahead - i) + place - j - 2 * same
                best = (cost, ahead, place) if best is None or cost < best[0] else best
            ahead += 1
        if best is None:
            missing += range(i, len(source))
            break
        missing += range(i, best[1])
        _, i, j = best
    return missing, j


def _places(output: Sequence[str], start: int) -> dict[tuple[str, ...], list[int]]:
    """Where each run of words stands, from a place on."""
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place in range(start, len(output) - _GRAM + 1):
        found[tuple(output[place : place + _GRAM])].append(place)
    return found


def _best_aligned(source: tuple[str, ...], output: tuple[str, ...], start: int) -> list[int]:
    """The fewest places in `source` that `output` can lack: the longest common subsequence, in full."""
    output = output[start:]
    rows = [[0] * (len(output) + 1)]
    for word in reversed(source):
        below = rows[-1]
        row = [0] * (len(output) + 1)
        for place in range(len(output) - 1, -1, -1):
            row[place] = below[place + 1] + 1 if word == output[place] else max(row[place + 1], below[place])
        rows.append(row)
    rows.reverse()
    missing: list[int] = []
    j = 0
    for i, word in enumerate(source):
        while j < len(output) and word != output[j] and rows[i][j + 1] == rows[i][j]:
            j += 1
        if j < len(output) and word == output[j]:
            j += 1
        else:
            missing.append(i)
    return missing


def _continues(
    source: tuple[str, ...], output: tuple[str, ...], places: dict[tuple[str, ...], list[int]], ahead: int, j: int
) -> int | None:
    """The next place in `output`, from `j` on, where it goes on as `source` does at `ahead`."""
    if source[ahead : ahead + _GRAM] == output[j : j + _GRAM]:
        return j
    gram = tuple(source[ahead : ahead + _GRAM])
    if len(gram) < _GRAM:
        last = min(len(output), j + _REACH)
        return next((k for k in range(j, last) if tuple(output[k : k + len(gram)]) == gram), None)
    found = places.get(gram)
    if not found:
        return None
    at = bisect_left(found, j)
    return found[at] if at < len(found) and found[at] - j <= _REACH else None


def _judged(before: _Words, missing: Sequence[int], condition: str) -> Iterator[Loss]:
    """The runs of missing words that carry something, cut at the ends of sentences."""
    if not missing:
        return
    text = before.text
    sentences = [match.span() for match in _SENTENCE.finditer(text) if match.end() > match.start()]
    starts = [start for start, _ in sentences]
    absent = set(missing)
    run: list[int] = []
    for place in (*missing, -1):
        of_one = run and place == run[-1] + 1
        if of_one:
            index = bisect_left(starts, before.spans[place][0] + 1) - 1
            of_one = sentences[index][0] <= before.spans[run[0]][0]
        if run and not of_one:
            index = bisect_left(starts, before.spans[run[0]][0] + 1) - 1
            sentence = sentences[index]
            if not _harmless(before, run, sentence, absent, condition):
                whole = text[sentence[0] : sentence[1]].strip()
                yield Loss(text[before.spans[run[0]][0] : before.spans[run[-1]][1]], whole)
            run = []
        if place >= 0:
            run.append(place)


def _harmless(before: _Words, run: Sequence[int], sentence: tuple[int, int], absent: set[int], condition: str) -> bool:
    text, words = before.text, [before.words[place] for place in run]
    start, end = before.spans[run[0]][0], before.spans[run[-1]][1]
    said = text[start:end]
    ahead, behind = text[max(sentence[0], start - _NEAR) : start], text[end : min(sentence[1], end + _NEAR)]
    joined = _JOINED.match(said)
    if all(word in _JOINERS for word in words) or _is_numbering(
        ahead, said[joined.end() if joined else 0 :], text[end : end + 8]
    ):
        return True
    opens, closes = not _WORD.search(ahead), not _WORD.search(behind)
    if opens and _POLITE.sub("", f"{' '.join(words)} ") == "":
        return True
    if _repeated(before, run, absent) and opens and closes and len(run) > 3:
        return True
    if opens and _CONDITION.match(said) and re.match(r"\s*,", behind):
        return _stems(said) <= _stems(condition) and not _carries(_CONDITION.sub("", said, count=1))
    if re.search(r"\([^()]*$", ahead) and re.match(r"[^()]*\)", behind):
        return bool(_EXAMPLE.match(said)) and not _carries(re.sub(r"^(?:e\.?g\.?|for \w+),?", "", said))
    if _ALSO_ORDERS.search(said):
        return False
    if opens and closes:
        restated = _RESTATES.match(said)
        if restated:
            return not _carries(said) and _stems(said[restated.end() :]) <= _stems(text[: sentence[0]][-2_000:])
        return bool(_EXPLAINS.match(said)) and "," not in said and not _carries(_EXPLAINS.sub("", said, count=1))
    reason = _REASON.match(said)
    if not reason or "," in said or _carries(said[reason.end() :]):
        return False
    return closes or (opens and said.lower().startswith(("to ", "in order to ")))


def _carries(said: str) -> bool:
    """Whether words may order, deny, limit, count or name something."""
    names = any(word[0].isupper() and word != "I" for word in said.split())
    return names or _BURDEN.search(said) is not None or _FOREIGN.search(said) is not None


def _is_numbering(ahead: str, said: str, behind: str) -> bool:
    """Whether the run is the number of an enumeration in prose: `(2) `, `b) `, and behind a full stop `2. `."""
    mark = re.match(r"\s?[.):–—-]{1,2}(?=\s+\S)", behind)
    if mark is None or not _NUMBERING.fullmatch(said):
        return False
    return ")" in mark[0] or re.search(r"(?:^|[.:;!?)]\s|\n)\s*$", ahead) is not None


def _repeated(before: _Words, run: Sequence[int], absent: set[int]) -> bool:
    """Whether the same words stand right before or behind, perhaps several times, and stay once."""
    words, size = before.words[run[0] : run[-1] + 1], len(run)
    for step in (-size, size):
        first = run[0] + step
        while first >= 0 and before.words[first : first + size] == words:
            if not absent.intersection(range(first, first + size)):
                return True
            first += step
    return False


_STOP = frozenset({"the", "and", "for", "you", "your", "has", "have", "been", "when", "after", "once", "upon", "soon"})


def _stems(text: str) -> set[str]:
    words = (match.group().casefold() for match in _WORD.finditer(text))
    return {re.sub(r"(?:ing|ed|es|s|e)$", "", word) for word in words if len(word) > 2 and word not in _STOP}


def statements(case: Case) -> Iterator[Violation]:
    for index, output in enumerate(case.output.skills):
        reached = [0, 0, 0]
        made = [_Words(part) for part in (output.title, output.when_to_apply, output.principle)]
        for number, source in _sources(case, index):
            parts = [_Words(part) for part in (source.title, source.when_to_apply, source.principle)]
            if case.plan is None and not _is_cut(parts, made):
                continue
            released = case.plan is not None and number in case.plan.limited
            for field, (before, new) in enumerate(zip(parts, made, strict=True)):
                if before.text == new.text:
                    continue
                start = reached[field]
                missing, reached[field] = _aligned(before.words, new.words, start)
                if released and field == 2:
                    continue
                beside = output.when_to_apply if field == 2 else ""
                found = list(_judged(before, missing, beside))
                if found and len(before.words) * len(new.words) <= _EXACT:
                    # Words that come again can lead the quick alignment astray; nobody is refused for that.
                    found = list(_judged(before, _best_aligned(before.words, new.words, start), beside))
                for loss in found:
                    if field < 2 and f" {' '.join(_Words(loss.words).words)} " in f" {' '.join(new.words)} ":
                        continue  # a title or condition that the one merged into has already
                    yield Violation("statements", _message(source, loss), index)
    if case.plan is not None:
        accounted = {number for numbers in case.plan.sources for number in numbers} | set(case.plan.dropped)
        for number, source in enumerate(case.source.skills, start=1):
            if number not in accounted:
                yield Violation("statements", f"{quote(source.title)} is in no skill of the output")


def _sources(case: Case, index: int) -> Iterator[tuple[int, Skill]]:
    if case.plan is not None:
        for number in case.plan.sources[index] if index < len(case.plan.sources) else ():
            yield number, case.source.skills[number - 1]
        return
    identifier = case.output.skills[index].skill_id
    for number, skill in enumerate(case.source.skills, start=1):
        if skill.skill_id == identifier:
            yield number, skill


def _is_cut(parts: Sequence[_Words], made: Sequence[_Words]) -> bool:
    """Whether the output has no words but those of its source, in their order, and lacks some."""
    pairs = [(before.words, new.words) for before, new in zip(parts, made, strict=True)]
    return any(before != new for before, new in pairs) and all(_in_order(new, before) for before, new in pairs)


def _in_order(part: Sequence[str], whole: Sequence[str]) -> bool:
    remaining = iter(whole)
    return all(word in remaining for word in part)


def _message(source: Skill, loss: Loss) -> str:
    whole = " ".join(loss.words.split()) == " ".join(loss.sentence.split()).rstrip(".!?")
    where = "" if whole else f" of {quote(loss.sentence, 60)}"
    return f"{quote(source.title)} loses {quote(loss.words, 60)}{where}"


RULES = (
    Rule(
        "statements",
        "A skill that was cut keeps every order, condition, exception, number and negation.",
        statements,
    ),
)
