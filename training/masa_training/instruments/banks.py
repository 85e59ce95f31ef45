"""Skill banks in every mixture of wordings, for conversations that teach an instrument what it likes."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from masa.edits import EDITS
from masa.formats import load_bank
from masa.skills import Skill, SkillBank
from masa_training.errors import TrainingError
from masa_training.instruments.config import BANKS
from masa_training.instruments.wording import Wording, wording_of

MIXTURES = ("none", "disliked", "liked", "plain", "none", "disliked", "liked", "mixed")
"""What a prompt shows, each as often as it is named here."""

_FEW = 0.75
_REWORDINGS = ("shorten", "steps", "condition-action")


class Wordings:
    """Every skill of an environment's banks in all the wordings there are of it."""

    def __init__(self, banks: Sequence[SkillBank]) -> None:
        """`banks` say the same under the same ids; deterministic edits of their skills add more wordings."""
        self._bank = banks[0]
        self._texts: dict[str, dict[Wording, list[Skill]]] = defaultdict(lambda: defaultdict(list))
        for bank in banks:
            for group in bank.groups():
                for skill in group.skills:
                    reworded = (EDITS[name].apply(skill) for name in _REWORDINGS)
                    for text in dict.fromkeys((skill, *reworded)):
                        self._texts[skill.skill_id][wording_of(text)].append(text)

    def bank(self, task_type: str, mixture: Mapping[Wording, float], rng: random.Random) -> SkillBank:
        """A bank of some general skills and some of one task type; `mixture` weighs the wordings."""
        specific = self._bank.task_specific.get(task_type, ())
        general = self._some(self._bank.general, mixture, rng)
        return SkillBank(general, {task_type: self._some(specific, mixture, rng)} if specific else {})

    def _some(self, skills: Sequence[Skill], mixture: Mapping[Wording, float], rng: random.Random) -> tuple[Skill, ...]:
        few = rng.random() < _FEW  # whom to trust shows in a few skills as well, for a fraction of the tokens
        count = rng.randint(1, min(3, len(skills))) if few else rng.randint(max(1, len(skills) // 2), len(skills))
        drawn = rng.sample(list(skills), count)
        return tuple(self._worded(skill, mixture, rng) for skill in drawn)

    def _worded(self, skill: Skill, mixture: Mapping[Wording, float], rng: random.Random) -> Skill:
        texts = {wording: its for wording, its in self._texts[skill.skill_id].items() if mixture.get(wording)}
        if not texts:
            return skill
        wording = rng.choices(list(texts), [mixture[wording] for wording in texts])[0]
        return rng.choice(texts[wording])


def open_wordings(environment: str, folder: Path = BANKS) -> Wordings:
    """The banks that ship for an environment.

    Raises:
        TrainingError: if there are none.
    """
    paths = sorted((folder / environment).glob("*.json"))
    if not paths:
        raise TrainingError(f"{folder / environment}: no skill banks for the environment {environment!r} are there")
    return Wordings([load_bank(path) for path in paths])
