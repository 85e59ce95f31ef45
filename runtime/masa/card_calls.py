"""What a model card calls for, before any model is asked: which words of it ask for which edits.

The words are those that `docs/write-a-card.md` names and `masa profile --probe` writes. The rewriter decides, and
understands others as well; this is for telling a person what to expect.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from masa.edits import EDITS

NO_WEAKNESSES = "this card has no weaknesses, so that nothing calls for an edit"

CALLS: Mapping[str, str] = MappingProxyType({
    "only acts on the first sentence": "limit",
    "loses the thread in long text": "shorten",
    "skips steps": "steps",
    "applies rules where they do not hold": "condition-action",
    "overlooks instructions": "emphasise",
    "writes commands with the wrong syntax": "syntax",
    "learns by imitation": "example",
    "repeats the same action": "warn loop",
    "invents actions": "warn invalid-action",
    "searches the same place twice": "warn revisiting",
    "never puts it down": "warn undelivered-object",
    "takes a similar object": "warn wrong-object",
    "answers in a full sentence": "warn answer-form",
    "stops before the task is done": "warn premature-stop",
    "writes far more than needed": "warn verbosity",
})  # fmt: skip
"""Weaknesses in fixed words, and the edit that each asks for."""

_SPELLINGS: Mapping[str, str] = MappingProxyType({
    "only acts on the first sentence":
        r"first (?:sentence|line|paragraph|part)|(?:only|just) (?:\w+ ){1,3}(?:start|beginning|top) of|stops reading"
        r"|ignores? (?:the )?(?:rest|end) of",
    "loses the thread in long text":
        r"long(?:er)? (?:text|prompt|input|instruction|context|message|passage|document|skill)"
        r"|long-context|many paragraphs|loses the thread|dense (?:text|sentences)|nested sentences|too much text",
    "skips steps":
        r"(?:skips?|misses|forgets?|leaves out|omits) (?:\w+ )?steps?|wrong order|out of order|order of steps"
        r"|multi-?step|mixes up (?:the )?(?:order|steps)|loses its place",
    "applies rules where they do not hold":
        r"do(?:es)? not (?:hold|apply)|over-?generali[sz]\w+|(?:ignores?|overlooks) (?:pre)?conditions?|out of context"
        r"|wrong (?:moment|situation)",
    "overlooks instructions":
        r"(?:overlooks?|ignores?|misses|forgets?|disregards?) (?:\w+ )?(?:instructions?|orders?|rules?|constraints?)"
        r"|(?:weak|poor|bad) (?:at )?instruction|does not (?:follow|obey)|inattentive",
    "writes commands with the wrong syntax":
        r"(?:wrong|bad|broken|invalid) (?:syntax|json|arguments?)|syntax errors?|malformed"
        r"|(?:misspells?|paraphrases?) (?:\w+ )?(?:commands?|tools?)",
    "learns by imitation":
        r"imitat\w+|(?:needs?|wants?) (?:an )?examples?|few-?shot|by examples?|from examples|shown,? not told",
    "repeats the same action":
        r"repeats? (?:the same|an|its|actions?)|(?:in|into|endless) loops?|loops\b|gets? stuck|same action",
    "invents actions":
        r"invents?|hallucinat\w+|(?:non-?existent|made-up|unknown|impossible) (?:actions?|tools?|commands?)",
    "searches the same place twice":
        r"same places?|revisits?|(?:goes|comes) back to|(?:searched|checked|looked) (?:there )?before"
        r"|(?:searches|checks) again",
    "never puts it down": r"puts? (?:it|things|them) down|undelivered|never delivers|keeps? (?:holding|carrying)",
    "takes a similar object":
        r"(?:takes?|picks?|chooses?|buys?) (?:a |an |the )?(?:similar|wrong (?:\w+ )?(?:object|item|product|thing|one))"
        r"|confus\w+ (?:similar )?(?:objects|items|names)",
    "answers in a full sentence":
        r"full sentences?|(?:another|wrong) (?:answer )?form|answer format|whole sentences?",
    "stops before the task is done":
        r"stops? (?:too )?(?:early|before|soon)|premature\w*|gives? up|unfinished|half done|before the task is done",
    "writes far more than needed":
        r"(?:writes?|talks?|says?) (?:far |much |way )?(?:too much|more)|rambles|long-winded|over-?explains?"
        r"|verbose(?! (?:material|text|prompt|instruction|input|skill))",
})  # fmt: skip
"""How people spell them otherwise: regular expressions, tried in the order of `CALLS`."""

SWITCHES = tuple(name for name, edit in EDITS.items() if name != "keep")
"""What `--without` switches off: every edit but `keep`; `warn` stands for all warnings."""

OFF = ("emphasise", "warn")
"""What a plan may use only where it is asked for (`also`): it harmed a model that we did not train, and helped none
(`docs/results/evolution.md`)."""
BY_FACTS = ("syntax", "example")
"""What takes its words from a facts file, and changes nothing without one."""


def switched_off(options: Mapping[str, Any]) -> frozenset[str]:
    """The edits that a plan must not use, by the options `without` and `also` of a rewrite."""
    return frozenset(options.get("without", ())) | (frozenset(OFF) - frozenset(options.get("also", ())))


@dataclass(frozen=True, slots=True)
class Calls:
    """What a card says of its backbone: each weakness with the edit that it asks for, empty where no fixed words do."""

    weaknesses: tuple[tuple[str, str], ...]

    @property
    def edits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(edit for _, edit in self.weaknesses if edit))


def calls_of(weaknesses: str | None) -> Calls:
    """What the weaknesses of a card ask for, one by one."""
    return Calls(tuple((words, _edit(words)) for words in _parts(weaknesses or "")))


def nothing_to_do(card: Mapping[str, object]) -> bool:
    """Whether nothing in a card's fields calls for an edit: no weakness is known, and it was not pre-trained only.

    Holds for rewriters that learned from stated rules (`docs/write-a-card.md` has the figures of the shipped one);
    what another makes of such a card only it can tell.
    """
    return not card.get("weaknesses") and card.get("base_or_instruct") != "base"


def fixed_words(weakness: str) -> str:
    """The weakness in the fixed words of `CALLS` where it is one of these, however it is spelled; else as it is."""
    plain = " ".join(re.findall(r"[a-z'-]+", weakness.casefold()))
    for fixed in CALLS:
        if fixed in plain:
            return weakness
    return next((fixed for fixed in CALLS if re.search(rf"\b(?:{_SPELLINGS[fixed]})", plain)), weakness)


_DECIDING = ("base_or_instruct", "strengths", "weaknesses")
_SIZES = ((1e9, "135M"), (5e9, "3B"), (float("inf"), "8B"))
"""Below how many parameters a reader counts as one of which size: the steps that the rules of training know."""


def as_read(card: Mapping[str, str | int | bool], off: Collection[str] = ()) -> dict[str, str | int | bool]:
    """The fields of a card that a rewriter reads which learned from rules: what decides nothing is left out.

    Weaknesses are in fixed words where they are known. The size counts where nothing else is said, in three steps. So a
    plan hangs neither on how somebody spells a size, nor on the number of attention heads. A weakness that asks for an
    edit that is `off` would take the place of the others in a plan, so it is told only where it is the only one.
    """
    from masa.model_names import parse_size

    read = {name: card[name] for name in _DECIDING if name in card}
    for name in ("strengths", "weaknesses"):
        if name in read:
            said = list(dict.fromkeys(map(fixed_words, _parts(str(read[name])))))
            answered = [words for words in said if _edit(words).split(" ")[0] not in off]
            read[name] = "; ".join(answered if answered and name == "weaknesses" else said)
    size = parse_size(str(card.get("parameter_count", "")))
    if size and "weaknesses" not in read:
        read = {"parameter_count": next(label for most, label in _SIZES if size < most), **read}
    return read


def _parts(text: str) -> list[str]:
    return [part.strip(" .") for part in re.split(r"[;\n]|\.\s", text) if part.strip(" .")]


def _edit(words: str) -> str:
    plain = " ".join(re.findall(r"[a-z']+", fixed_words(words).casefold()))
    return next((edit for fixed, edit in CALLS.items() if fixed in plain), "")
