"""The device: its tools, and what they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from masa_training.environments.changes import Record, compared
from masa_training.environments.tool_calls import Call, Tool, as_integer, as_name


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


def _kept(tool: str, name: str, value: object) -> object:
    """A value as it is kept: numbers as numbers, words of an enumeration as they are spelt."""
    wanted = _PARAMETERS[tool][name]
    if wanted["type"] == "integer":
        return as_integer(value)
    return as_name(value) if "enum" in wanted else str(value).strip()
