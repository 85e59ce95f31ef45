"""`masa profile`: what a backbone does in an environment, as a model card."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, count, write_json
from masa.cli.progress import interrupt_line, interrupts, show_line
from masa_training.commands import episodes as shared

if TYPE_CHECKING:
    from masa_training.profiling import Profile, ProfileConfig


_OF_PROBE = ("probe", "card", "api_key_env", "output", "seed", "resume", "dry_run")


@click.command(
    "profile",
    short_help="Watch a backbone play and write its model card.",
    epilog="\b\nExamples:\n"
    "  masa profile lookup --backbone smollm2-135m --choose -o profiles/smollm2\n"
    "  masa profile household --backbone llama:model.gguf --choose --tasks 60 -o profiles/mine --dry-run\n"
    "  masa profile alfworld --backbone openai:http://localhost:8000/v1#Qwen/Qwen3-4B -o profiles/qwen3-4b "
    "--teacher openai:https://api.deepseek.com/v1#deepseek-chat --teacher-key-env DEEPSEEK_API_KEY\n"
    "  masa evolve lookup-smollm2 -o runs/lookup --set backbone.card=profiles/smollm2/card.yaml\n"
    "  masa profile qwen2.5-coder-1.5b --probe\n"
    "  masa profile http://localhost:11434#qwen3:4b --probe -o profiles/qwen3\n\n"
    "Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 cancelled (episodes are kept).",
)
@click.argument("environment", metavar="ENVIRONMENT|MODEL")
@shared.with_options(
    click.option(
        "--probe",
        is_flag=True,
        help="Ask MODEL short exercises, in minutes and without an environment or the extra training.",
    ),
    click.option(
        "--backbone",
        metavar="MODEL",
        help="The model to profile: an artifact's name, llama:FILE.gguf, checkpoint:FOLDER, openai:URL#MODEL.",
    ),
    click.option(
        "--card",
        default="",
        metavar="CARD",
        help="A card file, whose values win, or a shipped card for what is unknown.",
    ),
    click.option("--bank", metavar="FILE", help="Skills that the agent is shown. [default: none]"),
    click.option(
        "--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of the environment. Repeatable."
    ),
    click.option("--model-option", "model_options", multiple=True, metavar="KEY=VALUE", help="Option of the backbone."),
    click.option("--data-dir", metavar="FOLDER", help="Where an environment's data are. [default: $MASA_DATA]"),
    click.option("--tasks", type=click.IntRange(min=0), default=40, show_default=True, help="0 takes all."),
    click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Episodes per task."),
    click.option(
        "--choose", is_flag=True, help="The agent chooses among the admissible actions instead of writing one."
    ),
    *shared.AGENTS,
    click.option(
        "--teacher",
        default="operators",
        show_default=True,
        metavar="MODEL",
        help="Who sums up the episodes: operators (offline, from symptoms), or a model such as openai:URL#MODEL.",
    ),
    click.option(
        "--teacher-option", "teacher_options", multiple=True, metavar="KEY=VALUE", help="Option of the teacher's model."
    ),
    click.option(
        "--teacher-key-env", default="", metavar="VARIABLE", help="Environment variable with the teacher's API key."
    ),
    *shared.EXECUTION,
    click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Of the exercises of --probe."),
    click.option("--api-key-env", metavar="VARIABLE", help="--probe: environment variable with the server's key."),
    click.option(
        "-o",
        "--output",
        metavar="FOLDER",
        type=click.Path(),
        help="[default: profiles/ENVIRONMENT, or the model's name]",
    ),
    *shared.ENDING,
)
def command(environment: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Let a backbone play in ENVIRONMENT, or ask MODEL short exercises, and write in a model card what it gets wrong.

    The episodes are on tasks of the split train that masa evolve leaves alone. The card has the architecture that the
    backbone itself tells, what the shipped card of that model says of its training, and weaknesses in words. It never
    holds success rates or what the backbone prefers; a summary that does is refused. FOLDER gets card.yaml,
    profile.json and the episodes; --resume continues with them, or sums them up anew with another teacher.

    With --probe MODEL is a GGUF file, weights that masa pull brings, or a server as URL#MODEL. FOLDER gets card.yaml,
    whose comments have the figures and intervals, probe.json and the answers.
    """
    if given["probe"]:
        from masa.cli import probe

        others = probe.given_elsewhere(click.get_current_context(), {*_OF_PROBE, "environment", "as_json", "quiet"})
        if others:
            raise click.UsageError(f"{', '.join(others)} is not for --probe.")
        options = {name: given[name] for name in _OF_PROBE if name != "probe"}
        options["card"] = options["card"] or None
        probe.probe_model(environment, as_json=as_json, quiet=quiet, **options)
        return
    if not given["backbone"]:
        raise click.UsageError("Missing option '--backbone' (or give --probe).")
    from masa_training.profiling import check_profile, plan, profile
    from masa_training.rollouts.executors import make_executor

    config = _config(environment, given)
    if given["dry_run"]:
        check_profile(config)
        told = plan(config)
        write_json(told) if as_json else click.echo(_planned(told))
        return
    folder = Path(given["output"] or f"profiles/{environment}")
    executor = make_executor(given["executor"], workers=given["workers"], address=given["address"])
    silent = quiet or as_json
    live = sys.stderr.isatty()

    def played(done: int, total: int) -> None:
        if not silent and live:
            show_line(f"{done:,}/{total:,} episodes")
        elif not silent and 10 * done // total > 10 * (done - 1) // total:
            click.echo(f"{done:,}/{total:,} episodes", err=True)

    with interrupts("the episodes so far are kept, --resume continues from them") as cancel:
        try:
            found = profile(config, folder, resume=given["resume"], executor=executor, progress=played, cancel=cancel)
        finally:
            if live and not silent:
                interrupt_line()
    if as_json:
        write_json(found.to_json())
    elif not quiet:
        click.echo(_result(found))
    if found.card is None:
        click.echo("Cancelled: the same command with --resume continues.", err=True)
        click.get_current_context().exit(shared.CANCELLED)


def _config(environment: str, given: dict[str, Any]) -> ProfileConfig:
    from masa_training.evaluate.banks.config import bank_arm, option
    from masa_training.profiling import ProfileConfig
    from masa_training.teacher.config import TeacherConfig

    options = dict(map(option, given["options"]))
    if given["data_dir"]:
        options["data_dir"] = given["data_dir"]
    arm, sha256 = bank_arm("bank", Path(given["bank"])) if given["bank"] else (None, "")
    return ProfileConfig(
        environment=environment,
        backbone=given["backbone"],
        options=options,
        model_options=dict(map(option, given["model_options"])),
        card=given["card"],
        bank=arm.bank if arm else None,
        bank_sha256=sha256,
        tasks=given["tasks"],
        seeds=given["seeds"],
        agent=shared.agent(given, choose=given["choose"]),
        isolated=given["isolated"],
        slots=given["slots"],
        teacher=TeacherConfig(
            model=given["teacher"],
            options=dict(map(option, given["teacher_options"])),
            api_key_env=given["teacher_key_env"],
        ),
    )


def _planned(told: dict[str, Any]) -> str:
    kinds = ", ".join(f"{clean(name)} {number}" for name, number in told["tasks"].items())
    asked = f", asked at most {count(told['teacher_requests'], 'time')}" if told["teacher_requests"] else ""
    return (
        f"{count(told['episodes'], 'episode')} on tasks kept for profiling: {kinds}\nteacher: {told['teacher']}{asked}"
    )


def _result(found: Profile) -> str:
    lines = [f"{count(found.episodes, 'episode')}" + (f", {found.missing} missing" if found.missing else "")]
    if found.symptoms:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.symptoms.items())
        lines.append(f"of the failed ones show: {shares}")
    if found.card is not None:
        lines.append(f"weaknesses: {clean(found.card.weaknesses or 'none seen')}")
        lines.append(f"card: {clean(str(found.path))}")
    return "\n".join(lines)
