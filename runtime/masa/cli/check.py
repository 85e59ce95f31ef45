"""`masa check`: whether a skill, and its adaptation, helps the model that reads it."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.loading import api_key, backbone_options, facts_option, read_facts, resolve_card, rewriter_option
from masa.cli.output import check_page, clean, count, table, write_json
from masa.cli.probe import Asked
from masa.cli.progress import interrupts
from masa.cli.report import html_changes
from masa.errors import MasaError
from masa.files import write_atomic

if TYPE_CHECKING:
    from masa.cards import ModelCard
    from masa.checking import Arm, CheckResult, Comparison
    from masa.evals import Eval
    from masa.facts import Facts
    from masa.html_report import Section
    from masa.provenance import GroupResult


CANCELLED = 130


@click.command(
    "check",
    short_help="Compare a skill, its adaptation and no skill on your prompts.",
    epilog="\b\nExamples:\n"
    "  masa check examples/checks/weather --backbone qwen2.5-coder-1.5b --card examples/checks/card.yaml\n"
    "  masa check ~/my-skills/pdf --backbone http://localhost:11434#qwen3:4b --runs 10 --max-seconds 600\n"
    "  masa check ~/my-skills/pdf --backbone model.gguf --evals prompts.jsonl --judge http://localhost:8080\n"
    "  masa check ~/my-skills/pdf --backbone model.gguf --adapted ~/by-hand/pdf --keep ~/best/pdf --json\n\n"
    "Exit codes: 0 done, whatever the verdict; 1 an error; 2 wrong usage; 130 cancelled (answers are kept).",
)
@click.argument("skill", type=click.Path())
@backbone_options(required=True, answers=True)
@click.option(
    "--evals",
    metavar="FILE",
    type=click.Path(),
    help="Prompts and checks: JSON as in evals/evals.json, JSON lines, or a prompt a paragraph. "
    "[default: SKILL/evals/evals.json]",
)
@click.option("--adapted", metavar="FOLDER", type=click.Path(), help="An adapted skill, instead of rewriting it now.")
@facts_option
@rewriter_option
@click.option(
    "--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Answers to each prompt, per arm."
)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.7, show_default=True, help="With one run: 0.")
@click.option(
    "--answer-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Most for one answer."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=120,
    show_default=True,
    help="Seconds for one answer of a server.",
)
@click.option(
    "--judge", metavar="MODEL", help="A model that judges the checks that are sentences; others are left out."
)
@click.option(
    "--sandbox", metavar="COMMAND", help="What runs checks that are commands, such as 'docker run --rm -i me sh -c'."
)
@click.option("--max-calls", type=click.IntRange(min=1), metavar="N", help="Stop after so many answers.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), metavar="N", help="Stop after so many tokens, read and written."
)
@click.option("--max-seconds", type=click.FloatRange(min=1), metavar="S", help="Stop after so long.")
@click.option(
    "--keep",
    metavar="FOLDER",
    type=click.Path(),
    help="Write the best there: the adapted skill where it is better, else the original.",
)
@click.option(
    "-o", "--output", metavar="FOLDER", type=click.Path(), help="Where answers are kept. [default: checks/SKILL-MODEL]"
)
@click.option("--resume", is_flag=True, help="Continue with the answers in FOLDER.")
@click.option("--dry-run", is_flag=True, help="Say what would be asked, without asking.")
@click.option("--html", metavar="FILE", type=click.Path(), help="Write the report as one HTML page, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only.")
def command(skill: str, backbone: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Ask the backbone the prompts of SKILL without it, with it, and with it adapted; compare in pairs.

    Checks are contains, not_contains, regex, json_schema and, in a sandbox that you name, command; checks that are
    sentences need --judge. The verdict is better, worse or undecided, the last with the pairs that are missing.
    """
    from masa.artifact import load_artifact
    from masa.chat import AnswerLog, check_chat, open_chat
    from masa.checking import Budget, check_skill, judged_by, skill_text
    from masa.files import read_bytes

    folder = _folder(skill)
    evals, left_out = _evals(folder, given)
    for model in filter(None, (backbone, given["judge"])):
        check_chat(model)
    keep = _free(given["keep"])
    check_page(given["html"])
    changed = _folder(given["adapted"]) if given["adapted"] else None
    if changed is not None and given["facts"]:
        raise click.UsageError("--facts is for the rewriter, and --adapted brings what is rewritten; give one of them.")
    facts = read_facts(given["facts"])
    if changed is None:
        load_artifact(given["rewriter"], verify=False)
    card = resolve_card(backbone, given["backbone_model"], given["card"], given["api_key_env"])
    if given["dry_run"]:
        calls = len(evals) * given["runs"] * 3
        told = f"{count(len(evals), 'prompt')}, {count(given['runs'], 'run')}, three arms: at most {calls:,} answers"
        write_json({"prompts": len(evals), "calls": calls, "checks_left_out": left_out}) if as_json else click.echo(
            told
        )
        return
    file = folder / "SKILL.md"
    if changed is not None:
        data, why, group = read_bytes(changed / "SKILL.md"), "", None
    else:
        data, why, group = _adapt(folder, card, facts, given["rewriter"])
    texts: dict[Arm, str] = {
        "none": "",
        "original": skill_text(read_bytes(file), file),
        "adapted": skill_text(data, file),
    }
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{folder.name}-{card.name}")
    settings = {
        "check": 1,
        "backbone": backbone,
        "judge": given["judge"],
        "temperature": _temperature(given),
        "answer_tokens": given["answer_tokens"],
        "skills": texts,
        "prompts": {one.key: one.prompt for one in evals},
    }
    key = api_key(given["api_key_env"])
    options: dict[str, Any] = {"api_key": key, "timeout": given["timeout"], "context": 8192}
    judge = open_chat(given["judge"], **options) if given["judge"] else None
    chat = open_chat(backbone, model=given["backbone_model"], **options)
    progress = Asked("answers", quiet=quiet or as_json)
    log = AnswerLog(Path(given["output"] or f"checks/{name}") / "answers.jsonl", settings, resume=given["resume"])
    try:
        with interrupts("the answers so far are kept, --resume continues from them") as cancel:
            result = check_skill(
                chat,
                evals,
                texts,
                log,
                runs=given["runs"],
                most_tokens=given["answer_tokens"],
                temperature=_temperature(given),
                budget=Budget(given["max_calls"], given["max_tokens"], given["max_seconds"]),
                sandbox=shlex.split(given["sandbox"] or ""),
                judge=judged_by(judge, log) if judge else None,
                progress=progress,
                cancel=cancel,
            )
    except MasaError as error:
        raise MasaError(f"{error}; the answers so far are kept in {log.path.parent}, --resume continues") from None
    finally:
        progress.close()
        log.close()
        chat.close()
        if judge is not None:
            judge.close()
    if keep is not None and result.stopped != "cancelled":
        _keep(folder, keep, data if result.best == "adapted" else None)
    if given["html"] is not None:
        page = result_html(result, evals, texts, group, backbone=card.name, left_out=left_out, why=why)
        write_atomic(given["html"], page.encode("utf-8"))
    if as_json:
        told_json = {**result.to_json(), "checks_left_out": left_out, "note": why, "answers_in": str(log.path)}
        write_json({**told_json, "kept": str(keep) if keep else None})
    elif not quiet:
        click.echo(result_text(result, left_out, why))
        click.echo(clean(f"answers: {log.path}" + (f"\nkept: {keep} ({result.best})" if keep else "")))
    if result.stopped == "cancelled":
        click.echo("Cancelled: the same command with --resume continues.", err=True)
        click.get_current_context().exit(CANCELLED)


def _temperature(given: dict[str, Any]) -> float:
    """A single answer is the model's likeliest one."""
    return 0.0 if given["runs"] == 1 else float(given["temperature"])


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    folder = folder.parent if folder.name == "SKILL.md" else folder
    if not (folder / "SKILL.md").is_file():
        raise MasaError(f"{folder}: no SKILL.md there; give the folder of one skill")
    return folder


def _evals(folder: Path, given: dict[str, Any]) -> tuple[tuple[Eval, ...], int]:
    """The evaluations that can be judged, and how many checks are left out."""
    from masa.evals import PLACE, load_evals, needs, without

    path = Path(given["evals"]) if given["evals"] else folder / PLACE
    if not path.exists():
        raise MasaError(f"{path}: no such file; write prompts and checks there, or name another file with --evals")
    evals = load_evals(path, folder)
    if needs(evals, "command") and not given["sandbox"]:
        raise MasaError(f"{path}: has checks that are commands; name what runs them with --sandbox")
    left_out = 0
    if not given["judge"]:
        evals, left_out = without(evals, "judge")
        if not evals:
            raise MasaError(
                f"{path}: no check that can be made without a judge; add checks such as "
                '{"type": "contains", "value": "…"}, or name a judge with --judge'
            )
    elif not any(one.checks for one in evals):
        raise MasaError(f"{path}: has no checks; say for each prompt what an answer must be like")
    return tuple(one for one in evals if one.checks), left_out


def _adapt(folder: Path, card: ModelCard, facts: Facts | None, rewriter: str) -> tuple[bytes, str, GroupResult | None]:
    """The adapted SKILL.md, why it is as it was, if so, and what was done to it."""
    from masa.rewriter import Rewriter
    from masa.served_skills import Library

    with Rewriter.load(rewriter) as loaded:
        library = Library([folder], {card.name: card}, loaded, facts)
        shelf = library.shelf()
        skill = next((s for s in shelf.skills.values() if s.files["SKILL.md"] == folder / "SKILL.md"), None)
        if skill is None:
            raise MasaError("; ".join(map(str, shelf.problems)) or f"{folder}: no skill that can be rewritten")
        adapted = library.adapt([skill], card)[skill.path]
    why = "" if card.weaknesses else f"{card.name} has no weaknesses in its card, so nothing called for an edit"
    return adapted.data, adapted.problem or why, adapted.result


def _free(keep: str | None) -> Path | None:
    if keep is None:
        return None
    path = Path(keep)
    if path.exists():
        raise MasaError(f"{path}: already exists; choose a new folder or remove it first")
    return path


def _keep(folder: Path, target: Path, data: bytes | None) -> None:
    """A copy of the skill, with this SKILL.md if one is given."""
    try:
        shutil.copytree(folder, target, symlinks=True)
        if data is not None:
            (target / "SKILL.md").write_bytes(data)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise MasaError(f"{target}: cannot be written ({error.strerror}); the answers are kept") from None


_HEAD = ("arm", "right", "checks met", "tokens read", "written", "cut")


def result_text(result: CheckResult, left_out: int, why: str) -> str:
    """A row an arm, and the verdict."""
    return "\n".join([table(_arms(result), _HEAD, right=(3, 4, 5)), "", *map(clean, _verdict(result, left_out, why))])


def result_html(
    result: CheckResult,
    evals: Sequence[Eval],
    texts: Mapping[Arm, str],
    group: GroupResult | None,
    *,
    backbone: str,
    left_out: int,
    why: str,
) -> str:
    """The same as one page, with the skill before and after, and every answer below its prompt.

    Args:
        texts: the skill of each arm.
        group: what the rewriter did; None where the adapted skill was brought.
    """
    from masa.html_report import Change, Section, Table, render_page

    if group is None or group.status != "rewritten":
        changes = [Change("SKILL.md", texts["original"], texts["adapted"])]
    else:
        changes = list(html_changes(group))
    lines = [] if group is None else [group.reason] if group.reason else []
    lines += [f"The guard ({violation.rule}): {violation.message}" for violation in group.violations] if group else []
    skill = Section("The skill", "unchanged" if result.same else "adapted", None, lines, changes=changes)
    verdict = result.verdict
    return render_page(
        f"{verdict.capitalize()}: the adapted skill for {backbone}",
        _verdict(result, left_out, why),
        [skill, *(_answers(result, one) for one in evals)],
        [Table(_HEAD, _arms(result), right=(3, 4, 5))],
    )


def _answers(result: CheckResult, one: Eval) -> Section:
    from masa.html_report import Section, Table

    answers = [answer for answer in result.answers if answer.key == one.key]
    rows = []
    for answer in answers:
        missed = ", ".join(check.kind for check, met in zip(one.checks, answer.checks, strict=True) if not met)
        text = answer.reply.text + ("" if answer.reply.finished else " … (cut)")
        rows.append((answer.arm, str(answer.run + 1), f"wrong: {missed}" if missed else "right", text))
    checks = [f"{check.kind}: {check.value}" for check in one.checks]
    right = sum(answer.right for answer in answers)
    head = ("arm", "run", "", "answer")
    return Section(
        f"Prompt {one.key}", f"{right} of {len(answers)} right", None, [one.prompt, *checks], [Table(head, rows)]
    )


def _arms(result: CheckResult) -> list[tuple[str, ...]]:
    from masa.checking import ARMS

    rows: list[tuple[str, ...]] = []
    for arm in ARMS:
        answers = result.arm(arm)
        if answers:
            tokens = result.tokens(arm)
            met, of = sum(sum(one.checks) for one in answers), sum(len(one.checks) for one in answers)
            right = sum(one.right for one in answers)
            cut = sum(not one.reply.finished for one in answers)
            read, written = (f"{tokens[0]:.0f}", f"{tokens[1]:.0f}") if tokens else ("–", "–")
            rows.append((arm, f"{right} of {len(answers)}", f"{met} of {of}", read, written, str(cut)))
    return rows


def _verdict(result: CheckResult, left_out: int, why: str) -> list[str]:
    lines = []
    if result.same:
        lines.append(f"The adapted skill is the original{': ' + why if why else ''}.")
    else:
        lines.append("adapted against original: " + _sentence(result.compare("adapted", "original")))
        if result.saved is not None:
            lines.append(f"tokens saved per answer: {round(result.saved)}")
    lines.append("original against none: " + _sentence(result.compare("original", "none")))
    if left_out:
        lines.append(f"{count(left_out, 'check')} that need a judge left out; --judge MODEL judges them")
    if result.stopped:
        lines.append(f"Stopped: {result.stopped}; --resume continues.")
    return lines


def _sentence(comparison: Comparison) -> str:
    if not comparison.pairs:
        return "no pair was asked"
    low, high = comparison.interval
    points = f"{100 * (comparison.difference or 0):+.0f} points ({100 * low:+.0f} to {100 * high:+.0f})"
    pairs = f"{comparison.gained} gained, {comparison.lost} lost in {count(comparison.pairs, 'pair')}"
    told = f"{comparison.verdict}, {points}; {pairs}"
    if comparison.verdict != "undecided":
        return told
    more = comparison.more
    return told + (
        f"; about {count(more, 'more pair')} would decide" if more else "; no number of runs is in sight that decides"
    )
