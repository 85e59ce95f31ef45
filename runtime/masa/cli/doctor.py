"""`masa doctor`: what this machine lacks, and how to put it right."""

from __future__ import annotations

import click

from masa.cli.loading import rewriter_option
from masa.cli.output import clean, count, width, wrap, write_json

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


@click.command(
    "doctor",
    short_help="Check this machine and say how to fix it.",
    epilog="\b\nExamples:\n"
    "  masa doctor\n"
    '  CMAKE_ARGS="$(masa doctor --cmake-args)" pip install ".[llama]"      # in a clone of masa\n'
    "  masa doctor --clear-cache\n"
    "  masa doctor --json",
)
@rewriter_option
@click.option("--cmake-args", is_flag=True, help="Print only the CMAKE_ARGS that suit this CPU.")
@click.option("--clear-cache", is_flag=True, help="Delete all cached rewrites; variants are not touched.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
def command(rewriter: str, cmake_args: bool, clear_cache: bool, as_json: bool) -> None:
    """Check Python, CPU, llama.cpp, weights, folders and extras.

    Without --clear-cache nothing is changed. llama.cpp is tried in a process of its own, so that a build that crashes
    there crashes nothing else. Exit code 1 if rewriting will not work.
    """
    from masa import doctor

    if cmake_args:
        click.echo(doctor.recommended_cmake_args())
        return
    if clear_cache:
        cache = doctor.kept_rewrites()
        removed = cache.clear()
        click.echo(clean(f"{cache.directory}: {count(removed, 'group')} removed"))
        return
    checks = doctor.examine(rewriter=rewriter)
    worst = doctor.worst(checks)
    if as_json:
        write_json(
            {
                "status": worst,
                "checks": [
                    {"name": c.name, "status": c.status, "found": c.found, "advice": c.advice or None} for c in checks
                ],
            }
        )
    else:
        column = max(len(check.name) for check in checks) + 2
        for check in checks:
            mark, colour = _MARKS[check.status]
            lead = f"{mark} {check.name.ljust(column)}"
            text = wrap(check.found, lead, " " * len(lead))
            click.echo(click.style(text[:1], fg=colour, bold=True) + text[1:])
            if check.advice and (check.status != "ok" or not check.name.startswith("extra ")):
                # Never wrapped: it is there to be copied.
                click.echo(click.style(" " * len(lead) + "→ ", fg=colour) + clean(check.advice))
        click.echo("─" * min(width(), 60))
        said = {
            "ok": "This machine is ready.",
            "warn": "This machine works; see the lines with ! above.",
            "fail": "Rewriting will not work here yet; see the lines with ✗ above.",
        }
        click.echo(said[worst])
    if worst == "fail":
        click.get_current_context().exit(1)
