"""`masa pull`: fetch a rewriter or a backbone; the only command that downloads."""

from __future__ import annotations

import click

from masa.cli.output import clean, size
from masa.cli.progress import Download


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
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
def command(spec: str, timeout: float, quiet: bool) -> None:
    """Fetch what a rewriter lacks, a rewriter from the Hugging Face hub, or a backbone's weights; verify checksums.

    Intact files are not fetched again, and an interrupted transfer is continued.
    """
    from masa.artifact import list_artifacts
    from masa.pull import pull, pull_weights
    from masa.weights import list_weights

    progress = Download()
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
