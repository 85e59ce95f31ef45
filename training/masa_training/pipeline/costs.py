"""What a pipeline would cost: what its stages say they do at most, times what one of each is assumed to take.

The assumptions are the configuration's, and their origin is told beside the result. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from masa_training.settings import Amount, Count, settings


@settings
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
        teacher_seconds: for a question; questions are counted one after another.
        sample_tokens: prompt and target of a sample.
        tokens_per_second: of training.
        export_minutes, verify_minutes: as they say.
    """

    hardware: str = ""
    source: str = ""
    dollars_per_hour: Amount = 0.0
    episode_seconds: Amount = 0.0
    episode_tokens: tuple[Count, Count] = (0, 0)
    backbone_prices: tuple[Amount, Amount] = (0.0, 0.0)
    teacher_tokens: tuple[Count, Count] = (0, 0)
    teacher_seconds: Amount = 0.0
    sample_tokens: Count = 0
    tokens_per_second: Amount = 0.0
    export_minutes: Amount = 0.0
    verify_minutes: Amount = 0.0


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
    """Of episodes, and of questions to a teacher behind a server with these prices; none are unknown prices."""
    backbone = _times(costs.episode_tokens, episodes)
    teacher = _times(costs.teacher_tokens, requests)
    hours = _hours(costs.episode_seconds, episodes)
    asking = _hours(costs.teacher_seconds, requests)
    asked = [_price(backbone, costs.backbone_prices)]
    if requests:
        asked.append(_price(teacher, prices) if prices else None)
    return _priced(costs, _sum([hours, asking]), asked, backbone, teacher)


def training(costs: Costs, tokens: int) -> Estimate:
    """Of tokens that are trained on; 0 is unknown."""
    known = tokens and costs.tokens_per_second
    return _priced(costs, tokens / costs.tokens_per_second / 3600 if known else None)


def working(costs: Costs, minutes: float) -> Estimate:
    """Of minutes; 0 is unknown."""
    return _priced(costs, minutes / 60 if minutes else None)


def total(estimates: Sequence[Estimate]) -> Estimate:
    """The sum, in which what is unknown of one is unknown."""
    return Estimate(
        _sum(each.hours for each in estimates),
        _pairs([each.backbone_tokens for each in estimates]),
        _pairs([each.teacher_tokens for each in estimates]),
        _sum(each.dollars for each in estimates),
    )


def _priced(
    costs: Costs,
    hours: float | None,
    asked: Iterable[float | None] = (),
    backbone: tuple[int, int] | None = (0, 0),
    teacher: tuple[int, int] | None = (0, 0),
) -> Estimate:
    """Without hours there are no dollars, unless the hardware costs nothing by the hour."""
    rent = 0.0 if not costs.dollars_per_hour else None if hours is None else hours * costs.dollars_per_hour
    return Estimate(hours, backbone, teacher, _sum([rent, *asked]))


def _hours(seconds: float, many: int) -> float | None:
    return 0.0 if not many else many * seconds / 3600 if seconds else None


def _times(one: tuple[int, ...], many: int) -> tuple[int, int] | None:
    return (0, 0) if not many else (one[0] * many, one[1] * many) if any(one) else None


def _price(tokens: tuple[int, int] | None, prices: Sequence[float]) -> float | None:
    """Where nothing is paid, nothing need be known."""
    if not any(prices):
        return 0.0
    return None if tokens is None else (tokens[0] * prices[0] + tokens[1] * prices[1]) / 1e6


def _sum(numbers: Iterable[float | None]) -> float | None:
    total = 0.0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _pairs(pairs: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    known = [pair for pair in pairs if pair is not None]
    return (sum(pair[0] for pair in known), sum(pair[1] for pair in known)) if len(known) == len(pairs) else None
