"""`masa inspect select`: the few skills that an agent should read now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from masa.cli.loading import bank_argument, complete_group, load_bank_file, strict_option, tell_problems
from masa.cli.output import clean, write_json
from masa.errors import MasaError

if TYPE_CHECKING:
    from masa.embedders import LlamaEmbedder, ServerEmbedder
    from masa.retrieval import Method
    from masa.skills import Skill


@click.command(
    "select",
    short_help="Select the skills that an agent should read now.",
    epilog="\b\nExamples:\n"
    '  masa inspect select examples/banks/household.json --query "put a clean mug on the desk"\n'
    "  masa inspect select examples/banks/household.json --task-type clean --general 3 --specific 2\n"
    '  masa inspect select bank.json --query "warm the soup" --embedder minilm.gguf\n'
    '  masa inspect select bank.json --query "warm the soup" --embedder http://localhost:8080#bge-small --json',
)
@bank_argument
@click.option("--query", default="", metavar="TEXT", help="The task, in the user's words.")
@click.option(
    "--task-type",
    metavar="TYPE",
    help="Task type; otherwise the one that fits the query best.",
    shell_complete=complete_group,
)
@click.option(
    "--method",
    type=click.Choice(["task-type", "bm25", "embedding"]),
    help="How to rank. [default: embedding with --embedder, bm25 with --query, else bank order]",
)
@click.option(
    "--general", type=click.IntRange(min=0), default=6, show_default=True, metavar="N", help="Most general skills."
)
@click.option(
    "--specific",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="N",
    help="Most task-specific skills.",
)
@click.option(
    "--embedder", metavar="MODEL", help="A GGUF embedding model, or an OpenAI-compatible server as URL#MODEL."
)
@click.option("--api-key-env", metavar="VARIABLE", help="The environment variable with the server's key.")
@strict_option
@click.option("--mistakes", is_flag=True, help="Add the bank's common mistakes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
def command(
    bank: str,
    query: str,
    task_type: str | None,
    method: Method | None,
    general: int,
    specific: int,
    embedder: str | None,
    api_key_env: str | None,
    strict: bool,
    mistakes: bool,
    as_json: bool,
) -> None:
    """Print the skills of BANK that fit a task, as Markdown for an agent's prompt."""
    from masa.retrieval import render, select

    if embedder is not None and method not in (None, "embedding"):
        raise click.UsageError(f"--embedder goes with --method embedding, not {method}.")
    if method == "embedding" and embedder is None:
        raise click.UsageError("--method embedding needs --embedder.")
    found = load_bank_file(bank, strict=strict).bank
    tell_problems(found)
    model = _embedder(embedder, api_key_env) if embedder is not None else None
    try:
        selection = select(
            found,
            query,
            task_type=task_type,
            general=general,
            specific=specific,
            method=method,
            embedder=model,
        )
    finally:
        if model is not None:
            model.close()
    if as_json:
        write_json(
            {
                "task_type": selection.task_type,
                "picked": selection.picked,
                "method": selection.method,
                "general": [_plain(skill) for skill in selection.general],
                "specific": [_plain(skill) for skill in selection.specific],
            }
        )
        return
    text = render(selection, common_mistakes=found.common_mistakes if mistakes else ())
    click.echo(clean(text), nl=False)
    if selection.task_type is None and found.task_specific:
        known = ", ".join(found.task_specific)
        click.echo(clean(f"No task type fits the query; --task-type takes one of: {known}"), err=True)


def _embedder(spec: str, api_key_env: str | None) -> LlamaEmbedder | ServerEmbedder:
    from masa.embedders import LlamaEmbedder, ServerEmbedder

    if spec.lower().startswith(("http://", "https://")):
        url, _, model = spec.partition("#")
        if not model:
            raise MasaError(f"{spec}: names no model; write the server as URL#MODEL")
        return ServerEmbedder(url, model, api_key_env=api_key_env)
    return LlamaEmbedder(Path(spec))


def _plain(skill: Skill) -> dict[str, str]:
    return {
        "skill_id": skill.skill_id,
        "title": skill.title,
        "principle": skill.principle,
        "when_to_apply": skill.when_to_apply,
    }
