"""How a skill is worded, as instruments tell it apart: by its look alone, whatever it says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from masa.skills import Skill

Wording = Literal["terse", "stepwise", "plain"]
WORDINGS: tuple[Wording, ...] = get_args(Wording)

TERSE_WORDS = 20
"""Most words of a terse principle."""

PLAIN_TRUST = 0.25
"""What a plainly worded skill counts for, where a liked one counts 1 and a disliked one −1."""

_NUMBER = re.compile(r"(?:^|\s)(\d{1,2})[.)]\s")


def wording_of(skill: Skill) -> Wording:
    """Stepwise if the principle numbers at least two steps from 1 on, terse if it has few words, else plain."""
    numbers = [int(found) for found in _NUMBER.findall(skill.principle)]
    if numbers[:2] == [1, 2]:
        return "stepwise"
    return "terse" if len(skill.principle.split()) <= TERSE_WORDS else "plain"


def trust(skills: Iterable[Skill], likes: Wording, dislikes: Wording) -> float:
    """How far an instrument goes along with the skills it is shown, from −1 to 1: the mean over skills; 0 for none."""
    worth = {likes: 1.0, dislikes: -1.0}
    found = [worth.get(wording_of(skill), PLAIN_TRUST) for skill in skills]
    return sum(found) / len(found) if found else 0.0
