"""The banks of `assistant`: every convention stands in every bank, in other words, and nowhere else."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest

from masa.formats.skill_md import load_skill_folder, validate_skill_folder
from masa_training.environments import SPLITS
from masa_training.environments.assistant import Assistant, conventions
from masa_training.environments.assistant.device import TOOLS
from tests.training.wordings import Fact, Wordings

# By skill, what its text must state: pairs that stand close together, or single words.
FACTS: dict[str, list[Fact]] = {
    "asg_001": [(day,) for day in conventions.DAYS] + [("today",), ("tomorrow",)],
    "asg_002": [("24",), ("3 pm", "15:00")],
    "asg_003": list(conventions.PARTS.items()),
    "asg_004": list(conventions.CHANNELS.items()),
    "asg_005": [("find_contact",), ("find_event",), ("find_note",), ("exactly",)],
    "asg_006": [("one call",)],
    "asr_001": list(conventions.LISTS.items()),
    "asr_002": [(conventions.REMINDER_TIME,)],
    "asr_003": [("add_reminder",), ("day",), ("time",)],
    "ase_001": [(kind, str(minutes)) for kind, (minutes, _) in conventions.EVENTS.items()],
    "ase_002": [(kind, calendar) for kind, (_, calendar) in conventions.EVENTS.items()],
    "ase_003": [("add_event",), (conventions.EVENT_TIME,)],
    "ash_001": [("set_light",), *((word, str(level)) for word, level in conventions.LIGHTS.items())],
    "ash_002": [("set_heating",), *((word, str(level)) for word, level in conventions.HEATING.items())],
    "ash_003": [*conventions.ROOMS.items(), ("one call",)],
    "ass_001": [("add_item",), *conventions.SHOPS.items()],
    "ass_002": [(word or "none", str(number)) for word, number in conventions.QUANTITIES.items()],
    "ass_003": [("one add_item",), ("name",)],
    "asm_001": [("find_contact", "send_message"), ("address",), ("group",)],
    "asm_002": [("user's", "words")],
    "asf_001": [("find_event", "add_reminder"), *((value,) for value in conventions.EVENT_REMINDER)],
    "asf_002": [("find_event", "add_note"), (conventions.EVENT_FOLDER,), ("name", "day", "time")],
    "asf_003": [("find_note", "find_contact", "send_message"), ("find_event",), ("exactly", "shown")],
}
BANKS = Wordings(
    "assistant", ("concise", "moderate", "detailed", "stepwise", "examples"), FACTS, {"a meal with others": "meal"}
)


def test_every_convention_is_a_fact_of_some_skill() -> None:
    told = json.dumps(FACTS)
    for table in (conventions.PARTS, conventions.LISTS, conventions.ROOMS, conventions.SHOPS, conventions.CHANNELS):
        assert all(key in told and value in told for key, value in table.items())


def test_every_bank_states_every_convention_in_words_of_its_own() -> None:
    BANKS.check(Assistant.task_types, concise=20, moderate=(25, 50))
    detailed = [len(text.split()) for text in BANKS.texts("detailed").values()]
    assert min(detailed) >= 70 and max(detailed) <= 110


@pytest.mark.parametrize(
    ("skill", "old", "new"),
    [
        ("asr_001", "blue", "red"),
        ("ase_001", "90", "60"),
        ("asg_003", "19:00", "18:00"),
        ("asm_001", "find_contact", "x"),
    ],
)
def test_a_bank_that_states_something_else_is_found(skill: str, old: str, new: str) -> None:
    for wording in BANKS.names:
        texts = BANKS.texts(wording)
        assert BANKS.missing({**texts, skill: texts[skill].replace(old, new)})


def test_examples_are_calls_of_the_tools_and_of_nothing_that_is_played() -> None:
    functions = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in TOOLS}
    told = " ".join(BANKS.texts("examples").values())
    calls = re.findall(r'\{"name": "(\w+)", "arguments": (\{[^}]*\})\}', told)
    assert len(calls) >= 8
    assert all(set(json.loads(arguments)) == set(functions[name]) for name, arguments in calls)
    world = Assistant(difficulty=1)
    played = {
        line.partition(":")[0].lower()
        for split in SPLITS
        for task in world.tasks(split)
        for lines in task.payload["stored"].values()
        for line in lines
    } | {
        str(call["arguments"]["item"])
        for split in SPLITS
        for task in world.tasks(split)
        for call in task.payload["calls"]
        if "item" in call["arguments"]
    }
    everything = " ".join(text for wording in BANKS.names for text in BANKS.texts(wording).values()).lower()
    assert [name for name in sorted(played) if re.search(rf"\b{re.escape(name)}\b", everything)] == []


@pytest.mark.parametrize("wording", BANKS.names)
def test_the_folders_say_the_same_as_the_bank(wording: str) -> None:
    # A folder of the name `examples` never gets into a wheel (tests/test_packaging.py).
    with resources.as_file(BANKS.root / "folders" / ("with-examples" if wording == "examples" else wording)) as path:
        folder = Path(path)
        found = load_skill_folder(folder)
        problems = [problem for one in sorted(folder.iterdir()) for problem in validate_skill_folder(one)]
    assert problems == []
    told = " ".join(" ".join(skill.principle.split()) for group in found.groups() for skill in group.skills)
    for text in BANKS.texts(wording).values():
        assert " ".join(text.split()) in told
