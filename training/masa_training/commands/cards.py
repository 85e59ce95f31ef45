"""`masa evaluate cards`: what a rewriter makes of the same skills for different readers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.loading import complete_backbone, load_bank_file, resolve_card, rewriter_option, tell_problems
from masa.cli.output import clean, write_json
from masa.cli.progress import interrupt_line, interrupts, show_line
from masa.errors import MasaError

if TYPE_CHECKING:
    from masa.cards import ModelCard
    from masa.rewriter import Rewriter
    from masa.skills import SkillBank
    from masa_training.evaluate.cards import Entry

CANCELLED = 130


@click.command(
    "cards",
    short_help="Show what a rewriter writes for different backbones.",
    epilog="\b\nExamples:\n"
    "  masa evaluate cards examples/banks/household.json --backbone Qwen3-4B --backbone examples/card.yaml\n"
    "  masa evaluate cards bank.json\n"
    "  masa evaluate cards a.json b.json --rewriter runs/plan-small -o cards.md\n"
    "  masa evaluate cards bank.json --facts facts.yaml --json | jq .groups",
)
@click.argument("banks", metavar="BANK...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="MODEL",
    help="A reader, as for `masa rewrite`; at least two. [default: every shipped card]",
    shell_complete=complete_backbone,
)
@rewriter_option
@click.option("--task", default="", metavar="TEXT", help="What the agent does, in a few words.")
@click.option("--environment", default="", metavar="TEXT", help="Where it does that, in a few words.")
@click.option("--facts", metavar="FILE", type=click.Path(), help="Interface facts (YAML or JSON).")
@click.option("--only", multiple=True, metavar="TYPE", help="This group only. Repeatable; for a single bank.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [default: all cores]")
@click.option("-o", "--output", metavar="FILE", type=click.Path(), help="Write the table (Markdown) there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    banks: tuple[str, ...],
    backbones: tuple[str, ...],
    rewriter: str,
    task: str,
    environment: str,
    facts: str | None,
    only: tuple[str, ...],
    threads: int | None,
    output: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Rewrite every BANK for several backbones and show the outputs side by side. No bank is changed.

    The rewriter may be an artifact or a checkpoint folder. A rewriter that writes the same for every reader does not
    read the card.
    """
    from masa.facts import load_facts
    from masa.files import write_atomic
    from masa_training.evaluate.cards import plan_table, table_json, table_markdown

    if only and len(banks) > 1:
        raise click.UsageError("--only goes with a single bank.")
    loaded = _named_banks(banks)
    for bank in loaded.values():
        known = [group.key for group in bank.groups()]
        for key in only:
            if key not in known:
                raise MasaError(f"{banks[0]}: no group {key!r}; it has {', '.join(known)}")
    cards = _named_cards(backbones)
    options: dict[str, Any] = {"task": task, "environment": environment}
    options["facts"] = load_facts(facts) if facts is not None else None
    if only:
        options["only"] = only
    with _open(rewriter, threads) as opened, interrupts() as cancel:
        try:
            table = plan_table(
                opened, loaded, cards, on_entry=_Progress(quiet=quiet or as_json), cancel=cancel, **options
            )
        finally:
            interrupt_line()
        text = table_markdown(table, opened.artifact.name)
    if output is not None:
        write_atomic(output, text.encode("utf-8"))
    if as_json:
        write_json({"rewriter": opened.artifact.name, "cancelled": cancel(), **table_json(table)})
    elif output is None:
        click.echo(clean(text), nl=False)
    if cancel():
        click.echo("Cancelled: the table holds what was finished.", err=True)
        click.get_current_context().exit(CANCELLED)


def _named_banks(paths: tuple[str, ...]) -> dict[str, SkillBank]:
    """Banks by the shortest names that tell them apart."""
    stems = [Path(path).stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else list(paths)
    banks = {name: load_bank_file(path).bank for name, path in zip(names, paths, strict=True)}
    for bank in banks.values():
        tell_problems(bank)
    return banks


def _named_cards(backbones: tuple[str, ...]) -> dict[str, ModelCard]:
    from masa.cards import shipped_cards

    if not backbones:
        return dict(shipped_cards())
    if len(set(backbones)) < 2:
        raise click.UsageError("Give at least two different --backbone to compare.")
    cards: dict[str, ModelCard] = {}
    for backbone in dict.fromkeys(backbones):
        card = resolve_card(backbone, None, None, None)
        cards[card.name if card.name not in cards and card.name != "unnamed-model" else backbone] = card
    return cards


def _open(spec: str, threads: int | None) -> Rewriter:
    from masa.rewriter import Rewriter
    from masa_training.checkpoint import RECORD

    if not (Path(spec) / RECORD).is_file():
        return Rewriter.load(spec, threads=threads, cache=False, keep_warm=True)
    import torch

    from masa_training.transformers_backend import rewriter_for

    if threads:
        torch.set_num_threads(threads)
    return rewriter_for(spec, keep_warm=True)


class _Progress:
    """One live line on a terminal, else a line per group."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()

    def __call__(self, entry: Entry, done: int, total: int) -> None:
        if self._quiet:
            return
        text = f"{done}/{total} {entry.bank}, {entry.result.key} for {entry.card}: {entry.result.status}"
        if self._live:
            show_line(text)
        else:
            click.echo(clean(text), err=True)
