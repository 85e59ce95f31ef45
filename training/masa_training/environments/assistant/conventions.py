"""How the user of the device wants things done. Nothing of it is told in the tools or the requests.

The banks in `configs/banks/assistant` state all of it, and nothing else does; `tests/training/test_assistant_banks.py`
compares them with these tables.
"""

from __future__ import annotations

from collections.abc import Mapping

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""How a day is written."""

PARTS: Mapping[str, str] = {"morning": "08:00", "afternoon": "15:00", "evening": "19:00"}
"""What a part of the day means. Every time is written as hours and minutes of 24 hours."""

LISTS: Mapping[str, str] = {"health": "red", "money": "blue", "house": "green", "people": "yellow"}
"""The list of a reminder, by what it is about."""

REMINDER_TIME = "09:00"
"""Of a reminder for which the user says no time."""

EVENTS: Mapping[str, tuple[int, str]] = {
    "meeting": (45, "work"),
    "call": (20, "work"),
    "meal": (90, "home"),
    "sport": (60, "home"),
}
"""Minutes and calendar of an event, by kind."""

EVENT_TIME = "10:00"
"""Of an event for which the user says no time."""

LIGHTS: Mapping[str, int] = {"off": 0, "dim": 20, "bright": 90}
HEATING: Mapping[str, int] = {"cosy": 22, "night": 16}
ROOMS: Mapping[str, str] = {"den": "lounge", "study": "office", "baby's room": "nursery"}
"""What a word for light, heating or a room means."""

SHOPS: Mapping[str, str] = {
    "fruit and vegetables": "market",
    "bread and cake": "bakery",
    "medicine": "pharmacy",
    "other": "grocer",
}
QUANTITIES: Mapping[str, int] = {"": 1, "a couple of": 2, "a few": 3}
"""What a word for a number means; the first is none said."""

CHANNELS: Mapping[str, str] = {"family": "chat", "colleague": "mail", "tradesperson": "sms"}
"""How a person is written to, by the group that the contact shows."""

EVENT_REMINDER = ("white", "07:00")
"""List and time of a reminder of something in the calendar; its day is the event's."""

EVENT_FOLDER = "log"
"""The folder of a note on something in the calendar."""
