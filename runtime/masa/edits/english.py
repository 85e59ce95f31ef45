"""What the edits know of English: commands, conditions, references back.

Word lists, not a parser. They are good for a yes: `is_imperative` tells a command for sure where it says so, and
nothing where it does not, since any English verb can open a command. No edit removes text because of a no.
"""

from __future__ import annotations

import re

_VERBS = """
    abandon abort accept acquire act activate add address adjust advance aim analyze anchor answer append
    apply approach ask assign attach avoid backtrack base be begin break browse build bundle buy calculate
    call cancel capture carry check choose chop clean clear click close collect combine commit compare
    complete compose compute conclude conduct configure confirm consider construct continue convert cook
    cool copy count craft create cross-check cut decide decline decompose define delay delete deliver
    deposit derive design detect determine diagnose discard dismiss dispose distill distinguish divide do
    drop eliminate emit enclose encode end ensure enter enumerate escape establish evaluate examine exclude
    execute exit expand explore extract fall fetch fill filter finalize find finish fix focus follow form
    format formulate gather generate get give go goto grab group halt handle head heat highlight hold
    identify ignore include infer insert inspect install interact interpret investigate invoke isolate issue
    iterate jump keep label launch leave limit list load locate lock log look lower maintain make map mark
    match measure memorize mention merge move name narrow navigate normalize note obey observe obtain omit
    open operate optimize order output parse pass pause perform pick pin place plan point practise prefer
    prepare press prioritize proceed process produce provide pull purchase pursue push put query quote raise
    re-check re-issue re-open re-read re-run re-search reach read recall recheck recognize record reduce
    refine reformulate refrain reissue reject release remain remember remove rename reopen repeat rephrase
    replace reply report request reread rescan reset resist resolve respond restart restate restrict resume
    retain retrieve retry return reuse revert review revise rework rewrite rinse rotate run save say scan
    scroll search secure see seek select send separate set shift show shut sign simplify skip slice solve
    sort specify split stand standardize start state stay step stick stop store strip study submit
    substitute summarize surround swap sweep switch synthesize tackle take tap target tell terminate test
    think toggle touch track transform translate transport travel treat trigger trim trust try turn type
    undo unify unlock update use validate verify view visit wait walk warm wash watch weigh wipe withdraw
    work wrap write
"""
IMPERATIVES = frozenset(_VERBS.split())
"""Verbs that open a command. Many are nouns too, so callers look at what stands around them."""

_ADVERBS = (
    "always|never|then|first|next|instead|also|just|again|please|now|afterwards|otherwise|and|but|or|so"
    "|once there|if so|if not|(?!apply|reply|supply|rely|comply)[a-z]+ly"
)
_LEADING = re.compile(rf"(?:(?:{_ADVERBS})\b,?\s+)+", re.IGNORECASE)
_NEGATED = re.compile(
    r"(?:do not|don['’]t|never|must not|cannot)\s+(?:\w+ly\s+|ever\s+)?(?P<verb>[\w-]+)", re.IGNORECASE
)
_WORD = re.compile(r"[^\W\d_][\w-]*")

_CONDITION_START = re.compile(
    r"(?:(?:only|even|right|just|immediately|directly|soon|shortly|especially|and|or|but|then|so)\s+)?"
    r"(?:if|when|whenever|while|once|after|before|upon|until|unless|during|whether|wherever|where|as soon as"
    r"|as long as|the moment|the instant|every time|each time|any ?time|throughout|prior to|following|in case"
    r"|on|at|in|within|for|from|with|without|by|to|via|under|inside|between|because|since|although|though"
    r"|given|having|holding|depending|instead of|rather than|except|besides|as)\b",
    re.IGNORECASE,
)
_MODAL = re.compile(
    r"\b(?:must|never|always|only|cannot|can['’]t|won['’]t|don['’]t|do not|does not|doesn['’]t|should|shall"
    r"|need|require[ds]?|mandatory|forbidden|not|avoid|stop|no|ensure|make sure|may)\b",
    re.IGNORECASE,
)


_OPENING = re.compile(r"(?:[^\w<\[({'\"“‘„«`$@#/\\-]|[-–—_](?=[^\w-])|_(?=\w)|\(?\d{1,3}[.)]\s|\[[ xX]\]\s)*")
_MARKS = re.compile(r"(?<=\w)[*_~]+(?=\s|$)|(?<=\s)[*_~]+(?=\w)")

LED = re.compile(
    r"(?:\b(?:never|not|avoid|cannot|these|those|following|one of|any of|parallel)\b|n['’]t\b)"
    r"[^:.]*:[*_]*\s+(?-i:[A-Z])",
    re.IGNORECASE,
)
"""`Never do any of these: Open it. …`: what a colon leads in to may go on in the sentences behind it."""

BACK_REFERENCE = re.compile(
    r"\b(?:it|its|itself|they|them|their|this|that|these|those|so|such|same|otherwise|either|neither|both|one|ones"
    r"|others?|another|else|instead|again|also|too|likewise|similarly|however|but|yet|still|therefore|thus|hence|here"
    r"|there|former|latter|which|twice|he|she|him|her|his|if not|does)\b",
    re.IGNORECASE,
)
"""Words that may speak of what stands before them."""


def opening(text: str) -> int:
    """How many characters of symbols, emphasis and list numbers stand before the first word: `⚠️ `, `_`, `3. `."""
    match = _OPENING.match(text)
    return match.end() if match else 0


def is_imperative(clause: str) -> bool:
    """Whether a clause opens with a command: `take it`, `always open …`, `never repeat …`, `do not …`."""
    text = _MARKS.sub("", clause[opening(clause) :]).strip()
    if _NEGATED.match(text):
        return True
    lead = _LEADING.match(text)
    if lead:
        text = text[lead.end() :]
    if _NEGATED.match(text):
        return True
    word = _WORD.match(text)
    if word is None or re.match(r"[\w-]+\s+(?:is|are|was|were|will)\b", text):
        return False
    return re.sub(r"(?<=[a-z]{3})(?:ise|yse)$", _american, word[0].lower()) in IMPERATIVES


def _american(ending: re.Match[str]) -> str:
    return ending[0][0] + "ze"


def has_command(sentence: str) -> bool:
    """Whether a sentence tells what to do: by an imperative clause or a word such as must, never, only."""
    return _MODAL.search(sentence) is not None or has_imperative(sentence)


def has_imperative(sentence: str) -> bool:
    """Whether any clause of a sentence is a command."""
    return any(is_imperative(part) for part in re.split(r"[,;:()—–→]|\bthen\b|\d[.)]", sentence))


def starts_with_condition(sentence: str) -> bool:
    """Whether a sentence says first when it holds: `If …`, `As soon as …`, `For X tasks, …`."""
    return _CONDITION_START.match(sentence[opening(sentence) :].lstrip("\"'")) is not None


def capitalized(text: str) -> str:
    """First letter upper case, unless the text opens with something that is not a plain word."""
    match = re.match(r"\s*[a-z](?=[a-z'’\- ,]|$)", text)
    if match is None:
        return text
    return text[: match.end() - 1] + text[match.end() - 1].upper() + text[match.end() :]


def lowered(text: str) -> str:
    """First letter lower case if the first word is an ordinary one, not a name, an acronym or `I`."""
    word = re.match(r"[A-Z][a-z]*(?=[\s,])", text)
    if word is None or word[0] in ("I", "Wikipedia", "Google", "English", "Python", "Markdown"):
        return text
    return text[0].lower() + text[1:]


def content_words(text: str) -> frozenset[str]:
    """Lower-case words that carry meaning, crudely stemmed, for measuring overlap."""
    return frozenset(_stem(word) for word in re.findall(r"[^\W\d_]{3,}", text.lower()) if word not in _STOP)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e")


_STOP_WORDS = """
    the and for you your with that this any are has have been when whenever after before once upon while
    into from its it's not yet each every all until then than they them will must can one which whose soon
    right just during immediately first may was were who what where
"""
_STOP = frozenset(_STOP_WORDS.split())
