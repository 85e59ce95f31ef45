"""What an episode is asked to be, and what came of it; both as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from masa_training.errors import TrainingError

Outcome = Literal["finished", "missing"]
Score = Literal["success", "reward"]
SCORES: tuple[Score, ...] = get_args(Score)
"""What decides: whether an episode succeeded, or the environment's reward, which knows partial success."""


def check_score(score: str) -> None:
    """Refuse a score that there is not.

    Raises:
        TrainingError: naming those that there are.
    """
    if score not in SCORES:
        raise TrainingError(f"score is {score!r}; it must be one of {', '.join(SCORES)}")


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One episode to play: an arm (which skills, which policy), a task by id, and a seed."""

    arm: str
    task: str
    seed: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One step: what the agent did and what it read then."""

    action: str
    observation: str
    changed: bool
    valid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One episode that was played, or could not be.

    Attributes:
        outcome: "missing" if the infrastructure failed again and again; then nothing but `reason` counts, and it is no
            failure of the agent.
        reward: the environment's, from 0 to 1.
        steps: actions taken.
        unchanged: actions after which nothing had happened; `unchanged / steps` is the episode's NHR.
        invalid: actions that the environment did not understand.
        cached_tokens: prompt tokens that were not computed again.
        model_seconds: waiting for replies; a batch's time is divided among its episodes.
        skills: identifiers of the skills in the prompt.
        attempts: how often it was begun.
    """

    job: Job
    task_type: str
    outcome: Outcome
    reason: str = ""
    success: bool = False
    reward: float = 0.0
    steps: int = 0
    unchanged: int = 0
    invalid: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    model_seconds: float = 0.0
    environment_seconds: float = 0.0
    seconds: float = 0.0
    skills: tuple[str, ...] = ()
    attempts: int = 1
    turns: tuple[Turn, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` reads."""
        values = asdict(self)
        values["turns"] = [[t.action, t.observation, t.changed, t.valid] for t in self.turns]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Episode:
        """An episode as `to_dict` wrote it.

        Raises:
            KeyError, TypeError, ValueError: if the values are no episode.
        """
        told = dict(values)
        told["job"] = Job(**told["job"])
        told["skills"] = tuple(told.get("skills", ()))
        told["turns"] = tuple(Turn(*turn) for turn in told.get("turns", ()))
        return cls(**told)


def reward_of(episode: Episode, penalty: float, score: Score = "success") -> float | None:
    """`R = S − λ·NHR` of one episode, λ being `penalty`; None for a missing one.

    S is 1 or 0 for the score "success", the environment's reward from 0 to 1 for "reward"; NHR is the share of the
    episode's steps after which nothing had happened. The mean over episodes is the reward R = S − λ·NHR, with
    the NHR averaged over episodes, not over all their steps together.
    """
    if episode.outcome == "missing":
        return None
    scored = float(episode.success) if score == "success" else episode.reward
    return scored - penalty * (episode.unchanged / episode.steps if episode.steps else 0.0)
