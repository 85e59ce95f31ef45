"""The configuration of `masa evolve`: one typed YAML an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

from pydantic import Field

from masa.backbones import resolve_backbone
from masa.skills import GENERAL
from masa_training.agents import AgentConfig
from masa_training.bank_groups import WHOLE
from masa_training.models.keys import check_keyless
from masa_training.rollouts.episodes import Score
from masa_training.search import Acceptance, FixedPaired, SequentialPaired, Strict
from masa_training.settings import (
    CONFIGS,
    Amount,
    Count,
    Positive,
    Share,
    config_names,
    find_config,
    make,
    overridden,
    read_yaml,
    settings,
)
from masa_training.teacher.config import OPERATORS, TeacherConfig

PRESETS = CONFIGS / "evolve"


@settings
class BackboneConfig:
    """The backbone to evolve for; `spec` and `options` are those of `open_model`, `card` its card's fields or file.

    The options are written down: they name the variable of a server's key (`api_key_env`), and the key is refused.
    """

    name: str
    spec: str
    options: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] | str = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_keyless(self.spec, self.options, "backbone")


@settings
class AcceptConfig:
    """When a candidate replaces the incumbent: a rule of `masa_training.search.acceptance` and its numbers.

    Attributes:
        pairs: most pairs of episodes that are compared.
        first: pairs before the first look, where the rule looks more than once.
    """

    rule: Literal["sequential", "paired", "strict"] = "sequential"
    pairs: int = 150
    first: int = 5
    alpha: float = 0.05

    def acceptance(self) -> Acceptance:
        if self.rule == "sequential":
            return SequentialPaired(most=self.pairs, first=self.first, alpha=self.alpha)
        return Strict(self.pairs) if self.rule == "strict" else FixedPaired(self.pairs, self.alpha)


@settings
class BudgetConfig:
    """Limits of the whole run, interrupted or not; 0 is none.

    Attributes:
        episodes: played for search and teacher; the final test is not counted.
        tokens: read and written by the backbone.
        teacher_tokens, dollars: of the teacher.
        minutes: of playing and asking, over all sessions.
    """

    episodes: Count = 0
    tokens: Count = 0
    teacher_tokens: Count = 0
    dollars: Amount = 0.0
    minutes: Amount = 0.0


@settings
class EvolveConfig:
    """What `masa evolve` does. The search's defaults are the paper's (arXiv 2605.30723), the rule is ours.

    Attributes:
        bank: the bank to begin with: `ENVIRONMENT/NAME` of those that ship, a file, or one in the data folder.
        options: of the environment.
        teacher: `operators`, or settings of `TeacherConfig`; a text such as `openai:URL#MODEL` is short for its model.
        agent: settings of `AgentConfig`.
        bank_rounds: of the hill climbing for the whole bank, before everything else: an edit is tried on all groups at
            once, for readers whom no single group moves. Not in the paper; 0, the default, leaves it out.
        rounds, patience: of the hill climbing for the general skills; 0 rounds leave them as they are.
        iterations, exploration: of the tree search for each task type; 0 iterations leave them as they are.
        task_types: only these; empty for all that the bank has skills for.
        shown: K, best groups that the teacher is shown.
        examples: solved tasks of each type, of the split `train`, that edits may show as worked examples.
        watched: episodes of the split `train` that the teacher sees of the group it rewrites.
        penalty: λ of R = S − λ·NHR.
        score: what S is: "success", or the environment's "reward", which knows partial success.
        growth: most words of a group, as a multiple of the group that the search began with.
        test_tasks: tasks of the split `test` for the final comparison; 0 takes all.
        test_seeds: episodes of each.
        feedback_noise: probability with which an outcome is told wrongly to search and teacher; `noise_seed` decides
            which. The record keeps the truth and the final test is never touched: for studies (docs/studies.md).
        teacher_card: the card that the teacher is told instead of the backbone's, as fields or a file: for studies.
    """

    name: str
    environment: str
    backbone: BackboneConfig
    bank: str
    options: Mapping[str, Any] = field(default_factory=dict)
    agent: Mapping[str, Any] = field(default_factory=dict)
    teacher: str | TeacherConfig = OPERATORS
    bank_rounds: Count = 0
    rounds: Count = 10
    patience: Positive = 3
    iterations: Count = 10
    exploration: float = 1.4
    task_types: Sequence[str] = ()
    shown: Positive = 5
    examples: Count = 0
    watched: Positive = 12
    accept: AcceptConfig = field(default_factory=AcceptConfig)
    penalty: Share = 0.0
    score: Score = "success"
    growth: Annotated[float, Field(ge=1)] = 2.5
    test_tasks: Count = 100
    test_seeds: Positive = 1
    feedback_noise: Share = 0.0
    noise_seed: int = 0
    teacher_card: Mapping[str, Any] | str | None = None
    slots: Count = 0
    isolated: bool = False
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        self.teacher_config()
        self.agent_config()

    def agent_config(self) -> AgentConfig:
        return make(AgentConfig, dict(self.agent), "agent")

    def teacher_config(self) -> TeacherConfig:
        return self.teacher if isinstance(self.teacher, TeacherConfig) else TeacherConfig(model=self.teacher)

    def most_rounds(self, key: str) -> int:
        """Most candidates in the search for a group."""
        return {WHOLE: self.bank_rounds, GENERAL: self.rounds}.get(key, self.iterations)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evolve_names() -> tuple[str, ...]:
    """Names of the experiments that come with masa."""
    return config_names(PRESETS)


def load_evolve(name_or_path: str, overrides: Sequence[str] = (), *, teacher: str = "") -> EvolveConfig:
    """The experiment in a YAML file, or the shipped one of that name; overrides are such as `budget.episodes=500`.

    A `teacher` replaces the file's with all its settings, which may be another server's: its key is not sent elsewhere.

    Raises:
        TrainingError: for a missing file, an unknown key or a value that does not fit.
    """
    path = find_config(name_or_path, PRESETS, "experiment")
    values = read_yaml(path)
    if teacher:
        values["teacher"] = {"model": teacher}
    return make(EvolveConfig, overridden(values, overrides), str(path))


def card_of(config: EvolveConfig) -> dict[str, Any]:
    """The known fields of the backbone's card: those written in the configuration, or those of the card it names.

    Raises:
        CardError: if it names none.
    """
    return card_fields(config.backbone.card)


def teacher_card(config: EvolveConfig) -> dict[str, Any]:
    """The fields that the teacher is told: the backbone's, unless the configuration says otherwise.

    Raises:
        CardError: as `card_of`.
    """
    return card_of(config) if config.teacher_card is None else card_fields(config.teacher_card)


def card_fields(card: Mapping[str, Any] | str) -> dict[str, Any]:
    """Fields as they are, or the known ones of the card that a text names: a file, a shipped card, a backbone.

    Raises:
        CardError: if it names none.
    """
    return dict(card) if isinstance(card, Mapping) else dict(resolve_backbone(card).fields())
