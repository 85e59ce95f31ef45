"""Rules against what a model makes up: secrets, links and file paths.

Each rule extracts findings from source, facts and output in the same way and refuses those that only the
output has, so that what a source says may stay. All work on folded text, in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from masa.guard.case import Case, Check, Rule, Violation, quote, where

Extract = Callable[[str], Iterator[str]]

_RUN = re.compile(r"[^\s\"'`<>()\[\]{},;|*→≠“”‘’…]+")
_TRAILING = ".,;:!?)]}'\"*_~"


def invented(rule: str, what: str, extract: Extract, *, show: bool = True) -> Check:
    """A check that refuses what `extract` finds in the output and neither in the source nor in the facts."""

    def check(case: Case) -> Iterator[Violation]:
        known: set[str] | None = None
        for index, text in case.new_texts():
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
    r"|eyJ[\w-]{8,300}\.[\w-]{4,300}|-----BEGIN [A-Z ]{1,40}-----"
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
        if len(value) >= 4 and (any(c.isdigit() for c in value) or "=" in match.group()[: -len(match["value"])]):
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
_TLDS = re.compile(
    "com|org|net|io|ai|dev|co|gov|edu|mil|info|biz|app|xyz|top|site|online|shop|club|link|click|ly|gg|tv|cc|ru|cn"
    "|uk|de|fr|jp|br|us|eu|nl|ch|ca|onion"
)
_IP = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")


def links(text: str) -> Iterator[str]:
    """URLs, host names, IP addresses and e-mail addresses, in lower case and without trailing punctuation."""
    for url in _urls(text):
        yield url.rstrip(_TRAILING).casefold()
    for match in _IP.finditer(text):
        yield match.group()
    for match in _RUN.finditer(_without_urls(text)):
        run = match.group()
        if "." in run:
            yield from _hosts(run.strip(_TRAILING).casefold())


def _urls(text: str) -> list[str]:
    return _URL.findall(text) if ":" in text else []


def _without_urls(text: str) -> str:
    return _URL.sub(" ", text) if ":" in text else text


def _hosts(run: str) -> Iterator[str]:
    for part in run.split("@")[-8:]:
        host = re.split(r"[/:?#\\]", part, maxsplit=1)[0]
        labels = host.split(".")
        named = len(labels) > 1 and all(labels) and _TLDS.fullmatch(labels[-1]) is not None
        if (named and len(labels[-2]) > 1) or host.startswith("www."):
            yield run
            return
        if "@" in run and len(labels) > 1 and len(labels[-1]) > 1 and labels[-1].isalpha():
            yield run
            return


# --- file paths

_FILE = re.compile(
    r"[\w@-]\.(?:pyc?|ipynb|(?:ba|z)?sh|ps1|bat|cmd|exe|dll|so|dylib|md|rst|txt|csv|tsv|jsonl?|ya?ml|toml|ini|cfg"
    r"|conf|env|xml|html?|css|m?js|jsx|tsx?|java|class|jar|c|cc|cpp|h|hpp|rs|go|rb|pl|php|sql|db|sqlite|log|lock|pem"
    r"|key|crt|pdf|docx?|xlsx?|pptx?|png|jpe?g|gif|svg|zip|tar|t?gz|xz|bz2|7z|gguf|onnx|safetensors|pt|pkl|bin)$"
)
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
    for match in _RUN.finditer(_without_urls(text)):
        run = match.group().lstrip("!?:=").rstrip(_TRAILING + "=")
        if not run or not ("/" in run or "." in run or "\\" in run):
            continue
        tail = run[-40:]
        if _ROOTED.search(run) or (_FILE if "/" in run or "\\" in run else _BARE_FILE).search(tail):
            yield run


RULES = (
    Rule(
        "secret",
        "Nothing invented that looks like a key, token, password or card number.",
        invented("secret", "what looks like a secret", secrets, show=False),
    ),
    Rule("link", "No invented URL, host, IP or e-mail address.", invented("link", "the link", links)),
    Rule("path", "No invented file path.", invented("path", "the file path", paths)),
)
