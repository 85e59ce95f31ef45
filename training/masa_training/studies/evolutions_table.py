"""The table of a study of evolution for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from masa_training.evaluate.banks.report import reward_in_words
from masa_training.studies import card_given, feedback_noise
from masa_training.tables import NOTHING, bracketed, table

_TITLES: Mapping[str, str] = {
    feedback_noise.KIND: "Feedback noise: outcomes told wrongly to search and teacher",
    card_given.KIND: "The card that the teacher is told",
}
_FIRST: Mapping[str, str] = {feedback_noise.KIND: "flipped", card_given.KIND: "card"}


def to_markdown(told: Mapping[str, Any]) -> str:
    """For every experiment the edits by verdict, what the evolved banks are worth, and the final test of every run."""
    partial = "" if told["complete"] else " (PARTIAL)"
    lines = [f"# {_TITLES[told['study']]}{partial}", ""]
    if told["missing"]:
        lines += [f"Not finished: {', '.join(told['missing'])}.", ""]
    for experiment in told["experiments"]:
        lines += _experiment(told["study"], experiment)
    return "\n".join(lines).rstrip() + "\n"


def _experiment(kind: str, told: Mapping[str, Any]) -> list[str]:
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
    if kind == card_given.KIND:
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
        model = f" ({row['model']})" if row["condition"] == card_given.OTHER else ""
        cards = [", ".join(fields) or "nothing" for fields in row["wrong_fields"]]
        if len(set(cards)) > 1:
            cards = [f"{fields} (run {number})" for number, fields in enumerate(cards)]
        told = "; ".join(dict.fromkeys(cards))
        lines.append(f"- {row['condition']}{model}: other than the true card in {told}.")
    return lines


def _condition(kind: str, row: Mapping[str, Any]) -> str:
    return f"{100 * row['feedback_noise']:g}%" if kind == feedback_noise.KIND else str(row["condition"])


def _word(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return NOTHING
    return {True: "yes", False: "no: worse", None: "undecided"}[found["verdict"]]
