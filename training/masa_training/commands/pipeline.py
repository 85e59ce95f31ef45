"""`masa pipeline`: from a backbone to a verified artifact."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, duration, size, table, write_json
from masa.cli.progress import interrupt_line, interrupts, show_line
from masa_training.commands import episodes as shared

if TYPE_CHECKING:
    from masa_training.evolution.run import Underway
    from masa_training.evolution.searching import Told
    from masa_training.pipeline.config import Estimate
    from masa_training.pipeline.forecast import Forecast
    from masa_training.pipeline.run import Outcome
    from masa_training.pipeline.stages import Watch
    from masa_training.rollouts import Episode

_STAGES = ("profile", "evolve", "dataset", "distill", "export", "verify")


@click.command(
    "pipeline",
    short_help="From a backbone to a verified artifact, in one command.",
    epilog="""\b
Examples:
  masa pipeline smallest -o runs/smallest --dry-run
  masa pipeline smallest -o runs/smallest
  masa pipeline smallest -o runs/smallest --resume           # after Ctrl-C, kill -9 or an error
  masa pipeline smallest -o runs/smallest --until dataset
  masa pipeline my-pipeline.yaml -o runs/mine --set evolve.rounds=4 --set distill.max_steps=200
  masa pipeline alfworld-qwen3-4b -o runs/alfworld --executor processes --workers 24

Exit codes: 0 done, 1 an error that the message explains (a failed verification, too), 2 wrong usage, 130 cancelled.
""",
)
@click.argument("config")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of all stages.")
@click.option("--resume", is_flag=True, help="Continue in the folder; finished stages are skipped.")
@click.option("--until", type=click.Choice(_STAGES), default=_STAGES[-1], show_default=True, help="The last stage.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeatable.")
@shared.with_options(
    *shared.WORKERS,
    click.option("--trees", type=click.IntRange(min=0), default=0, help="As for masa evolve."),
)
@click.option("--dry-run", is_flag=True, help="Only show the plan, with what it costs at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No plan and no progress; the result and errors only.")
def command(
    config: str,
    output: Path,
    resume: bool,
    until: str,
    overrides: tuple[str, ...],
    trees: int,
    executor: str,
    workers: int,
    address: str,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Profile, evolve, dataset, distill, export, verify: CONFIG is a shipped pipeline or a YAML file.

    The plan is shown first. Every stage is its own command's, in a folder of its own inside FOLDER. --resume continues
    where the pipeline stopped, also in the middle of a stage, and refuses settings that differ from those of a begun
    stage. Without a passing verification the artifact is kept and the command fails.
    """
    from masa_training.errors import TrainingError
    from masa_training.pipeline import load_pipeline
    from masa_training.pipeline.forecast import forecast
    from masa_training.pipeline.run import StageError, run_pipeline
    from masa_training.pipeline.stages import Work
    from masa_training.rollouts.executors import make_executor

    settings = load_pipeline(config, overrides)
    player = None if executor == "in-process" else make_executor(executor, workers=workers, address=address)
    silent = quiet or as_json
    shown = _shown(silent)
    with interrupts("everything so far is kept, --resume continues from it") as cancel:
        work = Work(settings, output, watch=shown, cancel=cancel, executor=player, trees=trees)
        if dry_run or not silent:
            plan = forecast(work, until, exact=dry_run)
            if dry_run and as_json:
                write_json(plan.to_json())
            else:
                click.echo(_plan(plan), err=not dry_run)
        if dry_run:
            return
        playing: dict[str, str | int] = {
            "--executor": executor,
            "--workers": workers,
            "--address": address,
            "--trees": trees,
        }
        again = _again(config, output, until, overrides, playing)
        try:
            outcome = run_pipeline(work, resume=resume, until=until)
        except StageError as error:
            kept = "the artifact is kept, but it is not verified; " if error.stage == "verify" else ""
            raise TrainingError(f"{error}; {kept}go on with: {again}") from error
    if as_json:
        write_json(outcome.to_json())
    else:
        click.echo(_result(outcome))
    if outcome.stopped:
        click.echo(f"Stopped in the stage {outcome.stopped}; go on with: {again}", err=True)
        click.get_current_context().exit(shared.CANCELLED)


def _again(config: str, output: Path, until: str, overrides: tuple[str, ...], playing: Mapping[str, str | int]) -> str:
    """The command that goes on; of the options `playing` those that are not their defaults."""
    words = ["masa", "pipeline", config, "-o", str(output), "--resume"]
    words += ["--until", until] if until != _STAGES[-1] else []
    words += [word for override in overrides for word in ("--set", override)]
    given = {option: value for option, value in playing.items() if value and value != "in-process"}
    return shlex.join([*words, *(str(word) for pair in given.items() for word in pair)])


def _plan(plan: Forecast) -> str:
    rows = [
        [step.stage, step.state, clean(step.text), *(["", "", ""] if step.finished else _costs(step.estimate))]
        for step in plan.steps
    ]
    rows.append(["to do", "", "", *_costs(plan.left)])
    lines = [table(rows, ["stage", "is", "at most", "hours", "tokens", "dollars"], right=(3, 4, 5))]
    costs = plan.costs
    if costs.hardware:
        price = f", {costs.dollars_per_hour:g} dollars an hour" if costs.dollars_per_hour else ""
        lines.append(f"Hardware: {costs.hardware}{price}")
    if costs.source:
        lines.append(f"Assumed: {costs.source}")
    if plan.measured:
        lines.append(f"Measured in the profile: {', '.join(name.replace('_', ' ') for name in plan.measured)}")
    lines += [f"Missing: {sentence}" for sentence in plan.missing]
    return lines[0] + "\n" + clean("\n".join(lines[1:]))


def _costs(estimate: Estimate) -> list[str]:
    tokens = [pair for pair in (estimate.backbone_tokens, estimate.teacher_tokens) if pair is not None]
    known = len(tokens) == 2
    spent = sum(map(sum, tokens))
    hours = "?" if estimate.hours is None else f"{estimate.hours:,.2f}"
    dollars = "?" if estimate.dollars is None else f"{estimate.dollars:,.2f}"
    return [hours, f"{spent:,}" if known else "?", dollars]


def _result(outcome: Outcome) -> str:
    rows = [
        [name, duration(outcome.seconds[name]) if name in outcome.seconds else "", _figures(name, its)]
        for name, its in outcome.stages.items()
    ]
    lines = [table(rows, ["stage", "time", "what came of it"])]
    if outcome.artifact is not None:
        lines.append(clean(f"artifact: {outcome.artifact} ({'verified' if outcome.verified else 'not verified'})"))
    if outcome.verified:
        lines.append(clean(f"next: masa rewrite BANK --backbone MODEL --rewriter {outcome.artifact}"))
    return "\n".join(lines)


def _figures(stage: str, figures: Mapping[str, Any]) -> str:
    """The figures of a stage that a person looks for."""
    if not figures:
        return ""
    if stage == "profile":
        return f"{figures['episodes']:,} episodes; weaknesses: {clean(figures['weaknesses'] or 'none seen')}"
    if stage == "evolve":
        accepted = ", ".join(f"{key} {many}" for key, many in figures["accepted"].items())
        return clean(f"{figures['episodes']:,} episodes; accepted: {accepted}")
    if stage == "dataset":
        return ", ".join(f"{many:,} {split}" for split, many in figures["samples"].items())
    if stage == "distill":
        before, after = figures.get("validation_nll_before"), figures.get("validation_nll")
        nll = f"; held-out NLL {before:.3f} → {after:.3f}" if before is not None and after is not None else ""
        return f"{figures['steps']:,} steps{nll}"
    if stage == "export":
        return size(figures["bytes"])
    return ", ".join(f"{name} {figures[name]:.3g}" for name in ("kl", "top1", "nll_loss") if name in figures)


def _shown(silent: bool) -> Watch:
    """Each stage is shown as its own command shows it."""
    from masa_training.commands.dataset import Progress
    from masa_training.commands.evolve import Shown
    from masa_training.commands.training import reporter
    from masa_training.pipeline.stages import Watch as Nothing

    class Shows(Nothing):
        def __init__(self) -> None:
            self._live = sys.stderr.isatty()
            self._search = Shown(quiet=False)
            self._data = Progress(quiet=False)
            self._training = reporter(as_json=False)

        def stage(self, name: str, number: int, of: int, state: str) -> None:
            click.echo(f"[{number}/{of}] {name}: {state}", err=True)

        def episodes(self, done: int, total: int) -> None:
            if self._live:
                show_line(f"{done:,}/{total:,} episodes")
            elif 10 * done // total > 10 * (done - 1) // total:
                click.echo(f"{done:,}/{total:,} episodes", err=True)

        def begun(self, underway: Underway) -> None:
            self._search.begun(underway)

        def told(self, told: Told) -> None:
            self._search.told(told)

        def played(self, episode: Episode) -> None:
            self._search.played(episode)

        def building(self, doing: str, done: int, total: int) -> None:
            self._data(doing, done, total)

        def training(self, event: str, values: Mapping[str, Any]) -> None:
            self._training(event, values)

        def line(self, text: str) -> None:
            click.echo(clean(text), err=True)

        def ended(self, name: str) -> None:
            if name == "evolve":
                self._search.end()
            interrupt_line()

    return Nothing() if silent else Shows()
