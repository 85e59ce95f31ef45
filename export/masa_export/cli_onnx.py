"""`masa export onnx`: a checkpoint as ONNX artifacts."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, duration, size, table, write_json
from masa.cli.progress import interrupt_line, show_line

if TYPE_CHECKING:
    from masa_export.likeness import Likeness
    from masa_export.onnx_export import OnnxExport, OnnxResult


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
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(), help="Where the artifacts go. [default: CHECKPOINT/onnx]"
)
@click.option("--name", metavar="NAME", help="What their names begin with. [default: base and language]")
@click.option("--version", default="0.1.0", show_default=True, metavar="TEXT", help="Version in the manifests.")
@click.option("--licence", metavar="TEXT", help="Licence in the manifests. [default: the base's, where it tells]")
@click.option(
    "--base", metavar="MODEL", help="The base, where it is not where it was trained: GGUF, folder or rewriter."
)
@click.option(
    "--reference",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="For Hugging Face bases: a GGUF of the model, whose tokenizer in llama.cpp is the reference.",
)
@click.option("--force", is_flag=True, help="Make again, and replace, what is there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only.")
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
    from masa_export.gguf_export import Watch
    from masa_export.onnx_export import OnnxSettings, export_onnx
    from masa_export.onnx_quantize import parse_onnx_quantizations

    def stage(text: str) -> None:
        if quiet or as_json:
            return
        if sys.stderr.isatty():
            show_line(text)
        else:
            click.echo(clean(text), err=True)

    try:
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
            Watch(stage),
        )
    finally:
        interrupt_line()
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
    from masa_export.base import UNKNOWN_LICENCE

    head = ("type", "size", "KL", "same best", "time", "artifact")
    lines = [table([_row(result) for result in done.results], head, right=(1, 2, 3, 4))]
    if done.merged is not None:
        found = done.merged
        lines.append(
            f"Float32 graph against the checkpoint in transformers, logits: {found.error:.2g} (rms), "
            f"{found.difference:.2g} at most; same best token at {100 * found.equal:.0f} % of {found.positions} "
            "positions"
        )
    if done.texts is not None:
        lines.append(f"The tokenizer reads {done.texts:,} texts as llama.cpp does")
    if done.licence == UNKNOWN_LICENCE:
        lines.append("The base tells no licence, so the manifests say unknown; give it with --licence")
    return "\n".join([lines[0], *map(clean, lines[1:])])  # a table is clean, and bold


def _row(result: OnnxResult) -> tuple[str, ...]:
    found = result.likeness
    return (
        result.quantization,
        size(result.size),
        "" if found is None else f"{found.divergence:.2g}",
        "" if found is None else f"{100 * found.equal:.0f} %",
        "" if result.seconds is None else duration(result.seconds),
        f"{result.folder}{' (kept)' if result.kept else ''}",
    )
