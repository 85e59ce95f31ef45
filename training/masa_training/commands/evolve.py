"""`masa evolve`: search for the skill bank that serves a backbone best."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, write_json
from masa.cli.progress import interrupt_line, interrupts, show_line
from masa_training.commands import episodes as shared

if TYPE_CHECKING:
    from masa_training.evolution.run import Evolved, Underway
    from masa_training.evolution.searching import Told
    from masa_training.evolution.views.live import LiveView
    from masa_training.rollouts import Episode

CANCELLED = 130

TEACHER = click.option(
    "--teacher",
    default="",
    metavar="TEACHER",
    help="operators, recorded:FILE or openai:URL#MODEL, instead of the configuration's with all its settings; "
    "--set teacher.KEY=VALUE adds some.",
)


@click.command(
    "evolve",
    epilog="""\b
Examples:
  masa evolve lookup-smollm2 -o runs/lookup --dry-run
  masa evolve lookup-smollm2 -o runs/lookup
  masa evolve lookup-smollm2 -o runs/lookup --resume --set budget.minutes=240
  masa evolve my-experiment.yaml -o runs/mine --set accept.pairs=100 --set iterations=5
  masa evolve lookup-smollm2 -o runs/taught --teacher openai:http://localhost:8000/v1#Qwen/Qwen3-8B
  masa evolve alfworld-qwen3-4b -o runs/alfworld --executor processes --workers 24
  masa evolve lookup-smollm2 -o runs/tracked --track mlflow
  masa evolve --report -o runs/lookup            # report.html of a run as it is, also while it goes on
  masa distill dataset my-data.yaml -o data/plans        # its sources.runs names run folders
""",
)
@click.argument("config", required=False)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Run folder.")
@click.option("--resume", is_flag=True, help="Continue the run in the folder, also after a kill.")
@TEACHER
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeatable.")
@shared.with_options(
    *shared.WORKERS,
    click.option(
        "--trees",
        type=click.IntRange(min=0),
        default=0,
        help="Task types searched at the same time. [default: all, or one where the backbone is in this process]",
    ),
)
@click.option(
    "--track",
    "trackers",
    type=click.Choice(["mlflow", "wandb"]),
    multiple=True,
    help="Also follow the run in MLflow or Weights & Biases, set up by their own variables; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Say how much would be played at most, without playing.")
@click.option(
    "--report", "report_only", is_flag=True, help="Only write report.html and report.md of the run in the folder."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; the result and errors only.")
def command(
    config: str | None,
    output: Path,
    resume: bool,
    teacher: str,
    overrides: tuple[str, ...],
    trackers: tuple[str, ...],
    dry_run: bool,
    report_only: bool,
    as_json: bool,
    quiet: bool,
    trees: int,
    executor: str,
    workers: int,
    address: str,
) -> None:
    """Evolve a skill bank: CONFIG is a shipped experiment or a YAML file.

    General skills climb first; then, these frozen, a tree is searched for each task type. At the end the evolved bank,
    the one it began with and no skills play tasks that nothing was chosen by. Everything is kept in the run folder as
    it happens; --resume continues after Ctrl-C, kill -9 or a spent budget, and plays nothing twice. report.html in the
    folder shows the searches, every rewrite against its parent, rates by task type and the cost.
    """
    if report_only:
        _report(output, as_json=as_json)
        return
    if config is None:
        raise click.UsageError("Missing argument 'CONFIG'; only --report goes without it.")
    from masa_training.evolution import load_evolve
    from masa_training.evolution.run import check_evolve, estimate, evolve
    from masa_training.evolution.tracking import Tracking, open_trackers
    from masa_training.evolution.views.markdown import write_markdown
    from masa_training.evolution.views.report import write_report
    from masa_training.rollouts.executors import make_executor

    settings = load_evolve(config, overrides, teacher=teacher)
    if dry_run:
        check_evolve(settings)
        estimated = estimate(settings)
        write_json(estimated) if as_json else click.echo(_estimated(estimated))
        return
    player = None if executor == "in-process" else make_executor(executor, workers=workers, address=address)
    shown = Shown(quiet=quiet or as_json)
    tracking = Tracking(open_trackers(trackers), shown.warn)

    def begun(underway: Underway) -> None:
        tracking.begun(underway)
        shown.begun(underway)

    def told(what: Told) -> None:
        shown.told(what)
        tracking.told(what)

    with interrupts("everything so far is kept, --resume continues from it") as cancel, tracking:
        try:
            evolved = evolve(
                settings,
                output,
                resume=resume,
                executor=player,
                trees=trees,
                told=told,
                progress=shown.played,
                begun=begun,
                cancel=cancel,
            )
            tracking.ended(evolved)
        finally:
            shown.end()
        cancelled = cancel()
    report, page = write_report(output), write_markdown(output)
    if as_json:
        write_json({**evolved.to_json(), "report": str(report), "markdown": str(page)})
    else:
        click.echo(_result(evolved))
        click.echo(f"report: {clean(str(report))}")
    if evolved.ended:
        click.echo(f"Stopped: {evolved.ended}; the same command with --resume continues.", err=True)
    if cancelled:
        click.get_current_context().exit(CANCELLED)


def _report(folder: Path, *, as_json: bool) -> None:
    from masa_training.evolution.views.markdown import write_markdown
    from masa_training.evolution.views.report import write_report

    report, page = write_report(folder), write_markdown(folder)
    if as_json:
        write_json({"report": str(report), "markdown": str(page)})
    else:
        click.echo(f"report: {clean(str(report))}\nin Markdown: {clean(str(page))}")


def _estimated(told: dict[str, Any]) -> str:
    lines = [
        f"{key}: {its['candidates']} candidates, at most {its['episodes']:,} episodes "
        f"({its['train']} training and {its['val']} deciding tasks)"
        for key, its in told["groups"].items()
    ]
    limits = ", ".join(f"{name} {most:g}" for name, most in told["budget"].items() if most)
    lines.append(f"at most {told['episodes']:,} episodes, then {told['test_episodes']:,} of the test")
    lines.append(f"budget: {limits or 'none'}")
    return "\n".join(lines)


def _result(evolved: Evolved) -> str:
    from masa_training.evaluate.banks.report import to_markdown

    lines = []
    for key, its in evolved.searches.items():
        state = "" if its["finished"] else " (not finished)"
        lines.append(
            f"{clean(key)}: {its['accepted']} accepted, {its['rejected']} rejected, {its['indecisive']} indecisive, "
            f"{its['failed']} without a proposal; {its['episodes']:,} episodes{state}"
        )
    if evolved.test:
        lines += ["", clean(to_markdown(evolved.test))]
    lines.append(f"bank: {clean(str(evolved.path))}")
    return "\n".join(lines)


class Shown:
    """The live view on a terminal, else a line for every decision; nothing if quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._view: LiveView | None = None
        self._played = 0

    def begun(self, underway: Underway) -> None:
        if self._live:
            self._view = _live_view()
            if self._view is not None:
                self._view.begun(underway)

    def played(self, episode: Episode) -> None:
        self._played += 1
        if self._view is not None:
            self._view.played()
        elif self._live and self._played % 5 == 0:
            show_line(f"{self._played:,} episodes")

    def told(self, told: Told) -> None:
        from masa_training.search import Proposal, Verdict

        event, text = told.event, ""
        if isinstance(event, Verdict):
            text = f"{told.group} node {event.node} against {event.incumbent}: {event.decision.reason}"
        elif isinstance(event, Proposal) and event.problem:
            text = f"{told.group} round {event.round}: no proposal ({event.problem})"
        if text:
            self._line(text)

    def warn(self, text: str) -> None:
        """Something that the person should know, and that ends nothing."""
        self._line(f"Warning: {text}")

    def _line(self, text: str) -> None:
        if self._quiet:
            return
        if self._view is not None:
            self._view.line(text)
        else:
            self.end()
            click.echo(clean(text), err=True)

    def end(self) -> None:
        if self._view is not None:
            self._view.close()
        elif self._live:
            interrupt_line()


def _live_view() -> LiveView | None:
    """None where the terminal cannot be drawn on, or rich is not installed."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    from masa_training.evolution.views.live import LiveView

    console = Console(stderr=True)
    return None if console.is_dumb_terminal else LiveView(console)
