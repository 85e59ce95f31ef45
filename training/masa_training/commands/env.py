"""`masa env`: the environments that there are, checked, played by hand, started from a template."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, count, table, wrap, write_json
from masa.cli.progress import interrupt_line, show_line
from masa.errors import MasaError
from masa.files import parse_yaml

if TYPE_CHECKING:
    from masa_training.environments import Environment, Split, Step, Task

_SPLITS = ("train", "val", "test")


def _with_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds what an environment is opened with."""
    one = click.option(
        "--option", "pairs", multiple=True, metavar="KEY=VALUE", help="Option of the environment; repeatable."
    )
    data = click.option(
        "--data-dir", metavar="DIR", type=click.Path(), help="Folder with the data sets. [default: $MASA_DATA]"
    )
    return one(data(function))


@click.group(
    "env",
    short_help="List, check, play and start environments.",
    epilog="\b\nExamples:\n  masa env list\n  masa env play lookup\n  masa env new my_world",
)
def command() -> None:
    """Environments: the worlds in which a backbone acts."""


@command.command(
    "list",
    short_help="List the environments.",
    epilog="\b\nExamples:\n  masa env list\n  masa env list --json\n",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
def list_command(as_json: bool) -> None:
    """Show every environment that comes with masa or that an installed package brings."""
    from masa_training.environments import environment_names, open_environment

    found: list[dict[str, Any]] = []
    for name in environment_names():
        row: dict[str, Any] = {"name": name, "description": "", "task_types": [], "max_steps": None, "problem": ""}
        try:
            environment = open_environment(name)
            row |= {"description": environment.description, "task_types": list(environment.task_types)}
            row["max_steps"] = environment.max_steps
            environment.close()
        except MasaError as error:
            row["problem"] = str(error)
        found.append(row)
    if as_json:
        write_json({"environments": found})
        return
    rows = [[row["name"], str(row["max_steps"] or ""), ", ".join(row["task_types"])] for row in found]
    click.echo(table(rows, ["environment", "steps", "task types"], right=(1,)))
    for row in found:
        if row["description"] or row["problem"]:
            click.echo()
            click.echo(wrap(row["description"] or row["problem"], f"{row['name']}: ", "  "))


@command.command(
    "check",
    short_help="Play an environment and report violations of the contract.",
    epilog="\b\nExamples:\n"
    "  masa env check lookup\n"
    "  masa env check search_qa --data-dir data --option data_set=hotpotqa\n"
    "  masa env check my_world.py --episodes 30\n"
    "  masa env check lookup --json | jq .findings\n\n"
    "Exit codes: 0 nothing found, 1 something found or an error that the message explains, 2 wrong usage.",
)
@click.argument("name", metavar="NAME")
@_with_options
@click.option("--episodes", type=click.IntRange(min=1), default=8, show_default=True, help="Tasks to play.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the check.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
def check_command(
    name: str, pairs: tuple[str, ...], data_dir: str | None, episodes: int, seed: int, as_json: bool
) -> None:
    """Check the environment NAME, or the one that a Python file defines (the file is executed)."""
    from masa_training.environments.contract import RULES, check_made

    make = _maker(name, _options(pairs, data_dir))

    def progress(done: int, total: int) -> None:
        if not as_json and sys.stderr.isatty():
            show_line(f"Playing {done}/{total} …")

    try:
        findings = check_made(make, episodes=episodes, seed=seed, progress=progress)
    finally:
        interrupt_line()
    if as_json:
        listed = [{"rule": finding.rule, "sentence": finding.sentence} for finding in findings]
        write_json({"environment": name, "episodes": episodes, "seed": seed, "ok": not findings, "findings": listed})
    else:
        for rule, sentence in RULES.items():
            told = [finding.sentence for finding in findings if finding.rule == rule]
            click.echo(f"{'BROKEN' if told else 'ok':6}  {sentence}")
            for line in told:
                click.echo(wrap(line, "        - ", "          "))
        click.echo(f"\n{clean(name)}: {count(len(findings), 'finding') if findings else 'keeps the contract'}")
    if findings:
        raise click.exceptions.Exit(1)


@command.command(
    "solve",
    short_help="Play the solution of every task of a split.",
    epilog="\b\nExamples:\n"
    "  masa env solve household --split val\n"
    "  masa env solve alfworld --data-dir data --split test\n\n"
    "Exit codes: 0 all succeed, 1 one does not or an error that the message explains, 2 wrong usage.",
)
@click.argument("name", metavar="NAME")
@_with_options
@click.option(
    "--split", type=click.Choice(_SPLITS), default="test", show_default=True, help="Split the tasks come from."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the episodes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
def solve_command(
    name: str, pairs: tuple[str, ...], data_dir: str | None, split: Split, seed: int, as_json: bool
) -> None:
    """Play NAME's own solutions and report the tasks that they do not solve."""
    from masa_training.environments.solutions import unsolved
    from masa_training.errors import TrainingError

    environment = _maker(name, _options(pairs, data_dir))()
    if not hasattr(environment, "solution"):
        raise TrainingError(f"{name}: knows no solutions; check it with: masa env check {name}")
    tasks = environment.tasks(split)
    played = 0

    def progress(_: Task) -> None:
        nonlocal played
        played += 1
        if not as_json and sys.stderr.isatty():
            show_line(f"Playing {played}/{len(tasks)} …")

    try:
        failed = [(task.id, why) for task, why in unsolved(environment, tasks, seed=seed, progress=progress)]
    finally:
        interrupt_line()
        environment.close()
    if as_json:
        listed = [{"task": task, "reason": why} for task, why in failed]
        write_json({"environment": name, "split": split, "tasks": len(tasks), "ok": not failed, "unsolved": listed})
    else:
        for task, why in failed:
            click.echo(wrap(f"{task}: {why}", "", "  "))
        click.echo(f"{clean(name)}, {split}: {len(tasks) - len(failed)} of {count(len(tasks), 'solution')} succeed")
    if failed:
        raise click.exceptions.Exit(1)


@command.command(
    "facts",
    short_help="Write an environment's interface facts for masa rewrite.",
    epilog="\b\nExamples:\n"
    "  masa env facts assistant --examples 3 -o facts.yaml\n"
    "  masa rewrite bank.json --backbone my-card.yaml --facts facts.yaml\n",
)
@click.argument("name", metavar="NAME")
@_with_options
@click.option(
    "--examples",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Solved tasks of each type, of the split train, as worked examples.",
)
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="[default: stdout]")
def facts_command(name: str, pairs: tuple[str, ...], data_dir: str | None, examples: int, output: Path | None) -> None:
    """Write NAME's action forms and rules as the facts file that `masa rewrite --facts` takes."""
    import yaml

    from masa.files import write_atomic
    from masa_training.environments.solutions import facts_with_examples

    environment = _maker(name, _options(pairs, data_dir))()
    try:
        facts = facts_with_examples(environment, examples)
    finally:
        environment.close()
    forms = [{"form": action.form, "meaning": action.meaning, "example": action.example} for action in facts.actions]
    content = {
        "environment": facts.environment,
        "actions": [{name: text for name, text in form.items() if text} for form in forms],
        "rules": list(facts.rules),
        "examples": list(facts.examples),
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_atomic(output, text.encode("utf-8"))
        click.echo(f"Facts: {clean(str(output))} ({count(len(facts.examples), 'worked example')})")


@command.command(
    "new",
    short_help="Start an environment from the template.",
    epilog="\b\nExamples:\n  masa env new my_world\n  masa env new my_world -o src/my_package/my_world.py\n",
)
@click.argument("name", metavar="NAME")
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="[default: NAME.py]")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def new_command(name: str, output: Path | None, force: bool) -> None:
    """Write a small working environment called NAME, one class in one file, to be filled with your own world."""
    from masa_training.environments.registry import template_source
    from masa_training.errors import TrainingError

    source = template_source(name)
    path = output or Path(f"{name}.py")
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(source)
    except FileExistsError as error:
        raise TrainingError(f"{path}: exists already; choose another file or add --force") from error
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written ({error.strerror}); choose another file") from error
    click.echo(f"Written: {clean(str(path))}")
    click.echo(f"Next: masa env check {clean(str(path))}")


@command.command(
    "play",
    short_help="Play one episode yourself.",
    epilog="\b\nExamples:\n"
    "  masa env play lookup\n"
    "  masa env play lookup --type multi_hop --seed 3\n"
    "  masa env play search_qa --data-dir data --split val\n",
)
@click.argument("name", metavar="NAME")
@_with_options
@click.option(
    "--split", type=click.Choice(_SPLITS), default="train", show_default=True, help="Split the task comes from."
)
@click.option("--type", "type_", metavar="TYPE", help="Only tasks of this type.")
@click.option("--task", "task_id", metavar="ID", help="This task. [default: picked by the seed]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the episode.")
def play_command(
    name: str,
    pairs: tuple[str, ...],
    data_dir: str | None,
    split: Split,
    type_: str | None,
    task_id: str | None,
    seed: int,
) -> None:
    """Play an episode of the environment NAME in the terminal: type an action, or its number, or quit."""
    environment = _maker(name, _options(pairs, data_dir))()
    try:
        task = _pick(environment, split, type_, task_id, seed)
        click.echo(clean(f"Task {task.id} ({task.type}), at most {environment.max_steps} actions"))
        click.echo(clean(f"Goal: {task.goal}\n"))
        step = environment.reset(task, seed)
        idle = taken = 0
        _show(step)
        while not step.done and taken < environment.max_steps and (action := _ask(step)) is not None:
            step = environment.step(action)
            taken += 1
            idle += not step.changed
            _show(step)
        outcome = "Success" if step.success else "No success"
        click.echo(f"{outcome} after {count(taken, 'action')}; nothing happened after {idle}; reward {step.reward:g}.")
    finally:
        environment.close()


def _options(pairs: tuple[str, ...], data_dir: str | None) -> dict[str, Any]:

    options: dict[str, Any] = {"data_dir": data_dir} if data_dir else {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--option")
        try:
            options[key] = parse_yaml(value)
        except ValueError:
            options[key] = value
    return options


def _maker(name: str, options: Mapping[str, Any]) -> Callable[[], Environment]:
    from masa_training.environments import open_environment

    if not name.endswith(".py"):
        return lambda: open_environment(name, **options)
    from masa_training.environments.registry import class_in_file
    from masa_training.errors import TrainingError

    made = class_in_file(Path(name))

    def make() -> Environment:
        try:
            environment: Environment = made(**options)
        except TypeError as error:
            raise TrainingError(f"{name}: cannot be made with options {dict(options)} ({error})") from error
        return environment

    return make


def _pick(environment: Environment, split: Split, type_: str | None, task_id: str | None, seed: int) -> Task:
    from masa_training.errors import TrainingError

    tasks = [task for task in environment.tasks(split) if type_ in (None, task.type) and task_id in (None, task.id)]
    if not tasks:
        types = ", ".join(environment.task_types)
        raise TrainingError(f"no task of the split {split} fits; give another --task or --type (there are {types})")
    return tasks[seed % len(tasks)]


def _show(step: Step) -> None:
    click.echo(clean(step.observation))
    for number, action in enumerate(step.admissible or (), 1):
        click.echo(clean(f"  {number:2} {action}"))


def _ask(step: Step) -> str | None:
    """The next action; None to stop."""
    try:
        said = str(click.prompt(">", prompt_suffix=" ")).strip()
    except click.Abort:
        return None
    if said in ("quit", "exit"):
        return None
    offered = step.admissible or ()
    return offered[int(said) - 1] if said.isdecimal() and 0 < int(said) <= len(offered) else said
