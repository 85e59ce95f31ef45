"""The configuration of an instrument: how skills are worded that it likes, where it plays, and how it is trained."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, field, replace
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from masa.skills import Skill
from masa_training.distill.config import DistillConfig
from masa_training.errors import TrainingError
from masa_training.settings import CONFIGS, Count, Positive, config_names, find_config, make, read_yaml, settings

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


PRESETS = CONFIGS / "instruments"
BANKS = CONFIGS / "banks"


@settings
class World:
    """An environment that an instrument learns to act in.

    Attributes:
        needs: for every task type the trust (see `wording.trust`) that the instrument needs to act well.
        lapse: how the actions begin one of which it takes instead.
        options: of the environment.
        detours: it first visits the places that are listed before the one it needs, because it cannot know.
        prompts: as of the instrument, where this environment needs another number; 0 is the same.
    """

    needs: Mapping[str, float]
    lapse: str
    options: Mapping[str, Any] = field(default_factory=dict)
    detours: bool = False
    prompts: Count = 0


@settings
class InstrumentConfig:
    """What an instrument is.

    Attributes:
        likes, dislikes: wordings of skills.
        worlds: by name of the environment.
        prompts: system prompts, each with skills worded in another mixture, that are shown for each environment.
        episodes: played for each prompt.
        glances: more tasks for each prompt, of which only the first action is learned: to act or to lapse, for a
            fraction of the tokens.
        held_out: prompts for each environment, on tasks of the split `val`, that only measure the training.
        distill: the training.
        after: what it learned before, from whose checkpoint this training goes on; None begins with the base.
    """

    name: str
    likes: Wording
    dislikes: Wording
    worlds: Annotated[Mapping[str, World], Field(min_length=1)]
    prompts: Positive = 90
    episodes: Positive = 4
    glances: Count = 0
    held_out: Positive = 10
    seed: int = 0
    distill: DistillConfig
    after: InstrumentConfig | None = None

    def __post_init__(self) -> None:
        if self.likes == self.dislikes:
            raise TrainingError(f"likes and dislikes are both {self.likes!r}; an instrument needs two wordings")

    @property
    def lessons(self) -> tuple[InstrumentConfig, ...]:
        """This training and those before it, the first one first."""
        return (*(self.after.lessons if self.after else ()), self)

    def changed(self, change: Callable[[DistillConfig], DistillConfig]) -> InstrumentConfig:
        """With the trainings of all lessons changed alike."""
        after = self.after and self.after.changed(change)
        return replace(self, distill=change(self.distill), after=after)

    @property
    def sha256(self) -> str:
        """Of everything that determines the conversations, also those before."""
        value = {key: its for key, its in asdict(self).items() if key not in ("distill", "after")}
        if self.after is not None:
            value["after"] = self.after.sha256
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def instrument_names() -> tuple[str, ...]:
    """Names of the instruments that come with masa."""
    return config_names(PRESETS)


def load_instrument(name_or_path: str) -> InstrumentConfig:
    """The configuration in a YAML file, or the shipped one of that name.

    Raises:
        TrainingError: for a missing file, an unknown or missing key, or a value that does not fit.
    """
    path = find_config(name_or_path, PRESETS, "instrument")
    return make(InstrumentConfig, _after(read_yaml(path)), str(path))


def _after(values: Mapping[str, Any]) -> dict[str, Any]:
    """An earlier training has the instrument's name and wordings."""
    own = {"distill": {}, **values}
    if isinstance(own.get("after"), dict):
        whose: dict[str, Any] = {key: own[key] for key in ("name", "likes", "dislikes") if key in own}
        own["after"] = _after({**whose, **own["after"]})
    return own
