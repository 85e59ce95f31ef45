"""A simulated backbone with a known best group: what searches are tested and compared on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from masa_training.search.record import Failure, Propose, Situation

Wordings = tuple[int, ...]
"""A group: the number of the wording of each of its skills. The start is wording 0 of all."""


@dataclass(frozen=True, slots=True)
class SimulatedBackbone:
    """Succeeds at task i with probability σ(ease_i + Σ effects[skill, wording]), a Rasch model with skills.

    One wording of every skill helps, the planted one; the others are as likely to hurt. Episodes are independent:
    two groups do not share their luck.

    Attributes:
        effects: of each wording of each skill on the log-odds, (skills, wordings); 0 for wording 0.
        ease: of each task, (tasks,), on the same scale.
        planted: the best group.
        seed: of the luck of episodes.
    """

    effects: NDArray[np.float64] = field(repr=False)
    ease: NDArray[np.float64] = field(repr=False)
    planted: Wordings
    seed: int

    @property
    def start(self) -> Wordings:
        return (0,) * len(self.planted)

    def true_reward(self, group: Wordings) -> float:
        """The success rate that infinitely many episodes would show."""
        return float(self._chances(group).mean())

    def evaluate(self, group: Wordings, first: int, count: int, *, run: int = 0) -> list[float]:
        """Rewards of episodes first … first + count − 1, the same however they are batched; `run` is another seed."""
        luck = np.random.default_rng([self.seed, run, *group]).random(first + count)[first:]
        tasks = np.arange(first, first + count) % len(self.ease)
        return [float(success) for success in luck < self._chances(group)[tasks]]

    def _chances(self, group: Wordings) -> NDArray[np.float64]:
        effect = sum(float(self.effects[skill, wording]) for skill, wording in enumerate(group))
        return np.asarray(1 / (1 + np.exp(-(self.ease + effect))))


def simulated_backbone(
    seed: int,
    *,
    skills: int = 6,
    wordings: int = 12,
    tasks: int = 150,
    ease: float = -1.3,
    spread: float = 1.0,
    gain: float = 0.6,
    harm: float = 0.4,
) -> SimulatedBackbone:
    """Draw a backbone: ease of tasks N(ease, spread²); a planted wording adds a gain between 0.5 and 1.5 times `gain`,
    any other N(−harm, harm²), but less than half the gain. With these numbers about one episode in four succeeds at
    first and about eight in ten with the planted group.
    """
    generator = np.random.default_rng([seed, 1])
    gains = generator.uniform(0.5, 1.5, size=skills) * gain
    effects = np.minimum(generator.normal(-harm, harm, size=(skills, wordings)), 0.5 * gains[:, None])
    effects[:, 0] = 0
    planted = tuple(generator.integers(1, wordings, size=skills).tolist())
    effects[np.arange(skills), planted] = gains
    return SimulatedBackbone(effects, generator.normal(ease, spread, size=tasks), planted, seed)


def rewrite(
    backbone: SimulatedBackbone,
    group: Wordings,
    tried: Collection[Wordings],
    generator: np.random.Generator,
    *,
    insight: float,
) -> Wordings | None:
    """Another wording of one skill; the planted one with probability `insight`, else any. None if all were tried."""
    for _ in range(200):
        skill = int(generator.integers(len(group)))
        if generator.random() < insight:
            wording = backbone.planted[skill]
        else:
            wording = int(generator.integers(backbone.effects.shape[1]))
        changed = (*group[:skill], wording, *group[skill + 1 :])
        if changed != group and changed not in tried:
            return changed
    return None


def simulated_teacher(backbone: SimulatedBackbone, *, insight: float = 0.2, seed: int = 0) -> Propose[Wordings]:
    """A proposer that remembers what it proposed, and draws from a generator of its own for each round."""
    tried = {backbone.start}

    def propose(situation: Situation[Wordings]) -> Wordings | Failure:
        generator = np.random.default_rng([backbone.seed, seed, situation.round, 2])
        found = rewrite(backbone, situation.node.candidate, tried, generator, insight=insight)
        if found is None:
            return Failure("every rewrite of this group was tried")
        tried.add(found)
        return found

    return propose
