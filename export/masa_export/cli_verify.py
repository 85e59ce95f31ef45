"""`masa export verify`: is an artifact still the rewriter that was trained?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.artifact import find_artifact
from masa.cli.output import clean, duration, size, table, write_json
from masa_export.cli_shared import FILE, base_option, output_options, plain, under, watching

if TYPE_CHECKING:
    from masa_export.verify.report import Report
    from masa_export.verify.run import Check


@click.command(
    "verify",
    short_help="Check that artifacts still are what was trained.",
    epilog="\b\nExamples:\n"
    "  masa export verify smollm2-135m --against runs/plan/checkpoint --prompts datasets/plan\n"
    "  masa export verify runs/plan/checkpoint/gguf/smollm2-135m-plan-q4_0 --against runs/plan/checkpoint -o report\n"
    "  masa export verify models/mine --against ~/hf/my-rewriter --prompts messages.jsonl --limit 100\n"
    "  masa export verify models/mine --against runs/plan/checkpoint --threshold kl=0.05 --threshold memory_mb=500\n"
    "  masa export verify runs/plan/checkpoint/gguf/* --against runs/plan/checkpoint -o report --inside",
)
@click.argument("artifacts", nargs=-1, required=True, metavar="ARTIFACT...")
@click.option(
    "--against",
    required=True,
    metavar="CHECKPOINT",
    type=FILE,
    help="The checkpoint of masa distill, or the Hugging Face folder of a model trained elsewhere.",
)
@click.option(
    "--prompts",
    metavar="FILE",
    type=FILE,
    help="Held-out samples: a data set, or JSON Lines with messages. [default: the shipped example]",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=FILE,
    help="Write verify.json and verify.md here, pass or fail; of several artifacts, summary.md and a folder for each.",
)
@click.option("--inside", is_flag=True, help="Write verify.json and verify.md into each artifact, too.")
@click.option("--limit", type=click.IntRange(1), default=24, show_default=True, help="Most samples, drawn by the seed.")
@click.option("--wrong-cards", type=click.IntRange(0), default=2, show_default=True, help="Wrong cards per sample.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which samples and wrong cards are drawn.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Number format of the checkpoint.",
)
@base_option
@click.option("--bank", metavar="FILE", type=FILE, help="Skill bank to measure speed on. [default: the example]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the artifact. [default: all cores]")
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a threshold, or NAME=off; names as in the report.",
)
@click.option("--resources/--no-resources", default=True, help="Also measure speed and memory. [default: measure]")
@click.option("--dry-run", is_flag=True, help="Show samples and thresholds, without loading a model.")
@output_options
def verify(
    artifacts: tuple[str, ...],
    against: Path,
    output: Path | None,
    inside: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Compare every ARTIFACT with the checkpoint it was made from, as the device will run it.

    Token ids of real text, Unicode and look-alikes of special tokens; the chat template; logits at held-out targets;
    what both write, and whether the guard lets it through; whether right model cards still make targets likelier than
    wrong ones; size, speed and memory here. Thresholds follow from the artifact's quantization. The checkpoint is asked
    once for all artifacts.

    Exits with 1, and names what failed, if anything does.
    """
    from masa_export.errors import ExportError
    from masa_export.verify.report import to_json, write_report, write_summary
    from masa_export.verify.run import Settings, make_checks, verify_all

    folders = _folders(artifacts, output)
    with watching(quiet or as_json) as watch:
        plans = make_checks(artifacts, against, Settings(**options))
        if dry_run:
            if as_json:
                told = [_plan_json(plan) for plan in plans]
                write_json(told[0] if len(told) == 1 else {"dry_run": True, "artifacts": told})
            elif not quiet:
                click.echo("\n".join(map(_plan_text, plans)))
            return
        reports = []
        for plan, folder, report in zip(plans, folders, verify_all(plans, watch), strict=True):
            reports.append(report)
            # Written at once: what was measured outlasts whatever happens to the artifacts that follow.
            places = [] if folder is None else [folder]
            if inside:
                places.append(plan.artifact.path if plan.artifact is not None else find_artifact(plan.subject.artifact))
            written = [write_report(report, place) for place in places]
            if not (quiet or as_json):
                click.echo(_report(report))
                for data, text in written:
                    click.echo(f"Report: {data}, {text}")
    if output is not None and len(reports) > 1:
        summary = write_summary(reports, output)
        if not (quiet or as_json):
            click.echo(f"Summary: {summary}")
    if as_json:
        told = [to_json(report) for report in reports]
        write_json(told[0] if len(told) == 1 else {"passed": all(report.passed for report in reports), "reports": told})
    failed = [report.sentence for report in reports if not report.passed]
    if failed:
        raise ExportError("\n".join(failed))


def _folders(artifacts: tuple[str, ...], output: Path | None) -> list[Path | None]:
    """Where the report of each artifact goes."""
    from masa_export.errors import ExportError

    if output is None or len(artifacts) == 1:
        return [output] * len(artifacts)
    names = [Path(artifact).resolve().name if Path(artifact).is_dir() else artifact for artifact in artifacts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ExportError(f"{twice}: two artifacts of this name would have one report; verify them in two calls")
    return [output / name for name in names]


def _report(report: Report) -> str:
    from masa_export.verify.report import COLUMNS, details, figure_rows
    from masa_export.verify.thresholds import limits_told

    subject = report.subject
    head = clean(
        f"{subject.name} ({subject.kind}, {subject.quantization or 'not quantized'}) against {subject.checkpoint}, "
        f"{subject.chosen} of {subject.available} samples of {subject.samples}; thresholds for "
        f"{limits_told(subject.strictness, report.verdicts)}"
    )
    figures = table(figure_rows(report.verdicts), COLUMNS, right=(1, 2))
    end = f"{'Passes' if report.passed else 'Fails'} after {duration(report.seconds)}"
    return f"{head}\n{under(figures, [*details(report), *report.problems, end])}"


def _plan_json(plan: Check) -> dict[str, Any]:
    return {
        "dry_run": True,
        **plain(plan.subject),
        "thresholds": {**plan.defaults, **plan.given},
        "damage": plan.damage or None,
    }


def _plan_text(plan: Check) -> str:
    subject = plan.subject
    limits = {**plan.defaults, **plan.given}
    told = ", ".join(f"{name}={limit:g}" for name, limit in limits.items() if limit is not None)
    lines = [
        f"Would compare {subject.name} ({subject.kind}, {subject.quantization or 'not quantized'}, "
        f"{size(subject.bytes)}) with {subject.checkpoint} in transformers ({subject.dtype})",
        f"on {subject.chosen} of {subject.available} samples of {subject.samples}, thresholds for "
        f"{subject.strictness}: {told}",
    ]
    if plan.damage:
        lines.append(f"The artifact cannot be loaded: {plan.damage}")
    return clean("\n".join(lines))
