"""Rules against what small models do when they fail: loops, copies of one skill, noise instead of words."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

from masa.guard.case import Case, Rule, Violation, quote, where

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+")
_ASCII_TOKEN = re.compile(r"\w+")
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


def repeats(tokens: Sequence[str], more_than: int) -> Iterator[tuple[int, str]]:
    """Phrases of up to 24 tokens that stand more than so often in a row: how often, and the phrase.

    Counting ("1 2 3 …", every number written as 0) is a phrase of its own and only counts when it runs on.
    A loop is found once, with its shortest phrase. Linear in the number of tokens.
    """
    length = len(tokens)
    looped_until = [0] * length
    for period in range(1, min(_MAX_PERIOD, length // 2) + 1):
        # A run of `more_than * period` equal pairs covers a multiple of that, so only those are looked at.
        stride = more_than * period
        position = stride
        while position < length:
            if looped_until[position] or tokens[position] != tokens[position - period]:
                position = max(position + stride, _ceil(looped_until[position], stride))
                continue
            start, end = position, position + 1
            while start > period and tokens[start - 1] == tokens[start - 1 - period]:
                start -= 1
            while end < length and tokens[end] == tokens[end - period]:
                end += 1
            count = (end - start) // period + 1
            if count > more_than:
                looped_until[start - period : end] = [end] * (end - start + period)
                words = tokens[start - period : start]
                if set(words) != {"0"} or count > _MAX_COUNTING:
                    yield count, " ".join(words)
            position = max(position + stride, _ceil(end, stride))


def _ceil(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _tokens(text: str) -> list[str]:
    # The pattern for scripts without spaces is four times slower; most banks do not need it.
    return (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text.casefold())


def _uncounted(text: str) -> str:
    return _DIGITS.sub("0", text)


def loop(case: Case) -> Iterator[Violation]:
    limits = case.limits
    for index, text in case.new_texts():
        for bound, view in ((limits.max_repeats, str), (limits.max_counted_repeats, _uncounted)):
            count, phrase = max(repeats(_tokens(view(text)), bound), default=(0, ""))
            if count and not any(repeats(_tokens(view(case.known)), count - 1)):
                yield Violation("loop", f"{where(index)} says {quote(phrase)} {count} times in a row", index)
                break
        for match in _CHAR_RUN.finditer(text):
            if match.group()[:16] not in case.known:
                yield Violation("loop", f"{where(index)} repeats {quote(match.group(), 12)} without end", index)
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
    often = {sentence: count for sentence, count in _sentences(case.raw_output).items() if count > bound}
    known = _sentences(f"{case.raw_source}\n{case.facts_text}") if often else Counter()
    for sentence, count in often.items():
        if count > known[sentence]:
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
    changed = [(index, case.texts[index]) for index, _ in case.new_texts()]
    for index, text in [(None, case.raw_output), *changed]:
        ratio = _compressed(text)
        if len(text) >= _MIN_COMPRESSED_CHARS and ratio < case.limits.min_compression:
            source = _compressed(f"{case.raw_source}\n{case.facts_text}")
            if ratio < 0.75 * source:
                message = f"{where(index)} repeats itself: it compresses to {ratio:.0%}, the source to {source:.0%}"
                yield Violation("compression", message, index)


def _compressed(text: str) -> float:
    data = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(data, 1)) / len(data) if data else 1.0


def noise(case: Case) -> Iterator[Violation]:
    parts = [part for skill in case.source.skills for part in (skill.text, skill.principle)]
    bound = min([_MIN_WORD_SHARE, *map(_word_share, parts)])
    known = set(_LONG_WORD.findall(f"{case.raw_source}\n{case.facts_text}"))
    for index, skill in enumerate(case.output.skills):
        for part in (skill.text, skill.principle):
            share = _word_share(part)
            if len(part) >= _MIN_NOISE_CHARS and share < bound:
                message = f"{where(index)} is hardly text: {share:.0%} of its characters are letters or digits"
                yield Violation("noise", message, index)
                break
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
