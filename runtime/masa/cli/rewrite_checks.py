"""What `masa rewrite` refuses at once, before any work is done."""

from __future__ import annotations

from pathlib import Path

import click

from masa.cli.loading import BankFile
from masa.errors import FormatError, MasaError

STDOUT = "-"


def check_output(original: BankFile, output: str | None, as_json: bool) -> None:
    """Refuse an output that is the original, or that could only fail after the work."""
    if output is None:
        return
    if output == STDOUT:
        if as_json:
            raise click.UsageError("-o - and --json both want stdout; give -o a file.")
        if original.folder:
            raise click.UsageError("a SKILL.md folder cannot go to stdout; give -o a new folder.")
        return
    target = Path(output)
    if not output:
        raise click.UsageError("-o needs a path.")
    try:
        same = target.exists() and target.samefile(original.path)
    except OSError:
        same = False
    if same:
        raise MasaError(f"{target}: is the original, which is never overwritten; give -o another path")
    if original.folder:
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise FormatError(f"{target}: already exists; give -o a new folder")
    elif target.is_dir():
        raise FormatError(f"{target}: is a folder; give -o the path of a file")
    elif not target.absolute().parent.is_dir():
        raise MasaError(f"{target}: the folder {target.absolute().parent} does not exist; create it first")
