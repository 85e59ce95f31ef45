"""The report of an evaluation, computed from its rows alone: numbers with intervals, or None where undefined.

NLL per token is weighted by tokens: summed over samples, then divided by their tokens. Where a sample has several
wrong cards, their NLL is averaged first. Intervals are cluster bootstraps (`masa_training.statistics`); a cluster is a
tree of generated samples, else (environment, backbone, group).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masa_training.evaluate.rewriter.arms import ARMS, TREE, breakdown_tags, cluster, value_of
from masa_training.evaluate.rewriter.generation import pairs
from masa_training.evaluate.rewriter.results import Results
from masa_training.evaluate.rewriter.running import TRAINED, Scope
from masa_training.samples import Sample
from masa_training.statistics import Interval, Statistic, cluster_bootstrap, f1, ratio_of_sums
from masa_training.tables import NOTHING, bracketed, cell, table

DIFFERENCES = ("wrong", "contrast", "none", "bare")
MOST_CARDS = 12
"""Up to so many cards, the report also has a line for each wrong one."""

Scores = Mapping[str, Sequence[tuple[float, int, str]]]
"""A sample's scores by arm: (NLL, tokens, backbone of the card)."""


def report(
    scope: Scope, results: Results, *, models: Sequence[str] = (TRAINED,), write: bool = True, resamples: int = 2000
) -> dict[str, Any]:
    """Everything the rows say, as JSON values.

    `models` were to be scored and, with `write`, to write; `partial` is true while samples of one are missing.
    """
    told: dict[str, Any] = {}
    scored: dict[str, dict[str, Scores]] = {}
    for name in dict.fromkeys((*models, *(row["model"] for row in results.rows))):
        scored[name] = _scores(results, name)
        written = {
            row["sample"]: row["generated"] for row in results.rows if row["model"] == name and "generated" in row
        }
        both = [sample for sample in scope.samples if sample.id in scored[name]]
        rows = [(sample, written[sample.id]) for sample in scope.samples if sample.id in written]
        judge = _Judge(scope.seed, resamples)
        told[name] = {
            "scored": len(both),
            "written": len(rows),
            "nll": _nll(both, scored[name], judge),
            "cards": _cards(both, scored[name], judge) if len(scope.pool.readers) <= MOST_CARDS else {},
            "breakdown": _breakdown(both, scored[name], judge),
            "generation": _generation(rows, judge) if rows else None,
        }
        told[name]["verdict"] = verdict(told[name]["nll"])
    everything = len(scope.samples)
    return {
        "settings": results.settings,
        "split": scope.split,
        "samples": len(scope.samples),
        "samples_in_split": scope.total,
        "backbones": len({sample.backbone for sample in scope.samples}),
        "clusters": len({cluster(sample) for sample in scope.samples}),
        "cards_in_pool": len(scope.pool.readers),
        "wrong_cards_per_sample": min(scope.wrong_cards, max(0, len(scope.pool.readers) - 1)),
        "synthetic": any(sample.synthetic for sample in scope.samples),
        "partial": any(
            told[name]["scored"] < everything or (write and told[name]["written"] < everything) for name in models
        ),
        "models": told,
    }


def verdict(nll: Mapping[str, Any]) -> str:
    """Whether the rewriter reads the card, in a sentence."""
    found = nll.get("right - wrong")
    if not found or found["low"] is None:
        return "There are too few independent results to say whether it reads the card."
    if found["high"] < 0:
        return "It reads the card: targets are likelier with the right card than with wrong ones, beyond the interval."
    if found["low"] > 0:
        return "It is misled by the card: targets are likelier with wrong cards than with the right one."
    return "It is not shown to be model-aware: right and wrong cards make no difference beyond the interval."


class _Judge:
    """Intervals of one report, all with the same seed and number of resamples."""

    def __init__(self, seed: int, resamples: int) -> None:
        self._seed, self._resamples = seed, resamples

    def __call__(
        self, rows: Iterable[tuple[Sample, Sequence[float] | None]], statistic: Statistic = ratio_of_sums
    ) -> dict[str, Any] | None:
        """Estimate, low, high, samples and clusters; None without rows, no bounds for fewer than two clusters.

        `statistic` must depend on the sums of the columns only, so that clusters can be summed beforehand.
        """
        sums: dict[Hashable, NDArray[np.float64]] = {}
        samples = 0
        for sample, row in rows:
            if row is not None:
                key = cluster(sample)
                sums[key] = np.asarray(row, dtype=np.float64) + sums.get(key, 0.0)
                samples += 1
        if not sums:
            return None
        by_cluster = {key: [tuple(row)] for key, row in sums.items()}
        found: Interval | None = cluster_bootstrap(by_cluster, statistic, resamples=self._resamples, seed=self._seed)
        return {
            "estimate": found.estimate if found else statistic(np.stack(list(sums.values()))),
            "low": found.low if found else None,
            "high": found.high if found else None,
            "samples": samples,
            "clusters": len(sums),
        }


def _scores(results: Results, model: str) -> dict[str, Scores]:
    found: dict[str, dict[str, list[tuple[float, int, str]]]] = {}
    for row in results.rows:
        if row["model"] == model and "variant" in row:
            for arm in row["arms"]:
                backbone = row["variant"].removeprefix("card ") if row["variant"].startswith("card ") else ""
                arms = found.setdefault(row["sample"], {})
                arms.setdefault(arm, []).append((row["nll"], row["tokens"], backbone))
    return dict(found)


def _mean_nll(scores: Scores, arm: str) -> float | None:
    rows = scores.get(arm, ())
    return sum(row[0] for row in rows) / len(rows) if rows else None


def _nll(samples: Sequence[Sample], scores: Mapping[str, Scores], judge: _Judge) -> dict[str, Any]:
    table: dict[str, Any] = {arm: _arm(samples, scores, judge, arm) for arm in ARMS}
    for arm in DIFFERENCES:
        table[f"right - {arm}"] = _difference(samples, scores, judge, arm)
    for arm in ("wrong", "contrast"):
        table[f"share right < {arm}"] = _below(samples, scores, judge, arm, _average)
        table[f"share right < every {arm}"] = _below(samples, scores, judge, arm, min)
    return table


def _arm(samples: Sequence[Sample], scores: Mapping[str, Scores], judge: _Judge, arm: str) -> dict[str, Any] | None:
    def row(found: Scores) -> Sequence[float] | None:
        nll = _mean_nll(found, arm)
        return None if nll is None else (nll, found["right"][0][1])

    return judge((sample, row(scores[sample.id])) for sample in samples)


def _difference(
    samples: Sequence[Sample], scores: Mapping[str, Scores], judge: _Judge, arm: str
) -> dict[str, Any] | None:
    def row(found: Scores) -> Sequence[float] | None:
        other = _mean_nll(found, arm)
        (right, tokens, _), *_ = found["right"]
        return None if other is None else (right - other, tokens)

    return judge((sample, row(scores[sample.id])) for sample in samples)


def _below(
    samples: Sequence[Sample],
    scores: Mapping[str, Scores],
    judge: _Judge,
    arm: str,
    pick: Callable[[Sequence[float]], float],
) -> dict[str, Any] | None:
    def row(found: Scores) -> Sequence[float] | None:
        others = [nll for nll, _, _ in found.get(arm, ())]
        return (float(found["right"][0][0] < pick(others)), 1) if others else None

    return judge((sample, row(scores[sample.id])) for sample in samples)


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cards(samples: Sequence[Sample], scores: Mapping[str, Scores], judge: _Judge) -> dict[str, Any]:
    """Right − wrong for every wrong card by itself."""
    names = sorted({row[2] for sample in samples for row in scores[sample.id].get("wrong", ())})
    table = {}
    for name in names:
        values: list[tuple[Sample, Sequence[float]]] = []
        for sample in samples:
            (right, tokens, _), *_ = scores[sample.id]["right"]
            values += [
                (sample, (right - nll, tokens))
                for nll, _, backbone in scores[sample.id].get("wrong", ())
                if backbone == name
            ]
        table[name] = judge(values)
    return table


def _breakdown(samples: Sequence[Sample], scores: Mapping[str, Scores], judge: _Judge) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for tag, values in breakdown_tags(samples).items():
        for value in values:
            some = [sample for sample in samples if value_of(sample, tag) == value]
            table.setdefault(tag, {})[value] = {
                "right": _arm(some, scores, judge, "right"),
                "wrong": _arm(some, scores, judge, "wrong"),
                "right - wrong": _difference(some, scores, judge, "wrong"),
                "right - contrast": _difference(some, scores, judge, "contrast"),
                "share right < wrong": _below(some, scores, judge, "wrong", _average),
            }
    return table


def _generation(rows: Sequence[tuple[Sample, Mapping[str, Any]]], judge: _Judge) -> dict[str, Any]:
    def share(name: str) -> dict[str, Any] | None:
        return judge((s, None if row.get(name) is None else (float(row[name]), 1)) for s, row in rows)

    table: dict[str, Any] = {
        "valid": share("valid"),
        "guarded": share("guarded"),
        "targets_guarded": share("target_guarded"),
        "groups_really_rewritten": judge((s, (float(row["changed"] > 0), 1)) for s, row in rows),
        "skills_really_rewritten": judge((s, (row["changed"], row["skills"])) for s, row in rows),
        "length_ratio": share("length_ratio"),
        "distance_to_source": share("to_source"),
        "distance_to_target": share("to_target"),
        "different_outputs": len({row["output"] for _, row in rows}),
        "reasons": dict(Counter(_reason(row["reason"]) for _, row in rows if row["reason"]).most_common(5)),
        "pairs": _pairs(rows),
    }
    plans = [(s, row) for s, row in rows if "edits" in row]
    if plans:
        table["exact"] = share("exact")
        table["edits"] = _edits(plans, judge)
        table["exact_by"] = {
            tag: {
                value: judge((s, (float(row["exact"]), 1)) for s, row in plans if value_of(s, tag) == value)
                for value in values
            }
            for tag, values in breakdown_tags([s for s, _ in plans]).items()
        }
    return table


def _edits(rows: Sequence[tuple[Sample, Mapping[str, Any]]], judge: _Judge) -> dict[str, Any]:
    """F1 over all edits, over all but `keep`, and of each; with the numbers of right, invented and missed ones."""

    def counts(row: Mapping[str, Any], names: Iterable[str]) -> tuple[int, ...]:
        return tuple(sum(row["edits"].get(name, (0, 0, 0))[i] for name in names) for i in range(3))

    names = sorted({name for _, row in rows for name in row["edits"]})
    wanted = {"all": names, "all but keep": [name for name in names if name != "keep"]}
    wanted.update({name: [name] for name in names})
    table: dict[str, Any] = {}
    for label, some in wanted.items():
        found = judge([(s, counts(row, some)) for s, row in rows], f1)
        sums = [sum(counts(row, some)[i] for _, row in rows) for i in range(3)]
        table[label] = {"f1": found, "right": sums[0], "invented": sums[1], "missed": sums[2]}
    return table


def _pairs(rows: Sequence[tuple[Sample, Mapping[str, Any]]]) -> dict[str, Any]:
    counts = pairs([(s, dict(row)) for s, row in rows], TREE)
    should, should_not = (counts[flag, True] + counts[flag, False] for flag in (True, False))
    return {
        "pairs": should + should_not,
        "different": _share(counts[True, True] + counts[False, True], should + should_not),
        "different_where_targets_differ": _share(counts[True, True], should),
        "different_where_targets_agree": _share(counts[False, True], should_not),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _reason(text: str) -> str:
    """A reason without what differs from group to group."""
    return text.split(": ")[0][:80]


_ARMS = {
    "right": "the right card",
    "wrong": "wrong cards (average)",
    "contrast": "other cards of the same tree (average)",
    "none": "no card",
    "bare": "the right card without strengths and weaknesses",
}
_GENERATION = {
    "valid": "valid (finished and parses)",
    "guarded": "passes the guard",
    "targets_guarded": "targets that pass the guard",
    "groups_really_rewritten": "groups really rewritten",
    "skills_really_rewritten": "skills really rewritten",
    "exact": "plans exactly right",
}
_PLAIN = {
    "length_ratio": "length, output / source (characters)",
    "distance_to_source": "edit distance to the source (words, 0–1)",
    "distance_to_target": "edit distance to the target (words, 0–1)",
}


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report for a reader; every number with its 95 % interval."""
    settings = report["settings"]
    lines = [f"# Evaluation of {settings['rewriter']} on {settings['dataset']}, {report['split']} split", ""]
    if report["partial"]:
        done = "; ".join(
            f"{name}: {model['scored']} scored, {model['written']} written" for name, model in report["models"].items()
        )
        lines += [f"**Partial: not all of {report['samples']} samples are done ({done or 'none yet'}).**", ""]
    if report["synthetic"]:
        lines += ["Synthetic data: targets follow from stated rules, not from results in an environment.", ""]
    lines += [
        f"{report['samples']} of {report['samples_in_split']} samples, {report['backbones']} backbones, "
        f"{report['clusters']} clusters; {report['wrong_cards_per_sample']} wrong cards a sample out of "
        f"{report['cards_in_pool']} cards, seed {settings['seed']}.",
        "Brackets: 95 % intervals, cluster bootstrap (clusters: trees of generated samples, else environment, backbone "
        "and group).",
        "",
    ]
    models = report["models"]
    names = list(models)
    for name in names:
        lines.append(f"- {name}: {models[name]['verdict']}")
    lines += ["", "## NLL per target token (nats)", ""]
    rows = [[label, *(_number(models[n]["nll"].get(arm), 3) for n in names)] for arm, label in _ARMS.items()]
    for arm in ("wrong", "contrast", "none", "bare"):
        rows.append([f"right − {arm}", *(_number(models[n]["nll"].get(f"right - {arm}"), 3) for n in names)])
    for arm in ("wrong", "contrast"):
        for which, word in (("", "average"), ("every ", "every card")):
            key = f"share right < {which}{arm}"
            rows.append([f"right below {arm} ({word})", *(_percent(models[n]["nll"].get(key)) for n in names)])
    lines += _listed(["", *names], [row for row in rows if any(one != NOTHING for one in row[1:])])
    for name in names:
        if models[name]["cards"]:
            lines += ["", f"## Right − wrong by wrong card ({name})", ""]
            lines += _listed(
                ["wrong card", "difference", "samples"],
                [[card, _number(v, 3), _count(v)] for card, v in models[name]["cards"].items()],
            )
        if models[name]["breakdown"]:
            lines += ["", f"## Breakdown ({name})", ""]
            lines += _listed(
                ["", "right", "wrong", "right − wrong", "right − contrast", "samples"],
                [
                    [
                        f"{tag}: {value}",
                        *(_number(v[arm], 3) for arm in ("right", "wrong", "right - wrong", "right - contrast")),
                        _count(v["right"]),
                    ]
                    for tag, values in models[name]["breakdown"].items()
                    for value, v in values.items()
                ],
            )
    written = [name for name in names if models[name]["generation"]]
    if written:
        lines += _generation_table([(name, models[name]["generation"]) for name in written])
    return "\n".join(lines) + "\n"


def _generation_table(models: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    names = [name for name, _ in models]
    rows = [[label, *(_percent(m.get(key)) for _, m in models)] for key, label in _GENERATION.items()]
    rows += [[label, *(_number(m.get(key), 2) for _, m in models)] for key, label in _PLAIN.items()]
    rows.append(["different outputs", *(str(m["different_outputs"]) for _, m in models)])
    for key, label in (
        ("different", "pairs of cards with different outputs"),
        ("different_where_targets_differ", "… where the targets differ"),
        ("different_where_targets_agree", "… where the targets agree"),
    ):
        rows.append([label, *(NOTHING if m["pairs"][key] is None else f"{m['pairs'][key]:.0%}" for _, m in models)])
    lines = ["", "## What it writes (greedy)", ""]
    lines += _listed(["", *names], [row for row in rows if any(one != NOTHING for one in row[1:])])
    for name, m in models:
        if "edits" in m:
            lines += ["", f"## F1 by edit ({name})", ""]
            lines += _listed(
                ["edit", "F1", "right", "invented", "missed"],
                [
                    [edit, _number(v["f1"], 2), str(v["right"]), str(v["invented"]), str(v["missed"])]
                    for edit, v in m["edits"].items()
                ],
            )
        if m.get("exact_by"):
            lines += ["", f"## Plans exactly right ({name})", ""]
            lines += _listed(
                ["", "share", "samples"],
                [
                    [f"{tag}: {value}", _percent(v), _count(v)]
                    for tag, values in m["exact_by"].items()
                    for value, v in values.items()
                ],
            )
        if m["reasons"]:
            lines += ["", f"Why groups fell back ({name}):"]
            lines += [f"- {count} × {cell(reason)}" for reason, count in m["reasons"].items()]
    return lines


def _listed(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return table(head, rows, left=1)


def _number(value: Mapping[str, Any] | None, digits: int) -> str:
    return bracketed(value, f".{digits}f")


def _percent(value: Mapping[str, Any] | None) -> str:
    return bracketed(value, ".0%")


def _count(value: Mapping[str, Any] | None) -> str:
    return NOTHING if value is None else str(value["samples"])
