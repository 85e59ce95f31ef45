"""The report of a distillation study, from the files of its cells alone; marked as partial while cells are missing.

Every seed of a row scores the same samples under the same cards. The sums of a cluster are therefore added over seeds
before clusters are resampled: estimate and interval are those of the mean over these seeds, on other skills and
backbones. How much another seed would change is not in the interval; the report shows every seed beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa_training.errors import TrainingError
from masa_training.statistics import Interval, Statistic, cluster_bootstrap, f1, ratio_of_sums
from masa_training.studies.distillation_cells import CellResult, differences, outdated
from masa_training.studies.distillation_config import Row, Study
from masa_training.tables import NOTHING, table

Pick = Callable[[Mapping[str, Any]], Sequence[float] | None]
"""From the sums of a cluster to a row of numbers that may be added up, such as (NLL, tokens)."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """A number of a row: its mean over seeds, the interval (None for fewer than two clusters), and every seed's own."""

    estimate: float
    interval: Interval | None
    seeds: Mapping[int, float]
    clusters: int


def level(model: str, arm: str) -> Pick:
    """NLL per target token under an arm."""

    def pick(sums: Mapping[str, Any]) -> Sequence[float] | None:
        row = sums[model].get("nll", {}).get(arm)
        return None if row is None else (row[0], row[2])

    return pick


def advantage(model: str, arm: str, *, table: str = "nll") -> Pick:
    """NLL per target token under the right card minus that under an arm (or, with `table="cards"`, a wrong card)."""

    def pick(sums: Mapping[str, Any]) -> Sequence[float] | None:
        row = sums[model].get(table, {}).get(arm)
        return None if row is None else (row[1] - row[0], row[2])

    return pick


def counted(model: str, name: str) -> Pick:
    """Counts such as (how many are exact, of how many)."""

    def pick(sums: Mapping[str, Any]) -> Sequence[float] | None:
        row: Sequence[float] | None = sums[model].get("counts", {}).get(name)
        return row

    return pick


def pooled(
    results: Sequence[CellResult], pick: Pick, statistic: Statistic = ratio_of_sums, *, resamples: int = 2000
) -> Pooled | None:
    """A number of a row from the results of its seeds; None where it is undefined or no result has it.

    `statistic` must depend on the sums of the columns only, and so must `pick`'s denominators be the same in every
    seed: then a ratio of sums is the mean over seeds. Without `resamples` there is no interval.

    Raises:
        TrainingError: if the results are not of the same clusters.
    """
    import numpy as np

    by_seed = {result["seed"]: _rows(result, pick) for result in results}
    by_seed = {seed: rows for seed, rows in by_seed.items() if rows}
    if not by_seed:
        return None
    names = [set(rows) for rows in by_seed.values()]
    if any(other != names[0] for other in names) or len(by_seed) != len(results):
        cells = ", ".join(result["cell"] for result in results)
        raise TrainingError(f"{cells}: not measured on the same clusters; delete the files of the older ones")
    added = {key: np.sum([rows[key] for rows in by_seed.values()], axis=0) for key in sorted(names[0], key=str)}
    estimate = statistic(np.stack(list(added.values())))
    if estimate is None:
        return None
    each = {seed: statistic(np.asarray(list(rows.values()), dtype=np.float64)) for seed, rows in by_seed.items()}
    clusters: Mapping[Hashable, Any] = {key: [tuple(row)] for key, row in added.items()}
    return Pooled(
        estimate,
        cluster_bootstrap(clusters, statistic, resamples=resamples, seed=0) if resamples else None,
        {seed: value for seed, value in each.items() if value is not None},
        len(added),
    )


def beats(found: Pooled | None, negligible: float) -> str:
    """Whether the right card beats the wrong ones: yes, no or undecided.

    yes: the interval lies below 0, and so does every seed. no: the interval rules out an advantage of `negligible` nats
    per token or more, and no seed has one.
    """
    if found is None or found.interval is None:
        return "undecided"
    if found.interval.high < 0 and all(value < 0 for value in found.seeds.values()):
        return "yes"
    least = min(found.interval.low, *found.seeds.values())
    return "no" if least > -negligible else "undecided"


def _rows(result: CellResult, pick: Pick) -> dict[str, Sequence[float]]:
    try:
        picked = {json.dumps(sums["name"]): pick(sums) for sums in result["clusters"]}
        return {name: [float(v) for v in row] for name, row in picked.items() if row is not None}
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise TrainingError(
            f"{result['cell']}: the sums by cluster in its file are damaged ({error!r}); restore the file, or delete "
            "it to run the cell again"
        ) from None


BASE, TRAINED = "base", "trained"
_CHECKSUMS = ("dataset_sha256", "base_sha256", "prompt_version")


@dataclass(frozen=True, slots=True)
class Standing:
    """Which results count: by row those of one configuration; what is missing; and why files are left out."""

    rows: Mapping[str, Sequence[CellResult]]
    missing: Sequence[str]
    left_out: Sequence[str]


def standing(study: Study, results: Mapping[str, CellResult]) -> Standing:
    """Sort the results. Seeds of a row are pooled only if data set, base and prompt version are those of the latest."""
    rows: dict[str, list[CellResult]] = {row.name: [] for row in study.config.rows}
    left_out: list[str] = []
    for cell in study.cells:
        result = results.get(cell.name)
        if result is None:
            continue
        told = differences(result, study.declared(cell))
        if told:
            left_out.append(outdated(cell.name, told))
        else:
            rows[cell.row.name].append(result)
    for name, found in rows.items():
        latest = max(found, key=lambda result: (result["finished"], result["seed"]), default=None)
        for result in list(found):
            assert latest is not None
            wanted = {key: latest["configuration"].get(key) for key in _CHECKSUMS}
            if told := differences(result, wanted):
                rows[name].remove(result)
                left_out.append(outdated(result["cell"], told))
    counting = {result["cell"] for found in rows.values() for result in found}
    return Standing(rows, [cell.name for cell in study.cells if cell.name not in counting], left_out)


def to_markdown(study: Study, results: Mapping[str, CellResult], *, where: Path) -> str:
    """REPORT.md; `where` is the folder that the command to go on names."""
    config = study.config
    found = standing(study, results)
    done = len(study.cells) - len(found.missing)
    partial = f" (PARTIAL: {done} of {len(study.cells)} cells)" if found.missing else ""
    lines = [f"# Study {config.name}{partial}", "", config.question, ""]
    if found.missing:
        lines += [f"**Partial.** Missing: {', '.join(found.missing)}. To go on:", ""]
        lines += [f"    masa evaluate distillation {study.spec} -o {where}", ""]
    lines += [f"- Not counted: {sentence}." for sentence in found.left_out]
    if found.left_out:
        lines.append("")
    counting = [result for row in found.rows.values() for result in row]
    if any(result["dataset"].get("synthetic") for result in counting):
        lines += ["Synthetic data: targets follow from stated rules, not from results in an environment.", ""]
    lines += [*_how(config.negligible), ""]
    lines += [f"- {note}" for note in config.notes]
    parts = dict.fromkeys(row.part for row in config.rows)
    for part in parts:
        rows = [(row, found.rows[row.name]) for row in config.rows if row.part == part]
        lines += ["", f"## {part.capitalize()}", "", *_part(study, rows)]
    if counting:
        lines += [*_wrong_cards(found, config.rows), *_written(found, config.rows), *_training(counting)]
        lines += _circumstances(counting)
    return "\n".join(lines) + "\n"


def _how(negligible: float) -> list[str]:
    return [
        "NLL in nats per target token, weighted by tokens. right: the sample's own card; wrong: every wrong card, "
        "averaged; none: an empty card; bare: the own card without strengths and weaknesses. Seeds are averaged; "
        "brackets are 95 % intervals by cluster bootstrap (clusters: environment, backbone and group, or trees of "
        "generated samples) for the mean over these seeds. How much another seed would change is not in the brackets: "
        "compare the seeds. yes: the interval lies below 0, and every seed does; no: it rules out an advantage of "
        f"{negligible:g} nats or more, and no seed has one; undecided: neither.",
    ]


def _part(study: Study, rows: Sequence[tuple[Row, Sequence[CellResult]]]) -> list[str]:
    head = ["", "seeds", "", "right", "wrong", "none", "bare", "right − wrong", "right − none"]
    contrast = any(pooled(found, level(TRAINED, "contrast"), resamples=0) for _, found in rows)
    head += ["right − contrast"] if contrast else []
    body = []
    sentences = []
    for row, found in rows:
        label = row.label or row.name
        planned = [cell for cell in study.cells if cell.row.name == row.name]
        for model, word in ((BASE, "before"), (TRAINED, "after")):
            cells = [
                _level(pooled(found, level(model, arm), resamples=0)) for arm in ("right", "wrong", "none", "bare")
            ]
            arms = ("wrong", "none", *(("contrast",) if contrast else ()))
            cells += [_interval(pooled(found, advantage(model, arm))) for arm in arms]
            first = model == BASE
            body.append([label if first else "", f"{len(found)} of {len(planned)}" if first else "", word, *cells])
        sentences += _sentences(row, label, found, len(planned), study.config.negligible)
    notes = [f"- {row.label or row.name}: {row.note}" for row, _ in rows if row.note]
    return [*table(head, body, left=3), "", *sentences, *(["", *notes] if notes else [])]


def _sentences(row: Row, label: str, found: Sequence[CellResult], planned: int, negligible: float) -> list[str]:
    """Whether the right card beats the wrong ones, and the gain of training."""
    if not found:
        return [f"- {label}: no cell is finished."]
    difference = pooled(found, advantage(TRAINED, "wrong"))
    seeds = f"; {len(found)} of {planned} seeds" if len(found) < planned else ""
    if difference is None:
        return [f"- {label}: no wrong card was scored."]
    each = ", ".join(f"{value:+.4f} (seed {seed})" for seed, value in sorted(difference.seeds.items()))
    before = pooled(found, level(BASE, "right"), resamples=0)
    after = pooled(found, level(TRAINED, "right"), resamples=0)
    gain = f" Training took the NLL from {_level(before)} to {_level(after)}." if before and after else ""
    below = pooled(found, counted(TRAINED, "below"), resamples=0)
    every = f" Below every wrong card: {below.estimate:.0%} of samples." if below else ""
    return [
        f"- {label}: right card beats wrong cards beyond the interval: **{beats(difference, negligible)}** "
        f"({_interval(difference)}; {each}{seeds}).{every}{gain}"
    ]


def _wrong_cards(found: Standing, rows: Sequence[Row]) -> list[str]:
    """Right − wrong for each wrong card by itself, where they are few enough to have names."""
    lines: list[list[str]] = []
    for row in rows:
        names = {
            name
            for result in found.rows[row.name]
            for sums in result["clusters"]
            for name in sums[TRAINED].get("cards", {})
        }
        for name in sorted(names):
            value = pooled(found.rows[row.name], advantage(TRAINED, name, table="cards"))
            lines.append([row.label or row.name, name, _interval(value)])
    if not lines:
        return []
    return [
        "",
        "## Right − wrong by wrong card, after training",
        "",
        *table(["", "card", "right − wrong"], lines, left=2),
    ]


def _written(found: Standing, rows: Sequence[Row]) -> list[str]:
    """What was written greedily, where it was asked for."""
    lines = []
    for row in rows:
        results = found.rows[row.name]
        for model, word in ((BASE, "before"), (TRAINED, "after")):
            shares = [_percent(pooled(results, counted(model, key))) for key in ("valid", "guarded", "exact")]
            edits = _level(pooled(results, counted(model, "edits"), f1, resamples=0), digits=2)
            if any(one != NOTHING for one in (*shares, edits)):
                lines.append([row.label or row.name, word, *shares, edits])
    if not lines:
        return []
    head = ["", "", "valid", "through the guard", "plans exactly right", "F1 of edits (not keep)"]
    return ["", "## What it writes (greedy)", "", *table(head, lines, left=2)]


def _training(results: Sequence[CellResult]) -> list[str]:
    lines = []
    curves = []
    for result in results:
        told, minutes, samples = result["training"], result["minutes"], result["dataset"]["samples"]
        lines.append(
            [
                result["cell"],
                result["base"]["name"],
                f"{result['dataset']['name']} ({samples['train']})",
                f"{told['steps']} of {told['planned_steps']}",
                _plain(told["validation_nll"]),
                f"{minutes['training']:.0f}",
                str(told["resumed"]),
            ]
        )
        points = [
            f"{_where(point)}: {_plain(point['validation_nll'])}"
            + (f" ({_plain(point['training_loss'])})" if point["training_loss"] is not None else "")
            for point in result["curve"]
        ]
        curves.append(f"- {result['cell']}: {', '.join(points) or NOTHING}")
    head = ["cell", "base", "data set (training samples)", "steps", "validation NLL", "minutes", "resumed"]
    return [
        "",
        "## Training",
        "",
        *table(head, lines, left=3),
        "",
        "Validation NLL by epoch (in brackets the mean training loss since the evaluation before):",
        "",
        *curves,
    ]


def _where(point: Mapping[str, Any]) -> str:
    return f"step {point['step']}" if point["epoch"] is None else f"{point['epoch']:g}"


def _circumstances(results: Sequence[CellResult]) -> list[str]:
    hosts = {
        f"{r['host']['gpu'] or r['host']['cpu']}, {r['host']['threads']} threads of {r['host']['cores']} cores, "
        f"{r['host']['system']}"
        for r in results
    }
    versions = {", ".join(f"{name} {version}" for name, version in r["versions"].items()) for r in results}
    data = {f"{r['dataset']['name']} {r['configuration']['dataset_sha256'][:12]}" for r in results}
    lines = ["", "## Circumstances", ""]
    for word, values in (("Host", hosts), ("Versions", versions), ("Data set, sha256", data)):
        lines += [f"- {word}: {value}" for value in sorted(values)]
    dates = sorted(result["finished"][:10] for result in results)
    return [*lines, f"- Finished: {dates[0]} to {dates[-1]}"]


def _level(value: Pooled | None, digits: int = 3) -> str:
    return NOTHING if value is None else f"{value.estimate:.{digits}f}"


def _interval(value: Pooled | None) -> str:
    if value is None:
        return NOTHING
    text = f"{value.estimate:+.4f}"
    return text if value.interval is None else f"{text} [{value.interval.low:+.4f}, {value.interval.high:+.4f}]"


def _percent(value: Pooled | None) -> str:
    if value is None:
        return NOTHING
    text = f"{value.estimate:.0%}"
    return text if value.interval is None else f"{text} [{value.interval.low:.0%}, {value.interval.high:.0%}]"


def _plain(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"
