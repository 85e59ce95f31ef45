"""What a study of evolution says: edits by verdict, the clean final test, and differences between conditions.

Rewards here are true ones, whatever the search was told. Differences are paired by task and seed; a task counts once,
with the mean over its seeds and over the runs of a condition. Their level makes up for their number in an experiment.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masa.formats import load_bank
from masa.skills import Group
from masa_training.evaluate.banks.report import reward_in_words
from masa_training.evolution.playing import BASE, EVOLVED, fingerprint
from masa_training.evolution.run import start_bank
from masa_training.evolution.run_log import Run
from masa_training.search import State, Verdict
from masa_training.statistics import cluster_bootstrap, mean
from masa_training.studies.evolutions import CARD_GIVEN, NOISE, OTHER, EvolutionCell, EvolutionStudy, stories
from masa_training.studies.granularity import ALPHA, comparison
from masa_training.tables import NOTHING, bracketed, table

COUNTED = ("proposals", "failed", "accepted", "rejected", "indecisive", "episodes")

ByTask = Mapping[str, float]
"""One number for each task."""


def study_report(study: EvolutionStudy, folder: Path, *, resamples: int = 2000) -> dict[str, Any]:
    """Everything as JSON values, from the folder of a study, finished or not. None where a number is undefined.

    Raises:
        TrainingError, FormatError: if it holds no such study, or something in it is damaged.
    """
    told = stories(study, folder)
    experiments = [_experiment(study, name, told, folder, resamples) for name in study.experiments]
    missing = [cell.name for cell in study.cells if cell.name not in told or not told[cell.name].finished]
    return {"study": study.kind, "complete": not missing, "missing": missing, "experiments": experiments}


def _experiment(
    study: EvolutionStudy, name: str, told: Mapping[str, Run], folder: Path, resamples: int
) -> dict[str, Any]:
    cells = [cell for cell in study.cells if cell.experiment == name]
    config = cells[0].config
    level = 1 - ALPHA / max(1, 2 * len(study.conditions) - 1)
    rows = []
    reference: ByTask | None = None
    for condition in study.conditions:
        some = [cell for cell in cells if cell.condition == condition]
        found = [_cell(cell, told.get(cell.name)) for cell in some]
        done = [cell for cell in some if cell.name in told and told[cell.name].finished]
        tests = [_tested(cell, told[cell.name], folder / cell.name) for cell in done]
        rewards = averaged([test[EVOLVED]["reward"] for test in tests])
        gains = averaged([_minus(test[EVOLVED]["reward"], test[BASE]["reward"]) for test in tests])
        rows.append(
            {
                "condition": condition,
                **study.about.get(name, {}).get(condition, {}),
                "runs": len(some),
                "finished": len(done),
                **{key: sum(one[key] for one in found) for key in (*COUNTED, "accepted_no_better")},
                "SR": _estimate(averaged([test[EVOLVED]["success"] for test in tests]), resamples),
                "reward": _estimate(rewards, resamples),
                "over_start": comparison(gains, level=level, resamples=resamples) if gains else None,
                "over_first": comparison(_minus(rewards, reference), level=level, resamples=resamples)
                if reference and rewards
                else None,
                "cells": found,
            }
        )
        if condition == study.conditions[0]:
            reference = rewards
    return {
        "experiment": name,
        "environment": config.environment,
        "backbone": config.backbone.name,
        "teacher": config.teacher_config().model,
        "penalty": config.penalty,
        "score": config.score,
        "rule": config.accept.rule,
        "level": level,
        "rows": rows,
    }


def _cell(cell: EvolutionCell, run: Run | None) -> dict[str, Any]:
    counts = dict.fromkeys(COUNTED, 0)
    edits: list[dict[str, Any]] = []
    for group in run.searches.values() if run else ():
        numbers = group.in_numbers()
        counts = {key: counts[key] + numbers[key] for key in COUNTED}
        assert run is not None
        edits += _accepted(group.key, group.state, group.banks, run)
    finished = run is not None and run.finished
    return {
        "cell": cell.name,
        "state": "finished" if finished else "goes on" if run else "to do",
        **counts,
        "accepted_edits": edits,
        "accepted_no_better": sum(edit["true"] is not None and edit["true"] <= 0 for edit in edits),
        "test": {key: value for key, value in run.test.items() if key != "event"} if run and finished else {},
    }


def _accepted(key: str, state: State[Group], banks: Mapping[int, str], run: Run) -> list[dict[str, Any]]:
    """The accepted edits of a search: the difference that the search saw, and the true one on what both played."""
    found = []
    for event in state.events:
        if isinstance(event, Verdict) and event.decision.verdict is True:
            sides = [_rewards(run, banks.get(node), "val") for node in (event.node, event.incumbent)]
            both = [sides[0][played] - sides[1][played] for played in sides[0] if played in sides[1]]
            found.append(
                {
                    "group": key,
                    "node": event.node,
                    "told": event.decision.difference,
                    "true": math.fsum(both) / len(both) if both else None,
                    "pairs": len(both),
                }
            )
    return found


def _rewards(run: Run, bank: str | None, split: str) -> dict[tuple[str, int], float]:
    """By task and seed the true reward of a bank's episodes."""
    found = {}
    for played, episode in run.episodes.items():
        reward = run.reward(episode)
        if played.bank == bank and played.split == split and reward is not None:
            found[played.task, played.seed] = reward
    return found


def _tested(cell: EvolutionCell, run: Run, where: Path) -> dict[str, dict[str, ByTask]]:
    """By arm and figure, the final test of a finished run by task."""
    banks = {BASE: start_bank(cell.config), EVOLVED: load_bank(where / "banks" / "evolved.json")}
    found: dict[str, dict[str, ByTask]] = {}
    for arm, bank in banks.items():
        name = fingerprint(bank)
        some = [e for played, e in run.episodes.items() if played.bank == name and played.split == "test"]
        rewards = [(e.job.task, run.reward(e)) for e in some]
        found[arm] = {
            "success": _by_task([(e.job.task, float(e.success)) for e in some if e.outcome == "finished"]),
            "reward": _by_task([(task, reward) for task, reward in rewards if reward is not None]),
        }
    return found


def _by_task(values: Sequence[tuple[str, float]]) -> ByTask:
    found: dict[str, list[float]] = defaultdict(list)
    for task, value in values:
        found[task].append(value)
    return {task: math.fsum(some) / len(some) for task, some in found.items()}


def averaged(runs: Sequence[ByTask]) -> dict[str, float]:
    """By task the mean over the runs that played it."""
    return dict(_by_task([(task, value) for run in runs for task, value in run.items()]))


def _minus(first: ByTask, second: ByTask) -> dict[str, float]:
    return {task: value - second[task] for task, value in first.items() if task in second}


def _estimate(by_task: ByTask, resamples: int) -> dict[str, Any] | None:
    if not by_task:
        return None
    found = cluster_bootstrap({task: [value] for task, value in by_task.items()}, mean, resamples=resamples, seed=0)
    estimate = math.fsum(by_task.values()) / len(by_task)
    return {"estimate": estimate, "low": found.low if found else None, "high": found.high if found else None}


_TITLES: Mapping[str, str] = {
    NOISE: "Feedback noise: outcomes told wrongly to search and teacher",
    CARD_GIVEN: "The card that the teacher is told",
}
_FIRST: Mapping[str, str] = {NOISE: "flipped", CARD_GIVEN: "card"}


def to_markdown(told: Mapping[str, Any]) -> str:
    """For every experiment the edits by verdict, what the evolved banks are worth, and the final test of every run."""
    partial = "" if told["complete"] else " (PARTIAL)"
    lines = [f"# {_TITLES[told['study']]}{partial}", ""]
    if told["missing"]:
        lines += [f"Not finished: {', '.join(told['missing'])}.", ""]
    for experiment in told["experiments"]:
        lines += _experiment_table(told["study"], experiment)
    return "\n".join(lines).rstrip() + "\n"


def _experiment_table(kind: str, told: Mapping[str, Any]) -> list[str]:
    rows = told["rows"]
    names = [_condition(kind, row) for row in rows]
    edits = [
        [
            name,
            f"{row['finished']} of {row['runs']}",
            *(f"{row[key]:,}" for key in ("accepted", "rejected", "indecisive", "failed")),
            f"{row['accepted_no_better']:,}",
            f"{row['episodes']:,}",
        ]
        for name, row in zip(names, rows, strict=True)
    ]
    worth = [
        [
            name,
            bracketed(row["SR"], ".1%"),
            bracketed(row["over_start"], "+.3f"),
            _word(row["over_start"]),
            bracketed(row["over_first"], "+.3f"),
            _word(row["over_first"]),
        ]
        for name, row in zip(names, rows, strict=True)
    ]
    first = _FIRST[kind]
    lines = [
        f"## {told['experiment']}: {told['backbone']} in {told['environment']}, teacher {told['teacher']}",
        "",
        "### Edits",
        "",
        *table(
            [
                first,
                "runs finished",
                "accepted",
                "rejected",
                "undecided",
                "no proposal",
                "accepted, in truth no better",
                "deciding episodes",
            ],
            edits,
            left=1,
        ),
        "",
        "In truth no better: by the true outcomes of the episodes that both sides of the decision played.",
        "",
        "### Final test",
        "",
        *table(
            [first, "SR of the evolved bank", "R − start", "better", f"R − that of {names[0]}", "differs"],
            worth,
        ),
        "",
        f"True outcomes, on tasks that nothing was chosen by; {reward_in_words(told)}. SR with a 95 % "
        "interval (cluster bootstrap over tasks). Differences are paired by task and seed, at the level "
        f"{told['level']:.2%}, so that all of this table hold together with 95 %. Intervals are for these runs: how "
        "much another run would differ is not in them.",
        "",
    ]
    if kind == CARD_GIVEN:
        lines += [*_cards(rows), ""]
    return [*lines, "### Final test of every run", "", *_every(rows), ""]


def _every(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    body = []
    for cell in (cell for row in rows for cell in row["cells"]):
        name = cell["cell"].rpartition("/")[2]
        if not cell["test"]:
            body.append([name, cell["state"], *[NOTHING] * 5])
        for row in cell["test"].get("rows", ()):
            missing = f", {row['missing']} missing" if row["missing"] else ""
            body.append(
                [
                    name,
                    row["arm"],
                    f"{row['episodes']}{missing}",
                    bracketed(row["SR"], ".1%"),
                    bracketed(row["NHR"], ".1%"),
                    bracketed(row["reward"], ".3f"),
                    _difference(cell["test"], row["arm"]),
                ]
            )
    return table(["run", "arm", "episodes", "SR", "NHR", "R", "R − start"], body)


def _difference(test: Mapping[str, Any], arm: str) -> str:
    found = next((one for one in test["differences"] if one["arm"] == arm), None)
    return NOTHING if found is None else bracketed(found["difference"], "+.3f")


def _cards(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for row in rows[1:]:
        model = f" ({row['model']})" if row["condition"] == OTHER else ""
        cards = [", ".join(fields) or "nothing" for fields in row["wrong_fields"]]
        if len(set(cards)) > 1:
            cards = [f"{fields} (run {number})" for number, fields in enumerate(cards)]
        told = "; ".join(dict.fromkeys(cards))
        lines.append(f"- {row['condition']}{model}: other than the true card in {told}.")
    return lines


def _condition(kind: str, row: Mapping[str, Any]) -> str:
    return f"{100 * row['feedback_noise']:g}%" if kind == NOISE else str(row["condition"])


def _word(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return NOTHING
    return {True: "yes", False: "no: worse", None: "undecided"}[found["verdict"]]
