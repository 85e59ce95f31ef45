"""`masa evaluate`: banks and policies × backbones × seeds in an environment, with intervals."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, count, duration, write_json
from masa.cli.progress import interrupt_line, interrupts, show_line

if TYPE_CHECKING:
    from masa_training.trials.config import Trial
    from masa_training.trials.running import Progress

CANCELLED = 130
_EVERY = 0.5


@click.command(
    "evaluate",
    short_help="Play skill banks in an environment and compare them.",
    epilog="\b\nExamples:\n"
    "  masa evaluate lookup --backbone small=llama:SmolLM2-135M.gguf --choose --bank base=bank.json\n"
    "  masa evaluate lookup --backbone smollm2-135m --choose --bank a=a.json --bank b=b.json --tasks 100 -o ab\n"
    "  masa evaluate household --backbone smollm2-135m --choose --tasks 60\n"
    "  masa evaluate alfworld --backbone 'qwen=openai:http://localhost:8000/v1#Qwen/Qwen3-4B' "
    "--executor processes --workers 16\n"
    "  masa evaluate lookup --backbone smollm2-135m --choose --bank base=bank.json --a-a base --seeds 4\n"
    "  masa evaluate lookup --backbone smollm2-135m --bank base=bank.json --dry-run\n\n"
    "Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 cancelled (episodes are kept).",
)
@click.argument("environment", metavar="ENVIRONMENT")
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="[NAME=]MODEL",
    help="A model that plays: an artifact's name, llama:FILE.gguf, checkpoint:FOLDER, openai:URL#MODEL. Repeatable.",
)
@click.option("--bank", "banks", multiple=True, metavar="[NAME=]FILE", help="An arm: a skill bank. Repeatable.")
@click.option("--facts-only", metavar="BANK", help="An arm: this bank and the generated list of the actions.")
@click.option("--no-policies", is_flag=True, help="Leave out the arms no-skill and random.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Of the environment. Repeatable.")
@click.option("--model-option", "model_options", multiple=True, metavar="KEY=VALUE", help="Of every model. Repeatable.")
@click.option("--data-dir", metavar="FOLDER", help="Where an environment's data are. [default: $MASA_DATA]")
@click.option("--split", default="val", show_default=True, metavar="NAME", help="train, val or test.")
@click.option("--tasks", type=click.IntRange(min=0), default=50, show_default=True, help="0 takes all.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Episodes a task and arm.")
@click.option("--first-seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--penalty", type=float, default=0.0, show_default=True, metavar="λ", help="Of R = SR − λ·NHR.")
@click.option("--choose", is_flag=True, help="Agents choose among the admissible actions instead of writing one.")
@click.option("--reason", is_flag=True, help="Agents think before they act.")
@click.option("--window", type=click.IntRange(min=0), default=0, help="Turns of history in the prompt; 0 is all.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Of a written reply.")
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option("--slots", type=click.IntRange(min=0), default=0, help="Episodes side by side; 0 lets the model say.")
@click.option("--isolated", is_flag=True, help="Every environment object in a process of its own, against crashes.")
@click.option(
    "--executor",
    type=click.Choice(["in-process", "processes", "ray"]),
    default="in-process",
    show_default=True,
    help="Where episodes are played.",
)
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Of processes or ray; 0 takes all cores.")
@click.option("--address", default="", metavar="ADDRESS", help="Of a Ray cluster; none starts one here.")
@click.option("--a-a", "aa", metavar="ARM", help="Compare an arm with itself: false-accept rate, detectable effect.")
@click.option("-o", "--output", metavar="FOLDER", type=click.Path(), help="[default: evaluations/ENVIRONMENT-SPLIT]")
@click.option("--resume", is_flag=True, help="Go on with the episodes in FOLDER.")
@click.option("--dry-run", is_flag=True, help="Say what would be played; play nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only.")
def command(environment: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Play arms × backbones × tasks × seeds in ENVIRONMENT and report success rates, intervals and differences.

    An arm is a skill bank (--bank), a bank with the environment's action forms (--facts-only), no skill, or the random
    policy. All arms of a backbone play the same tasks and seeds. FOLDER gets the episodes (a line each, kept as they
    come), report.json, report.csv, report.md and, where matplotlib is installed, report.svg.
    """
    from masa_training.errors import TrainingError
    from masa_training.rollouts.executors import make_executor
    from masa_training.trials.report import report
    from masa_training.trials.running import completed, run, tasks_of

    trial = _trial(environment, given)
    aa = given["aa"]
    if aa and aa not in {arm.name for arm in trial.arms if not arm.random}:
        raise TrainingError(f"--a-a {aa}: no arm of a backbone is called so")
    if aa and trial.seeds % 2:
        raise TrainingError(f"--a-a needs an even number of seeds, half against half, not {trial.seeds}")
    tasks = tasks_of(trial)
    if given["dry_run"]:
        _tell_plan(trial, len(tasks), as_json=as_json)
        return
    executor = make_executor(given["executor"], workers=given["workers"], address=given["address"])
    folder = Path(given["output"] or f"evaluations/{environment}-{trial.split}")
    show = _Progress(quiet=quiet or as_json)
    with interrupts("the episodes so far are kept, --resume goes on from them") as cancel:
        try:
            episodes = run(trial, executor, folder, resume=given["resume"], progress=show, cancel=cancel)
        finally:
            show.end()
        cancelled = cancel()
    told = report(trial, episodes, complete=completed(trial, episodes, tasks), aa=aa)
    text = _write(folder, told)
    if as_json:
        write_json({"output": str(folder), **told})
    elif not quiet:
        click.echo(clean(text))
        click.echo(f"Results: {clean(str(folder))}")
    if cancelled:
        click.echo("Cancelled: the same command with --resume goes on.", err=True)
        click.get_current_context().exit(CANCELLED)


def _trial(environment: str, given: dict[str, Any]) -> Trial:
    from masa_training.agents import AgentConfig
    from masa_training.errors import TrainingError
    from masa_training.rollouts import Arm
    from masa_training.trials.config import FACTS_ONLY, NO_SKILL, RANDOM, Backbone, Trial, bank_arm, option

    arms: list[Arm] = [] if given["no_policies"] else [Arm(name=NO_SKILL)]
    checksums = {}
    for text in given["banks"]:
        name, path = _named(text)
        arm, checksums[name] = bank_arm(name, Path(path))
        arms.append(arm)
    if given["facts_only"]:
        arm, checksums[FACTS_ONLY] = bank_arm(FACTS_ONLY, Path(given["facts_only"]))
        arms.append(Arm(name=FACTS_ONLY, bank=arm.bank, facts=True))
    if not given["no_policies"]:
        arms.append(Arm(name=RANDOM, random=True))
    model_options = dict(map(option, given["model_options"]))
    options = dict(map(option, given["options"]))
    if given["data_dir"]:
        options["data_dir"] = given["data_dir"]
    if given["temperature"] < 0:
        raise TrainingError(f"--temperature is {given['temperature']}; it must be at least 0")
    names = ("choose", "reason", "window", "max_tokens", "temperature")
    return Trial(
        environment=environment,
        arms=tuple(arms),
        backbones=tuple(Backbone(name, spec, model_options) for name, spec in map(_named, given["backbones"])),
        options=options,
        split=given["split"],
        tasks=given["tasks"],
        seeds=given["seeds"],
        first_seed=given["first_seed"],
        penalty=given["penalty"],
        agent=AgentConfig(**{name: given[name] for name in names}),
        isolated=given["isolated"],
        slots=given["slots"],
        banks=checksums,
    )


def _named(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, or a value that names itself. A URL may have a `=` in it, a name has no `:` or `/`."""
    name, separator, value = text.partition("=")
    if separator and not set(name) & set(":/\\"):
        return name.strip(), value
    return Path(text.rpartition("#")[2]).stem or text, text


def _tell_plan(trial: Trial, tasks: int, *, as_json: bool) -> None:
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
    click.echo(f"{count(tasks, 'task')}, {trial.seeds} episodes of each an arm, {total:,} episodes in all")


def _write(folder: Path, told: dict[str, Any]) -> str:
    from masa.files import write_atomic
    from masa_training.trials.plot import plot
    from masa_training.trials.report import to_csv, to_markdown

    text = to_markdown(told)
    write_atomic(folder / "report.json", (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomic(folder / "report.csv", to_csv(told).encode())
    write_atomic(folder / "report.md", text.encode())
    drawn = plot(told)
    if drawn is not None:
        write_atomic(folder / "report.svg", drawn)
    return text


class _Progress:
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
