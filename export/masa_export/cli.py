"""`masa export`: what a checkpoint becomes on the device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, size, write_json
from masa_export.cli_artifacts import gguf, onnx
from masa_export.cli_package import package
from masa_export.cli_shared import FILE, base_option, output_options, plain, watching
from masa_export.cli_tune import tune
from masa_export.cli_verify import verify

if TYPE_CHECKING:
    from masa_export.adapter_export import Exported
    from masa_export.logit_check import Parity
    from masa_export.logits import Likeness


@click.group(
    "export",
    short_help="Prepare a trained rewriter for the device.",
    epilog="\b\nExamples:\n"
    "  masa export checkpoint smollm2-135m -o runs/shipped       # a checkpoint to try the others with\n"
    "  masa export gguf runs/shipped --quant Q8_0\n"
    "  masa export verify smollm2-135m --against runs/shipped",
)
def command() -> None:
    """Turn a checkpoint of `masa distill` into what `masa rewrite` loads, and prove it equal."""


@command.command(
    "adapter",
    short_help="A LoRA checkpoint as a GGUF adapter.",
    epilog="\b\nExamples:\n"
    "  masa export adapter runs/plan/checkpoint\n"
    "  masa export adapter runs/plan/checkpoint -o adapter.gguf --type q8_0\n"
    "  masa export adapter runs/plan/checkpoint --artifact models/rewriters/smollm2-135m --force\n"
    "  masa export adapter runs/plan/checkpoint --artifact mine          # a new artifact\n"
    "  masa export adapter runs/qwen --base Qwen3-4B-F16.gguf --no-verify",
)
@click.argument("checkpoint", type=FILE)
@click.option(
    "-o", "--output", metavar="FILE", type=FILE, help="The adapter's file. [default: CHECKPOINT/adapter.gguf]"
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["f16", "f32", "q8_0"]),
    default="f16",
    show_default=True,
    help="Number format of the adapter.",
)
@click.option(
    "--artifact",
    metavar="DIR",
    type=FILE,
    help="Put it into this artifact, and only there unless -o is given; a missing one is made around the base.",
)
@base_option
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Compare llama.cpp's logits with the merged checkpoint's. [default: if a GGUF of the base is available]",
)
@click.option("--force", is_flag=True, help="Replace an existing adapter.")
@output_options
def adapter(checkpoint: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Write the LoRA of CHECKPOINT as an adapter for llama.cpp.

    Before the file is put in its place it is loaded by llama.cpp on the base, and the logits of sample prompts are
    compared with those of the checkpoint merged in float32: once on the base converted to F32, where they must be
    equal up to rounding, and once on the base as it is. --no-verify needs neither torch nor llama.cpp.
    """
    from masa_export.adapter_export import export_adapter

    with watching(quiet or as_json) as watch:
        exported = export_adapter(checkpoint, **options, tell=watch.stage)
    if as_json:
        write_json({"adapter": str(exported.paths[0]), **plain(exported)})
    elif not quiet:
        click.echo(_report(exported))


def _report(exported: Exported) -> str:
    lines = [
        f"{path} ({size(exported.bytes)}, {exported.type}, rank {exported.rank}, {exported.layers} layers)"
        for path in exported.paths
    ]
    if exported.f16_tensors:
        lines.append(
            f"{exported.f16_tensors} of {2 * exported.layers} tensors are f16: Q8_0 needs rows of a multiple of 32"
        )
    if exported.parity is None:
        lines.append(f"Not compared with the checkpoint: {exported.unproven}")
    else:
        lines += _parity(exported.parity)
    return clean("\n".join(lines))


def _parity(parity: Parity) -> list[str]:
    def figures(found: Likeness) -> str:
        return (
            f"difference {found.error:.2g} (rms), {found.difference:.2g} at most; "
            f"same best token at {100 * found.equal:.0f} % of {parity.positions} positions"
        )

    return [
        "llama.cpp against the merged checkpoint, logits:",
        f"  base as F32:   {figures(parity.exact)}",
        f"  base as it is: {figures(parity.device)}",
        f"  (the adapter changes logits by {parity.effect:.2g} rms; "
        f"quantization those of the base alone by {parity.untouched.error:.2g})",
    ]


@command.command(
    "checkpoint",
    short_help="Turn an artifact's adapter back into a checkpoint.",
    epilog="\b\nExamples:\n"
    "  masa export checkpoint smollm2-135m -o runs/shipped\n"
    "  masa export gguf runs/shipped --quant Q8_0               # another form of a rewriter that ships\n"
    "  masa export verify smollm2-135m --against runs/shipped\n"
    "  masa distill smollm2-135m-plan --dataset data/plan -o runs/more --set start=runs/shipped",
)
@click.argument("artifact")
@click.option("-o", "--output", metavar="DIR", required=True, type=FILE, help="The checkpoint's folder.")
@click.option("--force", is_flag=True, help="Replace an existing checkpoint.")
@output_options
def checkpoint(artifact: str, output: Path, force: bool, as_json: bool, quiet: bool) -> None:
    """Write the LoRA checkpoint that the adapter of ARTIFACT was exported from: `masa export adapter` undone.

    For whoever has the artifact and not the run that trained it. Exact up to how the adapter stores its numbers (f16:
    11 bits of each). ARTIFACT is a folder or the name of a rewriter that is here.
    """
    from masa_export.restore import restore_checkpoint

    restored = restore_checkpoint(artifact, output, force=force)
    if as_json:
        write_json(plain(restored))
    elif not quiet:
        click.echo(
            clean(f"{restored.path} (rank {restored.rank}, {restored.layers} layers, stored as {restored.kind} before)")
        )


@command.command("check", hidden=True)
@click.argument("setting", type=click.Choice(["converter", "quantization", "threshold"]))
@click.argument("values", nargs=-1)
def check(setting: str, values: tuple[str, ...]) -> None:
    """Whether later exports will take this SETTING; for masa pipeline, which asks before anything is trained."""
    if setting == "converter":
        from masa_export.converter import find_converter

        find_converter(values[0] if values else None)
    elif setting == "quantization":
        from masa_export.quantizer import parse_quantizations

        click.echo(",".join(parse_quantizations(values[0], importance=False)))
    else:
        from masa_export.verify.thresholds import parse_thresholds

        parse_thresholds(values)


for _command in (gguf, onnx, verify, tune, package):
    command.add_command(_command)
