"""`masa mcp`: skills and tools for agents, over the Model Context Protocol."""

from __future__ import annotations

from pathlib import Path

import click

from masa.cli.loading import complete_backbone, facts_option, read_facts, resolve_card, rewriter_option
from masa.cli.output import clean
from masa.errors import MasaError


@click.command(
    "mcp",
    short_help="Serve skills, adapted to their reader, to agents over MCP.",
    epilog="\b\nExamples:\n"
    "  masa mcp examples/skills --backbone examples/card.yaml\n"
    "  masa mcp ~/.claude/skills --backbone qwen2.5-coder-1.5b --http 8765\n"
    "  claude mcp add skills -- masa mcp ~/my-skills --backbone Qwen3-4B\n\n"
    "Needs the extra mcp. Writes nothing but masa's cache of rewrites; with --no-cache nothing at all.",
)
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="MODEL",
    help="The model that reads the skills, as for masa rewrite. Repeatable: clients may name each, the first is meant "
    "where they name none. Without it clients get the skills as they are unless they name a shipped card.",
    shell_complete=complete_backbone,
)
@click.option("--card", metavar="FILE", help="A card of yours for the first backbone; its values win.")
@click.option("--api-key-env", metavar="VARIABLE", help="The environment variable with the server's key.")
@facts_option
@rewriter_option
@click.option(
    "--http",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve over streamable HTTP on 127.0.0.1, 0 for a free port. [default: stdio]",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [default: all cores]")
@click.option("--no-cache", is_flag=True, help="Neither read nor keep finished rewrites.")
def command(
    folders: tuple[str, ...],
    backbones: tuple[str, ...],
    card: str | None,
    api_key_env: str | None,
    facts: str | None,
    rewriter: str,
    http: int | None,
    threads: int | None,
    no_cache: bool,
) -> None:
    """Serve the skills in FOLDER to agents, each rewritten for the model that reads it.

    Tools: list, adapt, select, inspect, card. Skills also come by the extension io.modelcontextprotocol/skills, as
    skill://NAME/SKILL.md or, for a model that the client names, skill://model=MODEL/NAME/SKILL.md.
    """
    from masa.mcp_server import serve_http, serve_stdio
    from masa.rewriter import Rewriter
    from masa.served_skills import Library

    cards = {
        spec: resolve_card(spec, None, card if number == 0 else None, api_key_env)
        for number, spec in enumerate(backbones)
    }
    if card is not None and not backbones:
        raise click.UsageError("--card goes with --backbone.")
    known = read_facts(facts)
    try:
        loaded = Rewriter.load(rewriter, threads=threads, cache=not no_cache)
    except MasaError:
        if backbones:  # without one, what clients get needs no rewriter until they name a model
            raise
        loaded = None
    library = Library([Path(folder).expanduser() for folder in folders], cards, loaded, known)
    try:
        library.shelf()  # a mistake in the folders is told now
        if http is None:
            serve_stdio(library)
        else:
            serve_http(library, http, lambda url: click.echo(clean(f"Serving on {url}"), err=True))
    finally:
        if loaded is not None:
            loaded.close()
