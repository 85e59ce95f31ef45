"""Sub-commands that other packages bring: those of training and export, where they are installed.

A package offers `commands` in its module `cli`: a mapping from name to click command. That module must
import without the package's extra, so that the commands are listed; what is missing is told when one is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import click

from masa.errors import MissingExtraError

# Module that offers `commands` -> the extra that its package needs.
PLUGINS: Mapping[str, str] = {"masa_training.cli": "training", "masa_export.cli": "export"}


@cache
def commands() -> Mapping[str, click.Command]:
    """Every sub-command of the packages that are there, by name."""
    return {name: command for found, _ in _load() for name, command in found.items()}


def problems() -> tuple[str, ...]:
    """Why commands of a package that is there cannot be listed, a sentence each."""
    return tuple(sentence for _, sentence in _load() if sentence)


def missing(error: ModuleNotFoundError, ctx: click.Context) -> str | None:
    """The sentence for a dependency that a plugin's command could not import; None if it was none of theirs."""
    name = ctx.invoked_subcommand
    command = commands().get(name or "")
    module = getattr(command, "callback", None)
    package = (getattr(module, "__module__", "") or "").split(".")[0]
    for plugin, extra in PLUGINS.items():
        if plugin.split(".")[0] == package or (error.name or "").split(".")[0] == plugin.split(".")[0]:
            return str(MissingExtraError(f"masa {name}", extra))
    return None


@cache
def _load() -> tuple[tuple[Mapping[str, click.Command], str], ...]:
    found: list[tuple[Mapping[str, click.Command], str]] = []
    for module, extra in PLUGINS.items():
        try:
            if find_spec(module) is None:
                continue
            found.append((dict(import_module(module).commands), ""))
        except ModuleNotFoundError as error:
            package = module.split(".")[0]
            if error.name != package:  # the package itself may well be absent
                found.append(({}, str(MissingExtraError(f"the commands of {package}", extra))))
    return tuple(found)


def forget() -> None:
    """Look again next time; for tests."""
    commands.cache_clear()
    _load.cache_clear()
