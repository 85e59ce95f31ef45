"""The configuration of `masa pipeline`: one typed YAML an experiment, a section a stage, and what it would cost.

A cost is what a stage does at most, times what one of each is assumed to take; the assumptions are settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from masa_training.dataset.config import RUN, DatasetConfig
from masa_training.distill.config import PRESETS as DISTILL
from masa_training.distill.config import DistillConfig
from masa_training.errors import TrainingError
from masa_training.evolution.config import PRESETS as EVOLVE
from masa_training.evolution.config import EvolveConfig
from masa_training.profiling import ProfileConfig
from masa_training.settings import (
    CONFIGS,
    Amount,
    Count,
    Positive,
    config_names,
    find_config,
    make,
    overridden,
    read_yaml,
    settings,
)


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


PRESETS = CONFIGS / "pipeline"


@settings
class ProfileStage:
    """What `masa profile` is told beside the environment, the backbone, the agent and the teacher of `evolve`.

    Attributes:
        card: as its `--card`; where it is empty and `evolve.backbone.card` names one, that.
        teacher: who sums up the episodes; empty for the teacher of `evolve`.
    """

    tasks: Count = 40
    seeds: Positive = 1
    card: str = ""
    teacher: str = ""


@settings
class ExportStage:
    """What `masa export` is told.

    Attributes:
        kind: `adapter` for a LoRA beside the weights of its base, `gguf` for the two merged and quantized.
        type: how an adapter's numbers are stored.
        quantization: one of llama.cpp's types, for `gguf`.
        base, converter, licence: as its options; empty for their defaults.
    """

    kind: Literal["adapter", "gguf"] = "adapter"
    type: Literal["f32", "f16", "q8_0"] = "f16"
    quantization: str = "Q8_0"
    base: str = ""
    converter: str = ""
    licence: str = ""


@settings
class VerifyStage:
    """What `masa export verify` is told; `thresholds` change those of the artifact's type, null removes one.

    What a threshold may be called, the export side tells (`masa_training.pipeline.checks`).
    """

    limit: Positive = 24
    wrong_cards: Positive = 2
    seed: Count = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    resources: bool = True
    thresholds: Mapping[str, Amount | None] = field(default_factory=dict)

    def threshold_options(self) -> list[str]:
        """The thresholds as options of the command spell them, `NAME=VALUE`."""
        return [f"{name}={'off' if limit is None else limit}" for name, limit in self.thresholds.items()]


@settings
class PipelineConfig:
    """What `masa pipeline` does, stage by stage.

    Attributes:
        name: also the artifact's.
        places: where relative paths of the section `dataset` begin.
        costs: what `--dry-run` counts with; it decides nothing.
    """

    name: Annotated[str, Field(pattern=r"^[^/\\]*[^/\\\s][^/\\]*$")]
    evolve: EvolveConfig
    dataset: DatasetConfig
    distill: DistillConfig
    profile: ProfileStage = ProfileStage()
    export: ExportStage = ExportStage()
    verify: VerifyStage = VerifyStage()
    costs: Costs = Costs()
    places: Path = Path()

    def __post_init__(self) -> None:
        dataset, distill = self.dataset, self.distill
        if self.export.kind == "adapter" and distill.method != "lora":
            raise TrainingError("only a LoRA is exported as an adapter; set export.kind: gguf")
        if dataset.kind not in ("runs", "mixed"):
            raise TrainingError(f"dataset.kind is {dataset.kind}; a pipeline learns from runs, or mixed")
        if RUN not in dataset.sources.runs:
            raise TrainingError(f'dataset.sources.runs leaves out what is evolved here; name "{RUN}" in it')
        if dataset.kind == "runs" and not any(asdict(dataset.holdouts.test).values()):
            raise TrainingError(
                "dataset.holdouts.test holds nothing out, and without a test split nothing can be verified; "
                "name task types in it"
            )
        if dataset.context_length > distill.context_length:
            raise TrainingError(
                f"dataset.context_length is {dataset.context_length}, but distill.context_length is "
                f"{distill.context_length}, and a longer sample cannot be trained on; make them equal"
            )

    def profiling(self) -> ProfileConfig:
        """The profile of the very backbone, environment and agent that the search has."""
        evolve, given = self.evolve, self.profile
        teacher = evolve.teacher_config()
        if given.teacher:
            from masa_training.teacher.config import TeacherConfig

            teacher = TeacherConfig(model=given.teacher)
        named = evolve.backbone.card if isinstance(evolve.backbone.card, str) else ""
        return ProfileConfig(
            environment=evolve.environment,
            backbone=evolve.backbone.spec,
            options=evolve.options,
            model_options=evolve.backbone.options,
            card=given.card or named,
            tasks=given.tasks,
            seeds=given.seeds,
            agent=evolve.agent_config(),
            isolated=evolve.isolated,
            slots=evolve.slots,
            teacher=teacher,
        )


def pipeline_names() -> tuple[str, ...]:
    """Names of the pipelines that come with masa."""
    return config_names(PRESETS)


def load_pipeline(name_or_path: str, overrides: Sequence[str] = ()) -> PipelineConfig:
    """The pipeline in a YAML file, or the shipped one of that name; overrides are such as `evolve.rounds=2`.

    The sections `evolve` and `distill` may name a shipped configuration of their command with `config`, of which their
    other settings change some. `dataset` has base, template and context_length of `distill` unless it says otherwise.

    Raises:
        TrainingError: for a missing file, an unknown key or a value that does not fit.
    """
    path = find_config(name_or_path, PRESETS, "pipeline")
    values, where = overridden(read_yaml(path), overrides), str(path)
    if "places" in values:
        raise TrainingError(f"{where}: places is where the file lies; leave it out")
    sections = {key: values.get(key) or {} for key in ("evolve", "dataset", "distill")}
    for key, its in sections.items():
        if not isinstance(its, dict):
            raise TrainingError(f"{where}: {key} is {its!r}; settings (key: value) belong there")
        if not its:
            raise TrainingError(f"{where}: {key} is missing; add it")
    name = {"name": values["name"]} if "name" in values else {}
    evolve = name | _on_top(EVOLVE, sections["evolve"], f"{where}: evolve")
    distill = make(DistillConfig, _on_top(DISTILL, sections["distill"], f"{where}: distill"), f"{where}: distill")
    of_distill = {"base": distill.base, "template": distill.template, "context_length": distill.context_length}
    dataset = name | of_distill | sections["dataset"]
    stages = {"evolve": evolve, "dataset": dataset, "distill": distill.to_dict()}
    given = {key: its for key, its in values.items() if its is not None}
    return replace(make(PipelineConfig, given | stages, where), places=path.parent)


def settings_of(config: PipelineConfig, stage: str) -> dict[str, Any]:
    """What the results of a stage depend on, as nested JSON values: what may differ when it goes on is left out."""
    from masa_training.distill.run_folder import RESUMABLE

    if stage == "profile":
        ours = config.profiling()
        told = {"tasks": ours.tasks, "seeds": ours.seeds, "card": ours.card, "teacher": ours.teacher.model}
        return {**ours.settings(), **told}
    if stage == "evolve":
        values = config.evolve.to_dict()
        backbone = {key: value for key, value in values["backbone"].items() if key != "card"}
        backbone["options"] = {key: value for key, value in backbone["options"].items() if key != "api_key"}
        return {**{key: value for key, value in values.items() if key != "budget"}, "backbone": backbone}
    if stage == "dataset":
        return config.dataset.to_json()
    if stage == "distill":
        return {key: value for key, value in config.distill.to_dict().items() if key not in RESUMABLE}
    return {"name": config.name, **asdict(config.export)} if stage == "export" else asdict(config.verify)


def _on_top(shipped: Path, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """These settings on top of those of the configuration that `config` names."""
    own = {key: value for key, value in values.items() if key != "config"}
    if "config" not in values:
        return own
    return _merged(read_yaml(find_config(str(values["config"]), shipped, f"configuration ({where})")), own)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
