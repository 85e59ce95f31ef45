"""`masa evaluate downstream`: what a rewritten bank is worth to the backbone that it was rewritten for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, duration, write_json
from masa.cli.progress import interrupt_line, interrupts, show_line
from masa_training.commands import episodes as shared
from masa_training.tables import NOTHING, bracketed, table

if TYPE_CHECKING:
    from masa_training.evaluate.banks.running import Progress


@click.command(
    "downstream",
    short_help="Play what rewriters wrote, with the right card and with wrong ones.",
    epilog="\b\nExamples:\n"
    "  masa evaluate downstream studies/downstream/lookup.yaml -o out/lookup --dry-run\n"
    "  masa evaluate downstream studies/downstream/lookup.yaml -o out/lookup\n"
    "  masa evaluate downstream studies/downstream/lookup.yaml -o /tmp/mine --set rewriters.mine=my-rewriter\n\n"
    "Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 cancelled (episodes are kept).",
)
@click.argument("config", metavar="CONFIG")
@click.option("-o", "--output", required=True, metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeatable.")
@shared.with_options(*shared.WORKERS)
@click.option("--dry-run", is_flag=True, help="Let the rewriters write, say what would be played; play nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only.")
def command(config: str, output: Path, overrides: tuple[str, ...], as_json: bool, quiet: bool, **given: Any) -> None:
    """Play, for every reader of CONFIG, no skills, the bank a search began with, what it found, and what each rewriter
    makes of the first bank when it is told the right card, another reader's, or none.

    FOLDER gets banks.json (every bank once, under the name that report.json has in "banks"), the episodes (a line each,
    kept as they come), report.json, report.md and, where matplotlib is installed, report.svg. The same command goes on,
    and plays nothing twice; with a further rewriter only that one's banks.
    """
    from masa.files import make_folder, write_atomic
    from masa.formats.bank_json import dump_bank
    from masa_training.evaluate.banks.report import plot
    from masa_training.evolution.playing import fingerprint
    from masa_training.models import check_model
    from masa_training.rollouts.executors import make_executor
    from masa_training.studies.downstream import arms_of, load_downstream, play, report

    study, folder = load_downstream(config, overrides)
    if given["dry_run"]:
        for reader in study.readers:
            check_model(reader.spec, reader.options)
    show = _Shown(quiet=quiet or as_json)
    with interrupts("the episodes so far are kept, the same command goes on from them") as cancel:
        try:
            arms = arms_of(study, folder, told=show.say, cancel=cancel)
        except KeyboardInterrupt:
            click.get_current_context().exit(shared.CANCELLED)
        banks = {one.reader.name: sorted(one.banks) for one in arms}
        if given["dry_run"]:
            if as_json:
                write_json({"readers": banks, "tasks": study.tasks})
                return
            for name, some in banks.items():
                click.echo(f"{clean(name)}: {clean(', '.join(some))}; {study.tasks or 'all'} tasks each")
            return
        make_folder(output)
        every = [bank for one in arms for its in one.banks.values() for bank in its if bank is not None]
        unique = {fingerprint(bank): json.loads(dump_bank(bank)) for bank in every}
        write_atomic(output / "banks.json", _json(dict(sorted(unique.items()))))
        executor = make_executor(given["executor"], workers=given["workers"], address=given["address"])
        try:
            played = play(study, arms, output, executor, progress=show, cancel=cancel)
        finally:
            show.end()
        told = report(study, arms, played)
        text = to_markdown(told)
        write_atomic(output / "report.json", _json(told))
        write_atomic(output / "report.md", text.encode())
        picture = plot({"rows": [{**row, "backbone": row["reader"]} for row in told["rows"]]})
        if picture is not None:
            write_atomic(output / "report.svg", picture)
        if as_json:
            write_json({"output": str(output), **told})
        elif not quiet:
            click.echo(clean(text))
            click.echo(f"Results: {clean(str(output))}")
        if cancel():
            click.echo("Cancelled: the same command goes on.", err=True)
            click.get_current_context().exit(shared.CANCELLED)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


class _Shown:
    """A line for what is written and for every arm that is played; a live one on a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()

    def say(self, text: str) -> None:
        if not self._quiet:
            click.echo(clean(text), err=True)

    def __call__(self, arm: str, at: Progress) -> None:
        if self._quiet or not (self._live or at.done == at.total):
            return
        success = "" if at.success is None else f", SR {at.success:.0%}"
        left = f", about {duration(at.left)} left" if at.left and at.done < at.total else ""
        text = f"{at.backbone}, {arm}: {at.done}/{at.total} episodes, {at.rate:.2f}/s{success}{left}"
        if self._live and at.done < at.total:
            show_line(text)
        else:
            self.end()
            click.echo(clean(text), err=True)

    def end(self) -> None:
        if not self._quiet and self._live:
            interrupt_line()


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
