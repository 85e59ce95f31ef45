"""The root of the command: its sub-commands, what becomes of an error, and where the exit codes come from.

Exit codes: 0 done, 1 an error that a person can put right, 2 wrong usage, 70 a bug of masa, 130 cancelled.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import click

from masa import __version__
from masa.cli.output import clean
from masa.errors import MasaError, MissingExtraError, near_misses

CANCELLED = 130
BUG = 70
DEBUG_VARIABLE = "MASA_DEBUG"

# By group of `masa --help` and name of the sub-command the module that defines a click command `command`. A module must
# import without its package's extra, so that every command is listed; what is missing is told when one is run.
_GROUPS: Mapping[str, Mapping[str, str]] = {
    "On the device": {
        "adapt": "masa.cli.adapt",
        "rewrite": "masa.cli.rewrite",
        "card": "masa.cli.card",
        "inspect": "masa.cli.inspection",
        "check": "masa.cli.check",
        "mcp": "masa.cli.mcp",
        "pull": "masa.cli.pull",
        "doctor": "masa.cli.doctor",
    },
    "Training": {
        "env": "masa_training.commands.env",
        "evaluate": "masa_training.commands.evaluate",
        "profile": "masa_training.commands.profile",
        "evolve": "masa_training.commands.evolve",
        "distill": "masa_training.commands.distill",
        "pipeline": "masa_training.commands.pipeline",
    },
    "Export": {"export": "masa_export.cli"},
}
_UNLISTED = {"completion": "masa.cli.completion"}
_PARTS = {"inspect select": "masa.cli.selection", "distill dataset": "masa_training.commands.dataset"}
_LISTED = {name: module for group in _GROUPS.values() for name, module in group.items()}
_MODULES = _LISTED | _PARTS | _UNLISTED
_EXTRAS = {"masa_training": "training", "masa_export": "export"}


class BugError(click.ClickException):
    """An exception that nobody raised on purpose."""

    exit_code = BUG


class Root(click.Group):
    """Loads a sub-command when it is needed, and turns every error into one sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_LISTED)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        command: click.Command = import_module(_MODULES[cmd_name]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group, names in _GROUPS.items():
            with formatter.section(group):
                found = [(name, self.get_command(ctx, name)) for name in names]
                formatter.write_dl([(name, command.get_short_help_str(90)) for name, command in found if command])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        for two in _PARTS:
            # Scripts may still say the last word alone, as these commands were once called.
            for words in (two.split(), two.split()[1:]):
                if args[: len(words)] == words:
                    return two, self.get_command(ctx, two), args[len(words) :]
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = near_misses(args[0], _LISTED)
            hint = f"\nDid you mean {near[0]}?" if near else ""
            raise click.UsageError(error.message + hint, ctx) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        # llama.cpp's threads wait for each other by spinning; where another program wants a core, that costs ten
        # times the work itself (measured on two busy cores: 3 instead of 39 tokens/s). The process is ours here.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        for stream in (sys.stdout, sys.stderr):
            # A terminal that is not UTF-8, or half a surrogate pair in a bank, must not end in a traceback.
            reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="replace")
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        handler = _log_to_stderr()
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (KeyboardInterrupt, click.Abort):
            click.echo("\nCancelled.", err=True)
            ctx.exit(CANCELLED)
        except MasaError as error:
            raise click.ClickException(clean(str(error))) from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            if isinstance(error, PermissionError) and error.filename:
                message = f"{error.filename}: cannot be read or written ({error.strerror}); check its permissions"
                raise click.ClickException(clean(message)) from error
            extra = _EXTRAS.get(_MODULES.get(ctx.invoked_subcommand or "", "").split(".")[0])
            if extra and isinstance(error, ModuleNotFoundError):
                raise click.ClickException(str(MissingExtraError(f"masa {ctx.invoked_subcommand}", extra))) from error
            if os.environ.get(DEBUG_VARIABLE):
                raise
            raise BugError(
                clean(f"{type(error).__name__}: {error}".strip().splitlines()[0])
                + f"\nThis is a bug of masa {__version__}; set {DEBUG_VARIABLE}=1 for the traceback."
            ) from error
        finally:
            logging.getLogger("masa").removeHandler(handler)


class _StderrHandler(logging.Handler):
    """Log records as lines on stderr, for as long as one command runs."""

    def emit(self, record: logging.LogRecord) -> None:
        from masa.cli.progress import interrupt_line

        interrupt_line()
        click.echo(f"{record.levelname.capitalize()}: {clean(record.getMessage())}", err=True)


def _log_to_stderr() -> logging.Handler:
    handler = _StderrHandler(logging.DEBUG if os.environ.get(DEBUG_VARIABLE) else logging.WARNING)
    logger = logging.getLogger("masa")
    logger.addHandler(handler)
    if os.environ.get(DEBUG_VARIABLE):
        logger.setLevel(logging.DEBUG)
    return handler


@click.group(
    cls=Root,
    name="masa",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExamples:\n  masa rewrite examples/skills --backbone examples/card.yaml\n"
    "  masa card Qwen3-4B --explain\n  masa doctor",
)
@click.version_option(__version__, prog_name="masa")
def root() -> None:
    """Rewrite an agent's skills for the language model that will read them, on this device."""


def main() -> None:
    """Entry point of the command `masa`."""
    root.main(prog_name="masa")
