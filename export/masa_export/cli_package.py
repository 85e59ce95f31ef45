"""`masa export package`: a folder to publish, and its way to the Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import count, size, table, write_json
from masa_export.cli_shared import FILE, output_options, under, watching

if TYPE_CHECKING:
    from masa_export.publish.folder import Package


@click.command(
    "package",
    short_help="Make a folder to publish, and push it to the Hub.",
    epilog="\b\nExamples:\n"
    "  masa export package runs/plan/checkpoint/gguf/smollm2-135m-plan-q8_0 -o smollm2-135m-plan\n"
    "  masa export package models/mine -o out --base-model HuggingFaceTB/SmolLM2-135M-Instruct\n"
    "  masa export package models/mine -o out --push me/mine\n"
    "  masa export package models/mine -o out --dry-run",
)
@click.argument("artifact")
@click.option("-o", "--output", required=True, metavar="DIR", type=FILE, help="The folder that is written.")
@click.option("--push", metavar="OWNER/NAME", help="Also upload it to this repository of the Hugging Face Hub.")
@click.option("--private", is_flag=True, help="With --push: create the repository as private.")
@click.option("--base-model", metavar="OWNER/NAME", help="The base on the Hub. [default: the manifest's, if it is one]")
@click.option("--force", is_flag=True, help="Replace an existing package.")
@click.option("--dry-run", is_flag=True, help="Say what would be written and pushed, without doing it.")
@output_options
def package(
    artifact: str,
    output: Path,
    push: str | None,
    private: bool,
    base_model: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a folder of ARTIFACT that can be published as it is.

    It holds the artifact's files and manifest, the parity report, checksums, a model card (README.md) for the Hugging
    Face Hub, and for GGUF a Modelfile for Ollama. Nothing is packaged without a report of exactly these files that
    passed: masa export verify ARTIFACT --against CHECKPOINT -o ARTIFACT.

    --push needs a token that may write, in the variable HF_TOKEN or from hf auth login. masa pull hf:OWNER/NAME
    fetches what was pushed to a public repository.
    """
    from masa_export.publish.folder import plan_package, write_package
    from masa_export.publish.hub import find_hub
    from masa_export.publish.hub import push as upload

    if private and push is None:
        raise click.UsageError("--private goes with --push")
    silent = quiet or as_json
    hub = None if push is None else find_hub(push)
    commit = None
    with watching(silent) as watch:
        watch.stage("Checking files and report …")
        made = plan_package(artifact, output, repository=push, base_model=base_model, force=force)
        if not dry_run:
            write_package(made, watch)
            if hub is not None:
                watch.stage(f"Uploading {size(made.size)} to {hub.url} …")
                commit = upload(made, hub, private=private, bars=not silent and sys.stderr.isatty())
    if as_json:
        write_json(_json(made, push, commit, dry_run))
    elif not quiet:
        click.echo(_report(made, push, commit, private, dry_run))


def _json(made: Package, repository: str | None, commit: str | None, dry_run: bool) -> dict[str, Any]:
    from masa_export.publish.model_card import base_model_relation

    found: dict[str, Any] = {
        "folder": str(made.folder),
        "name": made.artifact.name,
        "kind": made.artifact.kind,
        "base_model": made.base_model,
        "base_model_relation": base_model_relation(made.artifact),
        "licence": made.artifact.licence,
        "bytes": made.size,
        "files": dict(sorted(_sizes(made).items())),
        "kept": made.kept,
        "repository": repository,
        "commit": commit,
    }
    return {"dry_run": True, **found} if dry_run else found


def _sizes(made: Package) -> dict[str, int]:
    files = {name: entry.size for name, entry in made.files.items()}
    return {**files, **{name: len(data) for name, data in made.texts.items()}}


def _report(made: Package, repository: str | None, commit: str | None, private: bool, dry_run: bool) -> str:
    from masa_export.source import UNKNOWN_LICENCE

    sizes = _sizes(made)
    did = "Would write" if dry_run else "Kept, it was there already:" if made.kept else "Wrote"
    lines = [f"{did} {made.folder}: {count(len(sizes), 'file')}, {size(made.size)}"]
    if dry_run and repository is not None:
        lines.append(f"Would push it to {repository}")
    elif commit is not None:
        lines.append(f"Pushed: {commit}")
    elif not dry_run:
        lines.append(f"Try it: masa rewrite BANK --backbone MODEL --rewriter {made.folder}")
    if private and repository is not None:
        lines.append("masa pull fetches from public repositories only")
    if made.base_model is None:
        lines.append(
            f"The base {made.artifact.base_model} is no id of the Hub, so the model card links none (--base-model)"
        )
    if made.artifact.licence == UNKNOWN_LICENCE:
        lines.append("Its licence is unknown: export it again with --licence before you publish it")
    return under(table([(name, size(sizes[name])) for name in sorted(sizes)], ("file", "size"), right=(1,)), lines)
