"""What no rewrite may touch inside prose: whatever a program, a command line or a calculation reads literally.

Two kinds. *Code* is what a program reads: code, links, files and paths, placeholders, commands and flags,
identifiers, references such as `@docs/STYLE` and `/review-pr`. *Quantities and wordings* are numbers with their
units, limits ("at most 3 times"), formulas, names in mixed case, and quoted text. Both count whether they are
quoted as code or not. A pattern that takes ordinary words for a literal does no harm: those words stay.

This module knows patterns and no Markdown; `masa.markdown.protected_spans` is what the rest of masa asks.
"""

from __future__ import annotations

import re

_EXTENSION = (
    r"(?:pyi?|ipynb|sh|bash|js|mjs|tsx?|jsx|json|jsonl|ya?ml|toml|ini|cfg|md|mdx|txt|rst|csv|tsv|xml"
    r"|html?|css|sql|pdf|docx?|xlsx?|pptx?|png|jpe?g|svg|gif|zip|gz|tar|xz|whl|rb|go|rs|java|kt|c|h|cc|cpp|hpp"
    r"|cu|lua|pl|php|ps1|env|log|lock|gguf|onnx|safetensors|db|parquet)"
)
# Commands that are no English words; the others ("make", "go") show themselves by a flag, a path or quotes.
_TOOLS = (
    "git|gh|npm|npx|pnpm|yarn|bun|deno|pip3?|pipx|uv|uvx|poetry|conda|python3?|docker|docker-compose|podman|kubectl"
    "|helm|terraform|aws|gcloud|curl|wget|ssh|scp|rsync|tar|grep|sed|awk|jq|rg|brew|apt|apt-get|sudo|chmod|chown"
    "|mkdir|systemctl|journalctl|cargo|rustc|rustup|mvn|gradle|dotnet|cmake|pytest|ruff|mypy|eslint|prettier|tsc|vitest"
    "|ffmpeg|pandoc|psql|mysql|sqlite3|redis-cli|ollama"
)
_ARGUMENT = r"(?:-{1,2}[A-Za-z][\w-]*(?:=\S*[\w/])?|[\w@:=-]*[./@:=_][\w./@:=-]*[\w/]|\d[\w.]*)"
_NUMBER_WORD = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty|sixty|hundred"
    "|thousand|million|dozen|half|a (?:dozen|couple|hundred|thousand|million|quarter|third)"
)
_UNIT = (
    "am|pm|ns|µs|us|ms|s|secs?|seconds?|mins?|minutes?|h|hrs?|hours?|d|days?|weeks?|months?|quarters?|years?|[kKMG]?[Hh]z"
    "|bits?|bytes?|[kKMGTP]i?[bB]|px|pt|pts|em|rem|vw|vh|dpi|fps|mm|cm|m|km|in|inch(?:es)?|ft|feet|yards?|miles?"
    "|mg|g|kg|t|oz|lbs?|pounds?|ml|cl|l|litres?|liters?|cups?|tsp|tbsp|teaspoons?|tablespoons?|degrees?|percent|pct"
    "|°[CF]?|[CFKVAW]|kW|kWh|bar|psi|rpm|dB|USD|EUR|GBP|CHF|JPY|dollars?|euros?|cents?|tokens?|words?|characters?|chars?"
    "|lines?|columns?|cols?|rows?|cells?|pages?|slides?|items?|files?|steps?|times?|tries|retries|attempts?|calls?"
    "|requests?|results?|sentences?|paragraphs?|people|persons?|users?|points?|cores?|threads?|workers?|stars?|x"
)

CODE = (
    re.compile(r"(?<!`)(`+)(?!`)(?:.(?!\n[ \t]*\n))+?(?<!`)\1(?!`)", re.DOTALL),
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"!?\[[^\[\]\n]*\]\([^()\s]*(?:\s+[\"'][^\"'\n]*[\"'])?\)"),  # [text](target "title")
    re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s<>()\[\]{}\"'`“”‘’]*[^\s<>()\[\]{}\"'`“”‘’.,;:!?*]"),
    re.compile(r"\b(?:mailto:|www\.)[^\s<>()\[\]{}\"'`“”‘’]*[\w/]|[\w.+-]+@[\w-]+(?:\.[\w-]+)*[:\w/.-]*\w"),
    re.compile(rf"(?<![\w/.])(?:~?\.{{0,2}}/)?(?:[\w.-]+/)*[\w-][\w.-]*\.{_EXTENSION}\b(?![\w/])"),  # scripts/x.py
    re.compile(r"(?<![\w/.:)\]])(?:~|\.{1,2})/[\w.@*-]*(?:/[\w.@*-]*)*"),  # ~/x ./x ../x
    re.compile(r"(?<![\w/.:~)\]<])/[A-Za-z][\w:.-]*(?:/[\w.@*-]+)*/?(?<![.,:])"),  # /review-pr, /usr/bin
    re.compile(r"\b[A-Za-z]:\\[^\s\"'`<>|]*|\\\\[\w.$-]+\\\S*|(?<!\\)\\[A-Za-z]\w*"),  # C:\x, \\host\x, \frac
    re.compile(r"(?<![\w.])\.[A-Za-z][\w-]*(?:\.[\w-]+)*"),  # .env
    re.compile(r"\b(?:Make|Docker|Jenkins|Proc|Gem|Brew|Vagrant|Rake|Just|Task)file\b"),
    re.compile(r"\*{1,2}/[\w./*{},-]+|(?<![\w*])\*\.\w+"),  # **/x.py, *.md
    re.compile(
        r"\$?\{\{[^{}\n]{1,80}\}\}|\$?\{[^{}\n]{1,80}\}|\$[A-Za-z_]\w*(?:\[\w+\])?|\$(?:\d+|[@*#?])"  # {x} $X $1
        r"|%\([A-Za-z_]\w*\)[sdifr]|(?<![\w%])%[sdifr]\b|%[A-Z_][A-Z0-9_]*%|(?<!\w):[a-z_]+:"
    ),
    re.compile(r"</?[A-Za-z][^<>\n]{0,80}>"),  # <object>, <search>, </search>
    re.compile(r"\[[^\[\]\n]{1,80}\]"),  # [object], [1]
    re.compile(
        rf"(?<![\w./-])(?:{_TOOLS})(?=[ \t]+[\w./@:-])"
        rf"(?:[ \t]+[a-z][\w:-]*(?:[ \t]+[a-z][\w:-]*(?=[ \t]+{_ARGUMENT}))?)?(?:[ \t]+{_ARGUMENT}){{0,8}}"
    ),
    re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*(?:=[^\s,;()]*[\w/])?"),  # -x --flag --flag=value
    re.compile(r"(?<![\w@])@[A-Za-z][\w./-]*[\w/]"),  # @docs/STYLE
    re.compile(r"(?<!\w)[A-Za-z0-9]+(?:_+[A-Za-z0-9]+)+(?!\w)|(?<!\w)__[a-z0-9_]+__(?!\w)"),  # a_b A_B a__b
    re.compile(r"(?<![\w:])[A-Za-z_]\w*(?:::?[A-Za-z_]\w*)+"),  # GitHub:create_issue, std::vector
    re.compile(r"(?<![\w.])[A-Za-z_]\w+(?:\.[A-Za-z_]\w+)+(?:\([^()\n]{0,80}\))?"),  # a.b.c, a.b()
    re.compile(r"(?<!\w)[A-Za-z_][\w.]*\((?!(?:e?s|ies|n|r|e?d|re)\))[^()\n]{0,80}\)"),  # f(x)
    re.compile(r"(?<![\w=])[\w.-]+=[^\s,;()=]*[\w/\"']"),  # row=1
    re.compile(r"(?<![\w&])#[A-Z][A-Z0-9]*(?:/[A-Z0-9]+)?[!?]?"),  # #DIV/0! #REF!
    re.compile(r"\b(?:Ctrl|Control|Cmd|Command|Alt|Option|Shift|Meta|Super)(?:[+-]\w+)+"),
)
"""What a program reads. A skill that carries any of it is never dropped."""

WORDINGS = (
    re.compile(
        r"(?<![\w.])[#$€£¥±~≈≤≥+−-]{0,2}\w*\d\w*(?:[.,:/×^%–−-]+\w*\d\w*)*"
        rf"(?:[ \u00a0]?(?:{_UNIT})(?![\w'’-])|[ ]?[%‰]|\+(?!\w))?"
    ),
    re.compile(
        r"\b(?:at (?:most|least)|up to|no (?:more|fewer|less|later|earlier) than|(?:more|less|fewer) than|exactly"
        rf"|within|max(?:imum)?(?: of)?|min(?:imum)?(?: of)?)[ ](?:\d[\w.,%]*|(?:{_NUMBER_WORD})\b)(?:[ ][a-z]+)?",
        re.IGNORECASE,
    ),
    re.compile(rf"\b(?:{_NUMBER_WORD})[ -](?:{_UNIT})\b", re.IGNORECASE),
    re.compile(r"(?<![\w&])#[0-9A-Fa-f]{3,8}\b"),  # colours
    re.compile(r"(?<!\w)[a-z]+[A-Z]\w*|(?<!\w)(?:[A-Z][a-z0-9]+){2,}[A-Z]*(?!\w)"),  # camelCase, PascalCase
    re.compile(
        r"[\w.)\]]+ (?:[=≤≥≠≈×<>]|[=!<>]=|:=|\+=) [\w(\[.-]*[\w)\]]"
        r"|(?<![\w)=])[=≤≥≠≈<>^~]{1,2}\w[\w.]*(?:\([^()\n]*\))?"
    ),
    re.compile(r"(?<!\w)[A-Za-z][\w-]*(?:/[A-Za-z][\w-]*)+(?!\w)(?<!and/or)"),  # src/components, clean/heat/cool
    re.compile(r"<(\w+)>[^<>\n]*</\1>"),  # <action>go to desk 1</action>
    re.compile(r"(?<![\w'])'[^'\n]*(?:\b'\b[^'\n]*)*'(?!\w)"),  # 'take mug 1', "don't" is no quote
    re.compile(r"\"[^\"\n]+\"|“[^”\n]+”|„[^“”\n]+[“”]|«[^»\n]+»|「[^」\n]+」|『[^』\n]+』|‘[^‘\n]*?’(?!\w)"),
)
"""Numbers, limits, formulas, names and quotations."""

_ENUMERATOR = re.compile(
    r"(?:(?<=[.:;!?,]\s)|(?<=\sand\s)|(?<=^)|(?<=\n))[ \t]*\(?\d{1,2}[.)](?=\s)"
    r"|(?<!\S)\(\d{1,2}\)(?=\s)|(?<!\S)\d{1,2}\)(?=\s)|\b[Ss]tep \d{1,2}\s*[:.–—-](?=\s)",
    re.MULTILINE,
)

Range = tuple[int, int]


def code_ranges(text: str) -> list[Range]:
    """Start and end of everything in the text that a program reads; ranges may overlap."""
    return [match.span() for pattern in CODE for match in pattern.finditer(text) if match.end() > match.start()]


def wording_ranges(text: str) -> list[Range]:
    """Start and end of quantities and wordings; the numbers of enumerations (`2.`, `(2)`, `Step 2:`) are none."""
    numbers = [match.span() for match in _ENUMERATOR.finditer(text)]
    counted = {position for start, end in numbers for position in range(start, end)}
    found: list[Range] = []
    for pattern in WORDINGS:
        for match in pattern.finditer(text):
            start, end = match.span()
            if end > start and not (counted and all(place in counted for place in range(start, end))):
                found.append((start, end))
    return found


def union(ranges: list[Range]) -> tuple[Range, ...]:
    """Ranges in order without overlap."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return tuple(merged)
