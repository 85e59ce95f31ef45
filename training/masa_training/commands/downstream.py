"""`masa evaluate downstream`: what a rewritten bank is worth to the backbone that it was rewritten for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, duration, write_json
from masa.cli.progress import interrupt_line, interrupts, show_line
from masa_training.commands import episodes as shared

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
    from masa_training.evaluate.banks.plot import plot
    from masa_training.evolution.playing import fingerprint
    from masa_training.rollouts.executors import make_executor
    from masa_training.studies.downstream import arms_of, play, report
    from masa_training.studies.downstream_config import load_downstream
    from masa_training.studies.downstream_table import to_markdown

    study, folder = load_downstream(config, overrides)
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
