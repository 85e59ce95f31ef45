"""The downstream study as Markdown: rates by arm and reader, then differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from masa_training.tables import NOTHING, bracketed, table

_HOW = (
    "SR with 95 % intervals by cluster bootstrap over tasks; differences are of the same tasks. They are not corrected "
    "for looking at many. A verdict also asks that so many tasks differ that a sign test could reject."
)
_WROTE = (
    "What the rewriters did to the bank at the start: the share of its skills that were changed (near copies and "
    "`keep` do not count), and of its groups that the guard sent back."
)
_BY_CARD = "SR with each card, in the order of the study's file. What other cards would do no interval tells."
_COST = "What a search cost, and what one rewrite of the bank at the start for the right card:"
_VERDICT = {True: "better", False: "worse", None: "undecided"}


def to_markdown(told: Mapping[str, Any]) -> str:
    """The tables for a person."""
    settings = told["settings"]
    readers = list(dict.fromkeys(row["reader"] for row in told["rows"]))
    arms = list(dict.fromkeys(row["arm"] for row in told["rows"]))
    rows = {(row["reader"], row["arm"]): row for row in told["rows"]}
    rewriters = [f"{name}: seconds" for name in settings["rewriters"]]
    lines = [
        f"# {told['name']}{'' if told['complete'] else ' (PARTIAL)'}",
        "",
        f"{settings['environment']}, {settings['split']} split, {settings['tasks'] or 'all'} tasks. {_HOW}",
        "",
        *[f"- {note}" for note in settings["notes"]],
        *([""] if settings["notes"] else []),
        "## Success rates",
        "",
        *table(
            ["arm", *readers],
            [[arm, *(_rate(rows.get((reader, arm))) for reader in readers)] for arm in arms],
            left=1,
        ),
        "",
    ]
    by_card = [row for row in told["rows"] if "by_card" in row]
    if by_card:
        most = max(len(row["by_card"]) for row in by_card)
        lines += [
            _BY_CARD,
            "",
            *table(
                ["reader", "arm", *(f"card {number}" for number in range(1, most + 1))],
                [[row["reader"], row["arm"], *_cards(row["by_card"], most)] for row in by_card],
                left=2,
            ),
            "",
        ]
    rewritten = [row for row in told["rows"] if "rewrite" in row]
    if rewritten:
        lines += [
            _WROTE,
            "",
            *table(
                ["reader", "arm", "skills rewritten", "groups sent back", "its banks, and arms with the same"],
                [
                    [
                        row["reader"],
                        row["arm"],
                        f"{row['rewrite']['rewritten']:.0%}",
                        f"{row['rewrite']['groups_sent_back']:.0%}",
                        _twins(row, told["rows"]),
                    ]
                    for row in rewritten
                ],
                left=2,
            ),
            "",
        ]
    if told.get("searches"):
        lines += [_COST, "", *table(["reader", "search: episodes", "minutes", *rewriters], _costs(told), left=1), ""]
    lines += [
        "## Differences",
        "",
        *table(
            ["reader", "what", "difference of SR", "tasks", "tasks that differ", "verdict"],
            [_difference(row["reader"], row) for row in told["differences"]],
            left=2,
        ),
        "",
    ]
    if told.get("by_backbone"):
        lines += [
            "All readers of a backbone together, in the mean over tasks:",
            "",
            *table(
                ["backbone", "what", "difference of SR", "tasks", "tasks that differ", "verdict"],
                [_difference(row["backbone"], row) for row in told["by_backbone"]],
                left=2,
            ),
            "",
        ]
    if told["all_readers"]:
        lines += [
            "All readers together, in the mean; a task that several readers played is one cluster:",
            "",
            *table(
                ["what", "difference of SR", "tasks", "tasks that differ", "verdict"],
                [_difference(None, row) for row in told["all_readers"]],
                left=1,
            ),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _cards(rates: Sequence[float | None], most: int) -> list[str]:
    told = [NOTHING if rate is None else f"{rate:.0%}" for rate in rates]
    return told + [NOTHING] * (most - len(told))


def _costs(told: Mapping[str, Any]) -> list[list[str]]:
    wrote = {(row["reader"], row["arm"]): row["rewrite"] for row in told["rows"] if "rewrite" in row}
    return [
        [
            reader,
            f"{search['episodes']:,}",
            f"{search['minutes']:.1f}",
            *(f"{wrote[reader, f'{name}, right card']['seconds']:.1f}" for name in told["settings"]["rewriters"]),
        ]
        for reader, search in told["searches"].items()
    ]


def _rate(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NOTHING
    missing = f" ({row['missing']} missing)" if row["missing"] else ""
    return bracketed(row["SR"], ".0%") + missing


def _twins(row: Mapping[str, Any], rows: Any) -> str:
    """The other arms of the reader with the same banks; how many of its own differ, if it has several."""
    same = [o["arm"] for o in rows if o["reader"] == row["reader"] and o["banks"] == row["banks"] and o is not row]
    several = f"{len(set(row['banks']))} different of {len(row['banks'])}" if len(row["banks"]) > 1 else ""
    return "; ".join(filter(None, [several, ", ".join(same)])) or NOTHING


def _difference(reader: str | None, row: Mapping[str, Any]) -> list[str]:
    named = [] if reader is None else [reader]
    numbers = [bracketed(row, "+.2f"), str(row["tasks"]), str(row["tasks_differing"]), _VERDICT[row["verdict"]]]
    return [*named, row["what"], *numbers]
