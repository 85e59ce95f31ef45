"""What `masa profile` plays and whom it asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from masa.skills import SkillBank
from masa_training.agents import AgentConfig
from masa_training.errors import TrainingError
from masa_training.models.keys import check_keyless
from masa_training.teacher.config import TeacherConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """Rollouts of one backbone in one environment.

    Attributes:
        backbone, model_options: of `open_model`, without keys.
        card: where the card comes from where the backbone does not tell: a card file or the name of a shipped card.
        bank: what the agent is shown; None for no skills, which is how a backbone is by itself.
        bank_sha256: of its file.
        tasks: most tasks, in equal numbers by type; 0 takes all that are for profiling.
        seeds: episodes of each.
    """

    environment: str
    backbone: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""
    bank: SkillBank | None = None
    bank_sha256: str = ""
    tasks: int = 40
    seeds: int = 1
    agent: AgentConfig = field(default_factory=AgentConfig)
    isolated: bool = False
    slots: int = 0
    teacher: TeacherConfig = field(default_factory=TeacherConfig)

    def __post_init__(self) -> None:
        if not self.backbone.strip():
            raise TrainingError("there is no backbone to profile; name one with --backbone")
        check_keyless(self.backbone, self.model_options, f"backbone {self.backbone.rpartition('@')[2]}")
        if self.tasks < 0 or self.seeds < 1:
            raise TrainingError(f"{self.tasks} tasks and {self.seeds} seeds leave nothing to play")

    def settings(self) -> dict[str, Any]:
        """What the episodes depend on, as JSON values: another teacher may sum up the same episodes."""
        return {
            "profile": self.environment,
            "options": dict(self.options),
            "backbone": self.backbone,
            "model_options": {key: value for key, value in self.model_options.items() if key != "api_key_env"},
            "agent": asdict(self.agent),
            "bank": self.bank_sha256 or None,
        }
