"""The papers: what is read on them, by type and split, and the commands that they call for."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from masa_training.environments.filing import conventions as ways
from masa_training.environments.protocol import Split

TASK_TYPES = ("bill", "letter", "receipt", "warranty", "post", "advert")
PER_TYPE = 100

_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October")
_YEARS = (2024, 2025, 2026)


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper: its text, and the commands that deal with it, in an order that reads well."""

    type: str
    text: str
    commands: tuple[str, ...]


def make_papers(seed: int, difficulty: float, split: Split) -> tuple[Paper, ...]:
    """`PER_TYPE` of each type, the types taking turns; no two have the same text."""
    columns = []
    for type_ in TASK_TYPES:
        rng = random.Random(f"filing {seed} {split} {type_}")
        found: dict[str, Paper] = {}
        # Each type has several times as many texts; dates tell them apart.
        while len(found) < PER_TYPE:
            paper = _Maker(rng, difficulty, split).paper(type_)
            found.setdefault(paper.text, paper)
        columns.append(list(found.values()))
    return tuple(paper for row in zip(*columns, strict=True) for paper in row)


# By split: firms, people, things and wordings that no other split has.

_FIRMS: Mapping[Split, tuple[str, ...]] = {
    "train": ("Norwood Ltd", "Alder Inc", "Pexton Co", "Quill Ltd", "Sandrock Inc", "Tamar Co"),
    "val": ("Brixley Ltd", "Halden Inc", "Juniper Co", "Kestrel Ltd", "Marlow Inc", "Ostrava Co"),
    "test": ("Cobalt Ltd", "Dunmore Inc", "Fenwick Co", "Garnet Ltd", "Lomax Inc", "Varley Co"),
}
_PEOPLE: Mapping[Split, tuple[str, ...]] = {
    "train": ("Ada Thorn", "Bela Novak", "Cleo Marsh", "Dario Fuchs", "Edith Crane", "Filip Storm"),
    "val": ("Gita Rahman", "Henrik Dahl", "Ines Castro", "Jonas Reed", "Kira Lindt", "Leo Bishop"),
    "test": ("Maya Ortiz", "Niklas Ford", "Olga Petrov", "Pablo Ruiz", "Rita Blum", "Simon Voss"),
}
_SUBJECTS: Mapping[Split, Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "train": {
        "bill": {
            "energy": ("electricity", "heating oil"),
            "phone": ("the telephone line", "the mobile phone"),
            "car": ("new tyres for the car", "an inspection of the car"),
            "insurance": ("the fire insurance", "the travel insurance"),
        },
        "letter": {
            "health": ("a blood test", "an appointment at the hospital"),
            "school": ("the timetable of the school", "a school trip"),
            "council": ("the town council's plan for the street", "the council's parking rules"),
            "club": ("the summer party of the rowing club", "the chess club's fees"),
        },
        "receipt": {
            "tools": ("a hammer", "a drill"),
            "clothes": ("a coat", "two shirts"),
            "food": ("bread and cheese", "coffee"),
            "books": ("a novel", "an atlas"),
        },
        "warranty": {"": ("kettle", "printer", "bicycle", "radio")},
        "advert": {
            "garden": ("garden chairs", "seeds for the garden"),
            "": ("a new television", "cheap flights", "pizza", "sunglasses"),
        },
    },
    "val": {
        "bill": {
            "energy": ("gas", "electric power"),
            "phone": ("phone calls", "the office phone"),
            "car": ("a repair of the car", "a new battery for the car"),
            "insurance": ("the household insurance", "the liability insurance"),
        },
        "letter": {
            "health": ("an X-ray", "the result of an eye test"),
            "school": ("a school concert", "the school's holidays"),
            "council": ("the council's new bus lane", "a hearing at the town council"),
            "club": ("a match of the tennis club", "the hiking club's next walk"),
        },
        "receipt": {
            "tools": ("a saw", "a set of wrenches"),
            "clothes": ("a pair of trousers", "a scarf"),
            "food": ("apples and milk", "rice"),
            "books": ("a dictionary", "a cookery book"),
        },
        "warranty": {"": ("toaster", "camera", "heater", "laptop")},
        "advert": {
            "garden": ("a lawn mower for the garden", "garden lamps"),
            "": ("a beach holiday", "carpets", "mobile phones", "a new restaurant"),
        },
    },
    "test": {
        "bill": {
            "energy": ("district heating", "solar power"),
            "phone": ("a phone contract", "calls abroad by phone"),
            "car": ("car wash and oil change", "parking the car"),
            "insurance": ("the health insurance", "the theft insurance"),
        },
        "letter": {
            "health": ("a vaccination", "a visit to the dentist"),
            "school": ("the school's canteen", "the open day of the school"),
            "council": ("the council's waste collection", "a vote of the town council"),
            "club": ("the sailing club's regatta", "the photo club's exhibition"),
        },
        "receipt": {
            "tools": ("a spirit level", "a chisel"),
            "clothes": ("a pair of shoes", "a jumper"),
            "food": ("tea and biscuits", "potatoes"),
            "books": ("a book of poems", "a travel guide"),
        },
        "warranty": {"": ("mixer", "monitor", "freezer", "watch")},
        "advert": {
            "garden": ("a garden fence", "bulbs for the garden"),
            "": ("perfume", "a gym", "sofas", "ice cream"),
        },
    },
}
_WORDINGS: Mapping[Split, Mapping[str, str]] = {
    "train": {
        "bill": "A bill from {firm}, dated {date}: {amount} euros for {what}.",
        "letter": "A letter from {person}, dated {date}, about {what}.",
        "receipt": "A receipt from {firm}, dated {date}: {amount} euros for {what}.",
        "warranty": "A warranty from {firm} for a {what}, bought in {year}; it holds for {years} years.",
        "post": "Post from {firm} of {date}: pass it on to {what}.",
        "advert": "An advert from {firm}, dated {date}, for {what}.",
        "not paid": "It is not paid yet.",
        "answer": "The sender wants an answer.",
        "sign": "It has to be signed.",
    },
    "val": {
        "bill": "{firm} sent a bill on {date}. It is about {what} and comes to {amount} euros.",
        "letter": "{person} wrote a letter about {what} on {date}.",
        "receipt": "{firm} gave this receipt on {date}: {what}, {amount} euros.",
        "warranty": "{firm} gives a warranty of {years} years on a {what} that was bought in {year}.",
        "post": "{firm} sent something on {date}; pass it to {what}.",
        "advert": "{firm} sent an advert on {date}; it offers {what}.",
        "not paid": "The bill is still to be paid.",
        "answer": "The letter asks for an answer.",
        "sign": "A signature is missing.",
    },
    "test": {
        "bill": "On {date} a bill came from {firm}: for {what}, {amount} euros.",
        "letter": "On {date} a letter came from {person}; its subject is {what}.",
        "receipt": "Paid at {firm} on {date}: {amount} euros for {what}. This is the receipt.",
        "warranty": "A {what} was bought from {firm} in {year}, with {years} years of warranty. This is the paper.",
        "post": "On {date} an envelope came from {firm}; {what} is to get it.",
        "advert": "On {date} an advert came from {firm}, for {what}.",
        "not paid": "Nobody has paid it so far.",
        "answer": "An answer is expected.",
        "sign": "Somebody must sign it.",
    },
}
_OPEN = {"bill": "not paid", "letter": "answer", "post": "sign"}
"""What may be left to do with a paper, by type."""


class _Maker:
    """Draws one paper."""

    def __init__(self, rng: random.Random, difficulty: float, split: Split) -> None:
        self._rng = rng
        self._words = _WORDINGS[split]
        self._subjects = _SUBJECTS[split]
        self._firm = rng.choice(_FIRMS[split])
        self._person = rng.choice(_PEOPLE[split])
        self._year = rng.choice(_YEARS)
        month, day = rng.randrange(len(_MONTHS)), rng.randrange(1, 29)
        self._said = f"{day} {_MONTHS[month]} {self._year}"
        self._date = f"{self._year}-{month + 1:02d}-{day:02d}"
        self._amount = f"{rng.randrange(12, 400)}.{rng.randrange(100):02d}"
        self._years = rng.randrange(2, 6)
        self._hard = rng.random() < difficulty

    def paper(self, type_: str) -> Paper:
        subjects = tuple(ways.POST if type_ == "post" else self._subjects[type_])
        subject = self._rng.choice(subjects)
        what = subject.capitalize() if type_ == "post" else self._rng.choice(self._subjects[type_][subject])
        make: Callable[[str, str], str] = getattr(self, f"_{type_}")
        commands = [make(subject, what)]
        text = self._words[type_].format(
            firm=self._firm,
            person=self._person,
            date=self._said,
            amount=self._amount,
            what=what,
            year=self._year,
            years=self._years,
        )
        if self._hard and type_ in _OPEN:
            text += f" {self._words[_OPEN[type_]]}"
            commands.append(f"label {ways.LABELS[_OPEN[type_]]}")
        return Paper(type_, text, tuple(commands))

    def _bill(self, subject: str, _: str) -> str:
        return _file(subject, self._date, _first(self._firm))

    def _letter(self, subject: str, _: str) -> str:
        return _file(subject, self._person.split()[-1].lower(), self._date)

    def _receipt(self, subject: str, _: str) -> str:
        return _file(subject, _first(self._firm), self._amount.split(".")[0])

    def _warranty(self, _: str, what: str) -> str:
        return _file(ways.WARRANTIES, what, str(self._year + self._years))

    def _post(self, subject: str, _: str) -> str:
        return f"pass {ways.POST[subject]}"

    def _advert(self, subject: str, _: str) -> str:
        return f"pass {ways.ADVERTS[subject]}" if subject in ways.ADVERTS else "discard"


def _first(firm: str) -> str:
    return firm.split()[0].lower()


def _file(drawer: str, *parts: str) -> str:
    return f"file {drawer} {ways.JOIN.join(parts)}"
