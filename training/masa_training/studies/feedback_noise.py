"""The study of feedback noise: what evolution still finds where some outcomes are told wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from masa_training.errors import TrainingError
from masa_training.evolution import EvolveConfig
from masa_training.studies.evolutions import EvolutionCell, EvolutionStudy, named_apart

KIND = "feedback-noise"
LEVELS = (0.0, 0.1, 0.2, 0.3)


def noise_study(configs: Sequence[EvolveConfig], levels: Sequence[float] = LEVELS, *, runs: int = 1) -> EvolutionStudy:
    """Every experiment at every level of noise, `runs` times with other outcomes flipped and everything else equal.

    Without noise nothing is drawn, so one run is enough where the teacher is local; the first level is what the
    others are compared with.

    Raises:
        TrainingError: if a level is no probability or comes twice, or experiments cannot be told apart.
    """
    named_apart(configs)
    if len(set(map(condition, levels))) < len(levels):  # as folders are called
        raise TrainingError(f"the levels of noise are {', '.join(map(condition, levels))}; give each of them once")
    for level in levels:
        if not 0 <= level <= 1:
            raise TrainingError(f"the level of noise {level:g} is no probability; give one between 0 and 1")
    cells = [
        EvolutionCell(
            config.name,
            condition(level),
            number,
            replace(config, name=f"{config.name}, {condition(level)}", feedback_noise=level, noise_seed=number),
        )
        for config in configs
        for number in range(runs)
        for level in levels
        if level or not number or not config.teacher_config().local
    ]
    about = {condition(level): {"feedback_noise": level} for level in levels}
    return EvolutionStudy(KIND, tuple(map(condition, levels)), tuple(cells), {c.name: about for c in configs})


def condition(level: float) -> str:
    """The row of a level."""
    return f"noise-{level:g}"
