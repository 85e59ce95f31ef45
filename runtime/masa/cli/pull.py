"""`masa pull`: fetch a rewriter or a backbone; the only command that downloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from masa.cli.output import clean, size
from masa.cli.progress import Download

if TYPE_CHECKING:
    from masa.artifact import Artifact


@click.command(
    "pull",
    short_help="Fetch a rewriter or a backbone; the only command that downloads.",
    epilog="\b\nExamples:\n  masa pull smollm2-135m\n  masa pull qwen2.5-coder-0.5b\n  masa pull hf:OWNER/REPO\n"
    "  masa pull hf:OWNER/REPO@v1.0",
)
@click.argument("spec", metavar="NAME|hf:OWNER/REPO[@REVISION]")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds a server may be silent.",
)
@click.option(
    "--form/--no-form",
    default=True,
    help="Write a rewriter anew as what this CPU computes fastest, if onnxruntime is installed.  [default: form]",
)
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
def command(spec: str, timeout: float, form: bool, quiet: bool) -> None:
    """Fetch what a rewriter lacks, a rewriter from the Hugging Face hub, or a backbone's weights; verify checksums.

    Intact files are not fetched again, and an interrupted transfer is continued.
    """
    from masa.artifact import list_artifacts
    from masa.pull import pull, pull_weights
    from masa.weights import list_weights

    progress = Download()
    artifact = None
    shown = None if quiet else progress
    try:
        if spec in list_weights() and spec not in list_artifacts():
            name, weights = spec, pull_weights(spec, progress=shown, timeout=timeout)
        else:
            artifact = pull(spec, progress=shown, timeout=timeout)
            name, weights = f"{artifact.name} {artifact.version}", artifact.weights_path
    finally:
        progress.close()
    if not quiet:
        click.echo(clean(f"{name} is complete: {weights} ({size(weights.stat().st_size)}), verified"))
    if artifact is not None and form:
        _make_form(artifact, quiet)


def _make_form(artifact: Artifact, quiet: bool) -> None:
    """Write the form for this CPU unless it is there; where none can be made the artifact runs as it was shipped."""
    from masa.errors import MasaError
    from masa.extras import pip_install
    from masa.forms.finding import find_form, form_checks, missing_packages

    def tell(text: str) -> None:
        if not quiet:
            click.echo(clean(text), err=True)

    if artifact.kind != "gguf":
        return
    if missing := missing_packages(to_make=True):
        tell(f"it runs as shipped; faster with: {pip_install('onnx')} ({', '.join(missing)} missing)")
        return
    made = find_form(artifact)
    if made is None:
        from masa.forms.making import make_form

        try:
            made = make_form(artifact, tell=lambda step: tell(f"form for this CPU: {step} …"))
        except MasaError as error:
            tell(f"it runs as shipped: {error}")
            return
    last = form_checks(made)[-1]
    tell(f"form for this CPU: {last.form}, KL {last.kl:.4f} from the weights, reads {last.speed:,.0f} tokens/s")
