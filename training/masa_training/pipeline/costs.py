"""What a pipeline would cost: what its stages say they do at most, times what one of each is assumed to take.

The assumptions are the configuration's, and their origin is told beside the result. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from masa_training.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Costs:
    """Assumptions; 0 is unknown, and a cost that rests on an unknown one is not told.

    Attributes:
        hardware: what runs backbone, training and verification.
        source: where these figures are from.
        dollars_per_hour: of that hardware.
        episode_seconds: of wall time for an episode, all that are played side by side together.
        episode_tokens: of the backbone, for an episode, read and written.
        backbone_prices: dollars for a million tokens read, and written; none for a server of one's own.
        teacher_tokens: for a question, read and written; its prices are `evolve.teacher.prices`.
        sample_tokens: prompt and target of a sample.
        tokens_per_second: of training.
        export_minutes, verify_minutes: as they say.
    """

    hardware: str = ""
    source: str = ""
    dollars_per_hour: float = 0.0
    episode_seconds: float = 0.0
    episode_tokens: tuple[int, ...] = (0, 0)
    backbone_prices: tuple[float, ...] = (0.0, 0.0)
    teacher_tokens: tuple[int, ...] = (0, 0)
    sample_tokens: int = 0
    tokens_per_second: float = 0.0
    export_minutes: float = 0.0
    verify_minutes: float = 0.0

    def __post_init__(self) -> None:
        for name in ("episode_tokens", "backbone_prices", "teacher_tokens"):
            if len(getattr(self, name)) != 2:
                raise TrainingError(f"costs: {name} is {list(getattr(self, name))}; give two numbers, read and written")


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most that a stage takes. None is unknown; tokens are (read, written)."""

    hours: float | None = None
    backbone_tokens: tuple[int, int] | None = (0, 0)
    teacher_tokens: tuple[int, int] | None = (0, 0)
    dollars: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "hours": None if self.hours is None else round(self.hours, 3),
            "backbone_tokens": self.backbone_tokens,
            "teacher_tokens": self.teacher_tokens,
            "dollars": None if self.dollars is None else round(self.dollars, 2),
        }


def playing(costs: Costs, episodes: int, requests: int, prices: Sequence[float]) -> Estimate:
    """Of episodes, and of questions to a teacher behind a server with these prices."""
    backbone = _times(costs.episode_tokens, episodes)
    teacher = (0, 0) if not requests else _times(costs.teacher_tokens, requests)
    hours = episodes * costs.episode_seconds / 3600 if costs.episode_seconds else None
    asked = _price(backbone, costs.backbone_prices) + _price(teacher, prices or (0.0, 0.0))
    return _priced(costs, Estimate(hours, backbone, teacher), asked)


def training(costs: Costs, tokens: int) -> Estimate:
    """Of tokens that are trained on."""
    known = tokens and costs.tokens_per_second
    return _priced(costs, Estimate(tokens / costs.tokens_per_second / 3600 if known else None), 0.0)


def working(costs: Costs, minutes: float) -> Estimate:
    """Of minutes."""
    return _priced(costs, Estimate(minutes / 60 if minutes else None), 0.0)


def total(estimates: list[Estimate]) -> Estimate:
    """The sum of what is known of them."""
    return Estimate(
        sum(each.hours or 0.0 for each in estimates),
        _sum([each.backbone_tokens for each in estimates]),
        _sum([each.teacher_tokens for each in estimates]),
        sum(each.dollars or 0.0 for each in estimates),
    )


def _priced(costs: Costs, estimate: Estimate, asked: float) -> Estimate:
    """Without hours there are no dollars, unless the hardware costs nothing by the hour."""
    if estimate.hours is None and costs.dollars_per_hour:
        return estimate
    return replace(estimate, dollars=(estimate.hours or 0.0) * costs.dollars_per_hour + asked)


def _times(one: tuple[int, ...], many: int) -> tuple[int, int] | None:
    return (one[0] * many, one[1] * many) if any(one) else None


def _price(tokens: tuple[int, int] | None, prices: Sequence[float]) -> float:
    return 0.0 if tokens is None else (tokens[0] * prices[0] + tokens[1] * prices[1]) / 1e6


def _sum(pairs: list[tuple[int, int] | None]) -> tuple[int, int]:
    known = [pair for pair in pairs if pair is not None]
    return sum(pair[0] for pair in known), sum(pair[1] for pair in known)
