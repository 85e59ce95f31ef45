"""One cell of a distillation study: data set, training, measuring; all of it in a work folder that need not survive.

Work folder: `datasets/` (built once each), `bases/` (results of untrained bases, which cells share) and for every cell
`NAME-FINGERPRINT/` with the run folder of `masa distill` and the rows of the evaluation. While it is there, a killed
cell goes on; without it, the cell starts again.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa import cpu
from masa.files import make_folder, write_atomic
from masa.prompt import PROMPT_VERSION
from masa_training.bases import Base, open_base
from masa_training.dataset.folder import Dataset, load_dataset
from masa_training.distill.config import DistillConfig
from masa_training.evaluate.rewriter.arms import cluster
from masa_training.evaluate.rewriter.report import MOST_CARDS, report
from masa_training.evaluate.rewriter.results import Results
from masa_training.evaluate.rewriter.running import BASE, TRAINED, Scope, check_fit, open_subject, run, scope_of
from masa_training.studies.distillation_cells import fingerprint
from masa_training.studies.distillation_config import Measure, Study, StudyCell, base_path

if TYPE_CHECKING:
    from masa_training.studies.running import Budget


Say = Callable[[str], None]
_PACKAGES = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are on this machine: the work folder, the folder of `{data}`, files of bases, CPU threads."""

    work: Path
    data_dir: str | None = None
    bases: Mapping[str, str] | None = None
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A cell that can be made: its training configuration, data set and base, and the configuration that it records."""

    cell: StudyCell
    settings: DistillConfig
    dataset: Dataset
    base: Base
    configuration: Mapping[str, Any]


def prepare(
    study: Study, cells: Sequence[StudyCell], places: Places, *, write: bool = True, say: Say = lambda text: None
) -> dict[str, Prepared]:
    """All cells by name; every base is found and every data set built or loaded before the first hour is spent.

    Without `write`, data sets are built in memory only.

    Raises:
        TrainingError: if a base or data are missing or cannot be used.
        FormatError: if a file cannot be read.
    """
    bases: dict[tuple[str, str | None], Base] = {}
    prepared: dict[str, Prepared] = {}
    for cell in cells:
        settings = study.settings(cell, threads=places.threads)
        where = base_path(settings.base, places.bases or {}, cell.name)
        key = (where, settings.template)
        bases[key] = bases[key] if key in bases else open_base(*key)
    datasets: dict[str, Dataset] = {}
    for cell in cells:
        if cell.row.dataset not in datasets:
            datasets[cell.row.dataset] = _dataset(study.beside(cell.row.dataset), places, write, say)
        dataset = datasets[cell.row.dataset]
        where = base_path(study.settings(cell).base, places.bases or {}, cell.name)
        settings = study.settings(cell, base=where, threads=places.threads)
        base = bases[where, settings.template]
        configuration = study.declared(cell) | {
            "dataset_sha256": dataset.info.sha256,
            "base_sha256": base.sha256,
            "prompt_version": PROMPT_VERSION,
        }
        prepared[cell.name] = Prepared(cell, settings, dataset, base, configuration)
    return prepared


def make_cell(
    study: Study, prepared: Prepared, places: Places, budget: Budget, *, report: Callable[..., None], say: Say
) -> dict[str, Any] | None:
    """Train and measure, or go on with it; None if the budget ended it before.

    `report` is told the events of the training run, and while measuring what is done.

    Raises:
        TrainingError: as `masa_training.distill.run.distill` and the evaluation.
    """
    from masa_training.distill.events import read_events

    _open_work(places.work)
    cell = prepared.cell
    folder = run_folder(places.work, prepared)
    checkpoint = _trained(prepared, folder / "run", budget, report)
    if checkpoint is None:
        return None
    gc.collect()
    say(f"{cell.name}: measuring")
    began = time.monotonic()
    shared = {key: prepared.configuration[key] for key in ("dataset_sha256", "base_sha256", "template", "card")}
    name = fingerprint({**shared, "card": prepared.settings.card, **asdict(study.config.measure)})[:12]
    measured = measure(
        checkpoint,
        prepared.dataset,
        study.config.measure,
        folder=folder / "evaluation",
        base_folder=places.work / "bases" / name,
        cancel=budget.over,
        progress=lambda doing, done, total: report("measuring", {"doing": doing, "done": done, "total": total}),
    )
    if measured is None:
        return None
    events = read_events(folder / "run" / "events.jsonl")
    info = prepared.dataset.info
    return {
        "study": study.config.name,
        "cell": cell.name,
        "row": cell.row.name,
        "seed": cell.seed,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "configuration": dict(prepared.configuration),
        "dataset": {
            "name": info.name,
            "language": info.language,
            "synthetic": info.synthetic,
            "licence": info.licence,
            "holdouts": dict(info.holdouts),
            "samples": {split: len(prepared.dataset.split(split)) for split in ("train", "validation", "test")},
        },
        "base": {"name": prepared.base.name, "kind": prepared.base.kind},
        **measured,
        "curve": curve(events, prepared.settings),
        "training": training(events),
        "minutes": {"training": training_minutes(events), "measuring": round((time.monotonic() - began) / 60, 1)},
        "versions": _versions(),
        "host": _host(),
    }


def run_folder(work: Path, prepared: Prepared) -> Path:
    return work / f"{prepared.cell.name}-{fingerprint(prepared.configuration)[:8]}"


def curve(events: Sequence[Mapping[str, Any]], settings: DistillConfig) -> list[dict[str, Any]]:
    """By step of an evaluation: epochs done, validation NLL, and the mean training loss since the one before.

    A step that was taken twice, because a kill came after it, counts as it was taken last. `epoch` is None where
    `max_steps` cuts the run.
    """
    validation: dict[int, float] = {}
    losses: dict[int, float] = {}
    total = 0
    for event in events:
        if event["event"] in ("started", "resumed"):
            total = event["steps"]
        elif event["event"] == "evaluated":
            validation[event["step"]] = event["nll"]
        elif event["event"] == "trained" and "loss" in event:
            losses[event["step"]] = event["loss"]
    points = []
    last = -1
    for step in sorted(validation):
        since = [loss for at, loss in losses.items() if last < at <= step]
        whole = total and not settings.max_steps
        points.append(
            {
                "step": step,
                "epoch": round(step * settings.epochs / total, 2) if whole else None,
                "validation_nll": round(validation[step], 6),
                "training_loss": round(sum(since) / len(since), 6) if since else None,
            }
        )
        last = step
    return points


def training(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Steps taken and planned, the validation NLL of what was kept, and how often the run was resumed."""
    begun = [event for event in events if event["event"] in ("started", "resumed")]
    ended = [event for event in events if event["event"] == "finished"]
    return {
        "steps": ended[-1].get("steps") if ended else None,
        "planned_steps": begun[-1]["steps"] if begun else None,
        "validation_nll": ended[-1].get("validation_nll") if ended else None,
        "resumed": sum(event["event"] == "resumed" for event in events),
    }


def training_minutes(events: Sequence[Mapping[str, Any]]) -> float:
    """Minutes that the run was at work, over all its sessions; steps that a kill made necessary again included."""
    seconds = 0.0
    for before, after in pairwise(events):
        if after["event"] not in ("started", "resumed"):
            seconds += max(0.0, after["time"] - before["time"])
    return round(seconds / 60, 1)


def _trained(prepared: Prepared, folder: Path, budget: Budget, report: Callable[..., None]) -> Path | None:
    """The checkpoint of a run, trained to its end now or earlier; None if the budget ended the run."""
    from masa_training.checkpoint import RECORD
    from masa_training.distill.run import StoppedError, distill

    if (folder / "checkpoint" / RECORD).is_file():
        return folder / "checkpoint"

    try:
        return distill(prepared.settings, prepared.dataset, folder, resume=True, report=report, stop=budget.over).path
    except StoppedError:
        return None


def _dataset(spec: str, places: Places, write: bool, say: Say) -> Dataset:
    """The data set of a configuration, from the work folder if it was built there before."""
    from masa_training.dataset.build import build_dataset
    from masa_training.dataset.config import load_config
    from masa_training.dataset.data_card import data_card
    from masa_training.dataset.folder import write_dataset

    config, found = load_config(spec, data_dir=places.data_dir)
    told = json.dumps([config.to_json(), str(found.data), PROMPT_VERSION], sort_keys=True, default=str)
    folder = places.work / "datasets" / f"{config.name}-{hashlib.sha256(told.encode('utf-8')).hexdigest()[:8]}"
    if folder.exists():
        return load_dataset(folder)
    say(f"building the data set {config.name}")
    dataset = build_dataset(config, found, open_base(config.base, config.template))
    if write:
        _open_work(places.work)
        write_dataset(folder, dataset, data_card(dataset))
        return load_dataset(folder)
    return dataset


def _open_work(folder: Path) -> None:
    """Make the work folder, and keep it out of git."""
    make_folder(folder)
    if not (folder / ".gitignore").exists():
        write_atomic(folder / ".gitignore", b"*\n")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from masa import __version__

    return {"masa": __version__, "python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _host() -> dict[str, Any]:
    """What the cell ran on, without the machine's name."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu.detect().model or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
    }


Sums = dict[str, Any]


def measure(
    checkpoint: Path,
    dataset: Dataset,
    how: Measure,
    *,
    folder: Path,
    base_folder: Path,
    cancel: Callable[[], bool],
    progress: Callable[[str, float, float], None],
) -> dict[str, Any] | None:
    """`models` and `clusters` of a cell; None after `cancel()`, and the next call goes on.

    Rows are kept in `folder` and, for the untrained base, which other cells share, in `base_folder`.
    """
    scope = scope_of(dataset, how.split, limit=how.limit, wrong_cards=how.wrong_cards, seed=how.seed)
    settings = {"dataset_sha256": dataset.info.sha256, **asdict(how)}
    everything = Results(None, settings)
    for untrained, where in ((False, folder), (True, base_folder)):
        subject = open_subject(str(checkpoint), base=untrained, dtype=how.dtype)
        check_fit(subject, dataset)
        results = Results(where, settings, resume=True)
        if not _complete(scope, results, subject.model, how.write):
            run(subject, scope, results, write=how.write, progress=progress, cancel=cancel)
            if not _complete(scope, results, subject.model, how.write):
                return None
        everything.add(row for row in results.rows if row["model"] == subject.model)
    return told(scope, everything, how)


def told(scope: Scope, results: Results, how: Measure, *, resamples: int = 2000) -> dict[str, Any]:
    """What a cell keeps of complete results of both models."""
    found = report(scope, results, models=(TRAINED, BASE), write=how.write, resamples=resamples)
    models = {}
    for model, values in found["models"].items():
        models[model] = {"nll": values["nll"], "cards": values["cards"], "generation": _kept(values["generation"])}
    return {
        "models": models,
        "clusters": cluster_sums(scope, results),
        "samples": found["samples"],
        "samples_in_split": found["samples_in_split"],
        "backbones": found["backbones"],
    }


def cluster_sums(scope: Scope, results: Results) -> list[Sums]:
    """For every cluster, in order of appearance, and both models, sums over its samples.

    `nll` has by arm the NLL under that arm (of several wrong cards their average), the NLL under the right card and the
    target tokens, all of the samples that have the arm; so `[nll, right, tokens]` give level and difference. `cards`
    has the same by wrong card where there are few. `counts` has (how many, of how many): `below` are samples likelier
    under the right card than under every wrong one; `valid`, `guarded` and `exact` are of what it wrote. `edits` among
    them are right, invented and missed ones, all but `keep`.
    """
    scores: dict[tuple[str, str], dict[str, list[tuple[float, int, str]]]] = {}
    written: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in results.rows:
        key = (row["model"], row["sample"])
        if "generated" in row:
            written[key] = row["generated"]
            continue
        card = row["variant"].removeprefix("card ") if row["variant"].startswith("card ") else ""
        for arm in row["arms"]:
            scores.setdefault(key, {}).setdefault(arm, []).append((row["nll"], row["tokens"], card))
    names = {card for arms in scores.values() for _, _, card in arms.get("wrong", ())}
    named = len(names) <= MOST_CARDS
    sums: dict[Hashable, Sums] = {}
    for sample in scope.samples:
        unit = cluster(sample)
        name = list(unit) if isinstance(unit, tuple) else [unit]
        entry = sums.setdefault(unit, {"name": name, "samples": 0, TRAINED: {}, BASE: {}})
        entry["samples"] += 1
        for model in (TRAINED, BASE):
            if arms := scores.get((model, sample.id)):
                _add_scores(entry[model], arms, named)
            if output := written.get((model, sample.id)):
                _add_written(entry[model], output)
    return [_rounded(entry) for entry in sums.values()]


def _add_scores(told: Sums, arms: Mapping[str, list[tuple[float, int, str]]], named: bool) -> None:
    (right, tokens, _), *_ = arms["right"]
    for arm, rows in arms.items():
        _add(told, "nll", arm, (math.fsum(row[0] for row in rows) / len(rows), right, tokens))
    wrong = arms.get("wrong", [])
    for nll, _, card in wrong if named else ():
        _add(told, "cards", card, (nll, right, tokens))
    if wrong:
        _add(told, "counts", "below", (right < min(row[0] for row in wrong), 1))


def _add_written(told: Sums, row: Mapping[str, Any]) -> None:
    _add(told, "counts", "valid", (row["valid"], 1))
    _add(told, "counts", "guarded", (row["guarded"], 1))
    if "exact" in row:
        _add(told, "counts", "exact", (row["exact"], 1))
        for name, counts in row["edits"].items():
            if name != "keep":
                _add(told, "counts", "edits", counts)
        if not set(row["edits"]) - {"keep"}:
            _add(told, "counts", "edits", (0, 0, 0))


def _add(told: Sums, table: str, key: str, values: Iterable[float]) -> None:
    row = [float(value) for value in values]
    before = told.setdefault(table, {}).get(key, [0.0] * len(row))
    told[table][key] = [a + b for a, b in zip(before, row, strict=True)]


def _rounded(value: Any) -> Any:
    """With six decimals, which no reader of sums of hundreds of nats misses."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def _kept(generation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Generation results without reasons: those may quote what was written."""
    return None if generation is None else {k: v for k, v in generation.items() if k != "reasons"}


def _complete(scope: Scope, results: Results, model: str, write: bool) -> bool:
    return all(
        results.scored(model, sample.id) and (not write or results.generated(model, sample.id))
        for sample in scope.samples
    )
