"""What there is in an invented world: kinds of entities, their attributes, and how passages and questions word them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["person", "town", "company", "book"]

SHARES: Mapping[Kind, float] = {"person": 0.4, "town": 0.25, "company": 0.15, "book": 0.2}
"""Of all entities."""

YEARS = range(1650, 1990)


@dataclass(frozen=True, slots=True)
class Attribute:
    """Something that every entity of a kind has.

    Attributes:
        kind: whose attribute it is.
        name: unique within the kind.
        value: the kind of entity it leads to (then it is a relation), "year", or what names its pool in `POOLS`.
        words: two words to search by. A passage holds one of them, so the other one finds it by the name alone.
        passages: per word of `words`, sentences about the entity {e} and the value {v}.
        questions: of which one asks for the value; {e} is the entity or a phrase that stands for it.
        phrase: what stands for the value in a question about it; relations only.
    """

    kind: Kind
    name: str
    value: str
    words: tuple[str, str]
    passages: tuple[tuple[str, ...], tuple[str, ...]]
    questions: tuple[str, ...]
    phrase: str = ""

    @property
    def key(self) -> str:
        """Unique among all attributes, such as `person.born`."""
        return f"{self.kind}.{self.name}"

    @property
    def is_relation(self) -> bool:
        return self.value in SHARES


POOLS: Mapping[str, tuple[str, ...]] = {
    # Every value takes "a", stands alone in a sentence and is a word or two, so that an answer is few tokens.
    "profession": (
        "baker", "barber", "bookbinder", "brewer", "carpenter", "chemist", "clerk", "cooper", "dancer", "dentist",
        "doctor", "farmer", "fisherman", "gardener", "glassblower", "hunter", "judge", "lawyer", "mason", "miller",
        "nurse", "painter", "pilot", "potter", "printer", "sailor", "sculptor", "surgeon", "tailor", "teacher",
    ),
    "instrument": (
        "banjo", "bassoon", "cello", "clarinet", "drum", "fiddle", "flute", "guitar", "harp", "horn", "lute",
        "mandolin", "oboe", "piano", "trombone", "trumpet", "tuba", "viola", "whistle", "zither",
    ),
    "river": (
        "Arno Water", "Bram", "Corvel", "Dunnet", "Esker", "Fallow", "Gannel", "Harrow Water", "Isel", "Jarrow",
        "Kelder", "Lorne", "Medlar", "Nidder", "Orrin", "Pellow", "Quill", "Rother", "Sorrel", "Tamsin",
        "Ulver", "Varrow", "Wensum", "Yarrow",
    ),
    "speciality": (
        "butter", "candles", "carpets", "cheese", "cherries", "cider", "copper", "gloves", "hats", "honey", "lace",
        "linen", "marble", "mustard", "pears", "pottery", "salt", "silk", "soap", "tea", "walnuts", "wine",
    ),
    "product": (
        "anchors", "barrels", "bells", "bicycles", "boots", "bricks", "buttons", "carriages", "clocks", "compasses",
        "engines", "kettles", "knives", "lamps", "locks", "mirrors", "needles", "paper", "pens", "ploughs", "pumps",
        "ropes", "saddles", "scales", "sails", "tiles", "umbrellas", "wheels",
    ),
    "genre": (
        "ballad", "biography", "chronicle", "comedy", "detective novel", "diary", "fable", "fairy tale", "farce",
        "ghost story", "legend", "memoir", "mystery", "parody", "romance", "satire", "thriller", "tragedy",
        "travelogue", "western",
    ),
}  # fmt: skip

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "person", "profession", "profession", ("profession", "works"),
        (
            ("The profession of {e} is {v}.", "{e} is by profession a {v}."),
            ("{e} works as a {v}.", "{e} is a {v} and works every day."),
        ),
        ("What is the profession of {e}?", "As what does {e} work?"),
    ),
    Attribute(
        "person", "born", "year", ("birth", "born"),
        (
            ("The year of birth of {e} is {v}.", "{e}, year of birth {v}, is still well known."),
            ("{e} was born in {v}.", "It was in {v} that {e} was born."),
        ),
        ("In which year was {e} born?", "What is the year of birth of {e}?"),
    ),
    Attribute(
        "person", "instrument", "instrument", ("instrument", "plays"),
        (
            ("The instrument of {e} is the {v}.", "{e} chose the {v} as an instrument."),
            ("{e} plays the {v}.", "{e} plays the {v} on Sundays."),
        ),
        ("Which instrument does {e} play?", "What is the instrument of {e}?"),
    ),
    Attribute(
        "person", "birthplace", "town", ("birthplace", "grew"),
        (
            ("The birthplace of {e} is {v}.", "{v} is proud to be the birthplace of {e}."),
            ("{e} grew up in {v}, the town of their birth.", "Born in {v}, {e} grew up there."),
        ),
        ("What is the birthplace of {e}?", "In which town was {e} born?"),
        "the birthplace of {e}",
    ),
    Attribute(
        "town", "river", "river", ("river", "flows"),
        (
            ("The river of {e} is the {v}.", "{e} lies on a river, the {v}."),
            ("The {v} flows through {e}.", "The {v} flows past the walls of {e}."),
        ),
        ("Which river flows through {e}?", "On which river does {e} lie?"),
    ),
    Attribute(
        "town", "founded", "year", ("foundation", "founded"),
        (
            ("The foundation of {e} was in {v}.", "{e} counts its years from its foundation in {v}."),
            ("{e} was founded in {v}.", "It was in {v} that {e} was founded."),
        ),
        ("In which year was {e} founded?", "What is the year of foundation of {e}?"),
    ),
    Attribute(
        "town", "speciality", "speciality", ("speciality", "known"),
        (
            ("The speciality of {e} is {v}.", "{e} sells its speciality, {v}, all over the land."),
            ("{e} is known for its {v}.", "Far and wide, {e} is known for {v}."),
        ),
        ("What is the speciality of {e}?", "For what is {e} known?"),
    ),
    Attribute(
        "town", "mayor", "person", ("mayor", "governs"),
        (
            ("The mayor of {e} is {v}.", "{e} has {v} as its mayor."),
            ("{v} governs {e}.", "{v} governs the town of {e}."),
        ),
        ("Who is the mayor of {e}?", "Who governs {e}?"),
        "the mayor of {e}",
    ),
    Attribute(
        "company", "product", "product", ("product", "makes"),
        (
            ("The product of {e} is {v}.", "{e} has one product, {v}."),
            ("{e} makes {v}.", "{e} makes {v} and nothing else."),
        ),
        ("What does {e} make?", "What is the product of {e}?"),
    ),
    Attribute(
        "company", "opened", "year", ("opening", "opened"),
        (
            ("The opening of {e} was in {v}.", "{e} celebrated its opening in {v}."),
            ("{e} opened in {v}.", "It was in {v} that {e} opened."),
        ),
        ("In which year did {e} open?", "What is the year of opening of {e}?"),
    ),
    Attribute(
        "company", "founder", "person", ("founder", "started"),
        (
            ("The founder of {e} is {v}.", "{e} is named after nobody; its founder is {v}."),
            ("{v} started {e}.", "{v} started {e} with borrowed money."),
        ),
        ("Who is the founder of {e}?", "Who started {e}?"),
        "the founder of {e}",
    ),
    Attribute(
        "company", "seat", "town", ("seat", "based"),
        (
            ("The seat of {e} is {v}.", "{e} has its seat in {v}."),
            ("{e} is based in {v}.", "Since the beginning {e} has been based in {v}."),
        ),
        ("In which town is the seat of {e}?", "Where is {e} based?"),
        "the seat of {e}",
    ),
    Attribute(
        "book", "genre", "genre", ("genre", "kind"),
        (
            ("The genre of {e} is {v}.", "By genre, {e} is a {v}."),
            ("{e} is a kind of {v}.", "Readers take {e} for a kind of {v}."),
        ),
        ("What is the genre of {e}?", "What kind of book is {e}?"),
    ),
    Attribute(
        "book", "published", "year", ("publication", "published"),
        (
            ("The publication of {e} was in {v}.", "{e} caused a stir on its publication in {v}."),
            ("{e} was published in {v}.", "It was in {v} that {e} was published."),
        ),
        ("In which year was {e} published?", "What is the year of publication of {e}?"),
    ),
    Attribute(
        "book", "author", "person", ("author", "wrote"),
        (
            ("The author of {e} is {v}.", "{e} made its author, {v}, famous."),
            ("{v} wrote {e}.", "{v} wrote {e} in one winter."),
        ),
        ("Who is the author of {e}?", "Who wrote {e}?"),
        "the author of {e}",
    ),
    Attribute(
        "book", "setting", "town", ("setting", "happens"),
        (
            ("The setting of {e} is {v}.", "{e} has {v} as its setting."),
            ("{e} happens in {v}.", "All of {e} happens in {v}."),
        ),
        ("In which town does {e} happen?", "What is the setting of {e}?"),
        "the setting of {e}",
    ),
)  # fmt: skip

BY_KEY: Mapping[str, Attribute] = {attribute.key: attribute for attribute in ATTRIBUTES}

COMPARISONS: Mapping[str, str] = {
    "person.born": "Who was born {order}, {a} or {b}?",
    "town.founded": "Which town was founded {order}, {a} or {b}?",
    "company.opened": "Which company opened {order}, {a} or {b}?",
    "book.published": "Which book was published {order}, {a} or {b}?",
}
"""Questions that compare the years of two entities; the order is earlier or later."""


def attributes_of(kind: str) -> tuple[Attribute, ...]:
    """In a fixed order."""
    return tuple(attribute for attribute in ATTRIBUTES if attribute.kind == kind)
