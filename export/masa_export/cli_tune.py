"""`masa export tune`: which of these artifacts is the best on this device?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import size, table, write_json
from masa_export.cli_shared import FILE, plain, under, watching

if TYPE_CHECKING:
    from masa_export.tune import Choice, Variant


@click.command(
    "tune",
    short_help="Measure artifacts on this device and name the best.",
    epilog="\b\nExamples:\n"
    "  masa export tune runs/plan/checkpoint/gguf\n"
    "  masa export tune runs/plan/checkpoint/gguf smollm2-135m --max-size 110 --max-memory 400\n"
    "  masa export tune runs/plan/checkpoint/gguf --max-latency 5 --by likeness\n"
    "  masa export tune models/a models/b --bank mine.json --runs 5 --json",
)
@click.argument("artifacts", nargs=-1, required=True)
@click.option("--max-size", type=click.FloatRange(0, min_open=True), metavar="MB", help="Most megabytes of files.")
@click.option("--max-memory", type=click.FloatRange(0, min_open=True), metavar="MB", help="Most megabytes of memory.")
@click.option(
    "--max-latency", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Most seconds for the bank."
)
@click.option(
    "--by",
    type=click.Choice(["speed", "memory", "size", "likeness"]),
    default="speed",
    show_default=True,
    help="What to choose by; likeness is the KL of the report in the artifact's folder.",
)
@click.option("--bank", metavar="FILE", type=FILE, help="The bank to rewrite. [default: the shipped example]")
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Measurements of each.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; only the best one's folder.")
def tune(
    artifacts: tuple[str, ...],
    max_size: float | None,
    max_memory: float | None,
    max_latency: float | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Rewrite a bank with each of ARTIFACTS here, and name the best one within the limits.

    A folder that holds artifacts stands for all of them. Each is measured in fresh processes, in turn. An artifact
    that failed its verification (a report that masa export verify wrote into its folder) is never the best.

    Exits with 1 if none is within the limits.
    """
    from masa_export.errors import ExportError
    from masa_export.tune import Limits
    from masa_export.tune import tune as run

    with watching(quiet or as_json) as watch:
        watch.stage("Measuring …")
        limits = Limits(max_size and max_size * 1e6, max_memory and max_memory * 1e6, max_latency)
        choice = run(
            artifacts,
            limits,
            step=lambda name, done, total: watch.step(f"Measuring {name}", done, total),
            **options,
        )
    if as_json:
        best = None if choice.best is None else str(choice.best.path)
        told = [{**plain(variant), "fits": variant.fits} for variant in choice.variants]
        write_json({"by": options["by"], "best": best, "artifacts": told})
    elif quiet and choice.best is not None:
        click.echo(choice.best.path)
    elif not quiet:
        click.echo(_report(choice, options["by"]))
    if choice.best is None:
        raise ExportError(_none(choice))


def _report(choice: Choice, by: str) -> str:
    from masa_export.tune import ORDERS

    head = ("artifact", "type", "size", "memory", "load", "read", "write", "first", "bank", "KL", "")
    lines: list[str] = []
    loads = [v.resources.load_average for v in choice.variants if v.resources is not None and v.resources.load_average]
    if loads:
        lines.append(f"Load average up to {max(loads):g} while measuring; read and write are tokens/s")
    if choice.best is not None:
        fitting = sum(variant.fits for variant in choice.variants)
        lines.append(f"The {ORDERS[by]} of {fitting} that fit: {choice.best.path}")
        if choice.best.report is None:
            lines.append("It was not verified (masa export verify), so nothing is known of what it writes")
    return under(table([_row(variant) for variant in choice.variants], head, right=tuple(range(2, 10))), lines)


def _row(variant: Variant) -> tuple[str, ...]:
    found = variant.resources
    quantization = f"{variant.kind} {variant.quantization or ''}".strip()
    if found is None:
        return (variant.name, quantization, *[""] * 8, variant.problem)
    report = variant.report
    word = "; ".join(variant.exceeded)
    if report is not None and not report.passed:
        word = "; ".join(filter(None, (word, "failed its verification")))
    return (
        variant.name,
        quantization,
        size(found.bytes),
        size(found.memory),
        f"{found.load_seconds:.2f} s",
        f"{found.prompt_speed:.0f}",
        f"{found.decode_speed:.0f}",
        f"{found.first_seconds:.1f} s",
        f"{found.bank_seconds:.1f} s",
        "" if report is None or report.divergence is None else f"{report.divergence:.2g}",
        word,
    )


def _none(choice: Choice) -> str:
    variants = choice.variants
    for variant in variants:
        if variant.exceeded:
            reason = f"{variant.name}: {'; '.join(variant.exceeded)}"
            return f"none of {len(variants)} artifacts fits ({reason}); raise a limit, or export a smaller type"
    reason = variants[0].problem or f"{variants[0].name} failed its verification"
    return f"none of {len(variants)} artifacts can be chosen: {reason}"
