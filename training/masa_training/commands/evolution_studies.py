"""`masa evaluate feedback-noise` and `masa evaluate card-perturbation`: the same evolution under several conditions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, count, table, write_json
from masa.cli.progress import interrupts
from masa_training.commands import episodes as shared
from masa_training.commands.evolve import CANCELLED, TEACHER, Shown

if TYPE_CHECKING:
    from masa_training.evolution import EvolveConfig
    from masa_training.studies.evolutions import EvolutionCell, EvolutionStudy

_CODES = "Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 cancelled (everything is kept)."

_COMMON: tuple[shared.Option, ...] = (
    click.option(
        "--runs",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Runs of every condition, each with other draws.",
    ),
    click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the study."),
    click.option("--resume", is_flag=True, help="Continue the study in the folder; conditions may be added."),
    TEACHER,
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeatable."),
    click.option(
        "--limit-minutes",
        type=click.FloatRange(min=0),
        metavar="N",
        help="Stop after N minutes with everything kept; --resume continues.",
    ),
    *shared.WORKERS,
    click.option("--trees", type=click.IntRange(min=0), default=0, help="As for masa evolve."),
    click.option("--dry-run", is_flag=True, help="Say how much would be played at most, without playing."),
    click.option("--report", "report_only", is_flag=True, help="Only rewrite the report, from the runs so far."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only."),
)


@click.command(
    "feedback-noise",
    short_help="Evolve while some outcomes are reported wrongly.",
    epilog="\b\nExamples:\n"
    "  masa evaluate feedback-noise lookup-smollm2 -o studies/noise --dry-run\n"
    "  masa evaluate feedback-noise lookup-instrument-terse lookup-instrument-stepwise -o studies/noise\n"
    "  masa evaluate feedback-noise lookup-smollm2 -o studies/noise --noise 0 --noise 0.25 --runs 3\n"
    "  masa evaluate feedback-noise lookup-smollm2 -o studies/noise --resume --limit-minutes 60\n\n" + _CODES,
)
@click.argument("configs", metavar="CONFIG...", nargs=-1, required=True)
@shared.with_options(
    click.option(
        "--noise",
        "levels",
        type=click.FloatRange(0, 1),
        multiple=True,
        metavar="P",
        help="Probability that an outcome is reported wrongly; repeatable, the first is the reference. "
        "[default: 0, 0.1, 0.2, 0.3]",
    ),
    *_COMMON,
)
def feedback_noise(configs: tuple[str, ...], levels: tuple[float, ...], runs: int, **given: Any) -> None:
    """Evolve each CONFIG at several levels of feedback noise, everything else equal.

    CONFIG is an experiment as masa evolve takes it. Success and failure are flipped with probability P in what search
    and teacher are told; the record keeps the truth, and the final test is not flipped. FOLDER gets a run folder for
    each cell, report.md and report.json.
    """
    from masa_training.studies.evolutions import LEVELS, noise_study

    _study(noise_study(_configs(configs, given), levels or LEVELS, runs=runs), given)


@click.command(
    "card-perturbation",
    short_help="Evolve with the true, a perturbed, an empty and another model's card.",
    epilog="\b\nExamples:\n"
    "  masa evaluate card-perturbation lookup-smollm2 -o studies/card --set backbone.card=SmolLM2-135M-Instruct \\\n"
    "      --teacher openai:http://localhost:8000/v1#Qwen/Qwen3-8B --dry-run\n"
    "  masa evaluate card-perturbation alfworld-qwen3-4b -o studies/card --set backbone.card=Qwen3-4B \\\n"
    "      --other Gemma3-27B-it --runs 3\n"
    "  masa evaluate card-perturbation alfworld-qwen3-4b -o studies/card --set backbone.card=Qwen3-4B --report\n\n"
    + _CODES,
)
@click.argument("configs", metavar="CONFIG...", nargs=-1, required=True)
@shared.with_options(
    click.option(
        "--other",
        default="",
        metavar="CARD",
        help="Another model's card: a file or a shipped one. [default: the shipped one that differs in most fields]",
    ),
    click.option(
        "--share",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.5,
        show_default=True,
        help="Share of the known fields that are wrong on a perturbed card.",
    ),
    *_COMMON,
)
def card(configs: tuple[str, ...], other: str, share: float, runs: int, **given: Any) -> None:
    """Evolve each CONFIG with a teacher that is told the backbone's card, or a wrong one; everything else is equal.

    CONFIG is an experiment as masa evolve takes it, whose backbone has a card and whose teacher is a language model;
    the offline teacher reads no card. FOLDER gets a run folder for each cell, report.md and report.json.
    """
    from masa_training.studies.evolutions import card_study

    _study(card_study(_configs(configs, given), other=other, share=share, runs=runs), given)


def _configs(names: Sequence[str], given: dict[str, Any]) -> list[EvolveConfig]:
    from masa_training.evolution import load_evolve

    return [load_evolve(name, given["overrides"], teacher=given["teacher"]) for name in names]


def _study(study: EvolutionStudy, given: dict[str, Any]) -> None:
    from masa_training.studies.evolutions import claim

    folder, quiet = given["output"], given["quiet"] or given["as_json"]
    if given["dry_run"] and given["report_only"]:
        raise click.UsageError("--dry-run and --report exclude each other.")
    if given["dry_run"]:
        _tell_work(study, folder, as_json=given["as_json"])
        return
    left: dict[str, str] = {}
    cancelled, limit = False, None
    if not given["report_only"]:
        claim(study, folder, resume=given["resume"])
        left, cancelled, limit = _run(study, folder, given, quiet=quiet)
    _finish(study, folder, left, as_json=given["as_json"], quiet=given["quiet"])
    if cancelled:
        click.echo("Cancelled: the same command with --resume continues.", err=True)
        click.get_current_context().exit(CANCELLED)
    if left and not quiet:
        why = f"Stopped, {limit}: " if limit else ""
        rest = f"{count(len(left), 'run')} not finished"
        click.echo(f"{why}{rest}; the same command with --resume continues.", err=True)


def _run(
    study: EvolutionStudy, folder: Path, given: dict[str, Any], *, quiet: bool
) -> tuple[dict[str, str], bool, str | None]:
    """The runs that are not complete, with the reasons; whether the person stopped the study; why it stopped early."""
    from masa_training.evolution.run import evolve
    from masa_training.evolution.run_log import CANCELLED as STOPPED
    from masa_training.evolution.views.report import write_report
    from masa_training.rollouts.executors import make_executor
    from masa_training.studies.evolutions import run_cells
    from masa_training.studies.running import Budget

    name = given["executor"]
    player = None if name == "in-process" else make_executor(name, workers=given["workers"], address=given["address"])

    def perform(cell: EvolutionCell, where: Path, resume: bool) -> str:
        shown = Shown(quiet=quiet)
        try:
            evolved = evolve(
                cell.config,
                where,
                resume=resume,
                executor=player,
                trees=given["trees"],
                told=shown.told,
                progress=shown.played,
                begun=shown.begun,
                cancel=budget.over,
            )
        finally:
            shown.end()
        write_report(where)
        # A run is only told to stop; whether a person or the limit did it is known here.
        return (budget.why() or evolved.ended) if evolved.ended == STOPPED else evolved.ended

    def say(text: str) -> None:
        if not quiet:
            click.echo(clean(text), err=True)

    with interrupts("everything so far is kept, --resume continues from it") as cancel:
        budget = Budget(given["limit_minutes"], cancelled=cancel)
        return run_cells(study, folder, perform, budget=budget, say=say), cancel(), budget.why()


def _finish(study: EvolutionStudy, folder: Path, left: dict[str, str], *, as_json: bool, quiet: bool) -> None:
    from masa.files import write_atomic
    from masa_training.studies.evolutions_report import study_report, to_markdown

    told = study_report(study, folder)
    text = to_markdown(told)
    write_atomic(folder / "report.json", (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomic(folder / "report.md", text.encode())
    if as_json:
        write_json({"output": str(folder), **told, "left": left})
    elif not quiet:
        click.echo(clean(text))
        click.echo(f"Results: {clean(str(folder))}")


def _tell_work(study: EvolutionStudy, folder: Path, *, as_json: bool) -> None:
    from masa_training.evolution.run import check_evolve, estimate
    from masa_training.studies.evolutions import standing

    # The conditions of an experiment are played alike, so that one estimate is that of all.
    first = {cell.experiment: cell.config for cell in reversed(study.cells)}
    for config in first.values():
        check_evolve(config)
    most = {name: estimate(config) for name, config in first.items()}
    rows = []
    for cell in study.cells:
        told = most[cell.experiment]
        figures = {name: told[name] for name in ("episodes", "test_episodes", "teacher_requests")}
        rows.append({"cell": cell.name, "state": standing(cell, folder), **figures})
    total = {name: sum(row[name] for row in rows if row["state"] != "finished") for name in figures}
    if as_json:
        write_json({"study": study.kind, "cells": rows, "left": total})
        return
    body = [[row["cell"], row["state"], *(f"{row[name]:,}" for name in figures)] for row in rows]
    click.echo(
        table(body, ["run", "state", "episodes at most", "of the test", "teacher requests at most"], right=(2, 3, 4))
    )
    click.echo(
        f"left: at most {total['episodes']:,} episodes, then {total['test_episodes']:,} of the tests, at most "
        f"{total['teacher_requests']:,} requests to the teacher"
    )
    click.echo("Dry run: nothing was written.")
