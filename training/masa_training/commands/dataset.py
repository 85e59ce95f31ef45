"""`masa distill dataset`: the samples that a rewriter is fine-tuned on."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, count, table, write_json
from masa.cli.progress import interrupt_line, show_line

if TYPE_CHECKING:
    from masa_training.dataset.folder import Dataset

_EVERY = 0.1


@click.command(
    "dataset",
    short_help="Build a data set to fine-tune a rewriter on.",
    epilog="\b\nExamples:\n"
    "  masa distill dataset text-published --data-dir data -o text-published\n"
    "  masa distill dataset plan-bootstrap-small -o bootstrap\n"
    "  masa distill dataset plan-bootstrap --set bootstrap.train=400 -o my-data --seed 1\n"
    "  masa distill dataset plan-bootstrap-small --dry-run\n"
    "  masa distill dataset my-config.yaml --base model.gguf --dry-run --json | jq .tokens\n\n"
    "\b\nConfigurations that ship with masa:\n"
    "  text-published\n  text-published-heldout-environment\n  text-published-heldout-backbone\n"
    "  text-published-small\n  text-published-small-heldout-environment\n  text-published-small-heldout-backbone\n"
    "  plan-bootstrap\n  plan-bootstrap-small\n  rewordings\n\n"
    "Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 cancelled.",
)
@click.argument("config", metavar="CONFIG")
@click.option("-o", "--output", metavar="FOLDER", type=click.Path(), help="Where to write it; must not exist yet.")
@click.option(
    "--data-dir",
    metavar="DIR",
    type=click.Path(),
    help="What {data} in the configuration stands for. [default: $MASA_DATA]",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeatable.")
@click.option("--base", metavar="SPEC", help="Base model to count tokens with: an artifact, a GGUF file or a folder.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Short for --set seed=N.")
@click.option("--dry-run", is_flag=True, help="Build and check everything and show the counts; write nothing.")
@click.option("--force", is_flag=True, help="Replace an existing data set.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only.")
def command(
    config: str,
    output: str | None,
    data_dir: str | None,
    overrides: tuple[str, ...],
    base: str | None,
    seed: int | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Build the data set that CONFIG describes: a YAML file, or the name of a configuration that ships with masa.

    FOLDER gets train.jsonl, validation.jsonl and test.jsonl (chat messages, one sample a line), dataset.json (the
    record) and README.md (the data card). It is written completely or not at all. A sample that is longer than the
    context is an error, never cut.
    """
    if output is None and not dry_run:
        raise click.UsageError("Give -o FOLDER, or --dry-run to see the counts only.")
    from masa_training.bases import open_base
    from masa_training.dataset.build import build_dataset
    from masa_training.dataset.config import load_config
    from masa_training.dataset.data_card import data_card
    from masa_training.dataset.folder import check_output, write_dataset

    given = [f"base={json.dumps(base)}"] * (base is not None) + [f"seed={seed}"] * (seed is not None)
    loaded, places = load_config(config, data_dir=data_dir, overrides=[*overrides, *given])
    if output is not None and not dry_run:
        check_output(output, force=force)  # before the work, not after it
    progress = Progress(quiet=quiet or as_json)
    try:
        opened = open_base(loaded.base, loaded.template)
        dataset = build_dataset(loaded, places, opened, progress=progress)
        if output is not None and not dry_run:
            progress("Writing", 0, 0)
            write_dataset(output, dataset, data_card(dataset), force=force)
    finally:
        progress.close()
    if as_json:
        write_json(_json(dataset, None if dry_run else output))
    elif not quiet:
        click.echo(_report(dataset))
        click.echo("\nDry run: nothing was written." if dry_run else f"\nData set: {clean(str(output))}")


class Progress:
    """One live line on a terminal, else a line per stage."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._last = 0.0
        self._stage = ""

    def __call__(self, doing: str, done: int, total: int) -> None:
        if self._quiet:
            return
        new = doing != self._stage
        self._stage = doing
        if self._live and (new or time.monotonic() - self._last >= _EVERY):
            self._last = time.monotonic()
            show_line(f"{doing} {done}/{total} …" if total else f"{doing} …")
        elif new and not self._live:
            click.echo(clean(f"{doing} …"), err=True)

    def close(self) -> None:
        interrupt_line()


def _report(dataset: Dataset) -> str:
    """The counts that matter, for a terminal; the data card has them all."""
    from masa_training.dataset.folder import SPLITS

    info = dataset.info
    rows = []
    for split in SPLITS:
        samples = dataset.split(split)
        figures = info.tokens.get(split) or {}
        longest = [f"{figures[part]['max']:,}" if part in figures else "" for part in ("prompt", "target", "total")]
        cells = {(s.environment, s.backbone, s.request.group.key) for s in samples}
        rows.append([split, f"{len(samples):,}", f"{len(cells):,}", *longest])
    head = ["split", "samples", "cells", "longest prompt", "target", "both"]
    lines = [table(rows, head, right=(1, 2, 3, 4, 5)), ""]
    sources = {split: _by_source(dataset, split) for split in SPLITS}
    names = sorted(set().union(*sources.values()))
    counts = [[name, *(f"{sources[split].get(name, 0):,}" for split in SPLITS)] for name in names]
    lines += [table(counts, ["source", *SPLITS], right=(1, 2, 3)), ""]
    lines.append(clean(info.summary))
    if info.synthetic:
        lines.append("Synthetic: the targets follow from stated rules, not from results in an environment.")
    for reason, left in info.left_out.items():
        lines.append(clean(f"Left out: {reason} ({count(len(left), 'time')})"))
    return "\n".join(lines)


def _by_source(dataset: Dataset, split: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for sample in dataset.split(split):
        counts[sample.source] = counts.get(sample.source, 0) + 1
    return counts


def _json(dataset: Dataset, output: str | None) -> dict[str, Any]:
    info = dataset.info
    return {
        "output": output,
        "name": info.name,
        "language": info.language,
        "synthetic": info.synthetic,
        "sha256": info.sha256,
        "samples": {name.removesuffix(".jsonl"): told["samples"] for name, told in info.files.items()},
        "sources": {split: _by_source(dataset, split) for split in ("train", "validation", "test")},
        "tokens": dict(info.tokens),
        "context_length": info.context_length,
        "holdouts": dict(info.holdouts),
        "left_out": {reason: list(names) for reason, names in info.left_out.items()},
        "summary": info.summary,
        "licence": info.licence,
    }
