"""`masa cache`: the finished rewrites that are kept on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from masa.cli.output import clean, count, size, write_json

if TYPE_CHECKING:
    from masa.cache import RewriteCache


def _cache() -> RewriteCache:
    from masa.cache import RewriteCache
    from masa.resources import cache_dir

    return RewriteCache(cache_dir() / "rewrites")


@click.group(
    "cache",
    invoke_without_command=True,
    short_help="Show or clear the cache of finished rewrites.",
    epilog='\b\nExamples:\n  masa cache\n  masa cache clear\n  du -sh "$(masa cache path)"',
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Show or clear the cache of finished rewrites (`masa cache` alone shows it)."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(stats)


@command.command(epilog="\b\nExample:\n  masa cache stats --json")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
def stats(as_json: bool = False) -> None:
    """Where the cache is and how much is in it."""
    found = _cache().stats()
    if as_json:
        write_json(
            {
                "directory": str(found.directory),
                "entries": found.entries,
                "bytes": found.size,
                "max_bytes": found.max_bytes,
            }
        )
    else:
        click.echo(
            clean(f"{found.directory}: {count(found.entries, 'group')}, {size(found.size)} of {size(found.max_bytes)}")
        )


@command.command(epilog="\b\nExample:\n  masa cache clear")
def clear() -> None:
    """Remove every entry; rewrites are then made anew. Variants are not touched."""
    cache = _cache()
    removed = cache.clear()
    click.echo(clean(f"{cache.directory}: {count(removed, 'group')} removed"))


@command.command(epilog="\b\nExample:\n  masa cache path")
def path() -> None:
    """Print the cache's folder."""
    click.echo(str(_cache().directory))
