"""The stages: what each works on, what it leaves, and how it is performed by the functions of its own command.

Whether a stage is finished shows in what it left, read again every time: a card, a run with its final test, a data set
with its checksums, a checkpoint, an artifact whose files are whole, a report that passed and is about exactly these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.artifact import load_artifact
from masa.cards import load_card
from masa.checksums import sha256_file
from masa.errors import MasaError
from masa.files import parse_json
from masa_training.checkpoint import RECORD as CHECKPOINT
from masa_training.checkpoint import read_checkpoint
from masa_training.dataset.config import DatasetConfig, Places, data_folder
from masa_training.dataset.folder import load_dataset
from masa_training.errors import TrainingError
from masa_training.evolution.config import EvolveConfig
from masa_training.evolution.run_log import CONFIG, EVENTS, RunLog
from masa_training.models import Model
from masa_training.pipeline.config import PipelineConfig
from masa_training.pipeline.process import TerminatedError, options, run_masa
from masa_training.profiling import CARD, profile
from masa_training.rollouts.executors import Executor
from masa_training.rollouts.record import SETTINGS

if TYPE_CHECKING:
    from masa_training.evolution.run import Underway
    from masa_training.evolution.searching import Told
    from masa_training.rollouts import Episode


class Watch:
    """Is told what goes on, each stage in the words of its own command; this one listens to nothing."""

    def stage(self, name: str, number: int, of: int, state: str) -> None:
        """A stage comes: "finished" before, "goes on" or "begins"."""

    def episodes(self, done: int, total: int) -> None:
        """Of the profile."""

    def begun(self, underway: Underway) -> None:
        """A search begins."""

    def told(self, told: Told) -> None:
        """What happened in a search."""

    def played(self, episode: Episode) -> None:
        """An episode of a search."""

    def building(self, doing: str, done: int, total: int) -> None:
        """Of the data set."""

    def training(self, event: str, values: Mapping[str, Any]) -> None:
        """An event of training."""

    def line(self, text: str) -> None:
        """What a process says."""

    def ended(self, name: str) -> None:
        """A stage is finished, or was stopped."""


VERIFIED = "verify.json"

Checksums = Mapping[str, str]


class CancelledError(TrainingError):
    """The person stopped it; everything so far is kept."""


@dataclass(frozen=True, slots=True)
class Work:
    """A pipeline at work.

    Attributes:
        model: the backbone, where it is open already; `executor`: who plays episodes, None for this process.
        trees: as of `masa_training.evolution.run.evolve`.
    """

    config: PipelineConfig
    folder: Path
    watch: Watch = field(default_factory=Watch)
    cancel: Callable[[], bool] = lambda: False
    model: Model | None = None
    executor: Executor | None = None
    trees: int = 0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "distill" / "checkpoint"

    @property
    def artifact(self) -> Path:
        export, name = self.config.export, self.config.name
        return (
            self.folder / "artifact" / (name if export.kind == "adapter" else f"{name}-{export.quantization.lower()}")
        )

    def evolve_config(self) -> EvolveConfig:
        """With the profile's card: its fields, so that the folder may be moved."""
        config = self.config.evolve
        card = dict(load_card(self.folder / "profile" / CARD).fields())
        return replace(config, backbone=replace(config.backbone, card=card))

    def places(self) -> Places:
        return Places(self.config.places, data_folder(), self.folder / "evolve")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        place: what a person deletes to have it made anew.
        partial: what is there as soon as something is that is not made twice; None where nothing is until the end.
        left: checksums of what it left; None if that is not there or not whole.
        perform: do it or go on with it; figures for people.
    """

    name: str
    place: Callable[[Work], Path]
    partial: Callable[[Work], Path] | None
    left: Callable[[Work], Checksums | None]
    perform: Callable[[Work], dict[str, Any]]


def _profile_left(work: Work) -> Checksums | None:
    path = work.folder / "profile" / CARD
    if not path.is_file():
        return None
    load_card(path)
    return {CARD: sha256_file(path)}


def _profile(work: Work) -> dict[str, Any]:
    found = profile(
        work.config.profiling(),
        work.folder / "profile",
        resume=True,
        model=work.model,
        executor=work.executor,
        progress=work.watch.episodes,
        cancel=work.cancel,
    )
    if found.card is None:
        raise CancelledError("cancelled")
    return {key: value for key, value in found.to_json().items() if key != "card"}


def _evolve_left(work: Work) -> Checksums | None:
    folder = work.folder / "evolve"
    if not (folder / CONFIG).is_file():
        return None
    log = RunLog(folder, work.evolve_config(), resume=True)
    return {EVENTS: sha256_file(folder / EVENTS)} if log.run.test else None


def _evolve(work: Work) -> dict[str, Any]:
    from masa_training.evolution.run import evolve
    from masa_training.evolution.views.report import write_report

    folder, watch = work.folder / "evolve", work.watch
    evolved = evolve(
        work.evolve_config(),
        folder,
        resume=True,
        model=work.model,
        executor=work.executor,
        trees=work.trees,
        told=watch.told,
        progress=watch.played,
        begun=watch.begun,
        cancel=work.cancel,
    )
    write_report(folder)
    if work.cancel() and evolved.ended:
        raise CancelledError("cancelled")
    if evolved.ended:
        raise TrainingError(f"{evolved.ended}, and what was not searched cannot be learned; raise evolve.budget")
    accepted = {key: its["accepted"] for key, its in evolved.searches.items()}
    return {"bank": str(evolved.path), "episodes": evolved.episodes, "accepted": accepted}


def _dataset_left(work: Work) -> Checksums | None:
    folder = work.folder / "dataset"
    return {"samples": load_dataset(folder).info.sha256} if folder.is_dir() else None


def _dataset(work: Work) -> dict[str, Any]:
    from masa_training.bases import open_base
    from masa_training.dataset.build import build_dataset
    from masa_training.dataset.data_card import data_card
    from masa_training.dataset.folder import write_dataset

    config: DatasetConfig = work.config.dataset
    made = build_dataset(config, work.places(), open_base(config.base, config.template), progress=work.watch.building)
    info = write_dataset(work.folder / "dataset", made, data_card(made), force=True)
    samples = {name.removesuffix(".jsonl"): told["samples"] for name, told in info.files.items()}
    return {"samples": samples, "synthetic": info.synthetic, "summary": info.summary}


def _distill_left(work: Work) -> Checksums | None:
    if not (work.checkpoint / CHECKPOINT).is_file():
        return None
    read_checkpoint(work.checkpoint)
    weights = sorted(work.checkpoint.glob("*.safetensors"))
    sizes = {path.name: str(path.stat().st_size) for path in weights}
    return {CHECKPOINT: sha256_file(work.checkpoint / CHECKPOINT), **sizes} if weights else None


def _distill(work: Work) -> dict[str, Any]:
    from masa_training.distill.run import StoppedError, distill

    try:
        made = distill(
            work.config.distill,
            load_dataset(work.folder / "dataset"),
            work.folder / "distill",
            resume=True,
            report=work.watch.training,
            stop=work.cancel,
        )
    except StoppedError as stopped:
        raise CancelledError(str(stopped)) from None
    return dict(made.metrics)


def _export_left(work: Work) -> Checksums | None:
    if not work.artifact.is_dir():
        return None
    return {name: entry.sha256 for name, entry in sorted(load_artifact(work.artifact).entries.items())}


def _export(work: Work) -> dict[str, Any]:
    export = work.config.export
    arguments = ["export", export.kind, str(work.checkpoint), *options(base=export.base)]
    if export.kind == "adapter":
        arguments += options(artifact=work.artifact, type=export.type)
    else:
        told = {name: getattr(export, name) for name in ("quantization", "converter", "licence")}
        arguments += options(output=work.artifact.parent, name=work.config.name, **told)
    # What is there and does not load, or is of another checkpoint, was made by this stage before.
    arguments += ["--force"] if work.artifact.exists() else []
    _run(work, arguments)
    left = _export_left(work)
    if left is None:
        raise TrainingError(f"masa {' '.join(arguments[:2])} left no artifact in {work.artifact}; report this as a bug")
    return {
        "artifact": str(work.artifact),
        "bytes": sum(path.stat().st_size for path in load_artifact(work.artifact).paths.values()),
    }


def _verify_left(work: Work) -> Checksums | None:
    path = work.artifact / VERIFIED
    if not path.is_file():
        return None
    try:
        told = parse_json(path.read_text("utf-8"))
        about, passed = told["subject"]["files"], told["passed"]
    except (ValueError, KeyError, TypeError):
        return None
    return {VERIFIED: sha256_file(path)} if passed is True and about == _export_left(work) else None


def _verify(work: Work) -> dict[str, Any]:
    verify, export = work.config.verify, work.config.export
    told = {name: value for name, value in asdict(verify).items() if name != "thresholds"}
    # A GGUF beside a Hugging Face base serves the export; the checkpoint is computed from the base itself.
    told["base"] = export.base if export.kind == "adapter" else None
    places = {"against": work.checkpoint, "prompts": work.folder / "dataset", "output": work.artifact}
    arguments = ["export", "verify", str(work.artifact), *options(**places, **told)]
    arguments += options(threshold=verify.threshold_options())
    _run(work, arguments)
    if _verify_left(work) is None:
        raise TrainingError(f"{work.artifact / VERIFIED}: does not say that these files passed; report this as a bug")
    told = parse_json((work.artifact / VERIFIED).read_text("utf-8"))
    return {"passed": True, **{its["name"]: its["value"] for its in told["verdicts"] if its["value"] is not None}}


def _run(work: Work, arguments: list[str]) -> None:
    try:
        run_masa(arguments, say=work.watch.line, cancel=work.cancel)
    except TerminatedError:
        raise CancelledError("cancelled") from None


def _artifact(work: Work) -> Path:
    return work.artifact


def _under(*names: str) -> Callable[[Work], Path]:
    return lambda work: work.folder.joinpath(*names)


_STAGES = {
    stage.name: stage
    for stage in (
        Stage("profile", _under("profile"), _under("profile", SETTINGS), _profile_left, _profile),
        Stage("evolve", _under("evolve"), _under("evolve", CONFIG), _evolve_left, _evolve),
        Stage("dataset", _under("dataset"), _under("dataset"), _dataset_left, _dataset),
        Stage("distill", _under("distill"), _under("distill", CONFIG), _distill_left, _distill),
        Stage("export", _artifact, _artifact, _export_left, _export),
        Stage("verify", lambda work: work.artifact / VERIFIED, None, _verify_left, _verify),
    )
}
STAGES = tuple(_STAGES)


def stage_of(name: str) -> Stage:
    """The stage of that name."""
    return _STAGES[name]


def left_of(stage: Stage, work: Work) -> Checksums | None:
    """As `stage.left`; None too where what is there cannot be read."""
    try:
        return stage.left(work)
    except MasaError:
        return None
