"""The configuration of an instrument: what it likes, where it plays, and how it is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from masa_training.distill.config import DistillConfig, make_config
from masa_training.errors import TrainingError
from masa_training.instruments.wording import WORDINGS, Wording
from masa_training.settings import check_known, config_names, find_config, read_settings

PRESETS = Path(__file__).resolve().parent.parent / "configs" / "instruments"
BANKS = Path(__file__).resolve().parent.parent / "configs" / "banks"


@dataclass(frozen=True, slots=True, kw_only=True)
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
    prompts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
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
    worlds: Mapping[str, World]
    prompts: int = 90
    episodes: int = 4
    glances: int = 0
    held_out: int = 10
    seed: int = 0
    distill: DistillConfig
    after: InstrumentConfig | None = None

    def __post_init__(self) -> None:
        for key in ("likes", "dislikes"):
            if getattr(self, key) not in WORDINGS:
                raise TrainingError(f"{key} is {getattr(self, key)!r}; it must be one of {', '.join(WORDINGS)}")
        if self.likes == self.dislikes:
            raise TrainingError(f"likes and dislikes are both {self.likes!r}; an instrument needs two wordings")
        if not self.worlds:
            raise TrainingError("worlds is empty; name at least one environment")
        for key in ("prompts", "episodes", "held_out"):
            if getattr(self, key) < 1:
                raise TrainingError(f"{key} is {getattr(self, key)}; it must be at least 1")
        for name, world in self.worlds.items():
            if world.prompts < 0:
                raise TrainingError(f"world {name}: prompts is {world.prompts}; it must be 0 or more")
        if self.glances < 0:
            raise TrainingError(f"glances is {self.glances}; it must be 0 or more")

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
    values = read_settings(path)
    try:
        return _made(values, str(path))
    except (TypeError, AttributeError, ValueError) as error:
        raise TrainingError(f"{path}: is no description of an instrument ({error})") from None


def _made(values: dict[str, Any], where: str) -> InstrumentConfig:
    check_known(values, [its.name for its in fields(InstrumentConfig)], where)
    worlds = {}
    for name, its in values.get("worlds", {}).items():
        check_known(its, [one.name for one in fields(World)], f"{where}, world {name}")
        if not {"needs", "lapse"} <= set(its):
            raise TrainingError(f"{where}, world {name}: needs and lapse must both be given")
        worlds[name] = World(**{**its, "needs": {str(key): float(need) for key, need in its["needs"].items()}})
    distill = make_config(values.get("distill", {}), f"{where}, distill")
    after = None
    if values.get("after"):
        whose: dict[str, Any] = {key: values[key] for key in ("name", "likes", "dislikes") if key in values}
        after = _made({**whose, **values["after"]}, f"{where}, after")
    return InstrumentConfig(**{**values, "worlds": worlds, "distill": distill, "after": after})
