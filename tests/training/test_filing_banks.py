"""The banks of `filing`: every convention stands in every bank, in other words, and nowhere else."""

from __future__ import annotations

import json
import re

import pytest

from masa_training.environments import SPLITS
from masa_training.environments.filing import Filing, conventions
from tests.training.wordings import Fact, Wordings

# By skill, what its text must state: words that stand close together, or single ones.
FACTS: dict[str, list[Fact]] = {
    "fig_001": [("year", "month", "day"), ("two digits",), ("7 May 2023", "2023-05-07")],
    "fig_002": [("firm", "first word"), ("person", "last name"), ("small letters",)],
    "fig_003": [(conventions.JOIN,), ("no blanks",), ("no ending",)],
    "fig_004": [("first file",), ("pass",), *conventions.LABELS.items()],
    "fig_005": [("one command",), ("no label",)],
    "fib_001": [(drawer,) for drawer in conventions.BILLS],
    "fib_002": [("use file",), ("date", "firm")],
    "fil_001": [(drawer,) for drawer in conventions.LETTERS],
    "fil_002": [("use file",), ("sender", "date")],
    "fir_001": [(drawer,) for drawer in conventions.RECEIPTS],
    "fir_002": [("use file",), ("shop", "euros"), ("without", "cents"), ("57.90", "57")],
    "fiw_001": [(conventions.WARRANTIES,)],
    "fiw_002": [("use file",), ("thing",), ("year", "bought"), ("2021", "4 years", "2025")],
    "fip_001": list(conventions.POST.items()),
    "fip_002": [("pass", "person")],
    "fia_001": [("discard",), ("garden",)],
    "fia_002": [("garden", "pass mira")],
}
BANKS = Wordings(
    "filing",
    ("concise", "moderate", "stepwise", "examples"),
    FACTS,
    # Shorter ways to say the same.
    {"file; ": "use file. ", "no blanks in it and no": "no blanks, no"},
)


def test_every_bank_states_every_convention_in_words_of_its_own() -> None:
    BANKS.check(Filing.task_types, concise=25, moderate=(20, 50))


@pytest.mark.parametrize(
    ("skill", "old", "new"),
    [("fib_001", "car", "bus"), ("fip_001", "paul", "mira"), ("fir_002", "57", "58"), ("fig_004", "blue", "red")],
)
def test_a_bank_that_states_something_else_is_found(skill: str, old: str, new: str) -> None:
    for wording in BANKS.names:
        texts = BANKS.texts(wording)
        assert BANKS.missing({**texts, skill: texts[skill].replace(old, new)})


def test_banks_name_no_firm_person_or_subject_that_is_played() -> None:
    told = " ".join(text for wording in BANKS.names for text in BANKS.texts(wording).values()).lower()
    played = {
        part
        for split in SPLITS
        for task in Filing().tasks(split)
        for command in task.payload["commands"]
        if command.startswith("file")
        for part in command.split()[2].split("_")
        if not part.isdecimal()
    }
    assert len(played) > 400
    assert [part for part in sorted(played) if re.search(rf"(?<![\w-]){re.escape(part)}(?![\w-])", told)] == []


def test_no_convention_is_told_by_commands_or_papers() -> None:
    world = Filing()
    tasks = world.tasks("val")
    told = json.dumps([task.goal for task in tasks]).lower()
    values = {conventions.WARRANTIES, "discard", "label", "file"}
    assert [value for value in sorted(values) if re.search(rf"\b{value}\b", told)] == []
