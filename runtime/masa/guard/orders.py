"""Rules against words with an effect: shell commands, orders to the agent, the rewriter's own prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator

from masa.guard.case import Case, Rule, Violation, fold, quote, where
from masa.guard.invention import Extract, invented

_SHELL = re.compile(
    r"\|[ \t]{0,4}(?:sudo[ \t]+)?(?:/[\w/]{1,20}/)?(?:ba|z|da|k|fi)?sh\b(?![ \t]*\|)"
    r"|\b(?:curl|wget|iwr|invoke-webrequest)(?:[ \t]+-{1,2}[^\s`]{1,40}){0,8}"
    r"[ \t]+(?:https?:|[\w-]{1,60}\.\w)[^\s`]{0,200}"
    r"|\b(?:curl|wget|iwr)[ \t]+-\w|\brm[ \t]+-{1,2}[a-z]{1,12}|\bsudo[ \t]+[^\s`]{1,60}"
    r"|\bchmod[ \t]+(?:[0-7]{3,4}|[ugoa]{0,4}\+)"
    r"|\b(?:ba|z|da)?sh[ \t]+-[a-z]*[ci]\b|\bpython3?[ \t]+-c\b|\beval[ \t]*[(\"$`]|\$\([^)\n]{1,200}\)"
    r"|\bpowershell(?:\.exe)?[ \t]+-\w+|\binvoke-expression\b|\biex[ \t]*\(|\bbase64[ \t]+(?:-d|--decode)\b"
    r"|\bnc(?:at)?[ \t]+-[a-z]*[el]|>[ \t]{0,2}/dev/\w+|\bmkfs\.?\w*[ \t]+/|\bdd[ \t]+if=|:\(\)[ \t]*\{"
    r"|\bos\.system[ \t]*\(|\bsubprocess\.\w+[ \t]*\(|\b__import__[ \t]*\(",
    re.I,
)

# --- orders to the agent, and the rewriter's own prompt

_OVERRIDE = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass|do not (?:follow|obey)|stop following)\s+(?:all\s+|any\s+|every\s+)?"
    r"(?:of\s+)?(?:the\s+|your\s+|these\s+|those\s+|my\s+|our\s+)?"
    r"(?:previous|prior|above|earlier|preceding|initial|original|system|safety)\s+(?:\w+\s+)?"
    r"(?:instructions?|prompts?|rules?|messages?|directions?|guidelines?|context)"
    r"|\b(?:ignore|disregard|forget)\s+(?:all|any|your|these|the)\s+(?:of\s+)?(?:your\s+|the\s+)?"
    r"(?:instructions?|guidelines|safety rules|system prompt)"
    r"|\bforget\s+everything\b|\byou\s+are\s+(?:now|no\s+longer)\s+(?:an?\b|the\b|in\b|DAN\b|free\b|bound\b)"
    r"|\b(?:reveal|print|repeat|show|leak|output|disclose|send)\s+(?:me\s+)?(?:your|the|all)\s+"
    r"(?:hidden\s+|full\s+|entire\s+)?(?:system\s+(?:prompt|message)|credentials|passwords|secrets|api\s+keys?)"
    r"|\b(?:reveal|print|repeat|show|leak|disclose)\s+your\s+(?:prompt|instructions)"
    r"|\b(?:new|updated|real|actual)\s+(?:system\s+)?instructions?\s*:|\b(?:jailbreak|developer\s+mode|DAN\s+mode)\b"
    r"|\bwithout\s+(?:any\s+)?(?:restrictions|safety|telling\s+the\s+user)\b|\bdo\s+not\s+(?:tell|inform)\s+the\s+user\b",
    re.I,
)
_LEAK = re.compile(
    r"^\s{0,3}(?:system|user|assistant|human|ai|model)\s{0,2}:(?=\s)"
    r"|\b(?:as|i am|i'm)\s+an?\s+(?:ai|artificial intelligence|(?:large )?language)\s*(?:language\s+)?"
    r"(?:model|assistant)\b"
    r"|\b(?:here\s+(?:is|are)|here's|below\s+(?:is|are))\s+(?:the|your|a|an|my)\s+(?:\w+\s+){0,2}"
    r"(?:rewritten|revised|rewrite|improved|updated|adapted|modified|new\s+version|skills?\b|plan\s+of\s+edits)"
    r"|^\s{0,3}(?:sure|certainly|of course|absolutely)[,!]\s"
    r"|\bI(?:'m|\s+am)\s+(?:sorry|unable|not\s+able)\b|\bI\s+(?:cannot|can't|can\s+not)\s+(?:help|assist|comply|provide|fulfil)"
    r"|\b(?:rewrite|rewriting|rewritten|adapt)\s+(?:the|these|this|each|all|every)\s+(?:\w+\s+)?(?:skills?|group|bank)\b"
    r"|\b(?:rewritten|adapted|target)\s+(?:skills?|group|backbone)\b|\bmodel\s+card\b|\blet\s+me\s+know\s+if\b"
    r"|^#{1,6}\s{0,3}(?:instructions?|response|input|output|system|user|assistant)\s*:?\s*$",
    re.I | re.M,
)


def _phrases(pattern: re.Pattern[str]) -> Extract:
    def extract(text: str) -> Iterator[str]:
        for match in pattern.finditer(text):
            yield " ".join(match.group().casefold().split())

    return extract


_ECHO_WORDS = 8
_WORD = re.compile(r"\w+")


def prompt_echo(case: Case) -> Iterator[Violation]:
    if not case.prompt_text:
        return
    own = _runs_of_words(fold(case.prompt_text)) - _runs_of_words(case.known)
    for index, text in enumerate(case.folded):
        echoed = own & _runs_of_words(text)
        if echoed:
            message = f"{where(index)} repeats the rewriter's instruction: {quote(' '.join(min(echoed)), 60)}"
            yield Violation("prompt-leak", message, index)


def _runs_of_words(text: str) -> set[tuple[str, ...]]:
    words = [word.casefold() for word in _WORD.findall(text)]
    return set(zip(*(words[start:] for start in range(_ECHO_WORDS)), strict=False))


_said_to_nobody = invented("prompt-leak", "the words", _phrases(_LEAK))


def prompt_leak(case: Case) -> Iterator[Violation]:
    yield from _said_to_nobody(case)
    yield from prompt_echo(case)


RULES = (
    Rule(
        "shell",
        "No invented shell command that runs, downloads or deletes.",
        invented("shell", "the shell command", _phrases(_SHELL)),
    ),
    Rule(
        "override",
        "No invented order to ignore instructions, change role or reveal a prompt.",
        invented("override", "the order", _phrases(_OVERRIDE)),
    ),
    Rule(
        "prompt-leak",
        "No words addressed to the rewriter or its user, and nothing of the rewriter's instruction.",
        prompt_leak,
    ),
)
