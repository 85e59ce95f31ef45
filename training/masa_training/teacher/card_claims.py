"""What a model card that we make may not claim: results of an evaluation, and answers such as "prefers concise".

A rewriter is to learn from cards how a backbone is built and how it behaves, and a search is to find out what suits it.
A card that said how often it succeeds, or which wording it likes, would give the answer away.
The check is by words and errs on the side of refusing; what it refuses can be said in other words.
"""

from __future__ import annotations

import re
from typing import Final

from masa.guard import CONTROL_TOKENS

LONGEST: Final = 400
"""Most characters of weaknesses."""

_NUMBER = r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|fifty|a hundred|a dozen)"
_RATES = re.compile(
    r"\d(?:[.,]\d+)?\s*(?:%|‰|per\s?cent\b|percentage)"
    rf"|\b{_NUMBER}\s*(?:/|out\s+of|of\s+(?:the\s+)?)\s*{_NUMBER}\b"
    r"|\b(?:success|failure|error|solve|completion|win|pass|accuracy|nothing-happens)[\s-]+(?:rates?|ratio|share)\b"
    r"|\b(?:accuracy|accurate|SR|NHR|MMLU|F1|benchmarks?|leaderboard|per\s?cent|percentage)\b"
    r"|\b(?:scor(?:e|es|ed|ing)|rewards?|pass@\d+)\b"
    r"|\b(?:always|never|rarely|seldom|hardly\s+ever)\s+(?:succeed|solve|win)\w*|\balways\s+(?:fail|lose)\w*"
    r"|\b(?:fail|succeed|solve|win|complete)\w*\s+(?:in\s+|on\s+|at\s+)?(?:only\s+|about\s+|almost\s+|nearly\s+)?"
    rf"(?:all|most|half|few|many|none|every|any|some|{_NUMBER}|a\s+(?:third|quarter|fifth|tenth|few|minority|majority))\b"
    rf"|\b(?:half|most|all|none|few|a\s+(?:third|quarter|fifth|tenth|minority|majority)|two\s+thirds)\s+of\s+"
    r"(?:the\s+|its\s+|all\s+)?(?:\w+\s+){0,2}(?:episodes?|tasks?|tries|attempts?|games?|questions?|runs?|trials?)\b",
    re.IGNORECASE,
)
_TEXTS = r"(?:skills?|instructions?|prompts?|guidance|wordings?|phrasings?|directions?|descriptions?|procedures?)"
_MANNER = (
    r"(?:concise|short|shorter|terse|brief|compact|minimal|detailed|long|longer|verbose|elaborate|explicit|simple|simpler|"
    r"stepwise|step-by-step|numbered|structured|imperative|bulleted|worked|clear|precise|plain)"
)
_PREFERENCES = re.compile(
    r"\bprefer\w*|\b(?:likes|dislikes|favou?rs|favou?rites?|enjoys|loves|wants)\b"
    r"|\b(?:works?|performs?|does|acts?|behaves?|copes?|fares?)\s+(?:\w+\s+)?"
    r"(?:best|better|well|worse|worst|badly|poorly)\s+(?:with|when|if|under|given|on)\b"
    r"|\b(?:benefits?|profits?|gains?)\s+(?:\w+\s+)?from\b|\bresponds?\s+(?:\w+\s+)?to\b"
    r"|\b(?:is|are|gets?)\s+(?:helped|misled|confused|distracted)\s+by\b|\bthrives?\b"
    r"|\bshould\s+be\s+(?:given|told|written|shown|prompted|instructed|reminded|asked)\b"
    rf"|\b(?:needs?|requires?|wants?|give\s+it|use|try|follows?)\s+(?:\w+\s+){{0,2}}{_MANNER}\b"
    rf"|\b{_MANNER}\s+(?:\w+\s+){{0,2}}{_TEXTS}\b(?!\s+following)|\b{_TEXTS}\s+(?:that\s+are\s+|which\s+are\s+|should\s+)",
    re.IGNORECASE,
)


def claims(text: str, *, ours: bool = False) -> tuple[str, ...]:
    """Why a text may not stand in a card that we make, one sentence each; empty if it may.

    Args:
        ours: it says what was observed in episodes, so it may not hold any digit: a count is half a rate.
    """
    found = []
    if match := _RATES.search(text):
        found.append(f"{match.group()!r} tells how often the model succeeds; say what it does, not how often")
    elif ours and (digit := re.search(r"\S*\d\S*", text)):
        found.append(f"{digit.group()!r} is a number; say what the model does, without counts")
    if match := _PREFERENCES.search(text):
        found.append(f"{match.group()!r} tells what the model prefers; say what goes wrong, not what would help")
    if ours and len(text) > LONGEST:
        found.append(f"it has {len(text)} characters; at most {LONGEST} fit")
    if any(token in text for token in CONTROL_TOKENS) or re.search(r"<\|[^\n>]{0,40}\|>", text):
        found.append("it holds a control token of a chat template; leave it out")
    return tuple(found)
