"""Operations in words: what a rewriter can be asked to do to one skill, and what its answer must hold.

A plan chooses, a text executes. An operation has a contract: what may change and what survives. `shorten` and `steps`
have a deterministic executor too (`masa.edits`), which is preferred where it changes the skill; the others need a
rewriter that was trained on rewordings (`masa_training.rewordings`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from masa.languages import ParseError
from masa.markdown import code_spans, protected_ranges

SEPARATOR = "---"
"""The line between the parts of a `split`."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A change of one skill's text that words carry out.

    Attributes:
        name: what a plan, a person or a search calls it.
        instruction: the sentence that a rewriter reads.
        growth: most words of the result, as a multiple of the source's, beside a constant of ten.
        form: regular expression (Rust and Python syntax) of all answers.
        appended: the answer is put behind the source instead of taking its place.
        sources: how many skills it takes.
    """

    name: str
    instruction: str
    growth: float
    form: str
    appended: bool = False
    sources: int = 1


_LINE = r"[^\n]+"
_PARAGRAPHS = rf"{_LINE}(?:\n{{1,2}}{_LINE})*"

_REGISTRY = (
    Operation("shorten", "As few words as possible. Nothing that binds is lost.", 0.9, _PARAGRAPHS),
    Operation(
        "steps",
        "A numbered list, one action or decision a line, in the order of doing.",
        1.5,
        rf"1\. {_LINE}(?:\n[0-9]{{1,2}}\. {_LINE})+",
    ),
    Operation("explain", "Full plain sentences that say what the rule is for.", 2.3, _PARAGRAPHS),
    Operation("positive", "Each prohibition becomes what to do instead.", 1.6, _PARAGRAPHS),
    Operation("define", "Special terms are explained in place.", 2.3, _PARAGRAPHS),
    Operation(
        "example",
        "One worked example that follows from the rule.",
        1.0,
        rf"Example: {_LINE}(?:\n{_LINE})*",
        appended=True,
    ),
    Operation(
        "split",
        "Each independent order as a text of its own.",
        1.8,
        rf"{_LINE}(?:\n{_LINE})*(?:\n{SEPARATOR}\n{_LINE}(?:\n{_LINE})*)+",
    ),
    Operation("merge", "Both skills as one. Nothing twice, nothing lost.", 1.05, _PARAGRAPHS, sources=2),
)

OPERATIONS: Mapping[str, Operation] = MappingProxyType({operation.name: operation for operation in _REGISTRY})
"""Every operation by name."""

DETERMINISTIC = ("shorten", "steps")
"""Operations that `masa.edits` can carry out on some skills without a model."""
LEAST_WORDS = 8
"""A skill of fewer words is not worth rewording."""
_EXAMPLE_WORDS = 80


def most_words(operation: Operation, texts: Sequence[str]) -> int:
    """The longest answer to an operation on these texts, in words."""
    words = sum(len(text.split()) for text in texts)
    return _EXAMPLE_WORDS if operation.appended else int(operation.growth * words) + 10


def must_survive(texts: Sequence[str]) -> tuple[str, ...]:
    """The spans that a rewording carries over character by character, in order of appearance, each once.

    Code, paths, links, quoted names and figures. Numbers that are words are wording.
    """
    found = (text[start:end] for text in texts for start, end in protected_ranges(text))
    return tuple(dict.fromkeys(span for span in found if not span.replace(" ", "").isalpha()))


def parse_wording(answer: str, operation: Operation) -> tuple[str, ...]:
    """The texts that an answer is: several for `split`, else one.

    Raises:
        ParseError: if the answer has another form.
    """
    if not re.fullmatch(operation.form, answer):
        raise ParseError(f"no answer to {operation.name!r}: {answer[:60]!r}")
    if operation.name == "steps":
        numbers = [int(line.split(".", 1)[0]) for line in answer.split("\n")]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ParseError(f"the steps are numbered {numbers}")
    return tuple(answer.split(f"\n{SEPARATOR}\n")) if operation.name == "split" else (answer,)


_PROHIBITS = re.compile(
    r"\b(?:never|not|no|nothing|nobody|none|nor|neither|cannot|without|avoid|refrain|forbidden|prohibited|leave|only"
    r"|except|unless|instead|always|until|un\w+ed|otherwise|outside|missing|leaving|skip|drop|ban\w*|refus\w+"
    r"|reject\w*|stop|keep|first|longer)\b|n['’]t\b",
    re.IGNORECASE,
)
"""How a prohibition may be said, wherever it stands: what forbids, excludes, or says what comes first."""
_HOLDS_PROHIBITION = re.compile(
    r"\b(?:never|not|nothing|nobody|nor|neither|cannot|without|forbidden|prohibited)\b|n['’]t\b", re.IGNORECASE
)
_AFTER = re.compile(r"(?:[ ]+[^\s.;:,]+){0,4}")
_LIGHT = frozenset(
    " ".join((
        "a an the this that these those it its they their them he she his her you your we our us i my there here which",
        "who what whatever whoever when if how be is are was were been being am do does did done doing have has had",
        "having go goes went gone get gets got come comes make makes made take takes keep keeps put puts give gives",
        "given become becomes say says said will would shall can could may might of to in on at for with by from into",
        "as and or so then also just very please too up out off over one ones time times thing things case cases way",
        "ways",
    )).split()
)  # fmt: skip
"""Words that a terse order may leave out where the others say it all."""
_CLAUSE = re.compile(
    r"[.;:!?]\s|[,()]\s?|\s(?:and|or|but|unless|except|if|when|because|since|so that|which|where)\s", re.IGNORECASE
)
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]+")


def losses(operation: Operation, texts: Sequence[str], answer: str) -> tuple[str, ...]:
    """What an answer has lost of its sources: spans that must survive, and a prohibition where none is left."""
    whole = "\n\n".join((*texts, answer)) if operation.appended else answer
    lost = [span for span in must_survive(texts) if not _holds(whole, span)]
    if operation.name != "positive" and not _PROHIBITS.search(whole):  # which turns prohibitions into what to do
        lost += [match.group() for text in texts if (match := _HOLDS_PROHIBITION.search(text))]
    return tuple(dict.fromkeys(lost))


def doubts(operation: Operation, texts: Sequence[str], answer: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What an answer may have lost; it may say the same in other words.

    First prohibitions, with the words that follow each, where fewer are left than there were; then clauses of which no
    word that matters is in the answer. On the corpus the first is wrong for 5 % of shortened skills and 1 % of others,
    the second for 34 % and 11 %.
    """
    if operation.appended:
        return (), ()
    held = [match for text in texts for match in _HOLDS_PROHIBITION.finditer(text)]
    fewer = operation.name != "positive" and len(held) > len(_PROHIBITS.findall(answer))
    prohibitions = tuple(match.string[match.start() : _after(match)] for match in held) if fewer else ()
    said = _stems(answer)
    clauses = (clause.strip() for text in texts for clause in _CLAUSE.split(text) if clause)
    return prohibitions, tuple(c for c in clauses if len(stems := _stems(c)) >= 2 and not stems & said)


def _after(match: re.Match[str]) -> int:
    found = _AFTER.match(match.string, match.end())
    return found.end() if found else match.end()


def binding(words: str) -> bool:
    """Whether words that were left out may matter: one is more than grammar."""
    return any(word.casefold() not in _LIGHT for word in _WORD.findall(words)) or any(map(str.isdigit, words))


def _stems(text: str) -> set[str]:
    words = (word.casefold() for word in _WORD.findall(text))
    return {_ENDING.sub("", word)[:5] for word in words if word not in _LIGHT and len(word) > 2}


_ENDING = re.compile(r"(?<=\w{3})(?:ations?|ings?|i?ed|i?es|ly|er|al|s)$")
_FIGURE = re.compile(r"\d+(?:[.,:/-]\d+)*")


def _holds(text: str, span: str) -> bool:
    """Whether a span is in a text: code as it is, of a quantity its figures, of quoted words these."""
    if span in text:
        return True
    if code_spans(span):
        return False
    figures = _FIGURE.findall(span)
    if figures:
        return all(re.search(rf"(?<![\d.,:]){re.escape(figure)}(?!\d)", text) for figure in figures)
    return " ".join(span.split()).casefold() in " ".join(text.split()).casefold()
