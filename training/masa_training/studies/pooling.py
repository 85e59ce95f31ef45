"""Pooling the seeds of a row: means over seeds, and intervals over clusters.

Every seed scores the same samples under the same cards. The sums of a cluster are therefore added over seeds before
clusters are resampled: estimate and interval are those of the mean over these seeds, on other skills and backbones.
How much another seed would change is not in the interval; the report shows every seed beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masa_training.errors import TrainingError
from masa_training.statistics import Interval, Statistic, cluster_bootstrap, ratio_of_sums
from masa_training.studies.cells import CellResult

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
