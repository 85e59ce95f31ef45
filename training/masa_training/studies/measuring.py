"""From the rows of an evaluation to what a cell of a study keeps: its table, and sums by cluster.

The scoring, the arms and the table of one cell are those of `masa_training.evaluate.rewriter`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from masa_training.dataset.folder import Dataset
from masa_training.evaluate.rewriter.arms import cluster
from masa_training.evaluate.rewriter.report import MOST_CARDS, report
from masa_training.evaluate.rewriter.results import Results
from masa_training.evaluate.rewriter.running import Plan, check_fit, make_plan, run
from masa_training.evaluate.rewriter.subject import BASE, TRAINED, open_subject
from masa_training.studies.config import Measure

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
    plan = make_plan(dataset, how.split, limit=how.limit, wrong_cards=how.wrong_cards, seed=how.seed)
    settings = {"dataset_sha256": dataset.info.sha256, **asdict(how)}
    everything = Results(None, settings)
    for untrained, where in ((False, folder), (True, base_folder)):
        subject = open_subject(str(checkpoint), base=untrained, dtype=how.dtype)
        check_fit(subject, dataset)
        results = Results(where, settings, resume=True)
        if not _complete(plan, results, subject.model, how.write):
            run(subject, plan, results, write=how.write, progress=progress, cancel=cancel)
            if not _complete(plan, results, subject.model, how.write):
                return None
        everything.add(row for row in results.rows if row["model"] == subject.model)
    return told(plan, everything, how)


def told(plan: Plan, results: Results, how: Measure, *, resamples: int = 2000) -> dict[str, Any]:
    """What a cell keeps of complete results of both models."""
    found = report(plan, results, models=(TRAINED, BASE), write=how.write, resamples=resamples)
    models = {}
    for model, values in found["models"].items():
        models[model] = {"nll": values["nll"], "cards": values["cards"], "generation": _kept(values["generation"])}
    return {
        "models": models,
        "clusters": cluster_sums(plan, results),
        "samples": found["samples"],
        "samples_in_split": found["samples_in_split"],
        "backbones": found["backbones"],
    }


def cluster_sums(plan: Plan, results: Results) -> list[Sums]:
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
    for sample in plan.samples:
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


def _complete(plan: Plan, results: Results, model: str, write: bool) -> bool:
    return all(
        results.scored(model, sample.id) and (not write or results.generated(model, sample.id))
        for sample in plan.samples
    )
