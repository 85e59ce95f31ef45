"""`masa evaluate granularity`: the same skills in several wordings, for several backbones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa_training.commands import episodes as shared

if TYPE_CHECKING:
    from masa_training.evaluate.banks.config import Trial


@click.command(
    "granularity",
    short_help="Play the same skills in several wordings with several backbones.",
    epilog="\b\nExamples:\n"
    "  masa evaluate granularity lookup --backbone smollm2-135m --stepwise -o studies/granularity\n"
    "  masa evaluate granularity lookup --backbone terse=instrument:terse \\\n"
    "      --backbone stepwise=instrument:stepwise --stepwise --tasks 200 -o studies/instruments\n"
    "  masa evaluate granularity alfworld --tasks 0 --temperature 0.4 --seeds 3 --executor processes --workers 16 \\\n"
    "      --backbone 'qwen3-4b=openai:http://localhost:8000/v1#Qwen/Qwen3-4B'\n"
    "  masa evaluate granularity webshop --backbone smollm2-135m --bank short=a.json --bank long=b.json --dry-run\n"
    "  masa evaluate granularity lookup --backbone smollm2-135m -o studies/granularity --resume\n\n"
    "Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 cancelled (episodes are kept).",
)
@click.argument("environment", metavar="[ENVIRONMENT]", default="assistant")
@shared.with_options(
    *shared.BACKBONES,
    click.option(
        "--bank",
        "banks",
        multiple=True,
        metavar="NAME=FILE",
        help="A granularity of your own, instead of the shipped ones. Repeatable, the shortest first.",
    ),
    click.option(
        "--stepwise",
        is_flag=True,
        help="Also the shipped banks of another form: numbered steps, and examples where there are some.",
    ),
    *shared.world(tasks=100),
    click.option(
        "--choose/--write",
        "choose",
        default=None,
        help="Agents choose among the admissible actions, or write one. [default: --choose if all backbones run in "
        "process and the environment lists actions, --write if all are behind servers]",
    ),
    *shared.AGENTS,
    *shared.EXECUTION,
    *shared.output("studies/granularity-ENVIRONMENT-SPLIT"),
)
def command(environment: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Play no skill and the same skills worded concise, moderate and detailed, with every backbone in ENVIRONMENT.

    Without ENVIRONMENT it is assistant. Banks ship for assistant, lookup and household (which serve alfworld, too);
    --bank takes others, for any environment. All arms of a backbone play the same tasks and seeds, and so does the
    random policy where the environment lists actions. FOLDER gets the episodes (a line each, kept as they come),
    report.json, report.csv, report.md and, where matplotlib is installed, report.svg. With --resume, more backbones may
    be added to a study.
    """
    from masa_training.evaluate.banks.running import completed, tasks_of
    from masa_training.studies.granularity import study
    from masa_training.studies.granularity_table import to_markdown

    trial = _trial(environment, given)
    tasks = tasks_of(trial)
    if given["dry_run"]:
        shared.tell_plan(trial, len(tasks), as_json=as_json)
        return
    folder = Path(given["output"] or f"studies/granularity-{environment}-{trial.split}")
    episodes, cancelled = shared.play(trial, folder, given, quiet=quiet or as_json)
    told = study(trial, episodes, complete=completed(trial, episodes, tasks))
    shared.finish(folder, told, to_markdown(told), cancelled=cancelled, as_json=as_json, quiet=quiet)


def _trial(environment: str, given: dict[str, Any]) -> Trial:
    from masa_training.errors import TrainingError
    from masa_training.evaluate.banks.config import Trial
    from masa_training.evaluate.banks.running import offers_actions
    from masa_training.studies.granularity import make_arms, shipped_banks

    if given["banks"] and given["stepwise"]:
        raise click.UsageError("--stepwise is of the shipped banks; add your own with --bank stepwise=FILE.")
    if given["banks"]:
        banks: dict[str, Path] = {}
        for text in given["banks"]:
            name, path = shared.named(text)
            if name in banks:
                raise TrainingError(f"two of the banks are called {name!r}; give them different names")
            banks[name] = Path(path)
    else:
        banks = shipped_banks(environment, stepwise=given["stepwise"])
    played = shared.played(given)
    if not played["backbones"]:
        raise TrainingError("there is no backbone; name one with --backbone")
    offers = offers_actions(environment, played["options"], given["split"])
    if given["choose"] and not offers:
        raise TrainingError(f"{environment} lists no actions to choose among; leave --choose out")
    choose = offers and _choose([backbone.spec for backbone in played["backbones"]], given["choose"])
    arms = make_arms(banks, random=offers)
    return Trial(
        environment=environment,
        arms=arms.arms,
        banks=arms.checksums,
        agent=shared.agent(given, choose=choose),
        **played,
    )


def _choose(specs: list[str], asked: bool | None) -> bool:
    """Whether agents choose; models in process are small ones, which hardly ever write an action."""
    from masa_training.errors import TrainingError

    if asked is not None:
        return asked
    served = {spec.startswith(("openai:", "http://", "https://")) for spec in specs}
    if len(served) > 1:
        raise TrainingError("some backbones run in process and some behind servers; say --choose or --write for all")
    return not served.pop()
