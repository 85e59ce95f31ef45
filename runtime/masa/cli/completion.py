"""`masa completion`: the script that makes a shell complete masa's commands."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    short_help="Print the script for shell completion.",
    epilog="\b\nExamples:\n"
    '  eval "$(masa completion bash)"                       # in ~/.bashrc\n'
    '  eval "$(masa completion zsh)"                        # in ~/.zshrc\n'
    "  masa completion fish > ~/.config/fish/completions/masa.fish",
)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion script for SHELL."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    assert found is not None
    # The template itself: `source()` of bash starts a bash to ask its version.
    complete = found(root, {}, "masa", "_MASA_COMPLETE")
    click.echo(complete.source_template % complete.source_vars())
