"""`masa rewrite`: a bank rewritten for a backbone.

What only a report, a variant or an estimate needs is imported where it is made: a rewrite that the cache answers takes
little longer than its imports.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.loading import (
    BankFile,
    backbone_options,
    bank_argument,
    complete_group,
    edit_options,
    facts_option,
    load_bank_file,
    problems_json,
    read_facts,
    resolve_card,
    rewriter_option,
    strict_option,
    tell_problems,
)
from masa.cli.output import check_page, clean, wrap, write_json
from masa.cli.progress import RewriteProgress, interrupts, tell_time
from masa.errors import MasaError
from masa.files import write_atomic
from masa.wording import OPERATIONS

if TYPE_CHECKING:
    from masa.cards import ModelCard
    from masa.provenance import RewriteResult
    from masa.rewriter import Rewriter
    from masa.skills import SkillBank
from masa.errors import FormatError

CANCELLED = 130
SCHEMA = 1
"""Version of what `--json` prints; `masa/schemas/rewrite.v1.json` describes it."""


@dataclass(frozen=True, slots=True)
class _Written:
    """Where the rewritten bank is: a file or folder of the user's, a variant, or stdout (no path).

    `changed` is whether it differs from its original.
    """

    path: Path | None
    variant: bool
    changed: bool


@click.command(
    "rewrite",
    short_help="Rewrite a skill bank for a backbone.",
    epilog="\b\nExamples:\n"
    "  masa rewrite examples/skills --backbone examples/card.yaml\n"
    "  masa rewrite bank.json --backbone model.gguf --card my-card.yaml\n"
    "  masa rewrite examples/banks/household.json --backbone examples/card.yaml --only clean\n"
    "  masa rewrite bank.json --backbone http://localhost:11434#qwen3:4b --card my-card.yaml -o adapted.json\n"
    "  masa rewrite skills/pdf --backbone my-card.yaml --facts facts.yaml\n"
    "  masa rewrite tools.json --backbone my-card.yaml -o adapted-tools.json\n"
    "  masa rewrite bank.json --backbone my-card.yaml --dry-run\n"
    "  masa rewrite bank.json --backbone model.gguf --operation steps --words my-wording\n"
    "  masa rewrite bank.json --backbone my-card.yaml --json | jq .skills",
)
@bank_argument
@backbone_options(required=True)
@click.option("--task", default="", metavar="TEXT", help="What the agent does, in a few words.")
@click.option("--environment", default="", metavar="TEXT", help="Where it does that, in a few words.")
@facts_option
@rewriter_option
@click.option(
    "--words",
    metavar="NAME|FOLDER",
    help="A second rewriter, which words what the plan chooses and no edit can do.",
)
@click.option(
    "--operation",
    type=click.Choice([name for name, one in OPERATIONS.items() if one.sources == 1]),
    help="Do this to every skill, whatever the card says; no plan is asked for.",
)
@click.option("--language", type=click.Choice(["plan", "text"]), help="Output language, instead of the rewriter's own.")
@click.option(
    "--edits",
    type=click.Choice(["safe", "all"]),
    help="Plan language: what may be chosen. safe keeps every statement. [default: all, safe if untrained]",
)
@edit_options
@click.option(
    "--only",
    multiple=True,
    metavar="TYPE",
    help="Rewrite this group only: a task type or general_skills. Repeatable.",
    shell_complete=complete_group,
)
@click.option("--pin", multiple=True, metavar="SKILL_ID", help="Leave this skill as it is. Repeatable.")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=click.Path(),
    help="Write the bank there (- is stdout) instead of storing a variant beside BANK.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [default: all cores]")
@click.option(
    "--gpu-layers",
    type=click.IntRange(min=-1),
    default=0,
    metavar="N",
    help="GGUF rewriters: layers to put on a GPU, -1 for all. [default: 0]",
)
@click.option(
    "--provider",
    type=click.Choice(["cuda", "directml", "coreml", "tensorrt", "cpu"]),
    help="ONNX rewriters: what computes them. [default: the best one available]",
)
@click.option("--as-shipped", is_flag=True, help="Do not run the form that `masa pull` made for this CPU.")
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most groups written at once. [default: 3 for plans, 8 for text]",
)
@click.option(
    "--temperature", type=click.FloatRange(min=0, max=10), default=0.0, metavar="T", help="0 is greedy, the default."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="For a temperature above 0.")
@click.option(
    "--draft",
    type=click.IntRange(min=0, max=64),
    default=0,
    metavar="N",
    help="Guess up to N tokens ahead from the prompt; faster where a rewrite copies.",
)
@strict_option
@click.option("--no-cache", is_flag=True, help="Neither read nor keep finished rewrites.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("--dry-run", is_flag=True, help="Estimate tokens and time without rewriting.")
@click.option("--diff/--no-diff", default=True, help="Show every skill before and after. [default: diff]")
@click.option("--html", metavar="FILE", type=click.Path(), help="Write the report as one HTML page, too.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only.")
def command(
    bank: str,
    backbone: str,
    backbone_model: str | None,
    card: str | None,
    api_key_env: str | None,
    facts: str | None,
    only: tuple[str, ...],
    pin: tuple[str, ...],
    output: str | None,
    strict: bool,
    as_json: bool,
    dry_run: bool,
    html: str | None,
    **options: Any,
) -> None:
    """Rewrite BANK for the model that will read it.

    BANK is a skill bank JSON file, a SKILL.md, a folder with skills at any depth, a list of tools (OpenAI, MCP), of
    which the descriptions are rewritten, or a prompt template (.md, .txt). It is never changed: the
    result is stored as a variant beside it (`masa adapt BANK --status` lists them), or written to OUT. A broken
    SKILL.md is named and stays as it is. What the guard refuses keeps its original text, and the report says why.
    """
    from masa.rewriter import check_request
    from masa.sampling import Sampling

    original = load_bank_file(bank, strict=strict)
    tell_problems(original.bank)
    check_output(original, output, as_json)
    check_page(html)
    request: dict[str, Any] = {
        "task": options["task"],
        "environment": options["environment"],
        "facts": read_facts(facts),
        "only": only or None,
        "pinned": pin,
        "without": options["without"],
        "also": options["also"],
        "operation": options["operation"] or "",
        "sampling": Sampling(
            temperature=options["temperature"],
            seed=options["seed"],
            parallel=options["parallel"],
            draft=options["draft"],
        ),
    }
    check_request(original.bank, request)
    model_card = resolve_card(backbone, backbone_model, card, api_key_env)
    quiet = bool(options["quiet"] or as_json)
    with _load_rewriter(options) as rewriter:
        if dry_run:
            from masa.cli import report

            estimate = rewriter.estimate(original.bank, model_card, **request)
            if as_json:
                write_json(report.estimate_json(estimate))
            else:
                if not options["operation"]:
                    click.echo(report.card_text(model_card, options), err=True)
                click.echo(report.estimate_text(estimate))
            return
        result = _rewrite(rewriter, original, model_card, request, quiet=quiet)
        finished = sum(group.status != "cancelled" for group in result.groups)
        written = None
        if finished or not result.cancelled:
            try:
                written = _write(original, result, model_card, rewriter, output)
            except MasaError as error:
                if not options["no_cache"]:
                    raise MasaError(f"{error}; the finished groups are in the cache") from error
                raise
    if html is not None:
        from masa.cli import report

        write_atomic(html, report.html_text(result, bank).encode("utf-8"))
    # The bank itself may be on stdout: then the report goes to the other stream.
    aside = output == STDOUT
    if as_json:
        write_json(_json(original, result, written))
    elif not options["quiet"]:
        from masa.cli import report

        if options["diff"]:
            click.echo(report.diff_text(result), err=aside)
        click.echo(report.summary_text(result), err=aside)
        if written is not None and written.path is not None:
            kind, same = "Variant" if written.variant else "Bank", "" if written.changed else f" (equal to {bank})"
            click.echo(f"\n{kind}: {clean(f'{written.path}{same}')}", err=aside)
            if written.variant and written.changed:
                more = "`masa adapt` changes skills in place" if original.folder else "-o OUT writes it to OUT"
                click.echo(wrap(f"Give it to your agent in place of {original.path}; {more}.", "", "  "))
    if result.cancelled:
        said = f"{finished} of {len(result.groups)} groups were finished"
        if written is None:
            said += "; nothing was written"
        else:
            said += " and written, the others are as they were"
        again = "" if options["no_cache"] else "; the same command goes on from here"
        click.echo(f"Cancelled: {said}{again}.", err=True)
        click.get_current_context().exit(CANCELLED)


def _load_rewriter(options: dict[str, Any]) -> Rewriter:
    from masa.rewriter import Rewriter

    return Rewriter.load(
        options["rewriter"],
        language=options["language"],
        threads=options["threads"],
        gpu_layers=options["gpu_layers"],
        provider=options["provider"],
        cache=not options["no_cache"],
        cautious=None if options["edits"] is None else options["edits"] == "safe",
        form=not options["as_shipped"],
        words=options["words"],
    )


def _rewrite(
    rewriter: Rewriter, original: BankFile, card: ModelCard, request: dict[str, Any], *, quiet: bool
) -> RewriteResult:
    progress = RewriteProgress(quiet=quiet)
    if not quiet:
        from masa.cli import report

        click.echo(report.card_text(card, request), err=True)
    try:
        if not quiet:
            form = rewriter.form.quantization if rewriter.form else None
            running = report.running_text(rewriter.language, form, rewriter.form_reason)
            progress.message(f"Rewriting for {card.name} with {rewriter.artifact.name} ({running}) …")
            tell_time(rewriter, original.bank, card, request)
        with interrupts() as cancel:
            return rewriter.rewrite(original.bank, card, on_progress=progress, cancel=cancel, **request)
    finally:
        progress.close()


def _write(
    original: BankFile, result: RewriteResult, card: ModelCard, rewriter: Rewriter, output: str | None
) -> _Written:
    from masa.formats import dump, save_bank

    if output == STDOUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(dump(result.bank))
        sys.stdout.buffer.flush()
        return _Written(None, False, result.bank != original.bank)
    if output is not None:
        save_bank(result.bank, output)
        return _Written(Path(output), False, result.bank != original.bank)
    from masa.variants import Record, store

    bank, provenance = _with_earlier(original, result)
    record = Record(
        card_name=result.card,
        card_fingerprint=result.card_fingerprint,
        card=card.fields(),
        artifact_name=result.artifact,
        artifact_fingerprint=result.artifact_fingerprint,
        prompt_version=rewriter.artifact.prompt_version,
        provenance=provenance,
    )
    variant = store(
        original.path,
        lambda target: save_bank(bank, target),
        record,
        original_sha256=original.sha256,
    )
    return _Written(variant.output, True, bank != original.bank)


def _with_earlier(original: BankFile, result: RewriteResult) -> tuple[SkillBank, dict[str, Any]]:
    """The bank and account to store. Groups that this run left alone are taken from the variant it replaces.

    Without that, `--only` or Ctrl-C would put originals where an earlier run had put its rewrites.
    """
    from masa.variants import find, staleness

    account = result.to_json()
    done = {group.key for group in result.groups if group.status != "cancelled"}
    left = {group.key for group in original.bank.groups()} - done
    earlier = find(original.path, result.card_fingerprint, result.artifact) if left else None
    if earlier is None or staleness(earlier, original.path, artifact_fingerprint=result.artifact_fingerprint):
        return result.bank, account
    before = load_bank_file(str(earlier.output)).bank
    kept = {group.key: group for group in before.groups() if group.key in left}
    told = [group for group in earlier.record.provenance.get("groups", ()) if group.get("group") in left]
    account["groups"] = [group for group in account["groups"] if group["group"] in done] + told
    return result.bank.with_groups(kept), account


def _json(original: BankFile, result: RewriteResult, written: _Written | None) -> dict[str, Any]:
    path = written.path if written else None
    return {
        "schema": SCHEMA,
        "bank": str(original.path),
        "output": str(path) if path else None,
        "variant": str(path.parent) if path and written and written.variant else None,
        "cancelled": result.cancelled,
        "problems": problems_json(original.bank.problems),
        **result.to_json(),
    }


STDOUT = "-"


def check_output(original: BankFile, output: str | None, as_json: bool) -> None:
    """Refuse an output that is the original, or that could only fail after the work."""
    if output is None:
        return
    if output == STDOUT:
        if as_json:
            raise click.UsageError("-o - and --json both want stdout; give -o a file.")
        if original.folder:
            raise click.UsageError("a SKILL.md folder cannot go to stdout; give -o a new folder.")
        return
    target = Path(output)
    if not output:
        raise click.UsageError("-o needs a path.")
    try:
        same = target.exists() and target.samefile(original.path)
    except OSError:
        same = False
    if same:
        raise MasaError(f"{target}: is the original, which is never overwritten; give -o another path")
    if original.folder:
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise FormatError(f"{target}: already exists; give -o a new folder")
    elif target.is_dir():
        raise FormatError(f"{target}: is a folder; give -o the path of a file")
    elif not target.absolute().parent.is_dir():
        raise MasaError(f"{target}: the folder {target.absolute().parent} does not exist; create it first")
