import re
from importlib import resources

import pytest

from masa.edits import EDITS
from masa.formats import load_bank
from masa.formats.bank_json import dump_bank
from masa.skills import Skill, SkillBank
from masa_training.environments import SPLITS
from masa_training.environments.lookup import Lookup
from masa_training.environments.lookup.questions import TASK_TYPES as LOOKUP_TYPES
from masa_training.environments.lookup.world import open_world

WORDINGS = ("concise", "moderate", "detailed", "stepwise")
HOUSEHOLD_TYPES = ("pick_and_place", "look_at_obj_in_light", "clean", "heat", "cool", "pick_two_obj_and_place")
TYPES = {"lookup": LOOKUP_TYPES, "household": HOUSEHOLD_TYPES}
NUMBERED = re.compile(r"^\d+\. \S", re.MULTILINE)


def shipped(environment: str, wording: str) -> SkillBank:
    found = resources.files("masa_training.configs") / "banks" / environment / f"{wording}.json"
    with resources.as_file(found) as path:
        return load_bank(path)


def skills(bank: SkillBank) -> list[Skill]:
    return [skill for group in bank.groups() for skill in group.skills]


@pytest.mark.parametrize("environment", TYPES)
def test_the_four_wordings_are_of_the_same_skills(environment: str) -> None:
    heads = {
        wording: [
            (group.key, skill.skill_id, skill.title, skill.when_to_apply)
            for group in shipped(environment, wording).groups()
            for skill in group.skills
        ]
        for wording in WORDINGS
    }
    assert len({tuple(its) for its in heads.values()}) == 1
    ids = [head[1] for head in heads["concise"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("environment", TYPES)
def test_every_task_type_has_skills_of_its_own(environment: str) -> None:
    bank = shipped(environment, "moderate")
    assert set(bank.task_specific) == set(TYPES[environment])
    assert len(bank.general) == 6
    assert all(len(its) == 3 for its in bank.task_specific.values())


def test_the_names_of_task_types_are_the_environments_own() -> None:
    pytest.importorskip("alfworld")
    from masa_training.environments.household import Household

    assert set(Household.task_types) == set(HOUSEHOLD_TYPES)


@pytest.mark.parametrize("environment", TYPES)
def test_a_wording_is_what_it_is_called(environment: str) -> None:
    least, most = {}, {}
    for wording in WORDINGS:
        texts = [skill.principle for skill in skills(shipped(environment, wording))]
        words = [len(text.split()) for text in texts]
        least[wording], most[wording] = min(words), max(words)
        listed = [len(NUMBERED.findall(text)) for text in texts]
        assert all(count >= 3 for count in listed) if wording == "stepwise" else not any(listed)
        if wording == "concise":
            assert all(text.count(".") == 1 and text.endswith(".") for text in texts)
        if wording == "moderate":
            assert all("`" not in text and "\n" not in text for text in texts)
    assert most["concise"] <= 14
    assert least["moderate"] >= 25 and most["moderate"] <= 50
    assert least["detailed"] >= 80 and most["detailed"] <= 130
    assert least["stepwise"] >= 25 and most["stepwise"] <= 50


@pytest.mark.parametrize("environment", TYPES)
def test_the_edits_limit_and_steps_change_the_moderate_wording(environment: str) -> None:
    moderate = skills(shipped(environment, "moderate"))
    # `shorten` leaves it alone: its second sentences are statements, and those it does not understand.
    short = [EDITS["limit"].apply(skill, "1") for skill in moderate]
    listed = [EDITS["steps"].apply(skill) for skill in moderate]
    shortened = sum(a != b and len(a.principle.split()) <= 20 for a, b in zip(short, moderate, strict=True))
    numbered = sum(len(NUMBERED.findall(skill.principle)) >= 2 for skill in listed)
    assert shortened >= 0.8 * len(moderate)
    assert numbered >= 0.8 * len(moderate)


@pytest.mark.parametrize("environment", TYPES)
def test_a_bank_is_written_back_as_it_was_read(environment: str) -> None:
    for wording in WORDINGS:
        raw = (resources.files("masa_training.configs") / "banks" / environment / f"{wording}.json").read_bytes()
        assert dump_bank(shipped(environment, wording)) == raw


def test_examples_tell_nothing_of_the_worlds_that_are_played() -> None:
    names = {name for split in SPLITS for name in open_world(0, 240, split).kinds}
    assert len(names) > 500
    told = " ".join(skill.text for wording in WORDINGS for skill in skills(shipped("lookup", wording)))
    assert not [name for name in names if re.search(rf"\b{re.escape(name)}\b", told)]


def test_the_words_that_the_lookup_skills_recommend_are_those_of_the_environment() -> None:
    told = " ".join(skill.principle for skill in skills(shipped("lookup", "detailed")))
    queries = re.findall(r"`search ([^`]+)`", told)
    assert queries
    from masa_training.environments.lookup.kinds import ATTRIBUTES

    words = {word for attribute in ATTRIBUTES for word in attribute.words}
    assert [query for query in queries if query.split()[-1] not in words] == []
    assert Lookup().facts().actions[0].form.startswith("search")
