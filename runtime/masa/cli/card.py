"""`masa card`: the model card of a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from masa.cli.loading import complete_backbone, more_backbone_options, resolve_card
from masa.cli.output import clean, count, table, write_json

if TYPE_CHECKING:
    from masa.cards import ModelCard


@click.command(
    "card",
    short_help="Show the model card of a backbone.",
    epilog="\b\nExamples:\n"
    "  masa card --list\n"
    "  masa card Qwen3-4B --explain\n"
    "  masa card model.gguf -o my-card.yaml\n"
    "  masa card http://localhost:11434#qwen3:4b --json",
)
@click.argument("backbone", required=False, metavar="[BACKBONE]", shell_complete=complete_backbone)
@click.option("--list", "as_list", is_flag=True, help="List the cards that ship with masa.")
@click.option("--explain", is_flag=True, help="Say where every value comes from.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(), help="Write the card there, as YAML.")
def command(
    backbone: str | None,
    backbone_model: str | None,
    card: str | None,
    api_key_env: str | None,
    as_list: bool,
    explain: bool,
    as_json: bool,
    output: str | None,
) -> None:
    """Show the model card of BACKBONE.

    BACKBONE is a GGUF file, a Hugging Face folder, a server as URL#MODEL, a card file, or the name of a
    shipped card. Its architecture is read from the model itself; the rest comes from the shipped card of
    that model and from yours. Unknown values stay null.
    """
    if as_list:
        if backbone is not None:
            raise click.UsageError("--list takes no backbone.")
        _list(as_json)
        return
    if backbone is None:
        raise click.UsageError("Missing argument 'BACKBONE' (or give --list).")
    found = resolve_card(backbone, backbone_model, card, api_key_env)
    if output is not None:
        from masa.cards import dump_card
        from masa.errors import MasaError
        from masa.files import read_bytes, write_atomic

        text = dump_card(found).encode("utf-8")
        if Path(output).is_file() and read_bytes(Path(output)) != text:  # perhaps filled in by hand
            raise MasaError(f"{output}: already exists, and says something else; give -o a new file")
        write_atomic(Path(output), text)
    if as_json:
        _json(found)
    elif output is not None:
        click.echo(clean(f"{output}: {found.name}, {count(len(found.fields()), 'field')} known"))
    elif explain:
        _explain(found)
    else:
        from masa.cards import dump_card

        click.echo(clean(dump_card(found)), nl=False)


for _option in reversed(more_backbone_options()):
    command = _option(command)


def _list(as_json: bool) -> None:
    from masa.cards import shipped_cards

    cards = shipped_cards()
    if as_json:
        write_json({name: {**card.fields(), "fingerprint": card.fingerprint} for name, card in cards.items()})
        return
    rows = [
        (
            name,
            card.parameter_count or "",
            card.base_or_instruct or "",
            f"{card.context_window:,}" if card.context_window else "",
            card.release_date or "",
        )
        for name, card in cards.items()
    ]
    click.echo(table(rows, ("card", "parameters", "kind", "context", "released"), right=(3,)))


def _json(card: ModelCard) -> None:
    from masa.cards import FIELDS, explain

    write_json(
        {
            "name": card.name,
            "fingerprint": card.fingerprint,
            "card": {name: getattr(card, name) for name in FIELDS},
            "origins": {row.field: row.origin for row in explain(card) if row.origin},
            "sources": {row.field: row.source for row in explain(card) if row.source},
            "note": card.note or None,
        }
    )


def _explain(card: ModelCard) -> None:
    from masa.cards import explain

    click.echo(f"{click.style(clean(card.name), bold=True)}  fingerprint {card.fingerprint}")
    if card.note:
        click.echo(clean(card.note))
    rows = []
    for row in explain(card):
        value = "unknown" if row.value is None else str(row.value)
        value = value if len(value) <= 60 else value[:59] + "…"
        rows.append((row.field, value, row.origin or "", row.source or ""))
    click.echo(table(rows, ("field", "value", "from", "source")))
