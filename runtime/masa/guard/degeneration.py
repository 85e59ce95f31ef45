"""Rules against what small models do when they fail: loops, copies of one skill, noise instead of words."""

from __future__ import annotations

import operator
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from masa.guard.case import Case, Rule, Violation, quote, where

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+")
_DIGITS = re.compile(r"\d+")
_CHAR_RUN = re.compile(r"([^\s\-=_.*#~])\1{15,}|([\-=_.*#~])\2{79,}|(\S{2,8})\3{11,}")
_SENTENCE_END = re.compile(r"[.!?。！？]+[\s\"'”’)]*|[\n\r]+")
_LONG_WORD = re.compile(r"[A-Za-z]{60,}")
_MAX_PERIOD = 24
_MAX_COUNTING = 40
_MIN_SENTENCE_WORDS = 3
_MIN_COMPRESSED_CHARS = 400
_MIN_NOISE_CHARS = 40
_MIN_WORD_SHARE = 0.5


def longest_repeat(tokens: Sequence[str]) -> tuple[int, str]:
    """How often a phrase of up to 24 tokens stands in a row at most, and the phrase.

    Counting ("1 2 3 …", every number written as "#") is a phrase of its own and only counts when it runs on.
    """
    numbers = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    ids = [numbers[token] for token in tokens]
    best, phrase = 1, ""
    for period in range(1, min(_MAX_PERIOD, len(ids) // 2) + 1):
        same = bytes(map(operator.eq, islice(ids, period, None), ids))
        run = max(map(len, same.split(b"\0")))
        count = run // period + 1
        if count > best:
            start = same.index(b"\1" * run)
            words = tokens[start : start + period]
            if set(words) != {"#"} or count > _MAX_COUNTING:
                best, phrase = count, " ".join(words)
    return best, phrase


def _tokens(text: str) -> list[str]:
    return [token.casefold() for token in _TOKEN.findall(text)]


def _uncounted(tokens: Sequence[str]) -> list[str]:
    return [_DIGITS.sub("#", token) for token in tokens]


def loop(case: Case) -> Iterator[Violation]:
    limits = case.limits
    known = _tokens(case.known)
    plain = max(limits.max_repeats, longest_repeat(known)[0])
    counted = max(limits.max_counted_repeats, longest_repeat(_uncounted(known))[0])
    known_runs = {match.group()[:16] for match in _CHAR_RUN.finditer(case.known)}
    for index, text in enumerate(case.folded):
        tokens = _tokens(text)
        for bound, words in ((plain, tokens), (counted, _uncounted(tokens))):
            count, phrase = longest_repeat(words)
            if count > bound:
                yield Violation("loop", f"{where(index)} says {quote(phrase)} {count} times in a row", index)
                break
        for match in _CHAR_RUN.finditer(text):
            if match.group()[:16] not in known_runs:
                yield Violation(
                    "loop", f"{where(index)} repeats {quote(match.group(), 12)} without end", index
                )
                break


def copies(case: Case) -> Iterator[Violation]:
    before = Counter(_normal(skill.principle) for skill in case.source.skills)
    after: Counter[str] = Counter()
    for index, skill in enumerate(case.output.skills):
        text = _normal(skill.principle)
        after[text] += 1
        if text and after[text] > max(1, before[text]):
            yield Violation("copies", f"{where(index)} has the same principle as another skill", index)
    # Warnings and command lists may be added to every skill; more than one each is a loop.
    bound = max(case.limits.max_copies, len(case.output))
    known = _sentences(case.known)
    for sentence, count in _sentences(case.raw_output).items():
        if count > max(bound, known[sentence]):
            yield Violation("copies", f"the group says {quote(sentence)} {count} times")


def _normal(text: str) -> str:
    return " ".join(_tokens(text))


def _sentences(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for piece in _SENTENCE_END.split(text):
        tokens = _tokens(piece)
        if len(tokens) >= _MIN_SENTENCE_WORDS:
            found[" ".join(tokens)] += 1
    return found


def compression(case: Case) -> Iterator[Violation]:
    source = _compressed(case.raw_source + case.facts_text)
    bound = min(case.limits.min_compression, 0.75 * source)
    for index, text in [(None, case.raw_output), *enumerate(case.texts)]:
        ratio = _compressed(text)
        if len(text) >= _MIN_COMPRESSED_CHARS and ratio < bound:
            message = (
                f"{where(index)} repeats itself: it compresses to {ratio:.0%}, the source to {source:.0%}"
            )
            yield Violation("compression", message, index)


def _compressed(text: str) -> float:
    data = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(data, 6)) / len(data) if data else 1.0


def noise(case: Case) -> Iterator[Violation]:
    bound = min(_MIN_WORD_SHARE, *(_word_share(skill.text) for skill in case.source.skills), 1.0)
    known = set(_LONG_WORD.findall(case.known))
    for index, skill in enumerate(case.output.skills):
        share = _word_share(skill.text)
        if len(skill.text) >= _MIN_NOISE_CHARS and share < bound:
            message = f"{where(index)} is hardly text: {share:.0%} of its characters are letters or digits"
            yield Violation("noise", message, index)
        for word in _LONG_WORD.findall(skill.text):
            if word not in known:
                yield Violation("noise", f"{where(index)} has a word of {len(word)} letters", index)
                break


def _word_share(text: str) -> float:
    visible = "".join(text.split())
    return sum(map(str.isalnum, visible)) / len(visible) if visible else 1.0


RULES = (
    Rule("loop", "No phrase over and over, numbered or not.", loop),
    Rule(
        "copies",
        "No two skills with the same principle, and no sentence more often than there are skills.",
        copies,
    ),
    Rule("compression", "No text so repetitive that it compresses far better than its source.", compression),
    Rule("noise", "Words rather than symbols, and no endless word.", noise),
)
