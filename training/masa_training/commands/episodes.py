"""What the commands that play trials share: options, the run with its progress, the files of a report."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, count, duration, write_json
from masa.cli.progress import interrupt_line, interrupts, show_line

if TYPE_CHECKING:
    from masa_training.agents import AgentConfig
    from masa_training.evaluate.banks.config import Trial
    from masa_training.evaluate.banks.running import Progress
    from masa_training.rollouts import Episode

CANCELLED = 130
_KINDS = (".gguf", ".json", ".yaml", ".yml", ".onnx")
_EVERY = 0.5

Option = Callable[[Any], Any]

SCORES = ("success", "reward")
"""What arms may be compared by."""

BACKBONES: tuple[Option, ...] = (
    click.option(
        "--backbone",
        "backbones",
        multiple=True,
        metavar="[NAME=]MODEL",
        help="A model that plays: an artifact's name, llama:FILE.gguf, checkpoint:FOLDER, openai:URL#MODEL. "
        "Repeatable.",
    ),
)
AGENTS: tuple[Option, ...] = (
    click.option("--reason", is_flag=True, help="Agents think before they act."),
    click.option("--window", type=click.IntRange(min=0), default=0, help="Turns of history in the prompt; 0 is all."),
    click.option(
        "--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Tokens of a written reply."
    ),
    click.option("--temperature", type=float, default=0.0, show_default=True),
    click.option("--constrain", is_flag=True, help="Where there are tools, replies can be nothing but a call of one."),
    click.option(
        "--drop-idle", is_flag=True, help="Do not offer an action that changed nothing again until another one did."
    ),
    click.option(
        "--give-up", type=click.IntRange(min=0), default=0, help="End an episode after N turns that changed nothing."
    ),
)
WORKERS: tuple[Option, ...] = (
    click.option(
        "--executor",
        type=click.Choice(["in-process", "processes", "ray"]),
        default="in-process",
        show_default=True,
        help="Where episodes run.",
    ),
    click.option(
        "--workers", type=click.IntRange(min=0), default=0, help="Workers of processes or ray; 0 takes all cores."
    ),
    click.option(
        "--address", default="", metavar="ADDRESS", help="Address of a Ray cluster; without it one is started here."
    ),
)
EXECUTION: tuple[Option, ...] = (
    click.option("--slots", type=click.IntRange(min=0), default=0, help="Episodes side by side; 0 lets the model say."),
    click.option("--isolated", is_flag=True, help="Every environment object in a process of its own, against crashes."),
    *WORKERS,
)
ENDING: tuple[Option, ...] = (
    click.option("--resume", is_flag=True, help="Continue with the episodes in FOLDER."),
    click.option("--dry-run", is_flag=True, help="Say what would be played, without playing."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only."),
)


def world(*, tasks: int) -> tuple[Option, ...]:
    """Options of the environment and of what is played in it; `tasks` is the default."""
    return (
        click.option(
            "--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of the environment. Repeatable."
        ),
        click.option(
            "--model-option",
            "model_options",
            multiple=True,
            metavar="KEY=VALUE",
            help="Option of every model. Repeatable.",
        ),
        click.option("--data-dir", metavar="FOLDER", help="Where an environment's data are. [default: $MASA_DATA]"),
        click.option("--split", default="val", show_default=True, metavar="NAME", help="train, val or test."),
        click.option("--tasks", type=click.IntRange(min=0), default=tasks, show_default=True, help="0 takes all."),
        click.option(
            "--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Episodes per task and arm."
        ),
        click.option("--first-seed", type=click.IntRange(min=0), default=0, show_default=True),
    )


def output(default: str) -> tuple[Option, ...]:
    """The folder of the results; `default` is how help tells it."""
    return (
        click.option("-o", "--output", metavar="FOLDER", type=click.Path(), help=f"[default: {default}]"),
        *ENDING,
    )


def with_options(*options: Option) -> Option:
    """All these options, in the order in which help lists them."""

    def add(function: Any) -> Any:
        for one in reversed(options):
            function = one(function)
        return function

    return add


def played(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the options above say of a `Trial`, by its names, all but the agents'.

    Raises:
        TrainingError: if an option is not `key=value`.
    """
    from masa_training.evaluate.banks.config import Backbone, option

    model_options = dict(map(option, given["model_options"]))
    options = dict(map(option, given["options"]))
    if given["data_dir"]:
        options["data_dir"] = given["data_dir"]
    return {
        "backbones": tuple(Backbone(name, spec, model_options) for name, spec in map(named, given["backbones"])),
        "options": options,
        **{name: given[name] for name in ("split", "tasks", "seeds", "first_seed", "isolated", "slots")},
    }


def agent(given: Mapping[str, Any], *, choose: bool) -> AgentConfig:
    """How agents are asked.

    Raises:
        TrainingError: if the temperature is negative.
    """
    from masa_training.agents import AgentConfig
    from masa_training.errors import TrainingError

    if given["temperature"] < 0:
        raise TrainingError(f"--temperature is {given['temperature']}; it must be at least 0")
    names = ("reason", "window", "max_tokens", "temperature", "constrain", "drop_idle", "give_up")
    return AgentConfig(choose=choose, **{name: given[name] for name in names})


def named(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, or a value that names itself. A URL may have a `=` in it, a name has no `:` or `/`."""
    name, separator, value = text.partition("=")
    if separator and not set(name) & set(":/\\"):
        return name.strip(), value
    path = Path(text.rpartition("#")[2])
    # What stands behind a dot is the kind of a file, or part of a name such as qwen2.5.
    return (path.stem if path.suffix.lower() in _KINDS else path.name) or text, text


def play(trial: Trial, folder: Path, given: Mapping[str, Any], *, quiet: bool) -> tuple[dict[str, list[Episode]], bool]:
    """The episodes of a trial, and whether the person stopped it; what was played is kept either way.

    Raises:
        TrainingError: if something cannot be played at all, or the folder holds another trial.
    """
    from masa_training.evaluate.banks.running import run
    from masa_training.rollouts.executors import make_executor

    executor = make_executor(given["executor"], workers=given["workers"], address=given["address"])
    show = _Shown(quiet=quiet)
    with interrupts("the episodes so far are kept, --resume continues from them") as cancel:
        try:
            episodes = run(trial, executor, folder, resume=given["resume"], progress=show, cancel=cancel)
        finally:
            show.end()
        return episodes, cancel()


def tell_plan(trial: Trial, tasks: int, *, as_json: bool) -> None:
    """What would be played.

    Raises:
        MasaError: if a backbone is none, as far as it shows without loading weights or asking a server.
    """
    from masa_training.models import check_model

    for backbone in trial.backbones:
        check_model(backbone.spec, backbone.options)
    parts = [
        {"backbone": name or None, "arms": list(spec.arms), "episodes": len(spec.arms) * tasks * trial.seeds}
        for name, spec in trial.parts()
    ]
    total = sum(int(str(part["episodes"])) for part in parts)
    if as_json:
        write_json({"environment": trial.environment, "tasks": tasks, "parts": parts, "episodes": total})
        return
    for part in parts:
        arms = ", ".join(map(str, part["arms"] if isinstance(part["arms"], list) else ()))
        click.echo(f"{clean(str(part['backbone'] or 'no backbone'))}: {clean(arms)} ({part['episodes']} episodes)")
    each = count(trial.seeds, "episode")
    click.echo(f"{count(tasks, 'task')}, {each} per task and arm, {count(total, 'episode')} in all")


def finish(folder: Path, told: Mapping[str, Any], text: str, *, cancelled: bool, as_json: bool, quiet: bool) -> None:
    """Write a report, `text` being its Markdown, show it, and leave with `CANCELLED` where the person stopped it."""
    _write(folder, told, text)
    if as_json:
        write_json({"output": str(folder), **told})
    elif not quiet:
        click.echo(clean(text))
        click.echo(f"Results: {clean(str(folder))}")
    if cancelled:
        click.echo("Cancelled: the same command with --resume continues.", err=True)
        click.get_current_context().exit(CANCELLED)


def _write(folder: Path, told: Mapping[str, Any], text: str) -> None:
    from masa.files import write_atomic
    from masa_training.evaluate.banks.report import plot, to_csv

    write_atomic(folder / "report.json", (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomic(folder / "report.csv", to_csv(told).encode())
    write_atomic(folder / "report.md", text.encode())
    drawn = plot(told)
    if drawn is not None:
        write_atomic(folder / "report.svg", drawn)


class _Shown:
    """One live line on a terminal, else a line every tenth of the episodes."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._last = 0.0
        self._tenths = 0

    def __call__(self, at: Progress) -> None:
        if self._quiet:
            return
        success = "" if at.success is None else f", SR {at.success:.0%}"
        left = "" if at.left is None or at.done == at.total else f", about {duration(at.left)} left"
        missing = f", {at.missing} missing" if at.missing else ""
        name = at.backbone or "random policy"
        text = f"{name}: {at.done:,}/{at.total:,} episodes, {at.rate:.2f}/s{success}{missing}{left}"
        now = time.monotonic()
        if self._live and (now - self._last >= _EVERY or at.done == at.total):
            self._last = now
            show_line(text)
        elif not self._live and 10 * at.done // at.total > self._tenths:
            self._tenths = 10 * at.done // at.total
            click.echo(clean(text), err=True)

    def end(self) -> None:
        if not self._quiet and self._live:
            interrupt_line()
