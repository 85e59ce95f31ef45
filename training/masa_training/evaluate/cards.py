"""Cards × groups: what a rewriter makes of the same skills for different readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from masa.cards import ModelCard
from masa.provenance import GroupResult
from masa.rewriter import Options, Rewriter
from masa.skills import SkillBank
from masa_training.tables import table as markdown


@dataclass(frozen=True, slots=True)
class Entry:
    """What came of one group for one card."""

    bank: str
    card: str
    result: GroupResult

    @property
    def valid(self) -> bool:
        """Whether the output was finished and parses."""
        return self.result.status != "fell back" or bool(self.result.violations)

    @property
    def guarded(self) -> bool:
        """Whether the output also passed the guard."""
        return self.result.status != "fell back" and not self.result.violations


@dataclass(frozen=True, slots=True)
class PlanTable:
    """One entry for every (bank, card, group), and the wall time of each rewrite in seconds by (bank, card)."""

    entries: tuple[Entry, ...]
    seconds: Mapping[tuple[str, str], float]

    @property
    def groups(self) -> tuple[tuple[str, str], ...]:
        """(bank, group key) in order."""
        return tuple(dict.fromkeys((entry.bank, entry.result.key) for entry in self.entries))

    @property
    def cards(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.card for entry in self.entries))

    def outputs(self, bank: str, group: str) -> dict[str, Entry]:
        """The entries of a group by card."""
        return {entry.card: entry for entry in self.entries if (entry.bank, entry.result.key) == (bank, group)}

    def distinct(self, bank: str, group: str) -> int:
        """How many different outputs a group has over the cards; one that is not valid does not count."""
        return len({entry.result.raw for entry in self.outputs(bank, group).values() if entry.valid})

    def share(self, flag: str) -> float | None:
        """Share of the entries that are `valid` or `guarded`."""
        found = [getattr(entry, flag) for entry in self.entries]
        return sum(found) / len(found) if found else None

    def varied(self) -> float | None:
        """Share of the groups with at least two different outputs."""
        found = [self.distinct(*group) > 1 for group in self.groups]
        return sum(found) / len(found) if found else None


def plan_table(
    rewriter: Rewriter,
    banks: Mapping[str, SkillBank],
    cards: Mapping[str, ModelCard],
    *,
    on_entry: Callable[[Entry, int, int], None] = lambda entry, done, total: None,
    **options: Any,
) -> PlanTable:
    """Rewrite every bank for every card; `options` are those of `masa.rewriter.Options`.

    `on_entry` is called with each entry as it is finished, how many there are and how many there will be. After
    `cancel` the table holds what was finished.
    """
    import time

    asked: Options = {**options}  # type: ignore[typeddict-item]
    total = sum(1 for bank in banks.values() for group in bank.groups() if len(group)) * len(cards)
    entries: list[Entry] = []
    seconds: dict[tuple[str, str], float] = {}
    for bank_name, bank in banks.items():
        for card_name, card in cards.items():
            begun = time.perf_counter()
            found: dict[str, Entry] = {}
            for result in rewriter.stream(bank, card, **asked):
                if result.status == "cancelled":
                    continue
                found[result.key] = Entry(bank_name, card_name, result)
                on_entry(found[result.key], len(entries) + len(found), total)
            seconds[bank_name, card_name] = time.perf_counter() - begun
            entries += [found[group.key] for group in bank.groups() if group.key in found]
    return PlanTable(tuple(entries), seconds)


def table_json(table: PlanTable) -> dict[str, Any]:
    """The table as JSON values."""
    return {
        "valid": table.share("valid"),
        "guarded": table.share("guarded"),
        "groups_with_different_outputs": table.varied(),
        "groups": [
            {
                "bank": bank,
                "group": group,
                "distinct": table.distinct(bank, group),
                "outputs": {
                    card: {
                        "status": entry.result.status,
                        "valid": entry.valid,
                        "guarded": entry.guarded,
                        "reason": entry.result.reason,
                        "output": entry.result.raw,
                    }
                    for card, entry in table.outputs(bank, group).items()
                },
            }
            for bank, group in table.groups
        ],
        "seconds": [
            {"bank": bank, "card": card, "seconds": round(value, 3)} for (bank, card), value in table.seconds.items()
        ],
    }


def table_markdown(table: PlanTable, rewriter: str) -> str:
    """The table for a reader: a line per group and card. Texts (not plans) are told by their length."""
    head = [f"# What {rewriter} writes for {len(table.cards)} cards", ""]
    parts = [f"{len(table.entries)} rewrites of {len(table.groups)} groups"]
    for flag, word in (("valid", "valid"), ("guarded", "through the guard")):
        found = table.share(flag)
        if found is not None:
            parts.append(f"{found:.0%} {word}")
    varied = table.varied()
    if varied is not None:
        parts.append(f"{varied:.0%} of the groups differ between cards")
    lines = [*head, "; ".join(parts) + ".", ""]
    rows = []
    for bank, group in table.groups:
        outputs = table.outputs(bank, group)
        for number, (card, entry) in enumerate(outputs.items()):
            first = (bank, f"{group} ({table.distinct(bank, group)} different)") if number == 0 else ("", "")
            status = entry.result.status + (f": {entry.result.reason}" if entry.result.reason else "")
            cells = (*first, card, _shown(entry.result), status)
            rows.append(cells)
    lines += [*markdown(("bank", "group", "card", "output", "status"), rows), ""]
    seconds = [(bank, card, f"{value:.1f}") for (bank, card), value in table.seconds.items()]
    lines += markdown(("bank", "card", "seconds"), seconds, left=2)
    return "\n".join(lines) + "\n"


def _shown(result: GroupResult) -> str:
    if result.raw.startswith("## "):
        return f"{len(result.output)} skills, {sum(len(skill.text) for skill in result.output.skills):,} characters"
    return "; ".join(result.raw.split("\n"))
