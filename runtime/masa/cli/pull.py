"""`masa pull`: fetch a rewriter; the only command that downloads."""

from __future__ import annotations

import click

from masa.cli.output import clean, size
from masa.cli.progress import Download


@click.command(
    "pull",
    short_help="Fetch a rewriter; the only command that downloads.",
    epilog="\b\nExamples:\n  masa pull smollm2-135m\n  masa pull hf:OWNER/REPO\n  masa pull hf:OWNER/REPO@v1.0",
)
@click.argument("spec", metavar="NAME|hf:OWNER/REPO[@REVISION]")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="For how long a server may be silent.",
)
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
def command(spec: str, timeout: float, quiet: bool) -> None:
    """Fetch what a rewriter lacks, or a rewriter from the Hugging Face hub, and verify its checksums.

    What is here and intact is not fetched again, and a transfer that broke off is continued.
    """
    from masa.pull import pull

    progress = Download()
    try:
        artifact = pull(spec, progress=None if quiet else progress, timeout=timeout)
    finally:
        progress.close()
    if not quiet:
        weights = artifact.weights_path
        click.echo(
            clean(
                f"{artifact.name} {artifact.version} is complete: {weights} ({size(weights.stat().st_size)}), verified"
            )
        )
