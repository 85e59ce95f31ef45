"""Rules against what a model makes up: secrets, links, paths, shell tricks, orders to the agent, its own prompt.

Each rule extracts findings from source, facts and output in the same way and refuses those that only the output
has, so that what a source says may stay. All work on folded text, run by run, in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from masa.guard.case import Case, Rule, Violation, fold, quote, where

Extract = Callable[[str], Iterator[str]]

_RUN = re.compile(r"[^\s\"'`<>()\[\]{},;|*→≠“”‘’…]+")
_TRAILING = ".,;:!?)]}'\"*_~"


def _invented(
    rule: str, what: str, extract: Extract, *, show: bool = True
) -> Callable[[Case], Iterator[Violation]]:
    def check(case: Case) -> Iterator[Violation]:
        known: set[str] | None = None
        for index, text in enumerate(case.folded):
            found = dict.fromkeys(extract(text))
            if found and known is None:
                known = set(extract(case.known))
            for item in found:
                if known is None or item not in known:
                    # A secret is not repeated where messages are logged.
                    shown = quote(item) if show else f"of {len(item)} characters"
                    message = f"{where(index)} contains {what} {shown} that neither source nor facts have"
                    yield Violation(rule, message, index)

    return check


# --- secrets

_KEY_PREFIXES = re.compile(
    r"(?<![A-Za-z])(?:sk|pk|rk)[-_](?:live|test|proj|ant|or)?[-_]?(?=[A-Za-z_-]{0,60}\d)[A-Za-z0-9_-]{16,200}"
    r"|gh[opsur]_[A-Za-z0-9]{16,255}|github_pat_\w{16,255}|glpat-[\w-]{16,64}|xox[abeprs]-[\w-]{8,255}"
    r"|A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{12,32}|AIza[\w-]{20,64}|ya29\.[\w-]{16,255}|hf_[A-Za-z0-9]{16,64}"
    r"|npm_[A-Za-z0-9]{16,64}|pypi-[\w-]{16,255}|SG\.[\w-]{10,64}\.[\w-]{10,64}|dop_v1_[a-f0-9]{16,80}"
    r"|eyJ[\w-]{8,2000}\.[\w-]{4,2000}(?:\.[\w-]{0,2000})?|-----BEGIN [A-Z ]{1,40}-----"
)
_ASSIGNMENT = re.compile(
    r"(?:pass(?:word|wd|phrase|code)|pwd|secret|credentials?|(?:api|access|auth|secret|private)[-_ ]?(?:key|token)"
    r"|token|authorization)[\"']?\s{0,3}(?:[:=]|\bis\b)\s{0,3}(?:bearer\s+|basic\s+)?[\"'`]?"
    r"(?P<value>[^\s\"'`,;<>()\[\]{}]{4,200})",
    re.I,
)
_BEARER = re.compile(r"\bbearer[ \t]+[\w.~+/-]{12,2000}", re.I)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I)
_LONG_NUMBER = re.compile(r"\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{13,64}")
_CHUNK = re.compile(r"[A-Za-z0-9+=]{20,}")
_HEX = re.compile(r"[0-9a-f]{24,}", re.I)
_TURN = re.compile(r"[a-z][A-Z0-9]|[0-9][A-Za-z]|[A-Z][0-9]")


def secrets(text: str) -> Iterator[str]:
    """Everything in the text that looks like a key, token, password, or long random identifier."""
    for pattern in (_KEY_PREFIXES, _BEARER, _UUID, _LONG_NUMBER):
        yield from (match.group() for match in pattern.finditer(text))
    for match in _ASSIGNMENT.finditer(text):
        value = match["value"].rstrip(_TRAILING)
        # "password: the one the user gave" is prose; a password has a digit or a symbol in it, or follows "=".
        if len(value) >= 4 and (
            any(c.isdigit() for c in value) or "=" in match.group()[: -len(match["value"])]
        ):
            yield value
    for match in _CHUNK.finditer(text):
        chunk = match.group()
        if _HEX.search(chunk) or _looks_random(chunk):
            yield chunk


def _looks_random(chunk: str) -> bool:
    digits = sum(char.isdigit() for char in chunk)
    letters = sum(char.isalpha() for char in chunk)
    turns = len(_TURN.findall(chunk))
    # "lookAtTheObjectUnderTheDesklamp1" turns once per word; a key turns every other character.
    return (digits >= 3 and letters >= 3 and turns >= 4) or (letters >= 20 and turns >= len(chunk) / 5)


# --- links

_URL = re.compile(
    r"[a-z][a-z0-9+.-]{1,30}://[^\s<>\"'`]+|(?:mailto|javascript):[^\s<>\"'`]+|data:\w{1,20}/[^\s<>]+", re.I
)
_TLDS = frozenset(
    "com org net io ai dev co gov edu mil info biz app xyz top site online shop club link click ly gg tv cc ru cn uk de "
    "fr jp br us eu nl ch ca onion".split()
)
_IP = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")


def links(text: str) -> Iterator[str]:
    """URLs, host names, IP addresses and e-mail addresses, in lower case and without trailing punctuation."""
    for match in _URL.finditer(text):
        yield match.group().rstrip(_TRAILING).casefold()
    for match in _IP.finditer(text):
        yield match.group()
    for match in _RUN.finditer(_URL.sub(" ", text)):
        run = match.group()
        if "." in run:
            yield from _hosts(run.strip(_TRAILING).casefold())


def _hosts(run: str) -> Iterator[str]:
    for part in run.split("@")[-8:]:
        host = re.split(r"[/:?#\\]", part, maxsplit=1)[0]
        labels = host.split(".")
        named = len(labels) > 1 and all(labels) and labels[-1] in _TLDS
        if (named and len(labels[-2]) > 1) or host.startswith("www."):
            yield run
            return
        if "@" in run and len(labels) > 1 and len(labels[-1]) > 1 and labels[-1].isalpha():
            yield run
            return


# --- file paths

_EXTENSIONS = (
    "py pyc ipynb sh bash zsh ps1 bat cmd exe dll so dylib md rst txt csv tsv json jsonl yaml yml toml ini cfg conf env "
    "xml html htm css ts tsx jsx mjs java class jar c cc cpp h hpp rs go rb pl php sql db sqlite log lock pem key crt "
    "pdf doc docx xls xlsx ppt pptx png jpg jpeg gif svg zip tar gz tgz xz bz2 7z gguf onnx safetensors pt pkl bin"
)
_FILE = re.compile(rf"[\w@-]\.(?:{'|'.join(_EXTENSIONS.split())})$")
# A bare "go.so" or "key.h" is rather a missing space than a file, unless a folder stands before it.
_BARE_FILE = re.compile(
    r"[\w@-]\.(?:py|ipynb|sh|bash|ps1|bat|exe|md|txt|csv|tsv|jsonl?|ya?ml|toml|cfg|conf|xml|html?|sql|sqlite|log|pem|pdf"
    r"|docx?|xlsx?|png|jpe?g|zip|tar|gz|gguf|onnx|safetensors|pkl)$"
)
_ROOTED = re.compile(
    r"^/(?:bin|boot|dev|etc|home|lib|mnt|opt|proc|root|run|sbin|srv|sys|tmp|usr|var|users|volumes|applications"
    r"|workspace|data|app)/[\w.@-]|^(?:~|\.{1,2})/[\w.@-]|^[a-z]:[\\/][\w.]|^\\\\[\w.-]+\\|^%\w+%\\|^\$home/",
    re.I,
)


def paths(text: str) -> Iterator[str]:
    """File paths: rooted ones, and names with a known file extension. "in/on" and "clean/heat/cool" are none."""
    for match in _RUN.finditer(_URL.sub(" ", text)):
        run = match.group().strip("!?:_~=").rstrip(_TRAILING) if len(match.group()) < 4096 else match.group()
        if not run or not ("/" in run or "." in run or "\\" in run):
            continue
        tail = run[-40:]
        if _ROOTED.search(run) or (_FILE if "/" in run or "\\" in run else _BARE_FILE).search(tail):
            yield run


# --- shell

_SHELL = re.compile(
    r"\|[ \t]{0,4}(?:sudo[ \t]+)?(?:/[\w/]{1,20}/)?(?:ba|z|da|k|fi)?sh\b(?![ \t]*\|)"
    r"|\b(?:curl|wget|iwr|invoke-webrequest)(?:[ \t]+-{1,2}[^\s`]{1,40}){0,8}[ \t]+(?:https?:|[\w-]{1,60}\.\w)[^\s`]{0,200}"
    r"|\b(?:curl|wget|iwr)[ \t]+-\w|\brm[ \t]+-{1,2}[a-z]{1,12}|\bsudo[ \t]+[^\s`]{1,60}|\bchmod[ \t]+(?:[0-7]{3,4}|[ugoa]{0,4}\+)"
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
    r"|\b(?:as|i am|i'm)\s+an?\s+(?:ai|artificial intelligence|large language|language)\s*(?:language\s+)?(?:model|assistant)\b"
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


_said_to_nobody = _invented("prompt-leak", "the words", _phrases(_LEAK))


def prompt_leak(case: Case) -> Iterator[Violation]:
    yield from _said_to_nobody(case)
    yield from prompt_echo(case)


RULES = (
    Rule(
        "secret",
        "Nothing invented that looks like a key, token, password or card number.",
        _invented("secret", "what looks like a secret", secrets, show=False),
    ),
    Rule("link", "No invented URL, host, IP or e-mail address.", _invented("link", "the link", links)),
    Rule("path", "No invented file path.", _invented("path", "the file path", paths)),
    Rule(
        "shell",
        "No invented shell command that runs, downloads or deletes.",
        _invented("shell", "the shell command", _phrases(_SHELL)),
    ),
    Rule(
        "override",
        "No invented order to ignore instructions, change role or reveal a prompt.",
        _invented("override", "the order", _phrases(_OVERRIDE)),
    ),
    Rule(
        "prompt-leak",
        "No words addressed to the rewriter or its user, and nothing of the rewriter's instruction.",
        prompt_leak,
    ),
)
