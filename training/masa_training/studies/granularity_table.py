"""The table of the granularity study for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from masa_training.evaluate.banks.config import RANDOM
from masa_training.studies.granularity import NONE
from masa_training.tables import NOTHING, bracketed, table

_BOUNDS = ("estimate", "low", "high")


def to_markdown(told: Mapping[str, Any]) -> str:
    """Success rates by backbone and granularity, what the best ones are worth, and the same by task type."""
    settings = told["settings"]
    wordings = [bank["granularity"] for bank in told["banks"]]
    arms = [NONE, *wordings]
    rows = {(row["backbone"], row["arm"]): row for row in told["rows"]}
    backbones = [one["backbone"] for one in told["backbones"]]
    partial = "" if told["complete"] else " (PARTIAL)"
    how = "choose among the admissible actions" if settings["agent"]["choose"] else "write their actions"
    counts = sorted({row["episodes"] for row in told["rows"]}) or [0]
    episodes = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    lines = [
        f"# Granularity study: {settings['environment']}, {settings['split']} split{partial}",
        "",
        f"Success rate with a 95 % interval (cluster bootstrap over tasks). Episodes a cell: {episodes}. Agents {how}. "
        "Bold: the best granularity; \\*: differs from none beyond the interval of the difference.",
        "",
    ]
    lines += table(
        ["backbone", *arms],
        [[name, *(_cell(told, rows, name, arm) for arm in arms)] for name in backbones],
    )
    chance = rows.get((None, RANDOM))
    lines += ["", f"Random policy: {_percent(chance['SR'] if chance else None)}.", "", "## The best granularity", ""]
    body = []
    for one in told["backbones"]:
        best = one["best"]
        body.append(
            [
                one["backbone"],
                best or "–",
                _points(one["over_none"].get(best)),
                _word(one["beats_none"], "yes", "no: it is worse"),
                _points(one["none_over_random"]),
                _word(one["none_over_random"]["verdict"], "yes", "no: it is below"),
            ]
        )
    head = ["backbone", "best", "best − none, points", "beats none", "none − random, points", "none beats random"]
    lines += [*table(head, body), ""]
    lines.append(
        f"Differences are paired by task and seed; their intervals have the level {told['level']:.2%}, so that all "
        "of a backbone's hold together with 95 % and the best one may be picked after looking."
    )
    lines += ["", *_preferences(told["preferences"])] if len(backbones) > 1 else []
    lines += ["", "## Banks", "", *_banks(told, rows, backbones)]
    lines += _by_type(rows, [(None, RANDOM), *((name, arm) for name in backbones for arm in arms)])
    return "\n".join(lines).rstrip() + "\n"


def _cell(told: Mapping[str, Any], rows: Mapping[Any, Any], backbone: str, arm: str) -> str:
    row = rows.get((backbone, arm))
    if row is None:
        return "–"
    one = next(one for one in told["backbones"] if one["backbone"] == backbone)
    text = _percent(row["SR"]) + (f", {row['missing']} missing" if row["missing"] else "")
    text = f"**{text}**" if one["best"] == arm else text
    return text + (" \\*" if arm != NONE and one["over_none"][arm]["verdict"] is not None else "")


def _preferences(found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not found:
        return ["No two backbones differ in what is best for them, no skill included."]
    lines = ["## Backbones whose best granularities differ", ""]
    body = [
        [
            " / ".join(one["backbones"]),
            " / ".join(one["best"]),
            " / ".join(_points(side) for side in one["own_over_foreign"]),
            _points(one["interaction"]),
            "yes" if one["opposite"] else "undecided",
        ]
        for one in found
    ]
    head = ["backbones", "best", "own − other's, points", "sum, points", "opposite"]
    lines += [*table(head, body), ""]
    lines.append(
        f"Level {found[0]['level']:.2%}, for the choice among pairs of granularities. Opposite: each backbone does "
        "better with its own than with the other's. An interval of the sum without 0: what granularity is "
        "worth depends on the backbone."
    )
    return lines


def _banks(told: Mapping[str, Any], rows: Mapping[Any, Any], backbones: Sequence[str]) -> list[str]:
    body = [
        [
            bank["granularity"],
            str(bank["skills"]),
            f"{bank['words']:,}",
            *(_tokens(rows.get((name, bank["granularity"]))) for name in backbones),
        ]
        for bank in told["banks"]
    ]
    body.insert(0, [NONE, "0", "0", *(_tokens(rows.get((name, NONE))) for name in backbones)])
    lines = table(
        ["granularity", "skills", "words", *(f"prompt tokens an episode, {name}" for name in backbones)], body
    )
    if not told["same_skills"]:
        lines += [
            "",
            "The banks do not hold the same skills (identifiers or task types differ), so their differences are not of "
            "granularity alone.",
        ]
    return lines


def _by_type(rows: Mapping[Any, Any], order: Sequence[tuple[str | None, str]]) -> list[str]:
    types = sorted({name for row in rows.values() for name in row["by_type"]})
    if len(types) < 2:
        return []
    body = [
        [key[0] or "–", key[1], *(_percent(rows[key]["by_type"].get(name)) for name in types)]
        for key in order
        if key in rows
    ]
    return ["", "## SR by task type", "", *table(["backbone", "granularity", *types], body)]


def _word(verdict: bool | None, yes: str, no: str) -> str:
    return "undecided" if verdict is None else yes if verdict else no


def _tokens(row: Mapping[str, Any] | None) -> str:
    return NOTHING if row is None or row["prompt_tokens"] is None else f"{row['prompt_tokens']:,.0f}"


def _percent(found: Mapping[str, Any] | None) -> str:
    return bracketed(found, ".1%")


def _points(found: Mapping[str, Any] | None) -> str:
    scaled = {key: None if value is None else 100 * value for key, value in (found or {}).items() if key in _BOUNDS}
    return bracketed(scaled, "+.1f")
