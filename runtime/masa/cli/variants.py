"""`masa variants`: the rewrites of a bank that are stored beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from masa.cli.loading import backbone_options, bank_argument, resolve_card
from masa.cli.output import clean, table, wrap, write_json
from masa.errors import MasaError

if TYPE_CHECKING:
    from pathlib import Path

    from masa.cards import ModelCard
    from masa.variants import Variant


@click.command(
    "variants",
    short_help="List, compare and check the rewrites of a bank.",
    epilog="\b\nExamples:\n"
    "  masa variants examples/skills\n"
    "  masa variants bank.json --diff 4f1c\n"
    "  masa variants bank.json --stale --backbone model.gguf",
)
@bank_argument
@click.option("--diff", "diff", metavar="ID", help="Show how the variant with this ID (or its beginning) differs.")
@click.option("--stale", is_flag=True, help="List only those that should be made anew.")
@backbone_options(required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON array on stdout and nothing else.")
def command(
    bank: str,
    diff: str | None,
    stale: bool,
    backbone: str | None,
    backbone_model: str | None,
    card: str | None,
    api_key_env: str | None,
    as_json: bool,
) -> None:
    """List the variants of BANK, and whether the original or the rewriter changed since.

    With --backbone only the variants for that model are listed, and its card is compared, too.
    """
    from pathlib import Path

    from masa.variants import list_variants

    original = Path(bank)
    if not original.exists():
        raise MasaError(f"{original}: no such file; give a skill bank JSON file or a SKILL.md folder")
    found = list_variants(original)
    if diff is not None:
        _diff(original, found, diff)
        return
    model_card = resolve_card(backbone, backbone_model, card, api_key_env) if backbone is not None else None
    if model_card is not None:
        found = tuple(v for v in found if v.record.card_name == model_card.name)
    listed = [(variant, _reasons(variant, original, model_card)) for variant in found]
    if stale:
        listed = [(variant, reasons) for variant, reasons in listed if reasons]
    if as_json:
        write_json([_plain(variant, reasons) for variant, reasons in listed])
        return
    if not listed:
        what = "no stale variants" if stale and found else "no variants"
        click.echo(clean(f"{original}: {what}") + ("" if found else "; `masa rewrite` makes one"))
        return
    rows = [
        (
            variant.path.name,
            variant.record.card_name,
            variant.record.artifact_name,
            variant.created.replace("T", " ").removesuffix("+00:00"),
            "stale" if reasons else "up to date",
        )
        for variant, reasons in listed
    ]
    click.echo(table(rows, ("id", "backbone", "rewriter", "made (UTC)", "state")))
    for variant, reasons in listed:
        for reason in reasons:
            click.echo(wrap(f"{variant.path.name}: {reason}", "  ", "    "))
    click.echo(clean(f"\nin {listed[0][0].path.parent}"))


def _reasons(variant: Variant, original: Path, card: ModelCard | None) -> tuple[str, ...]:
    from masa.artifact import find_artifact, read_manifest
    from masa.variants import staleness

    try:
        fingerprint = read_manifest(find_artifact(variant.record.artifact_name)).fingerprint
    except MasaError:
        fingerprint = None  # a rewriter that is no longer here cannot be compared
    return staleness(variant, original, card, fingerprint)


def _diff(original: Path, found: tuple[Variant, ...], wanted: str) -> None:
    from masa.variants import diff

    named = [v for v in found if v.path.name == wanted] or [v for v in found if v.path.name.startswith(wanted)]
    if len(named) != 1:
        ids = ", ".join(v.path.name for v in (named or found)) or "none"
        what = "several variants begin" if named else "no variant begins"
        raise MasaError(f"{what} with {wanted!r}; there are: {ids}")
    for line in clean(diff(original, named[0])).splitlines():
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.echo(click.style(line, fg=colour, bold=line.startswith(("+++", "---"))))


def _plain(variant: Variant, reasons: tuple[str, ...]) -> dict[str, object]:
    record = variant.record
    return {
        "id": variant.path.name,
        "output": str(variant.output),
        "created": variant.created,
        "card": {"name": record.card_name, "fingerprint": record.card_fingerprint},
        "artifact": {"name": record.artifact_name, "fingerprint": record.artifact_fingerprint},
        "stale": list(reasons),
    }
