"""Short exercises that show what a backbone does wrong with instructions: generated from a seed, checked by a rule.

An exercise belongs to a `trait` and is asked in one of its `forms`; the same contents are asked in every form of a
trait, in several wordings, so that forms can be compared. `WORDS` says which weakness or strength of a model card a
trait stands for, in the words that the rewriters were trained on (`masa_training/bootstrap/behaviours.yaml`; a test
compares).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

VERSION = 2
"""Of the exercises; answers to another version are not mixed with these."""

Check = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Exercise:
    """One question.

    Attributes:
        key: unique among the exercises of a seed.
        trait, form: what it shows, and how it is asked.
        passes: whether an answer is right.
        most_tokens: that an answer may have; a right one needs less than half.
    """

    key: str
    trait: str
    form: str
    prompt: str
    passes: Check
    most_tokens: int


@dataclass(frozen=True, slots=True)
class Trait:
    """What a group of exercises shows.

    Attributes:
        about: in a few words, for a person.
        form: in which it shows.
        against: the form that must go clearly better before the weakness is named; empty where the form alone tells.
        weakness, strength: words of a card; empty where it has none.
    """

    about: str
    form: str
    against: str = ""
    weakness: str = ""
    strength: str = ""


WORDS: dict[str, Trait] = {
    "order": Trait(
        "steps in prose, told out of their order",
        "prose",
        "steps",
        "does things in the wrong order",
        "carries out procedures step by step without skipping",
    ),
    "several": Trait("three requests at once", "plain", "", "overlooks instructions"),
    "position": Trait(
        "a request in the last sentence", "last", "first", "only acts on the first sentence of an instruction"
    ),
    "length": Trait(
        "a request within 300 words", "long", "short", "is swamped by detail and side remarks", "long input"
    ),
    "condition": Trait("a rule that does not apply", "unmet", "met", "applies rules where they do not hold"),
    "command": Trait("a command in the form given", "plain", "", "writes commands with the wrong syntax"),
    "json": Trait("a call as JSON", "plain", "", "writes commands with the wrong syntax"),
    "invention": Trait("only the actions listed", "plain", "", "invents actions that do not exist"),
    "example": Trait(
        "a task without an example",
        "told",
        "shown",
        "learns by imitation rather than from description",
        "acts on a description alone",
    ),
    "negation": Trait("what must not be written", "plain"),
    "stopping": Trait(
        "one word where one is asked for", "plain", "", "answers in a full sentence where a name is asked for"
    ),
    "brevity": Trait("an end after what was asked for", "plain", "", "writes far more than needed"),
}
REPEATING = Trait("no line written again and again", "any", "", "repeats the same action over and over")

_NOUNS = (
    *("lamp", "river", "candle", "basket", "ladder", "button", "mirror", "pepper", "garden"),
    *("window", "hammer", "pillow", "saddle", "ticket", "feather", "kettle", "marble", "needle"),
    *("orange", "parcel", "ribbon", "shovel", "tunnel", "violin", "walnut", "zipper"),
)
_NAMES = ("Ada", "Bruno", "Carla", "Dario", "Elsa", "Farid", "Greta", "Hugo", "Irma", "Jonas", "Kira", "Leo")
_COLOURS = ("red", "blue", "green", "yellow", "purple", "brown")
_VERBS = ("take", "open", "close", "move", "clean", "fill")
_FILLER = (
    "The house by the lake was built a long time ago, and nobody remembers who lived in it first.",
    "In spring the meadows behind it are full of flowers, and children come to pick them.",
    "A road leads from there to the village, which has a bakery, a school and a small station.",
    "Every Tuesday a market is held on the square, where farmers sell apples, honey and cheese.",
    "The mayor once planned to build a bridge, but the money was spent on a new roof for the school.",
    "Visitors often ask about the old mill, whose wheel has not turned for about sixty years.",
    "On clear days one can see the mountains, and some people say even the sea behind them.",
    "The baker gets up at three in the morning, since the first train leaves shortly after five.",
)


def exercises(seed: int = 0, *, wordings: int = 4, contents: int = 2) -> tuple[Exercise, ...]:
    """All exercises: for every form of a trait `contents` times `wordings` (at most 4) questions.

    The same seed gives the same exercises; a shorter list is a part of a longer one.
    """
    found: list[Exercise] = []
    for wording in range(wordings):
        for content in range(contents):
            for make in _MAKERS:
                rng = random.Random(f"{seed}/{make.__name__}/{wording}/{content}")
                for trait, form, prompt, passes, most in make(rng, wording):
                    key = f"{trait}/{form}/{wording}/{content}"
                    found.append(Exercise(key, trait, form, prompt, passes, most))
    return tuple(found)


_Made = list[tuple[str, str, str, Check, int]]
"""Trait, form, prompt, check and most tokens of exercises with the same content."""


def _order(rng: random.Random, wording: int) -> _Made:
    a, b, c, d = rng.sample(_NOUNS, 4)
    prose = (
        f"Before you write {b}, write {a}. After {b} comes {c}, and you end with {d}.",
        f"You finish with {d}. The word before it is {c}. You begin with {a}, and {b} follows it.",
        f"Write {a} first and {d} last; in between comes {b}, which is followed by {c}.",
        f"When {a} and then {b} are written, it is the turn of {c}. {d} is written once all others are there.",
    )[wording]
    steps = f"1. Write {a}.\n2. Write {b}.\n3. Write {c}.\n4. Write {d}."
    ask = "Write four words, each on a line of its own, and nothing else."
    passes = _in_order(a, b, c, d)
    return [
        ("order", "prose", f"{ask} {prose}", passes, 40),
        ("order", "steps", f"{ask}\n{steps}", passes, 40),
    ]


def _several(rng: random.Random, wording: int) -> _Made:
    word, one = rng.choice(_NOUNS), rng.choice(_NAMES)
    prompt = (
        f"Write the word {word} in capital letters, then the name {one}, and put an exclamation mark at the very end.",
        f"Answer on one line. Begin with the name {one}, go on with the word {word} in capital letters, end with '!'.",
        f"Put these on one line: {word}, written in capitals; the name {one}; an exclamation mark at the end.",
        f"I need one line that has {word} in upper case and the name {one} in it, and '!' as its last character.",
    )[wording]

    def passes(text: str) -> bool:
        return word.upper() in text and one in text and text.rstrip(" '\"`").endswith("!")

    return [("several", "plain", prompt, passes, 40)]


def _position(rng: random.Random, wording: int) -> _Made:
    early, late = rng.sample(_NOUNS, 2)
    filler = rng.sample(_FILLER, 2)
    prompt = (
        f"Write the word {early}. {filler[0]} {filler[1]} Then write the word {late}.",
        f"Your answer must hold the word {early}. {filler[0]} {filler[1]} It must hold the word {late}, too.",
        f"First of all, write {early}. {filler[0]} {filler[1]} Last of all, write {late}.",
        f"Start by writing {early}. {filler[0]} {filler[1]} End by writing {late}.",
    )[wording] + " Write nothing else."
    return [
        ("position", "first", prompt, _has(early), 40),
        ("position", "last", prompt, _has(late), 40),
    ]


def _length(rng: random.Random, wording: int) -> _Made:
    word = rng.choice(_NOUNS)
    ask = (
        f"Answer with the word {word} and nothing else.",
        f"Your whole answer is this one word: {word}",
        f"Reply only with {word}.",
        f"Write {word}. Do not write anything else.",
    )[wording]
    text = list(_FILLER)
    rng.shuffle(text)
    text = [*text, *rng.sample(_FILLER, len(_FILLER))]
    at = (0, len(text) // 2, len(text) // 2, len(text))[wording]
    long = " ".join([*text[:at], ask, *text[at:]])
    passes = _is(word)
    return [("length", "short", ask, passes, 24), ("length", "long", long, passes, 24)]


def _condition(rng: random.Random, wording: int) -> _Made:
    colour, other = rng.sample(_COLOURS, 2)
    item, name = rng.choice(_NOUNS), rng.choice(_NAMES)
    rule = (
        f"If the {item} is {colour}, answer STOP. Otherwise answer GO.",
        f"Answer GO, unless the {item} is {colour}: then answer STOP.",
        f"STOP is the answer where the {item} is {colour}; in every other case the answer is GO.",
        f"When the {item} is {colour} you say STOP. When it is not, you say GO.",
    )[wording]

    def ask(shown: str) -> str:
        return f"{rule} Answer with that one word.\n{name} has a {item}. The {item} is {shown}."

    return [
        ("condition", "met", ask(colour), _only("STOP", "GO"), 24),
        ("condition", "unmet", ask(other), _only("GO", "STOP"), 24),
    ]


def _command(rng: random.Random, wording: int) -> _Made:
    verb, (what, where), number = rng.choice(_VERBS), rng.sample(_NOUNS, 2), rng.randint(2, 9)
    form, right = (
        (f"{verb} ITEM#NUMBER --to PLACE", f"{verb} {what}#{number} --to {where}"),
        (f"{verb}(ITEM, NUMBER) -> PLACE", f"{verb}({what}, {number}) -> {where}"),
        (f"@{verb} PLACE/ITEM:NUMBER", f"@{verb} {where}/{what}:{number}"),
        (f"{verb} --item=ITEM --count=NUMBER PLACE", f"{verb} --item={what} --count={number} {where}"),
    )[wording]
    prompt = (
        f"The command has the form `{form}`. Write the command for item {what}, number {number} and place {where}. "
        "Write the command alone."
    )
    return [("command", "plain", prompt, lambda t: _line(t) == right, 48)]


def _json(rng: random.Random, wording: int) -> _Made:
    verb, what, number = rng.choice(_VERBS), rng.choice(_NOUNS), rng.randint(2, 9)
    right = {"tool": verb, "arguments": {"item": what, "count": number}}
    prompt = (
        'Call a tool by a JSON object of this form: {"tool": NAME, "arguments": {"item": TEXT, "count": NUMBER}}. '
        + (
            f"Call the tool {verb} with item {what} and count {number}.",
            f"The tool is {verb}, the item is {what}, and the count is {number}.",
            f"I want {number} of the item {what}; use the tool {verb}.",
            f"Use {verb} on the item {what}, with a count of {number}.",
        )[wording]
        + " Answer with the JSON object alone."
    )
    return [("json", "plain", prompt, _json_is(right), 64)]


def _invention(rng: random.Random, wording: int) -> _Made:
    actions = rng.sample(_VERBS, 4)
    items = rng.sample(_NOUNS, 4)
    listed = [f"{verb} {item}" for verb, item in zip(actions, items, strict=True)]
    goal, right = f"the {items[2]}", listed[2]
    wanted = {"take": "to have", "open": "opened", "close": "closed", "move": "moved", "clean": "clean", "fill": "full"}
    state = wanted[actions[2]]
    prompt = (
        f"These actions exist: {'; '.join(listed)}. No others do. "
        + (
            f"I want {goal} {state}. Which action do you choose?",
            f"The aim: {goal}, {state}. Write the action to take.",
            f"Choose the action for this wish: {goal} {state}.",
            f"What is to be done so that {goal} is as wished ({state})?",
        )[wording]
        + " Answer with one action, written as in the list."
    )
    return [("invention", "plain", prompt, lambda t: _line(t) == right, 24)]


def _example(rng: random.Random, wording: int) -> _Made:
    (one, two), (name, other) = rng.sample(_NOUNS, 2), rng.sample(_NAMES, 2)
    number, another = rng.sample(range(2, 10), 2)
    told, ask, solve = _CONVENTIONS[wording]
    lead = f"{told} Write that line and nothing else."
    question = f"{ask.format(item=one, name=name, number=number)}\nLine:"
    shown = f"{ask.format(item=two, name=other, number=another)}\nLine: {solve(two, other, another)}\n"
    right = solve(one, name, number)

    def passes(text: str) -> bool:
        return re.sub(r"\A(?i:line):\s*", "", _line(text)) == right

    return [
        ("example", "told", f"{lead}\n{question}", passes, 24),
        ("example", "shown", f"{lead}\n{shown}{question}", passes, 24),
    ]


_CONVENTIONS: tuple[tuple[str, str, Callable[[str, str, int], str]], ...] = (
    (
        "An order is a line: the item in capital letters, a slash, the number, a slash, the name.",
        "Order: {number} times {item}, for {name}.",
        lambda item, name, number: f"{item.upper()}/{number}/{name}",
    ),
    (
        "A message is a line: an at sign, the name in small letters, a colon, the item.",
        "Message: tell {name} about the {item}.",
        lambda item, name, number: f"@{name.lower()}:{item}",
    ),
    (
        "An entry is a line: the item, an equals sign, the number in two digits.",
        "Entry: {name} has counted {number} of {item}.",
        lambda item, name, number: f"{item}={number:02d}",
    ),
    (
        "A note is a line: the number, a hash, the item, a hash, the name in capital letters.",
        "Note: {name} has {number} of {item}.",
        lambda item, name, number: f"{number}#{item}#{name.upper()}",
    ),
)
"""Forms of a line that nobody can know, in words; what is to be put into that form; and the line itself."""


def _negation(rng: random.Random, wording: int) -> _Made:
    words = rng.sample(_NOUNS, 3)
    no = words[1]
    rest = [word for word in words if word != no]
    prompt = (
        f"Copy these words, but not {no}: {', '.join(words)}.",
        f"Here are three words: {', '.join(words)}. Never write {no}. Write the others.",
        f"Write {', '.join(words)} without the word {no}.",
        f"The words are {', '.join(words)}. Repeat them; {no} must not be in your answer.",
    )[wording]
    return [("negation", "plain", prompt, lambda t: not _has(no)(t) and all(_has(word)(t) for word in rest), 40)]


def _stopping(rng: random.Random, wording: int) -> _Made:
    name, colour, item = rng.choice(_NAMES), rng.choice(_COLOURS), rng.choice(_NOUNS)
    question = (
        f"{name} has a {colour} {item}. Which colour has it? Answer with one word.",
        f"The {item} of {name} is {colour}. What is its colour? One word, please.",
        f"Name the colour in one word: {name} bought a {colour} {item}.",
        f"{name} painted the {item} {colour}. Give the colour alone, in a single word.",
    )[wording]
    return [
        ("stopping", "plain", question, lambda t: len(t.split()) <= 2 and _has(colour)(t), 48),
        ("brevity", "plain", question, lambda t: len(t.split()) <= 12, 48),
    ]


_MAKERS = (
    *(_order, _several, _position, _length, _condition, _command, _json, _invention, _example, _negation, _stopping),
)


def repeats(text: str) -> bool:
    """Whether an answer says the same line, or the same few words, four times in a row or more."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(lines[i] == lines[i + 1] == lines[i + 2] == lines[i + 3] for i in range(len(lines) - 3)):
        return True
    return re.search(r"(\b\w.{2,40}?)(?:\s*\1){3}", text, re.DOTALL) is not None


def _line(text: str) -> str:
    """An answer's one line, out of a fence, quotes or backquotes; nothing if it has several."""
    text = re.sub(r"\A```\w*\n(.*?)\n?```\Z", r"\1", text.strip(), flags=re.DOTALL).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].strip("`\"'").rstrip(".").strip("`\"'") if len(lines) == 1 else ""


def _has(word: str) -> Check:
    return lambda text: re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def _is(word: str) -> Check:
    return lambda text: re.fullmatch(r"[\W_]*" + re.escape(word) + r"[\W_]*", text, re.IGNORECASE) is not None


def _only(word: str, other: str) -> Check:
    """The one word and not the other, whatever else is said."""
    return lambda text: _has(word)(text) and not _has(other)(text)


def _in_order(*words: str) -> Check:
    """These words, in this order, each once."""

    def passes(text: str) -> bool:
        found = [word.lower() for word in re.findall(r"[A-Za-z]+", text)]
        return [word for word in found if word in words] == list(words)

    return passes


def _json_is(right: object) -> Check:
    from masa.files import ParseError, parse_json

    def passes(text: str) -> bool:
        text = re.sub(r"\A```\w*\n(.*?)\n?```\Z", r"\1", text.strip(), flags=re.DOTALL)
        try:
            return bool(parse_json(text) == right)
        except ParseError:
            return False

    return passes
