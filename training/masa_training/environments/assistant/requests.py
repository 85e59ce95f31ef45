"""What users ask for: requests by type and split, each with what has to be so in the end and the calls that do it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masa_training.environments.assistant import conventions as ways
from masa_training.environments.changes import compared
from masa_training.environments.protocol import Split

TASK_TYPES = ("reminder", "event", "home", "shopping", "message", "follow_up")
PER_TYPE = 100

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    Attributes:
        today: the weekday that the device shows.
        calls: (tool, arguments) that do what is asked, looking up included.
        texts: words that a free text among the arguments has to hold, by number of the call and argument.
        stored: lines of the device's contacts, events and notes.
    """

    type: str
    text: str
    today: str
    calls: tuple[tuple[str, dict[str, Any]], ...]
    texts: Mapping[tuple[int, str], Sequence[str]]
    stored: Mapping[str, Sequence[str]]

    def payload(self) -> dict[str, Any]:
        """As JSON values."""
        asked = []
        for number, (name, arguments) in enumerate(self.calls):
            if not name.startswith("find_"):
                values = {key: self.texts.get((number, key), value) for key, value in arguments.items()}
                asked.append({"name": name, "arguments": {k: _json(v) for k, v in values.items()}})
        return {
            "today": self.today,
            "asked": asked,
            "calls": [{"name": name, "arguments": arguments} for name, arguments in self.calls],
            "stored": {name: list(lines) for name, lines in self.stored.items()},
        }


def make_requests(seed: int, difficulty: float, split: Split) -> tuple[Request, ...]:
    """`PER_TYPE` of each type, the types taking turns; no two have the same text."""
    columns = []
    for type_ in TASK_TYPES:
        rng = random.Random(f"assistant {seed} {split} {type_}")
        found: dict[str, Request] = {}
        # Few things and rooms make few texts, which the day tells apart; hard draws bring more.
        for attempt in range(40 * PER_TYPE):
            make = _Maker(rng, min(1.0, difficulty + attempt / (40 * PER_TYPE) * 0.2), split)
            request = make.request(type_)
            found.setdefault(request.text, request)
            if len(found) == PER_TYPE:
                break
        columns.append(list(found.values()))
    longest = max(map(len, columns))
    return tuple(column[row] for row in range(longest) for column in columns if row < len(column))


# By split: people, things and wordings that no other split has. Rooms and what is said of days and numbers are common.

_PEOPLE: Mapping[Split, tuple[str, ...]] = {
    "train": ("Anna", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hugo", "Irene", "Jasper"),
    "val": ("Karim", "Lena", "Marco", "Nadia", "Oskar", "Priya", "Quentin", "Rosa", "Stefan", "Thea"),
    "test": ("Ulrich", "Vera", "Wanda", "Yusuf", "Zoe", "Aaron", "Bianca", "Cyril", "Dora", "Emil"),
}
_TO_REMEMBER: Mapping[Split, Mapping[str, tuple[str, ...]]] = {
    "train": {
        "health": ("take the pills", "call the doctor", "book the eye test"),
        "money": ("pay the rent", "send the tax form", "check the bank account"),
        "house": ("water the plants", "clean the windows", "take out the bins"),
        "people": ("buy a present for grandma", "phone the cousins", "write to the neighbours"),
    },
    "val": {
        "health": ("see the dentist", "renew the prescription", "measure my blood pressure"),
        "money": ("pay the electricity bill", "transfer the savings", "ask for the invoice"),
        "house": ("sweep the balcony", "mow the lawn", "oil the garage door"),
        "people": ("phone my sister", "congratulate the newlyweds", "visit my uncle"),
    },
    "test": {
        "health": ("collect the lab results", "change the bandage", "book the vaccination"),
        "money": ("pay the insurance", "cancel the credit card", "file the receipts"),
        "house": ("defrost the freezer", "feed the fish", "fix the tap"),
        "people": ("send a card to my aunt", "call my brother", "thank the hosts"),
    },
}
_EVENTS: Mapping[Split, Mapping[str, tuple[str, ...]]] = {
    "train": {
        "meeting": ("budget meeting", "team meeting"),
        "call": ("call with the supplier", "call with the bank"),
        "meal": ("lunch with the parents", "dinner with the neighbours"),
        "sport": ("tennis", "swimming"),
    },
    "val": {
        "meeting": ("sales meeting", "planning meeting"),
        "call": ("call with the landlord", "call with the printer"),
        "meal": ("breakfast with the twins", "dinner with the cousins"),
        "sport": ("yoga", "football"),
    },
    "test": {
        "meeting": ("board meeting", "design meeting"),
        "call": ("call with the lawyer", "call with the school"),
        "meal": ("brunch with the godparents", "lunch with the choir"),
        "sport": ("badminton", "climbing"),
    },
}
_ITEMS: Mapping[Split, Mapping[str, tuple[str, ...]]] = {
    "train": {
        "fruit and vegetables": ("apple", "carrot", "lemon"),
        "bread and cake": ("bagel", "cheesecake"),
        "medicine": ("aspirin", "plaster"),
        "other": ("battery", "sponge", "envelope"),
    },
    "val": {
        "fruit and vegetables": ("pear", "cucumber", "onion"),
        "bread and cake": ("croissant", "muffin"),
        "medicine": ("cough syrup", "bandage"),
        "other": ("candle", "light bulb", "pencil"),
    },
    "test": {
        "fruit and vegetables": ("peach", "leek", "melon"),
        "bread and cake": ("baguette", "doughnut"),
        "medicine": ("eye drops", "thermometer"),
        "other": ("notebook", "bin bag", "toothbrush"),
    },
}
_NEWS: Mapping[Split, tuple[str, ...]] = {
    "train": ("the train is late", "dinner is ready", "the keys are found", "the car is fixed"),
    "val": ("the flight is cancelled", "the parcel arrived", "the room is booked", "the door is open"),
    "test": ("the boiler is broken", "the tickets are sold out", "the bus is full", "the contract is signed"),
}
_NOTES: Mapping[Split, tuple[tuple[str, str], ...]] = {
    "train": (("door code", "4471"), ("wifi password", "maple82"), ("flight number", "KL603")),
    "val": (("locker code", "9035"), ("alarm code", "1186"), ("booking number", "RX77")),
    "test": (("safe code", "2750"), ("garage code", "6614"), ("order number", "TB29")),
}
_WORDINGS: Mapping[Split, Mapping[str, tuple[str, ...]]] = {
    "train": {
        "reminder": ("Remind me to {what} {when}.", "Please remind me {when} to {what}."),
        "event": ("Put {what} into my calendar {when}.", "I have {what} {when}; add it to the calendar."),
        "light": ("Make the light in the {room} {level}.", "Set the {room} light to {level}."),
        "off": ("Turn the light in the {room} off.", "Switch off the light in the {room}."),
        "warmth": ("Make it {level} in the {room}.", "Set the heating in the {room} to {level}."),
        "shopping": ("Put {items} on the shopping list.", "We need {items}."),
        "message": ("Tell {name} that {news}.", "Write to {name} that {news}."),
        "recall": ("Remind me of the {event}.", "Give me a reminder for the {event}."),
        "record": ("Note down when the {event} is.", "Write a note of when the {event} is."),
        "share": ("Tell {name} when the {event} is.", "Let {name} know when the {event} is."),
        "pass": ("Send {name} the {topic}.", "Write the {topic} to {name}."),
    },
    "val": {
        "reminder": ("I have to {what} {when}, remind me.", "Set a reminder {when}: {what}."),
        "event": ("Add {what} to my calendar {when}.", "Schedule {what} {when}."),
        "light": ("I want {level} light in the {room}.", "Light in the {room}: {level}, please."),
        "off": ("No light in the {room}, please: turn it off.", "Light off in the {room}, please."),
        "warmth": ("I want it {level} in the {room}.", "Heating in the {room}: {level}, please."),
        "shopping": ("Please add {items} to what we have to buy.", "I need to buy {items}."),
        "message": ("Let {name} know that {news}.", "Send {name} a message that {news}."),
        "recall": ("I must not forget the {event}: set a reminder.", "Make a reminder of the {event}."),
        "record": ("Keep a note of when the {event} takes place.", "Put it into my notes when the {event} is."),
        "share": ("Inform {name} when the {event} is.", "Send {name} the day and time of the {event}."),
        "pass": ("{name} needs the {topic}, send it.", "Let {name} have the {topic}."),
    },
    "test": {
        "reminder": ("Don't let me forget to {what} {when}.", "I need a reminder {when} to {what}."),
        "event": ("Book {what} {when} in my calendar.", "Enter {what} {when} in the calendar."),
        "light": ("The light in the {room} should be {level}.", "Give me {level} light in the {room}."),
        "off": ("The light in the {room} should be off.", "Can you put out the light in the {room}?"),
        "warmth": ("It should be {level} in the {room}.", "Heat the {room} to {level}."),
        "shopping": ("Could you put down {items} for shopping?", "Next time I shop I want to get {items}."),
        "message": ("Message {name}: {news}.", "{name} should know that {news}; write a message."),
        "recall": ("I'd like to be reminded of the {event}.", "Set up a reminder about the {event}."),
        "record": ("Make a note with the day and time of the {event}.", "Save in my notes when the {event} is."),
        "share": ("Message {name} when the {event} is.", "{name} wants to know when the {event} is; write a message."),
        "pass": ("Message {name} the {topic}.", "{name} asks for the {topic}; send it."),
    },
}


class _Maker:
    """Draws one request."""

    def __init__(self, rng: random.Random, difficulty: float, split: Split) -> None:
        self.rng = rng
        self.split: Split = split
        self.today = rng.randrange(7)
        self._difficulty = difficulty
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.texts: dict[tuple[int, str], list[str]] = {}
        people = rng.sample(_PEOPLE[split], 4)
        self.contacts = {
            name: (rng.choice(tuple(ways.CHANNELS)), f"{name.lower()}{rng.randrange(10, 100)}") for name in people
        }
        kinds = [(kind, title) for kind, titles in _EVENTS[split].items() for title in titles]
        self.events = {
            title: (rng.randrange(7), f"{rng.randrange(8, 20):02d}:{rng.choice(('00', '15', '30'))}")
            for _, title in rng.sample(kinds, 3)
        }
        self.notes = dict(rng.sample(_NOTES[split], 2))

    def request(self, type_: str) -> Request:
        make: Callable[[], str] = getattr(self, f"_{type_}")
        text = make()
        stored = {
            "contacts": [f"{name}: {group}, address {at}" for name, (group, at) in self.contacts.items()],
            "events": [f"{title}: {ways.DAYS[day]} {time}" for title, (day, time) in self.events.items()],
            "notes": [f"{topic}: {content}" for topic, content in self.notes.items()],
        }
        return Request(type_, text, _WEEKDAYS[self.today], tuple(self.calls), self.texts, stored)

    def hard(self) -> bool:
        return self.rng.random() < self._difficulty

    def say(self, wording: str, **slots: str) -> str:
        text = self.rng.choice(_WORDINGS[self.split][wording]).format(**slots)
        return " ".join(text.replace(" .", ".").replace(" ,", ",").replace(" :", ":").replace(" ;", ";").split())

    def call(self, tool: str, texts: Mapping[str, Sequence[str]] | None = None, /, **arguments: Any) -> None:
        """Add a call; `texts` are words that its free texts have to hold."""
        for key, words in (texts or {}).items():
            self.texts[len(self.calls), key] = [word for text in words for word in compared(text)]
        self.calls.append((tool, arguments))

    def when(self, default: str) -> tuple[str, str, str]:
        """A day and a time: as the user says them, the day and the time as they are written."""
        if self.hard():
            ahead, said = self.rng.choice(((0, "today"), (1, "tomorrow"), (2, "the day after tomorrow")))
            day = (self.today + ahead) % 7
        else:
            day = self.rng.randrange(7)
            said = f"on {_WEEKDAYS[day]}"
        if self.hard():
            way = self.rng.choice(("part", "none", "pm"))
            if way == "part":
                part = self.rng.choice(tuple(ways.PARTS))
                return f"{said} in the {part}", ways.DAYS[day], ways.PARTS[part]
            if way == "none":
                return said, ways.DAYS[day], default
            hour = self.rng.randrange(1, 10)
            return f"{said} at {hour} pm", ways.DAYS[day], f"{hour + 12}:00"
        time = f"{self.rng.randrange(8, 21):02d}:{self.rng.choice(('00', '15', '30', '45'))}"
        return f"{said} at {time}", ways.DAYS[day], time

    def _reminder(self) -> str:
        subject = self.rng.choice(tuple(ways.LISTS))
        what = self.rng.choice(_TO_REMEMBER[self.split][subject])
        said, day, time = self.when(ways.REMINDER_TIME)
        last = compared(what)[-1]
        self.call("add_reminder", {"text": [last]}, text=what, list=ways.LISTS[subject], day=day, time=time)
        return self.say("reminder", what=what, when=said)

    def _event(self) -> str:
        kind = self.rng.choice(tuple(ways.EVENTS))
        what = self.rng.choice(_EVENTS[self.split][kind])
        minutes, calendar = ways.EVENTS[kind]
        said, day, start = self.when(ways.EVENT_TIME)
        key = compared(what)[-1] if kind in ("call", "meal") else compared(what)[0]
        self.call("add_event", {"title": [key]}, title=what, calendar=calendar, day=day, start=start, minutes=minutes)
        named = what if kind == "sport" else f"a {what}"
        return self.say("event", what=named, when=said)

    def _home(self) -> str:
        said = []
        rooms = self.rng.sample(("kitchen", "bedroom", "bathroom", *ways.ROOMS), 2 if self.hard() else 1)
        for name in rooms:
            room = ways.ROOMS.get(name, name)
            if self.rng.random() < 0.6:
                word = self.rng.choice(tuple(ways.LIGHTS))
                self.call("set_light", room=room, level=ways.LIGHTS[word])
                said.append(self.say("off" if word == "off" else "light", room=name, level=word))
            else:
                word = self.rng.choice(tuple(ways.HEATING))
                level = "night temperature" if word == "night" else word
                self.call("set_heating", room=room, degrees=ways.HEATING[word])
                said.append(self.say("warmth", room=name, level=level))
        return " ".join(said)

    def _shopping(self) -> str:
        count = 1 + self.hard() + (self.hard() and self.hard())
        said = []
        for kind in self.rng.sample(tuple(ways.SHOPS), count):
            item = self.rng.choice(_ITEMS[self.split][kind])
            if self.hard():
                words, quantity = self.rng.choice(tuple(ways.QUANTITIES.items()))
            else:
                quantity = self.rng.randrange(2, 9)
                words = str(quantity)
            several = item if item.endswith("s") else f"{item[:-1]}ies" if item.endswith("ry") else f"{item}s"
            one = item if item.endswith("s") else f"a {item}"
            one = f"an {item}" if item[0] in "aeiou" and not item.endswith("s") else one
            several = "peaches" if item == "peach" else "toothbrushes" if item == "toothbrush" else several
            said.append(f"{words} {several}" if words else one)
            # Either number of the word will do.
            stem = item.removesuffix("s").removesuffix("y").split()[-1]
            self.call("add_item", {"item": [stem]}, shop=ways.SHOPS[kind], item=item, quantity=quantity)
        listed = ", ".join(said[:-1]) + (" and " if said[:-1] else "") + said[-1]
        return self.say("shopping", items=listed)

    def _message(self) -> str:
        said = []
        news = self.rng.sample(_NEWS[self.split], 2)
        for name in self.rng.sample(list(self.contacts), 2 if self.hard() else 1):
            what = news.pop()
            self._send(name, [compared(what)[-1], compared(what)[1]], what)
            said.append(self.say("message", name=name, news=what))
        return " ".join(said)

    def _send(self, name: str, words: Sequence[str], text: str) -> None:
        group, address = self.contacts[name]
        if ("find_contact", {"name": name}) not in self.calls:
            self.call("find_contact", name=name)
        self.call("send_message", {"text": words}, to=address, channel=ways.CHANNELS[group], text=text)

    def _follow_up(self) -> str:
        event = self.rng.choice(list(self.events))
        (topic, content) = self.rng.choice(list(self.notes.items()))
        day, time = self.events[event]
        name = self.rng.choice(list(self.contacts))
        kinds = ["recall", "record"] if not self.hard() else ["share", "pass"]
        chosen = [self.rng.choice(kinds)]
        if self.hard() and self.hard():
            chosen.append(self.rng.choice(["recall", "record"]) if kinds[0] == "share" else "share")
        said = []
        looked = False
        for kind in chosen:
            if kind != "pass" and not looked:
                self.call("find_event", title=event)
                looked = True
            elif kind == "pass":
                self.call("find_note", words=topic)
            written = ways.DAYS[day]
            key = compared(event)[-1] if " with " in event else compared(event)[0]
            if kind == "recall":
                reminders, hour = ways.EVENT_REMINDER
                self.call("add_reminder", {"text": [key]}, text=event, list=reminders, day=written, time=hour)
            elif kind == "record":
                note = f"{event}: {written} {time}"
                self.call("add_note", {"text": [key, written, time]}, folder=ways.EVENT_FOLDER, text=note)
            elif kind == "share":
                self._send(name, [key, written, time], f"{event}: {written} {time}")
            else:
                self._send(name, [content], f"{topic}: {content}")
            said.append(self.say(kind, event=event, name=name, topic=topic))
        return " ".join(said)


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
