"""Feedback noise: search and teacher are told some outcomes wrongly, as by an environment whose judge errs.

The record keeps the truth, and beside it what was told; the final test is never told wrongly.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

from masa_training.evolution.ledger import Played
from masa_training.rollouts import Episode


@dataclass(frozen=True, slots=True)
class FeedbackNoise:
    """Every episode's outcome is told wrongly with this probability, each independently of all others.

    Which ones follows from the seed and the episode alone (bank, split, task and seed), whenever and wherever it is
    played. What is flipped at one probability is flipped at every higher one, so that runs differ by the level only.
    """

    probability: float
    seed: int

    def told(self, played: Played, episode: Episode) -> Episode:
        """The episode as search and teacher see it: its success and reward perhaps turned round."""
        if not self.concerns(played, episode) or self._draw(played) >= self.probability:
            return episode
        return replace(episode, success=not episode.success, reward=1 - episode.reward)

    def concerns(self, played: Played, episode: Episode) -> bool:
        """Whether the outcome may be told wrongly: not in the final test, and not where there is none."""
        return self.probability > 0 and played.split != "test" and episode.outcome == "finished"

    def _draw(self, played: Played) -> float:
        """A number from 0 to 1, below 1."""
        text = json.dumps([self.seed, *played], ensure_ascii=False)
        return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big") / 2**64
