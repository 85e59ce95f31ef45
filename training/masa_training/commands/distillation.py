"""`masa evaluate distillation`: a grid of trainings with one table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, count, table, write_json
from masa.cli.progress import interrupt_line, interrupts, show_line

if TYPE_CHECKING:
    from masa_training.studies.distillation import Places
    from masa_training.studies.distillation_config import Study, StudyCell
    from masa_training.studies.running import Outcome

CANCELLED = 130
_EVERY, _EVERY_LINE = 0.1, 60.0


@click.command(
    "distillation",
    short_help="Fine-tune rewriters and compare right, wrong and no card.",
    epilog="\b\nExamples:\n"
    "  masa evaluate distillation text-primary -o studies/text-primary --data-dir data --dry-run\n"
    "  masa evaluate distillation text-primary -o studies/text-primary --data-dir data --only 'smollm2-135m-*'\n"
    "  masa evaluate distillation text-primary -o studies/text-primary --data-dir data --limit-minutes 60 \\\n"
    "      --base-path gemma=gemma-3-270m-q4_k_m.gguf\n"
    "  masa evaluate distillation text-primary -o studies/text-primary --report\n\n"
    "\b\nStudies that ship with masa:\n  text-primary\n  text-cpu\n  plan-bootstrap\n  tiny\n\n"
    "Exit codes: 0 done (or stopped by --limit-minutes), 1 an error that the message explains, 2 wrong usage, "
    "130 cancelled (what is finished is kept).",
)
@click.argument("config", metavar="CONFIG")
@click.option(
    "-o", "--output", required=True, metavar="FOLDER", type=click.Path(path_type=Path), help="Results and report."
)
@click.option(
    "--work",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Data sets and run folders, kept out of git. [default: work in the output folder]",
)
@click.option(
    "--data-dir",
    metavar="DIR",
    type=click.Path(),
    help="What {data} in data set configurations stands for. [default: $MASA_DATA]",
)
@click.option(
    "--base-path",
    "bases",
    multiple=True,
    metavar="NAME=FILE",
    help="What {NAME} in the study stands for; repeatable. [default: $MASA_NAME]",
)
@click.option("--only", multiple=True, metavar="CELL", help="These cells only (smollm2-* is a pattern); repeatable.")
@click.option(
    "--limit-minutes",
    type=click.FloatRange(min=0),
    metavar="N",
    help="Begin no cell after N minutes; the running one stops at its next checkpoint and continues next time.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [default: all cores]")
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be done.")
@click.option("--report", "report_only", is_flag=True, help="Only rewrite the report, from the finished cells.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only.")
def command(
    config: str,
    output: Path,
    work: Path | None,
    data_dir: str | None,
    bases: tuple[str, ...],
    only: tuple[str, ...],
    limit_minutes: float | None,
    threads: int | None,
    dry_run: bool,
    report_only: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the study CONFIG, a shipped one or a YAML file: train each cell and measure it before and after.

    FOLDER gets cells/NAME.json for every finished cell and REPORT.md, which is computed from them; both may be
    committed. The same command goes on: finished cells are skipped, a killed one resumes from the work folder if that
    is still there. A cell whose configuration changed since is run again.
    """
    if dry_run and report_only:
        raise click.UsageError("--dry-run and --report exclude each other.")
    from masa_training.studies.distillation import Places
    from masa_training.studies.distillation_config import load_study
    from masa_training.studies.running import write_report

    study = load_study(config)
    cells = study.select(only)
    if report_only:
        text = write_report(study, output)
        if as_json:
            write_json(_standing(study, output))
        elif not quiet:
            click.echo(clean(text))
        return
    places = Places(work or output / "work", data_dir, _paths(bases), threads or 0)
    if dry_run:
        _tell_work(study, cells, output, places, as_json=as_json, quiet=quiet)
        return
    tell = _Tell(quiet=quiet or as_json)
    try:
        with interrupts("the cell goes on next time") as cancelled:
            outcome = _run(study, cells, output, places, limit_minutes, cancelled, tell)
            stopped = cancelled()
    finally:
        tell.close()
    if as_json:
        told = {"finished": outcome.finished, "skipped": outcome.skipped, "stopped": outcome.stopped}
        write_json({**told, "left": outcome.left, **_standing(study, output)})
    elif not quiet:
        click.echo(clean((output / "REPORT.md").read_text("utf-8")))
        click.echo(f"Report: {clean(str(output / 'REPORT.md'))}")
    if stopped:
        click.echo("Cancelled: what is finished is kept; the same command goes on.", err=True)
        click.get_current_context().exit(CANCELLED)
    if outcome.left and not quiet:
        rest = count(len(outcome.left), "cell")
        click.echo(f"Stopped by --limit-minutes: {rest} left; the same command goes on.", err=True)


def _run(
    study: Study,
    cells: Sequence[StudyCell],
    output: Path,
    places: Places,
    limit_minutes: float | None,
    cancelled: Any,
    tell: _Tell,
) -> Outcome:
    from masa_training.studies.distillation import make_cell, prepare
    from masa_training.studies.running import Budget, run_study

    budget = Budget(limit_minutes, cancelled=cancelled)
    if places.threads:
        import torch

        torch.set_num_threads(places.threads)
    prepared = prepare(study, cells, places, say=tell)
    return run_study(
        study,
        cells,
        output,
        wanted={name: one.configuration for name, one in prepared.items()},
        perform=lambda cell: make_cell(study, prepared[cell.name], places, budget, report=tell.event, say=tell),
        budget=budget,
        say=tell,
    )


def _tell_work(
    study: Study, cells: Sequence[StudyCell], output: Path, places: Places, *, as_json: bool, quiet: bool
) -> None:
    from masa_training.distill.schedule import plan
    from masa_training.studies.distillation import prepare, run_folder
    from masa_training.studies.running import state

    tell = _Tell(quiet=quiet or as_json)
    prepared = prepare(study, cells, places, write=False, say=tell)
    tell.close()
    rows: list[dict[str, Any]] = []
    for cell in cells:
        one = prepared[cell.name]
        done, sentence = state(output, cell, one.configuration)
        begun = (run_folder(places.work, one) / "run" / "config.yaml").is_file()
        word = "finished" if done else "goes on" if begun else "again" if sentence else "to do"
        row: dict[str, Any] = {"cell": cell.name, "state": word, "base": one.base.name, "dataset": cell.row.dataset}
        if not done:
            planned = plan(one.settings, one.dataset)
            row |= {"samples": planned.samples, "steps": len(planned.steps), "tokens": planned.computed}
        rows.append({**row, "reason": sentence} if sentence else row)
    if as_json:
        write_json({"study": study.config.name, "cells": rows})
        return
    numbers = [[f"{row[key]:,}" if key in row else "" for key in ("samples", "steps", "tokens")] for row in rows]
    body = [
        [row["cell"], row["state"], row["base"], row["dataset"], *more] for row, more in zip(rows, numbers, strict=True)
    ]
    head = ["cell", "state", "base", "data set", "samples", "steps", "tokens"]
    click.echo(table(body, head, right=(4, 5, 6)))
    for row in rows:
        if "reason" in row:
            click.echo(clean(row["reason"]))
    click.echo("Dry run: nothing was written.")


def _standing(study: Study, output: Path) -> dict[str, Any]:
    from masa_training.studies.distillation_cells import read_cells
    from masa_training.studies.distillation_report import standing

    found = standing(study, read_cells(output, study))
    return {
        "study": study.config.name,
        "output": str(output),
        "partial": bool(found.missing),
        "missing": list(found.missing),
        "left_out": list(found.left_out),
    }


def _paths(given: Sequence[str]) -> dict[str, str]:
    paths = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise click.UsageError(f"--base-path {text}: write it as NAME=FILE, such as gemma=model.gguf.")
        paths[name.strip().lower()] = path
    return paths


class _Tell:
    """Sentences as lines on stderr; events of training as one live line on a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._last = time.monotonic()

    def __call__(self, text: str) -> None:
        if not self._quiet:
            interrupt_line()
            click.echo(clean(text), err=True)

    def event(self, event: str, values: Mapping[str, Any]) -> None:
        if self._quiet:
            return
        if event == "resumed":
            self(f"  goes on from {values.get('checkpoint')}")
        elif event == "evaluated":
            self(f"  step {values['step']}: held-out NLL {values['nll']:.4f} nats per target token")
        elif event == "trained":
            self._now(f"  step {values['step']}/{values['of']}: loss {values['loss']:.4f}")
        elif event == "measuring":
            self._now(f"  {values['doing']} · {100 * values['done'] / max(values['total'], 1):.0f} %")

    def _now(self, text: str) -> None:
        """What is going on: in place on a terminal, else a line now and then."""
        if time.monotonic() - self._last < (_EVERY if self._live else _EVERY_LINE):
            return
        self._last = time.monotonic()
        if self._live:
            show_line(text)
        else:
            click.echo(clean(text), err=True)

    def close(self) -> None:
        interrupt_line()
