"""The configuration of an instrument: what it likes, where it plays, and how it is trained."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from masa.errors import FormatError
from masa.files import read_text
from masa_training.distill.config import DistillConfig, make_config
from masa_training.errors import TrainingError
from masa_training.instruments.wording import WORDINGS, Wording

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
    """

    needs: Mapping[str, float]
    lapse: str
    options: Mapping[str, Any] = field(default_factory=dict)
    detours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentConfig:
    """What an instrument is.

    Attributes:
        likes, dislikes: wordings of skills.
        worlds: by name of the environment.
        prompts: system prompts, each with skills worded in another mixture, that are shown for each environment.
        episodes: played for each prompt.
        held_out: prompts for each environment, on tasks of the split `val`, that only measure the training.
        distill: the training.
    """

    name: str
    likes: Wording
    dislikes: Wording
    worlds: Mapping[str, World]
    prompts: int = 90
    episodes: int = 4
    held_out: int = 10
    seed: int = 0
    distill: DistillConfig

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

    @property
    def sha256(self) -> str:
        """Of everything that determines the conversations."""
        value = {key: its for key, its in asdict(self).items() if key != "distill"}
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def instrument_names() -> tuple[str, ...]:
    """Names of the instruments that come with masa."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def load_instrument(name_or_path: str) -> InstrumentConfig:
    """The configuration in a YAML file, or the shipped one of that name.

    Raises:
        TrainingError: for a missing file, an unknown or missing key, or a value that does not fit.
    """
    import yaml

    path = PRESETS / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        close = difflib.get_close_matches(name_or_path, instrument_names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"the shipped ones are {', '.join(instrument_names())}"
        raise TrainingError(f"{name_or_path}: no such instrument; {hint}")
    try:
        values = yaml.safe_load(read_text(path))
    except (FormatError, yaml.YAMLError, RecursionError) as error:
        raise TrainingError(f"{path}: not readable as YAML ({' '.join(str(error).split())[:150]})") from None
    try:
        return _made(values, str(path))
    except (TypeError, AttributeError, ValueError) as error:
        raise TrainingError(f"{path}: is no description of an instrument ({error})") from None


def _made(values: Any, where: str) -> InstrumentConfig:
    if not isinstance(values, dict):
        raise TrainingError(f"{where}: found {type(values).__name__} where settings (key: value) belong")
    _known(values, InstrumentConfig, where)
    worlds = {}
    for name, its in values.get("worlds", {}).items():
        _known(its, World, f"{where}, world {name}")
        worlds[name] = World(**{**its, "needs": {str(key): float(need) for key, need in its["needs"].items()}})
    distill = make_config(values.get("distill", {}), f"{where}, distill")
    return InstrumentConfig(**{**values, "worlds": worlds, "distill": distill})


def _known(values: Mapping[str, Any], kind: type, where: str) -> None:
    settings = [its.name for its in fields(kind)]
    for key in values:
        if key not in settings:
            close = difflib.get_close_matches(str(key), settings, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the settings are {', '.join(settings)}"
            raise TrainingError(f"{where}: unknown setting {key!r}; {hint}")
    if "needs" in settings and not {"needs", "lapse"} <= set(values):
        raise TrainingError(f"{where}: needs and lapse must both be given")
