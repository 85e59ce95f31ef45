"""`masa evaluate banks`: banks and policies × backbones × seeds in an environment, with intervals."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa_training.commands import episodes as shared

if TYPE_CHECKING:
    from masa_training.evaluate.banks.config import Trial


@click.command(
    "banks",
    short_help="Play skill banks in an environment and compare them.",
    epilog="\b\nExamples:\n"
    "  masa evaluate banks lookup --backbone smollm2-135m --choose --bank lookup/concise --tasks 4\n"
    "  masa evaluate banks assistant --backbone qwen2.5-coder-0.5b --bank assistant/moderate --tasks 60 -o ab\n"
    "  masa evaluate banks household --backbone smollm2-135m --choose --tasks 60\n"
    "  masa evaluate banks alfworld --backbone 'qwen=openai:http://localhost:8000/v1#Qwen/Qwen3-4B' "
    "--executor processes --workers 16\n"
    "  masa evaluate banks lookup --backbone smollm2-135m --choose --bank base=lookup/concise --a-a base --seeds 4\n"
    "  masa evaluate banks lookup --backbone smollm2-135m --choose --bank mine=bank.json --dry-run\n\n"
    "Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 cancelled (episodes are kept).",
)
@click.argument("environment", metavar="ENVIRONMENT")
@shared.with_options(
    *shared.BACKBONES,
    click.option(
        "--bank",
        "banks",
        multiple=True,
        metavar="[NAME=]FILE",
        help="An arm: a skill bank, or a shipped one as ENVIRONMENT/NAME. Repeatable.",
    ),
    click.option("--facts-only", metavar="BANK", help="An arm: this bank and the generated list of the actions."),
    click.option("--no-policies", is_flag=True, help="Leave out the arms no-skill and random."),
    *shared.world(tasks=50),
    click.option("--penalty", type=float, default=0.0, show_default=True, metavar="λ", help="Of R = S − λ·NHR."),
    click.option(
        "--score",
        type=click.Choice(shared.SCORES),
        default="success",
        show_default=True,
        help="What S is, by which arms are compared; the environment's reward knows partial success.",
    ),
    click.option("--choose", is_flag=True, help="Agents choose among the admissible actions instead of writing one."),
    *shared.AGENTS,
    *shared.EXECUTION,
    click.option(
        "--a-a", "aa", metavar="ARM", help="Compare an arm with itself: false-accept rate, detectable effect."
    ),
    *shared.output("evaluations/ENVIRONMENT-SPLIT"),
)
def command(environment: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Play arms × backbones × tasks × seeds in ENVIRONMENT and report success rates, intervals and differences.

    An arm is a skill bank (--bank), a bank with the environment's action forms (--facts-only), no skill, or the random
    policy. All arms of a backbone play the same tasks and seeds. FOLDER gets the episodes (a line each, kept as they
    come), report.json, report.csv, report.md and, where matplotlib is installed, report.svg.
    """
    from masa_training.errors import TrainingError
    from masa_training.evaluate.banks.report import report, to_markdown
    from masa_training.evaluate.banks.running import completed, tasks_of

    trial = _trial(environment, given)
    aa = given["aa"]
    if aa and aa not in {arm.name for arm in trial.arms if not arm.random}:
        raise TrainingError(f"--a-a {aa}: there is no such arm")
    if aa and trial.seeds % 2:
        raise TrainingError(f"--a-a needs an even number of seeds, half against half, not {trial.seeds}")
    for one, other in _same_banks(trial):
        click.echo(f"Note: {one} and {other} are the same bank; a difference between them is chance.", err=True)
    tasks = tasks_of(trial)
    if given["dry_run"]:
        shared.tell_plan(trial, len(tasks), as_json=as_json)
        return
    folder = Path(given["output"] or f"evaluations/{environment}-{trial.split}")
    episodes, cancelled = shared.play(trial, folder, given, quiet=quiet or as_json)
    told = report(trial, episodes, complete=completed(trial, episodes, tasks), aa=aa)
    shared.finish(folder, told, to_markdown(told), cancelled=cancelled, as_json=as_json, quiet=quiet)


def _same_banks(trial: Trial) -> list[tuple[str, str]]:
    """Pairs of arms that show the same skills."""
    shown = [(arm.name, trial.banks[arm.name], arm.facts) for arm in trial.arms if arm.name in trial.banks]
    return [(one[0], other[0]) for one, other in combinations(shown, 2) if one[1:] == other[1:]]


def _trial(environment: str, given: dict[str, Any]) -> Trial:
    from masa_training.errors import TrainingError
    from masa_training.evaluate.banks.config import FACTS_ONLY, NO_SKILL, RANDOM, Trial, bank_arm
    from masa_training.evaluate.banks.running import offers_actions
    from masa_training.rollouts import Arm

    played = shared.played(given)
    offers = offers_actions(environment, played["options"], given["split"])
    if given["choose"] and not offers:
        raise TrainingError(f"{environment} lists no actions to choose among; leave --choose out")
    arms: list[Arm] = [] if given["no_policies"] else [Arm(name=NO_SKILL)]
    checksums = {}
    for text in given["banks"]:
        name, path = shared.named(text)
        arm, checksums[name] = bank_arm(name, Path(path))
        arms.append(arm)
    if given["facts_only"]:
        arm, checksums[FACTS_ONLY] = bank_arm(FACTS_ONLY, Path(given["facts_only"]))
        arms.append(Arm(name=FACTS_ONLY, bank=arm.bank, facts=True))
    if offers and not given["no_policies"]:
        arms.append(Arm(name=RANDOM, random=True))
    return Trial(
        environment=environment,
        arms=tuple(arms),
        penalty=given["penalty"],
        score=given["score"],
        agent=shared.agent(given, choose=given["choose"]),
        banks=checksums,
        **played,
    )
