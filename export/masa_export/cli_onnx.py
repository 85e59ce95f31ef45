"""`masa export onnx`: a checkpoint as ONNX artifacts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import table, write_json
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
    from masa_export.logits import Likeness
    from masa_export.onnx_export import OnnxExport


@click.command(
    "onnx",
    short_help="A checkpoint as ONNX artifacts.",
    epilog="\b\nExamples:\n"
    "  masa export onnx runs/plan/checkpoint --quant fp32,w8,int8,int4\n"
    "  masa export onnx runs/plan/checkpoint -o models/onnx --name kitchen\n"
    "  masa export onnx runs/qwen/checkpoint --quant int4 --reference Qwen3-0.6B-Q8_0.gguf\n"
    "  masa rewrite bank.json --rewriter runs/plan/checkpoint/onnx/smollm2-135m-plan-onnx-w8",
)
@click.argument("checkpoint", type=click.Path())
@click.option(
    "--quant",
    default="w8",
    show_default=True,
    metavar="TYPE,…",
    help="Each an artifact of its own: fp32; w8, int4 (weights in blocks of 32); int8 (dynamic, activations too).",
)
@artifact_options("onnx")
@click.option(
    "--reference",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="For Hugging Face bases: a GGUF of the model, whose tokenizer in llama.cpp is the reference.",
)
@output_options
def onnx(
    checkpoint: str,
    quant: str,
    output: str | None,
    name: str | None,
    version: str,
    licence: str | None,
    base: str | None,
    reference: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge CHECKPOINT into its base, export it by optimum, and make an artifact of every type.

    tokenizer.json is written from the base's GGUF and compared with llama.cpp's tokenizer, the float32 graph with the
    checkpoint in transformers. An artifact is in its place once it is complete and checked; finished ones are kept when
    the command runs again.
    """
    from masa_export.onnx_export import OnnxSettings, export_onnx
    from masa_export.onnx_quantize import parse_onnx_quantizations

    with watching(quiet or as_json) as watch:
        done = export_onnx(
            Path(checkpoint),
            OnnxSettings(
                quantizations=parse_onnx_quantizations(quant),
                output=None if output is None else Path(output),
                name=name,
                version=version,
                licence=licence,
                base=base,
                reference=None if reference is None else Path(reference),
                force=force,
            ),
            watch,
        )
    if as_json:
        write_json(_json(done))
    elif not quiet:
        click.echo(_report(done))


def _json(done: OnnxExport) -> dict[str, Any]:
    def told(found: Likeness | None) -> dict[str, Any] | None:
        return None if found is None else asdict(found)

    return {
        "artifacts": [
            {
                "quantization": result.quantization,
                "path": str(result.folder),
                "bytes": result.size,
                "kept": result.kept,
                "seconds": result.seconds,
                "likeness": told(result.likeness),
            }
            for result in done.results
        ],
        "base": done.base,
        "licence": done.licence,
        "merged": told(done.merged),
        "tokenizer_texts": done.texts,
        "seconds": done.seconds,
    }


def _report(done: OnnxExport) -> str:
    lines = [] if done.merged is None else [logits_told("Float32 graph", done.merged)]
    if done.texts is not None:
        lines.append(f"The tokenizer reads {done.texts:,} texts as llama.cpp does")
    rows = [
        measured_row(result.quantization, result.size, result.likeness, result.seconds, result.folder, kept=result.kept)
        for result in done.results
    ]
    return under(table(rows, MEASURED, right=(1, 2, 3, 4)), [*lines, *licence_told(done.licence)])
