"""What the installed ALFWorld package says about its games: domain, grammar, names, task types, action forms."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import alfworld.info
from alfworld.agents.utils.misc import Demangler

from masa.facts import ActionForm, Facts
from masa_training.errors import TrainingError

TASK_TYPES: Mapping[str, str] = {
    "pick_and_place_simple": "pick_and_place",
    "look_at_obj_in_light": "look_at_obj_in_light",
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
    "pick_two_obj_and_place": "pick_two_obj_and_place",
}
"""ALFWorld's six task types as skill banks name them. SkillRL's bank also has `examine`: wordings of
look_at_obj_in_light, which the banks of the MASA authors leave out."""

RULES = (
    "You can carry one object at a time.",
    "You see and reach only what is where you are; go to a receptacle first.",
    "A closed receptacle must be opened before you can see, take or put anything in it.",
    "To heat, cool or clean an object you must carry it to a microwave, a fridge or a sinkbasin.",
    "The answer 'Nothing happens.' means that the action was not possible and changed nothing.",
)

BESIDE = (
    "A receptacle beside the one where you stand cannot be gone to, the answer is 'Nothing happens.': examine it, open "
    "it and use it from where you are."
)
"""A rule where receptacles share a place, as in 108 of ALFWorld's 140 valid_seen games; in `household` none do."""

_HELP = re.compile(r"Available commands:\\n(.*?)\"")
_COMMAND = re.compile(r"\s*([a-z][a-z ()]*):\s+(.+)")
_SLOT = re.compile(r"\((\w+)\)")
_EXAMPLES: Mapping[str, str] = {
    "heat": "heat apple 1 with microwave 1",
    "cool": "cool apple 1 with fridge 1",
    "clean": "clean plate 1 with sinkbasin 1",
    "use": "use desklamp 1",
    "slice": "slice bread 1 with knife 1",
}
_USUALLY: Mapping[str, str] = {"object": "mug 1", "receptacle": "cabinet 1", "something": "mug 1"}


@functools.cache
def domain() -> str:
    """ALFWorld's PDDL domain."""
    return Path(alfworld.info.ALFRED_PDDL_PATH).read_text("utf-8")


@functools.cache
def grammar() -> str:
    """ALFWorld's grammar of commands and feedback."""
    return Path(alfworld.info.ALFRED_TWL2_PATH).read_text("utf-8")


def name_entities(entities: Mapping[str, Any]) -> None:
    """Give TextWorld's entities the names that ALFWorld gives them, such as `cabinet 2`."""
    demangler = Demangler(game_infos=entities)
    for info in entities.values():
        info.name = demangler.demangle_alfred_name(info.id).strip()


def interface_facts(environment: str, *rules: str) -> Facts:
    """The action forms that ALFWorld's command `help` lists, the rules of its domain, and these rules.

    Raises:
        TrainingError: if the installed grammar lists none.
    """
    forms = []
    listed = _HELP.search(grammar())
    for line in listed.group(1).split("\\n") if listed else ():
        if found := _COMMAND.fullmatch(line.rstrip()):
            form, meaning = found.groups()
            example = _EXAMPLES.get(form.split()[0]) or _SLOT.sub(lambda slot: _USUALLY[slot.group(1)], form)
            forms.append(ActionForm(_SLOT.sub(r"{\1}", form), " ".join(meaning.split()), example))
    if not forms:
        raise TrainingError(
            f"{alfworld.info.ALFRED_TWL2_PATH}: lists no commands; install alfworld 0.4.2, which this masa was made for"
        )
    return Facts(environment, tuple(forms), (*RULES, *rules))
