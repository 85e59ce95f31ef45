"""`masa evaluate granularity`: the same skills in several wordings, for several backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa_training.commands import episodes as shared
from masa_training.evaluate.banks.config import RANDOM
from masa_training.tables import NOTHING, bracketed, table

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
    "  masa evaluate granularity lookup --backbone smollm2-135m --bank short=a.json --bank long=b.json --dry-run\n"
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
        "--score",
        type=click.Choice(shared.SCORES),
        default="success",
        show_default=True,
        help="By what wordings are compared; the environment's reward knows partial success.",
    ),
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
        score=given["score"],
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


_BOUNDS = ("estimate", "low", "high")


def to_markdown(told: Mapping[str, Any]) -> str:
    """Success rates by backbone and granularity, what the best ones are worth, and the same by task type."""
    from masa_training.studies.granularity import NONE

    settings = told["settings"]
    wordings = [bank["granularity"] for bank in told["banks"]]
    arms = [NONE, *wordings]
    rows = {(row["backbone"], row["arm"]): row for row in told["rows"]}
    backbones = [one["backbone"] for one in told["backbones"]]
    partial = "" if told["complete"] else " (PARTIAL)"
    how = "choose among the admissible actions" if settings["agent"]["choose"] else "write their actions"
    counts = sorted({row["episodes"] for row in told["rows"]}) or [0]
    episodes = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    score = "Mean reward" if told["score"] == "reward" else "Success rate"
    lines = [
        f"# Granularity study: {settings['environment']}, {settings['split']} split{partial}",
        "",
        f"{score} with a 95 % interval (cluster bootstrap over tasks). Episodes a cell: {episodes}. Agents {how}. "
        "Bold: the best granularity; \\*: differs from none beyond the interval of the difference.",
        "",
    ]
    lines += table(
        ["backbone", *arms],
        [[name, *(_cell(told, rows, name, arm) for arm in arms)] for name in backbones],
    )
    chance = rows.get((None, RANDOM))
    lines += [
        "",
        f"Random policy: {_percent(chance['reward'] if chance else None)}.",
        "",
        "## The best granularity",
        "",
    ]
    body = []
    for one in told["backbones"]:
        best = one["best"]
        body.append(
            [
                one["backbone"],
                best or "–",
                _points(one["over_none"].get(best)),
                _word(one["beats_none"], "yes", "no: it is worse"),
                _points(one["none_over_random"]),
                _word(one["none_over_random"]["verdict"], "yes", "no: it is below"),
            ]
        )
    head = ["backbone", "best", "best − none, points", "beats none", "none − random, points", "none beats random"]
    lines += [*table(head, body), ""]
    lines.append(
        f"Differences are paired by task and seed; their intervals have the level {told['level']:.2%}, so that all "
        "of a backbone's hold together with 95 % and the best one may be picked after looking."
    )
    lines += ["", *_pairs(told["pairs"])] if told["pairs"]["pairs"] else []
    lines += ["", *_preferences(told["preferences"])] if len(backbones) > 1 else []
    lines += ["", "## Banks", "", *_banks(told, rows, backbones)]
    lines += _by_type(rows, [(None, RANDOM), *((name, arm) for name in backbones for arm in arms)])
    return "\n".join(lines).rstrip() + "\n"


def _cell(told: Mapping[str, Any], rows: Mapping[Any, Any], backbone: str, arm: str) -> str:
    from masa_training.studies.granularity import NONE

    row = rows.get((backbone, arm))
    if row is None:
        return "–"
    one = next(one for one in told["backbones"] if one["backbone"] == backbone)
    text = _percent(row["reward"]) + (f", {row['missing']} missing" if row["missing"] else "")
    text = f"**{text}**" if one["best"] == arm else text
    return text + (" \\*" if arm != NONE and one["over_none"][arm]["verdict"] is not None else "")


def _pairs(told: Mapping[str, Any]) -> list[str]:
    pairs = told["pairs"]
    columns = [*pairs[0]["differences"], *pairs[0]["apart"]]
    body = [
        [
            f"{one['wordings'][1]} − {one['wordings'][0]}",
            *(_marked({**one["differences"], **one["apart"]}[name]) for name in columns),
        ]
        for one in pairs
    ]
    told_apart = " The last columns say by how much the backbones differ." if pairs[0]["apart"] else ""
    return [
        "## Every two granularities, points",
        "",
        *table(["", *columns], body),
        "",
        f"Level {told['level']:.2%}, so that all of a column hold together with 95 %. \\*: decided.{told_apart}",
    ]


def _marked(found: Mapping[str, Any]) -> str:
    return _points(found) + (" \\*" if found["verdict"] is not None else "")


def _preferences(found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not found:
        return ["No two backbones differ in what is best for them, no skill included."]
    lines = ["## Backbones whose best granularities differ", ""]
    body = [
        [
            " / ".join(one["backbones"]),
            " / ".join(one["best"]),
            " / ".join(_points(side) for side in one["own_over_foreign"]),
            _points(one["interaction"]),
            "yes" if one["opposite"] else "undecided",
        ]
        for one in found
    ]
    head = ["backbones", "best", "own − other's, points", "sum, points", "opposite"]
    lines += [*table(head, body), ""]
    lines.append(
        f"Level {found[0]['level']:.2%}, for the choice among pairs of granularities. Opposite: each backbone does "
        "better with its own than with the other's. An interval of the sum without 0: what granularity is "
        "worth depends on the backbone."
    )
    return lines


def _banks(told: Mapping[str, Any], rows: Mapping[Any, Any], backbones: Sequence[str]) -> list[str]:
    from masa_training.studies.granularity import NONE

    body = [
        [
            bank["granularity"],
            str(bank["skills"]),
            f"{bank['words']:,}",
            *(_tokens(rows.get((name, bank["granularity"]))) for name in backbones),
        ]
        for bank in told["banks"]
    ]
    body.insert(0, [NONE, "0", "0", *(_tokens(rows.get((name, NONE))) for name in backbones)])
    lines = table(
        ["granularity", "skills", "words", *(f"prompt tokens an episode, {name}" for name in backbones)], body
    )
    if not told["same_skills"]:
        lines += [
            "",
            "The banks do not hold the same skills (identifiers or task types differ), so their differences are not of "
            "granularity alone.",
        ]
    return lines


def _by_type(rows: Mapping[Any, Any], order: Sequence[tuple[str | None, str]]) -> list[str]:
    types = sorted({name for row in rows.values() for name in row["by_type"]})
    if len(types) < 2:
        return []
    body = [
        [key[0] or "–", key[1], *(_percent(rows[key]["by_type"].get(name)) for name in types)]
        for key in order
        if key in rows
    ]
    return ["", "## SR by task type", "", *table(["backbone", "granularity", *types], body)]


def _word(verdict: bool | None, yes: str, no: str) -> str:
    return "undecided" if verdict is None else yes if verdict else no


def _tokens(row: Mapping[str, Any] | None) -> str:
    return NOTHING if row is None or row["prompt_tokens"] is None else f"{row['prompt_tokens']:,.0f}"


def _percent(found: Mapping[str, Any] | None) -> str:
    return bracketed(found, ".1%")


def _points(found: Mapping[str, Any] | None) -> str:
    scaled = {key: None if value is None else 100 * value for key, value in (found or {}).items() if key in _BOUNDS}
    return bracketed(scaled, "+.1f")
