"""`masa adapt`: the skills that agents read, adapted in place for a backbone, and everything back again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.checksums import sha256_file
from masa.cli import adapt_report as report
from masa.cli.loading import backbone_options, edit_options, facts_option, read_facts, resolve_card, rewriter_option
from masa.cli.output import check_page, clean, count, write_json
from masa.cli.progress import RewriteProgress, interrupts, tell_time
from masa.cli.report import card_text
from masa.errors import MasaError
from masa.files import write_atomic

if TYPE_CHECKING:
    from masa.adapt import Adaptation, Source
    from masa.adapted import Outcome, Store
    from masa.cards import ModelCard
    from masa.facts import Facts
    from masa.places import Found
    from masa.provenance import RewriteResult
    from masa.skills import SkillBank

_ACTIONS = ("apply", "undo", "status", "adopt", "diff")


@click.command(
    "adapt",
    short_help="Adapt the skills that your agents read, in place, and undo it.",
    epilog="\b\nExamples:\n"
    "  masa adapt --backbone model.gguf --card my-card.yaml\n"
    "  masa adapt --backbone model.gguf --card my-card.yaml --apply\n"
    "  masa adapt --status\n"
    "  masa adapt --for Qwen3-4B\n"
    "  masa adapt --undo\n"
    "  masa adapt bank.json --diff",
)
@click.argument("where", nargs=-1, metavar="[FOLDER]...", type=click.Path())
@backbone_options(required=False)
@facts_option
@rewriter_option
@click.option("--apply", is_flag=True, help="Put the adapted skills into effect. The originals are kept.")
@click.option("--undo", is_flag=True, help="Put the originals back.")
@click.option("--status", is_flag=True, help="Tell what is in effect, and what should be made anew.")
@click.option("--diff", is_flag=True, help="Show what differs from the originals.")
@click.option("--for", "for_model", metavar="MODEL", help="Switch to what is kept for this model.")
@click.option("--adopt", is_flag=True, help="Take skills that you edited as they are for new originals.")
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most tokens of all descriptions and one body; sections above it move to references/.",
)
@click.option(
    "--descriptions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most tokens of each description. What for and when stay.",
)
@edit_options
@click.option("--every", is_flag=True, help="Let the rewriter read every section, not some of each kind.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [default: all cores]")
@click.option("--no-cache", is_flag=True, help="Neither read nor keep finished rewrites.")
@click.option("--html", metavar="FILE", type=click.Path(), help="Write the report as one HTML page, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only.")
def command(
    where: tuple[str, ...],
    backbone: str | None,
    backbone_model: str | None,
    card: str | None,
    api_key_env: str | None,
    for_model: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Adapt the skills that the agents in this project read, for the model that reads them.

    Without FOLDER, they are looked for where clients do: .claude/skills, .agents/skills and others, of the project
    and then of its user. Nothing is written without --apply. The originals are kept in .masa beside them, and --undo
    puts them back, byte for byte. FOLDER may also be a JSON bank: --status and --diff tell of its variants.
    """
    action = _action(options, for_model)
    if action in ("show", "apply"):
        if backbone is None:
            raise click.UsageError("--backbone MODEL says for which model; --status tells what is in effect.")
        if any(Path(path).is_file() and Path(path).suffix == ".json" for path in where):
            raise click.UsageError("a JSON bank is not adapted in place; `masa rewrite` stores a variant beside it.")
        check_page(options["html"])
        key = {"backbone": backbone, "model": backbone_model, "card": card, "api_key_env": api_key_env}
        _adapt(where, key, options, as_json=as_json, quiet=quiet)
        return
    if options["html"] is not None:
        raise click.UsageError("--html shows an adaptation; give --backbone MODEL, and --apply if it is to be applied.")
    model_card = resolve_card(backbone, backbone_model, card, api_key_env) if backbone is not None else None
    if action in ("status", "diff"):
        report.show_state(where, action, model_card, for_model, as_json=as_json)
        return
    outcomes, problems = _each_store(where, action, for_model)
    _tell(outcomes, problems, action, as_json=as_json, quiet=quiet)


def _action(options: dict[str, Any], for_model: str | None) -> str:
    chosen = [name for name in _ACTIONS if options[name]]
    if len(chosen) > 1:
        raise click.UsageError(f"--{chosen[0]} and --{chosen[1]} do not go together; give one.")
    if for_model is not None and chosen not in ([], ["diff"], ["status"]):
        raise click.UsageError(f"--for and --{chosen[0]} do not go together; give one.")
    return chosen[0] if chosen else "switch" if for_model is not None else "show"


def look(where: Sequence[str]) -> Found:
    """The skills in these folders, or those that agents find from here."""
    from masa.places import agent_places, find, find_project, named_place

    for path in where:
        if not Path(path).exists():
            raise MasaError(f"{path}: no such folder; give a folder of skills, or none to look where agents do")
    if where:
        return find([named_place(Path(path)) for path in where])
    return find(agent_places(find_project(Path.cwd()), _home()))


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # no home that could be found
        return Path.cwd()


def stores(where: Sequence[str]) -> list[Store]:
    """The stores that a command is about: those of these folders, or of the project and its user."""
    from masa.adapted import Store
    from masa.places import find_project, named_place

    bases = [named_place(Path(path)).base for path in where] or [find_project(Path.cwd()), _home()]
    return [Store(base) for base in dict.fromkeys(base.resolve() for base in bases)]


def _adapt(where: Sequence[str], key: dict[str, Any], options: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    from masa.adapt import adapt, bank_of, sources
    from masa.token_counts import backbone_counter

    found = look(where)
    chosen = sources(found.skills)
    if not chosen:
        told = "".join(f"\n  {problem}" for problem in found.problems)
        raise MasaError(f"no skills found{told or '; masa adapt FOLDER takes any folder with SKILL.md files in it'}")
    facts = read_facts(options["facts"])
    card = resolve_card(key["backbone"], key["model"], key["card"], key["api_key_env"])
    bank = bank_of(chosen)
    result = _rewrite(bank, card, facts, options, quiet=quiet or as_json) if len(bank) else None
    if result is not None and result.cancelled:
        click.echo("Cancelled: nothing was written; the same command goes on from here.", err=True)
        click.get_current_context().exit(130)
    counter = backbone_counter(key["backbone"], model=key["model"])
    made = adapt(chosen, result, counter, budget=options["budget"], description=options["descriptions"])
    outcomes: list[Outcome] = []
    names = ("budget", "descriptions", "without", "also")
    settings = {name: options[name] for name in names if options[name]}
    if facts is not None:
        settings["facts"] = {"file": options["facts"], "sha256": sha256_file(Path(options["facts"]))}
    if options["apply"]:
        if not quiet and not as_json:
            click.echo(report.plan_text(made, found, card, counter, result))
        outcomes = _apply(made, result, card, key["backbone"], settings)
    if as_json:
        write_json(report.plan_json(made, found.problems, card, counter, result, outcomes))
    elif not quiet and not options["apply"]:
        click.echo(report.plan_text(made, found, card, counter, result))
        changed = sum(one.changed and not one.left for one in made)
        click.echo(f"\nNothing was written; --apply puts {count(changed, 'adapted skill')} into effect." if changed else
                   "\nNothing was written.")  # fmt: skip
    refused = [one for one in made if one.left and not one.source.skill.left] if options["apply"] else []
    if options["apply"]:
        report.outcome_text(outcomes, refused, quiet=quiet, as_json=as_json)
    if options["html"] is not None:
        done = outcomes if options["apply"] else None
        page = report.plan_html(made, found, card, counter, result, done, options)
        write_atomic(options["html"], page.encode("utf-8"))
    if refused or not all(outcome.done for outcome in outcomes):
        click.get_current_context().exit(1)


def _rewrite(
    bank: SkillBank, card: ModelCard, facts: Facts | None, options: dict[str, Any], *, quiet: bool
) -> RewriteResult:
    from masa.kinds import ENOUGH, rewrite_by_kind
    from masa.rewriter import Rewriter

    rewriter = Rewriter.load(options["rewriter"], threads=options["threads"], cache=not options["no_cache"])
    if not quiet:
        click.echo(card_text(card, options), err=True)
    progress = RewriteProgress(quiet=quiet)
    progress.message(f"Adapting {count(len(bank.task_specific), 'skill')} for {card.name} …")

    def before(read: SkillBank) -> None:
        if not quiet:
            tell_time(rewriter, read, card, {"without": options["without"], "also": options["also"], "facts": facts})

    enough = sys.maxsize if options["every"] else ENOUGH
    try:
        with rewriter, interrupts() as cancel:
            return rewrite_by_kind(
                rewriter, bank, card, enough=enough, before=before,
                on_progress=progress, cancel=cancel, without=options["without"], also=options["also"], facts=facts,
            )  # fmt: skip
    finally:
        progress.close()


def _apply(
    made: Sequence[Adaptation],
    result: RewriteResult | None,
    card: ModelCard,
    backbone: str,
    settings: dict[str, Any],
) -> list[Outcome]:
    from masa.adapt import change_of
    from masa.adapted import Outcome, Version

    version = Version(
        "",
        backbone=backbone,
        card=card.fields(),
        card_fingerprint=card.fingerprint,
        settings=settings,
        rewriter={} if result is None else {"name": result.artifact, "fingerprint": result.artifact_fingerprint},
    )
    _tell_uncommitted([one.source for one in made if not one.left])
    outcomes: list[Outcome] = []
    by_base: dict[Path, list[Adaptation]] = {}
    for one in made:
        if not one.left:
            by_base.setdefault(one.source.store.base, []).append(one)
    for base, ours in by_base.items():
        if facts := settings.get("facts"):
            version = replace(
                version, settings={**settings, "facts": {**facts, "file": _seen_from(base, facts["file"])}}
            )
        try:
            outcomes += ours[0].source.store.apply([change_of(one, card.name, version) for one in ours])
        except MasaError as error:
            outcomes.append(Outcome(base, False, str(error)))
    return outcomes


def _seen_from(base: Path, file: str) -> str:
    """The way from the store's base to a file, since a lock may be committed; the whole path from another drive."""
    try:
        return Path(os.path.relpath(file, base)).as_posix()
    except ValueError:
        return str(Path(file).resolve())


def _tell_uncommitted(chosen: Sequence[Source]) -> None:
    """Name files of skills with changes that version control does not have yet."""
    by_base: dict[Path, list[Source]] = {}
    for source in chosen:
        if source.state == "original":
            by_base.setdefault(source.store.base, []).append(source)
    for base, ours in by_base.items():
        changed = _uncommitted(base, [source.skill.folder for source in ours])
        if changed:
            shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
            message = f"not committed to git: {shown}; masa keeps the originals in {base / '.masa'}"
            click.echo(click.style("Note: ", fg="yellow") + clean(message), err=True)


def _uncommitted(base: Path, folders: Sequence[Path]) -> list[str]:
    """Files below these folders that git knows and that differ from its last commit; none where there is no git."""
    words = ["git", "-C", str(base), "-c", "core.fsmonitor=false", "--no-optional-locks"]
    words += ["status", "--porcelain", "-z", "--untracked-files=all", "--", *map(str, folders)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    if done.returncode:
        return []
    lines = done.stdout.decode("utf-8", "replace").split("\0")
    return [line[3:] for line in lines if len(line) > 3 and line[2] == " "]


def _each_store(where: Sequence[str], action: str, model: str | None) -> tuple[list[Outcome], list[str]]:
    from masa.adapted import find_model

    ours = stores(where)
    within = [Path(path) for path in where]
    name = find_model(ours, model) if model is not None else ""
    outcomes: list[Outcome] = []
    problems: list[str] = []
    for store in ours:
        try:
            if action == "switch":
                outcomes += store.switch(name) if store.entries() else []
            elif action == "undo":
                outcomes += store.undo(within)
            else:
                outcomes += store.adopt(within)
        except MasaError as error:
            problems.append(str(error))
    if not outcomes and not problems:  # what was adapted and is gone since can still be undone
        missing = [path for path in where if not Path(path).exists()]
        problems += [f"{path}: no such file; give a folder of skills or a skill bank JSON file" for path in missing]
    return outcomes, problems


def _tell(outcomes: Sequence[Outcome], problems: Sequence[str], action: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        write_json({"skills": [report.outcome_json(outcome) for outcome in outcomes], "problems": list(problems)})
    else:
        report.outcome_text(outcomes, (), quiet=quiet, as_json=False)
        if not outcomes and not problems and not quiet:
            nothing = {"undo": "Nothing here is adapted.", "adopt": "No adapted skill here was edited."}
            click.echo(nothing.get(action, "Nothing to switch."))
    for problem in problems:
        click.echo(click.style("Error: ", fg="red") + clean(problem), err=True)
    if problems or not all(outcome.done for outcome in outcomes):
        click.get_current_context().exit(1)
