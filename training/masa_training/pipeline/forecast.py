"""What a pipeline would do at most, from the dry runs of its stages; nothing is played, trained or written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from masa_training.dataset.folder import load_dataset
from masa_training.evolution.run import estimate
from masa_training.pipeline.checks import missing
from masa_training.pipeline.config import Costs, Estimate, PipelineConfig, playing, total, training, working
from masa_training.pipeline.run import FINISHED, Record, check_settings, state_of, to_do
from masa_training.pipeline.stages import STAGES, Checksums, Work, stage_of
from masa_training.profiling import plan as profile_plan
from masa_training.rollouts import Record as Episodes


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of the plan: how far it is, its figures, in words, and what it costs at most."""

    stage: str
    state: str
    most: Mapping[str, Any]
    text: str
    estimate: Estimate

    @property
    def finished(self) -> bool:
        return self.state == FINISHED

    def to_json(self) -> dict[str, Any]:
        return {"stage": self.stage, "state": self.state, **self.most, **self.estimate.to_json()}


@dataclass(frozen=True, slots=True)
class Forecast:
    """What will be done, and what it would cost.

    Attributes:
        measured: assumptions that a finished profile replaced.
        left: the sum over what is not finished.
        missing: as of `masa_training.pipeline.checks.missing`.
    """

    name: str
    steps: tuple[Step, ...]
    costs: Costs
    measured: tuple[str, ...]
    left: Estimate
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "stages": [step.to_json() for step in self.steps],
            "left": self.left.to_json(),
            "assumed": asdict(self.costs),
            "measured": list(self.measured),
            "missing": list(self.missing),
        }


def forecast(work: Work, until: str = STAGES[-1], *, exact: bool = False) -> Forecast:
    """The plan, for a folder that may be there already; `exact` lays the steps of training out where there are data.

    Raises:
        MasaError: as the stages' own dry runs, and if a stage was done with other settings.
    """
    record = Record(work.folder)
    names = STAGES[: STAGES.index(until) + 1]
    states: dict[str, str] = {}
    before: Checksums = {}
    for name in names:
        stage = stage_of(name)
        check_settings(work, record, stage)
        states[name], left = state_of(work, record, stage, before)
        if left is None:
            states |= {later: "begun" if later in record.begun else "open" for later in names if later not in states}
            break
        before = {f"{name}/{key}": value for key, value in left.items()}
    config = work.config
    finished = states["profile"] == FINISHED
    costs, measured = _measured(work, config.costs) if finished else (config.costs, ())
    searched = estimate(config.evolve)
    steps = []
    for name in names:
        most, text, cost = _step(work, name, states, searched, costs, exact)
        steps.append(Step(name, states[name], most, text, cost))
    left_over = total([step.estimate for step in steps if not step.finished])
    absent = missing(work, to_do(work, record, names))
    return Forecast(config.name, tuple(steps), costs, measured, left_over, absent)


def _step(
    work: Work, name: str, states: Mapping[str, str], searched: Mapping[str, Any], costs: Costs, exact: bool
) -> tuple[dict[str, Any], str, Estimate]:
    config = work.config
    prices = config.evolve.teacher_config().prices
    if name == "profile":
        told = profile_plan(config.profiling())
        most = {key: told[key] for key in ("episodes", "teacher_requests")}
        return most, _played(most), playing(costs, most["episodes"], most["teacher_requests"], prices)
    if name == "evolve":
        episodes = searched["episodes"] + searched["test_episodes"]
        groups = {key: its["episodes"] for key, its in searched["groups"].items()}
        most = {"episodes": episodes, "teacher_requests": searched["teacher_requests"], "groups": groups}
        text = f"{_played(most)}, {searched['test_episodes']:,} of them the test; {len(groups)} groups"
        return most, text, playing(costs, episodes, searched["teacher_requests"], prices)
    if name == "dataset":
        return _dataset(work, states, searched)
    if name == "distill":
        return _distill(work, searched, costs, exact=exact and states["dataset"] == FINISHED != states[name])
    if name == "export":
        export = config.export
        kind = f"an adapter in {export.type}" if export.kind == "adapter" else f"a GGUF in {export.quantization}"
        return {"artifact": str(work.artifact)}, f"{kind}: {work.artifact}", working(costs, costs.export_minutes)
    samples = config.verify.limit
    return {"samples": samples}, f"{samples:,} held-out samples", working(costs, costs.verify_minutes)


def _dataset(
    work: Work, states: Mapping[str, str], searched: Mapping[str, Any]
) -> tuple[dict[str, Any], str, Estimate]:
    if states.get("dataset") == FINISHED:
        info = load_dataset(work.folder / "dataset").info
        samples = {name.removesuffix(".jsonl"): its["samples"] for name, its in info.files.items()}
        return (
            {"samples": samples},
            ", ".join(f"{many:,} {name}" for name, many in samples.items()),
            Estimate(0, dollars=0),
        )
    runs, corpus = _training_samples(work.config, len(searched["groups"]))
    text = f"at most {runs:,} training samples of the run" + (f", {corpus:,} of the bootstrap corpus" if corpus else "")
    return {"training_samples": {"runs": runs, "bootstrap": corpus}}, text, Estimate(0, dollars=0)


def _distill(
    work: Work, searched: Mapping[str, Any], costs: Costs, *, exact: bool
) -> tuple[dict[str, Any], str, Estimate]:
    config = work.config.distill
    if exact:
        from masa_training.distill.schedule import plan

        planned = plan(config, load_dataset(work.folder / "dataset"))
        most = {"steps": len(planned.steps), "tokens": planned.computed}
        text = f"{most['steps']:,} steps, {most['tokens']:,} tokens"
        return most, text, training(costs, planned.computed)
    samples = sum(_training_samples(work.config, len(searched["groups"])))
    steps = config.epochs * math.ceil(samples / config.batch_size)
    steps = min(steps, config.max_steps) if config.max_steps else steps
    tokens = min(steps * config.batch_size, config.epochs * samples) * costs.sample_tokens
    told = f", {tokens:,} tokens" if tokens else ""
    return {"steps": steps, "tokens": tokens or None}, f"at most {steps:,} steps{told}", training(costs, tokens)


def _training_samples(config: PipelineConfig, groups: int) -> tuple[int, int]:
    """At most so many of the run of this pipeline, and so many of the bootstrap corpus."""
    dataset = config.dataset
    counts = dataset.samples
    each = counts.intermediate
    if dataset.language == "text":
        each += counts.other_backbone + counts.adapter + counts.augmented
    corpus = 0
    if dataset.kind == "mixed":
        from masa_training.bootstrap import CorpusConfig

        made = CorpusConfig(**dataset.bootstrap)
        corpus = made.train * made.cards_per_group
    return groups * each * len(dataset.card_variants), corpus


def _played(most: Mapping[str, Any]) -> str:
    asked = most["teacher_requests"]
    return f"at most {most['episodes']:,} episodes" + (f", {asked:,} questions to the teacher" if asked else "")


def _measured(work: Work, costs: Costs) -> tuple[Costs, tuple[str, ...]]:
    """The assumptions, with the tokens that an episode of the profile had; its seconds had loading among them."""
    played = Episodes(work.folder / "profile", work.config.profiling().settings(), resume=True).episodes.values()
    finished = [episode for episode in played if episode.outcome == "finished"]
    if not finished:
        return costs, ()
    read, written = (
        round(sum(getattr(episode, name) for episode in finished) / len(finished))
        for name in ("prompt_tokens", "completion_tokens")
    )
    return replace(costs, episode_tokens=(read, written)), ("episode_tokens",)
