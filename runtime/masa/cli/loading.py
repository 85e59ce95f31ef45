"""What several commands take: a bank of either format, a backbone, a rewriter; and how shells complete them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from masa.cli.output import clean
from masa.errors import MasaError

if TYPE_CHECKING:
    from masa.cards import ModelCard
    from masa.facts import Facts
    from masa.skills import Problem, SkillBank

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class BankFile:
    """A bank and where it came from: `folder` for SKILL.md folders, else a bank JSON file.

    `sha256` is the fingerprint of the original when it was loaded.
    """

    path: Path
    bank: SkillBank
    folder: bool
    sha256: str


def load_bank_file(path: str, *, strict: bool = False) -> BankFile:
    """Load a bank of either format, as `masa.load_bank` does.

    Raises:
        FormatError: if there is none, or it is refused.
    """
    from masa.formats import load_bank
    from masa.formats.skill_md_tree import fingerprint, is_skill_file

    where = Path(path)
    folder = where.is_dir() or (is_skill_file(where.name) and where.exists())
    if folder and not where.is_dir():
        where = where.parent
    # The fingerprint comes first: whoever changes the file in between makes the variant stale, not wrong.
    sha256 = ""
    if where.exists():
        try:
            sha256 = fingerprint(where)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise MasaError(f"{where}: cannot be read ({why}); check its permissions") from error
    return BankFile(where, load_bank(where, strict=strict), folder, sha256)


def tell_problems(bank: SkillBank) -> None:
    """Every problem of a bank as a line on stderr."""
    for problem in bank.problems:
        colour = {"error": "red", "warning": "yellow"}.get(problem.severity)
        word = "Passed over" if problem.severity == "error" else problem.severity.capitalize()
        click.echo(click.style(f"{word}: ", fg=colour) + clean(str(problem)), err=True)


def problems_json(problems: Sequence[Problem]) -> list[dict[str, object]]:
    """Problems of a bank as JSON objects."""
    return [
        {"file": problem.file, "line": problem.line, "severity": problem.severity, "message": problem.message}
        for problem in problems
    ]


def resolve_card(backbone: str, model: str | None, card: str | None, api_key_env: str | None) -> ModelCard:
    """The model card of a backbone; the values of the card file `card` win."""
    from masa.backbones import resolve_backbone
    from masa.cards import load_card

    user = load_card(card) if card is not None else None
    return resolve_backbone(backbone, model=model, user=user, api_key=api_key(api_key_env))


def api_key(variable: str | None) -> str | None:
    """The key in an environment variable, None if none is named."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise MasaError(f"the environment variable {variable} is not set; put the server's key there")
    return key


def backbone_options(*, required: bool, answers: bool = False) -> Callable[[Function], Function]:
    """`--backbone` and what goes with it; for a command to which it `answers`, a card is none."""
    kinds = "a GGUF file, a Hugging Face folder, a server as URL#MODEL, a card file, or the name of a shipped card."
    if answers:
        kinds = "a GGUF file, a name that masa pull brings, or a server as URL#MODEL."

    def add(function: Function) -> Function:
        for option in reversed(
            (
                click.option(
                    "--backbone",
                    required=required,
                    metavar="MODEL",
                    help=f"The model that will read the skills: {kinds}",
                    shell_complete=_complete_weights if answers else complete_backbone,
                ),
                *more_backbone_options(),
            )
        ):
            function = option(function)
        return function

    return add


def more_backbone_options() -> tuple[Callable[[Function], Function], ...]:
    return (
        click.option("--backbone-model", metavar="NAME", help="The model on the server, instead of #MODEL."),
        click.option(
            "--card", metavar="FILE", help="A card of yours; its values win over what is detected and shipped."
        ),
        click.option("--api-key-env", metavar="VARIABLE", help="The environment variable with the server's key."),
    )


def rewriter_option(function: Function) -> Function:
    """`--rewriter`."""
    return click.option(
        "--rewriter",
        default="smollm2-135m",
        show_default=True,
        metavar="NAME|DIR",
        help="The artifact that rewrites.",
        shell_complete=_complete_rewriter,
    )(function)


def facts_option(function: Function) -> Function:
    """`--facts`; the file is read by `masa.facts.load_facts`."""
    return click.option(
        "--facts",
        metavar="FILE",
        type=click.Path(),
        help="What is known of the agent's world (YAML or JSON): commands, rules, solved tasks as examples.",
    )(function)


def read_facts(path: str | None) -> Facts | None:
    """The facts in a file, None without one."""
    if path is None:
        return None
    from masa.facts import load_facts

    return load_facts(path)


def edit_options(function: Function) -> Function:
    """`--without` and `--also`."""
    from masa.card_calls import OFF, SWITCHES

    function = click.option(
        "--also",
        multiple=True,
        type=click.Choice(OFF),
        metavar="EDIT",
        help=f"Switch an edit on that is off, since it harmed a model that was tried: {', '.join(OFF)}.",
    )(function)
    return click.option(
        "--without",
        multiple=True,
        type=click.Choice(SWITCHES),
        metavar="EDIT",
        help=f"Switch an edit off. Repeatable: {', '.join(SWITCHES)}.",
    )(function)


def complete_backbone(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from masa.cards import shipped_cards

    try:
        names = [name for name in shipped_cards() if name.lower().startswith(incomplete.lower())]
    except MasaError:
        names = []
    if incomplete and names:
        return [CompletionItem(name) for name in names]
    return [CompletionItem(incomplete, type="file")]


def _complete_weights(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from masa.weights import list_weights

    names = [name for name in list_weights() if incomplete and name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def _complete_rewriter(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from masa.artifact import list_artifacts

    names = [name for name in list_artifacts() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="dir")]


def complete_group(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The groups of the bank that was typed before."""
    # Before its value is typed, an option leaves the words before it unassigned.
    path = ctx.params.get("bank") or next(iter(ctx.args), "")
    try:
        bank = load_bank_file(str(path)).bank
    except MasaError:
        return []
    return [CompletionItem(group.key) for group in bank.groups() if group.key.startswith(incomplete)]


def complete_or(word: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Completes an argument as a file, or as the second word of another command."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        words = [CompletionItem(word)] if word.startswith(incomplete) else []
        return [*words, CompletionItem(incomplete, type="file")]

    return complete


def strict_option(function: Function) -> Function:
    """`--strict`."""
    return click.option("--strict", is_flag=True, help="Fail if anything in BANK is broken or was passed over.")(
        function
    )


def bank_argument(function: Function) -> Function:
    """BANK, completed as a file."""
    # Not checked by click: a missing file is the bank's own error, exit code 1 as for every bad input.
    return click.argument("bank", metavar="BANK", type=click.Path(exists=False))(function)
