"""The device: its tools, what they keep, and how far what was kept is what was asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from masa_training.environments.tool_calls import Call, Tool, as_integer, as_name

Record = tuple[str, Mapping[str, Any]]
"""A change: the tool that makes it and its arguments. As something asked for, a list of beginnings of words stands
for a text."""


def _tool(name: str, description: str, /, **parameters: Mapping[str, Any]) -> Tool:
    schema = {"type": "object", "properties": parameters, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}
_ROOM = {"type": "string", "enum": ["kitchen", "bedroom", "bathroom", "lounge", "office", "nursery"]}


def _one_of(*names: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)}


TOOLS: tuple[Tool, ...] = (
    _tool(
        "add_reminder",
        "Adds a reminder.",
        text=_TEXT,
        list=_one_of("red", "blue", "green", "yellow", "white"),
        day=_TEXT,
        time=_TEXT,
    ),
    _tool(
        "add_event",
        "Adds an event to a calendar.",
        title=_TEXT,
        calendar=_one_of("work", "home"),
        day=_TEXT,
        start=_TEXT,
        minutes=_NUMBER,
    ),
    _tool("set_light", "Sets the light of a room, 0 to 100.", room=_ROOM, level=_NUMBER),
    _tool("set_heating", "Sets the heating of a room, in degrees.", room=_ROOM, degrees=_NUMBER),
    _tool(
        "add_item",
        "Puts an item on a shopping list.",
        shop=_one_of("market", "bakery", "pharmacy", "grocer"),
        item=_TEXT,
        quantity=_NUMBER,
    ),
    _tool(
        "send_message",
        "Sends a message to an address.",
        to=_TEXT,
        channel=_one_of("chat", "mail", "sms"),
        text=_TEXT,
    ),
    _tool("add_note", "Adds a note.", folder=_one_of("log", "ideas", "recipes"), text=_TEXT),
    _tool("find_contact", "Shows a person's group and address.", name=_TEXT),
    _tool("find_event", "Shows events of the calendar by words of their title.", title=_TEXT),
    _tool("find_note", "Shows notes by words in them.", words=_TEXT),
)

APPS: Mapping[str, tuple[str, ...]] = {
    "reminder": ("add_event", "add_reminder"),
    "event": ("add_event", "add_reminder"),
    "home": ("set_heating", "set_light"),
    "shopping": ("add_item", "add_note"),
    "message": ("find_contact", "send_message"),
    "follow_up": ("find_event", "find_note", "find_contact", "add_reminder", "add_note", "send_message"),
}
"""The tools that a request is about, by task type."""

_PARAMETERS = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in TOOLS}
_LOOKED_IN = {"find_contact": "contacts", "find_event": "events", "find_note": "notes"}
_SETTINGS = ("set_light", "set_heating")
_WORD = re.compile(r"\d+:\d+|[^\W_]+")


class Device:
    """What an episode changes: records, settings of rooms, and what was looked up."""

    def __init__(self, stored: Mapping[str, Sequence[str]]) -> None:
        """`stored` has the lines of `contacts`, `events` and `notes`."""
        self._stored = stored
        self._shown: set[str] = set()
        self.changes: list[Record] = []
        self.count = 0
        """Calls that changed something; of settings, later ones replace earlier ones in `changes`."""

    def take(self, call: Call) -> tuple[str, bool]:
        """What a call that is understood answers, and whether anything changed or is newly known."""
        if call.name in _LOOKED_IN:
            return self._look(call)
        addresses = [line.rpartition(" ")[2] for line in self._stored.get("contacts", ())]
        if call.name == "send_message" and as_name(call.arguments["to"]) not in addresses:
            return "There is no such address; find_contact shows addresses.", False
        record = (call.name, {name: _kept(call.name, name, value) for name, value in call.arguments.items()})
        if record in self.changes:
            return "That is so already.", False
        if call.name in _SETTINGS:
            room = record[1]["room"]
            self.changes = [(n, r) for n, r in self.changes if n != call.name or r["room"] != room]
        self.changes.append(record)
        self.count += 1
        return "Done.", True

    def _look(self, call: Call) -> tuple[str, bool]:
        (wanted,) = call.arguments.values()
        words = set(compared(str(wanted)))
        found = [line for line in self._stored[_LOOKED_IN[call.name]] if words & set(compared(line.partition(":")[0]))]
        news = set(found) - self._shown
        self._shown |= news
        return "\n".join(found) or "Nothing found.", bool(news)


def share_right(asked: Sequence[Record], made: Sequence[Record]) -> float:
    """Values that are right, of those that were asked for and of those of changes that nobody asked for, 0 to 1.

    Every change made counts for at most one that was asked for, of the same tool, so that the share is greatest.
    """
    total = sum(len(fields) for _, fields in asked)
    best = 0.0
    for order in permutations(range(max(len(asked), len(made))), len(asked)):
        right, met = 0, set()
        for record, number in zip(asked, order, strict=True):
            if number < len(made) and made[number][0] == record[0]:
                right += _right(record[1], made[number][1])
                met.add(number)
        extra = sum(len(fields) for number, (_, fields) in enumerate(made) if number not in met)
        best = max(best, right / (total + extra))
    return best


def _right(asked: Mapping[str, Any], made: Mapping[str, Any]) -> int:
    return sum(_equal(value, made.get(name)) for name, value in asked.items())


def compared(text: str) -> list[str]:
    """The words by which a text is compared: small letters, without the s of a plural, times whole."""
    return [word if len(word) < 4 or not word.endswith("s") else word[:-1] for word in _WORD.findall(text.casefold())]


def _equal(asked: object, made: object) -> bool:
    if isinstance(asked, list):
        words = compared(str(made))
        return all(any(word.startswith(wanted) for word in words) for wanted in asked)
    if isinstance(asked, int):
        return asked == made
    return str(asked).casefold() == str(made).strip().casefold()


def _kept(tool: str, name: str, value: object) -> object:
    """A value as it is kept: numbers as numbers, words of an enumeration as they are spelt."""
    wanted = _PARAMETERS[tool][name]
    if wanted["type"] == "integer":
        return as_integer(value)
    return as_name(value) if "enum" in wanted else str(value).strip()
