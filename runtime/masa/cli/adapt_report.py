"""What `masa adapt` says: the table of skills, what became of each, what is in effect."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.loading import problems_json
from masa.cli.output import clean, count, duration, table, wrap, write_json
from masa.cli.report import card_text, html_changes
from masa.errors import MasaError
from masa.skill_cost import BODY_ADVICE

if TYPE_CHECKING:
    from masa.adapt import Adaptation
    from masa.adapted import Entry, Outcome, Store
    from masa.cards import ModelCard
    from masa.html_report import Section
    from masa.places import Found
    from masa.provenance import RewriteResult
    from masa.skill_cost import SkillCost
    from masa.skills import Problem
    from masa.token_counts import TokenCounter
    from masa.variants import Variant


def plan_text(
    made: Sequence[Adaptation], found: Found, card: ModelCard, counter: TokenCounter, result: RewriteResult | None
) -> str:
    """One row a skill, what is to be said about each, and what the whole costs the reader's context."""
    rows = [
        (
            *_costs(one),
            str(sum(problem.severity != "note" for problem in one.problems) or ""),
            _changes(one),
            shorten_path(one.source.skill.file.parent),
        )
        for one in made
    ]
    head = ("skill", "always", "body", "references", "problems", "changes", "where")
    lines = [table(rows, head, right=(1, 2, 3, 4)), ""]
    for problem in (*found.problems, *(problem for one in made for problem in one.problems)):
        lines.append(wrap(f"{problem.severity}: {_short(problem)}", "", "  "))
    for one in made:
        largest = sorted(one.after.sections, key=lambda section: -section[1])
        shown = one.after.sections if len(made) == 1 else largest[:3] if one.after.body > BODY_ADVICE else ()
        if shown:
            said = ", ".join(f"{title} {tokens:,}" for title, tokens in shown)
            lines.append(wrap(f"sections of {one.source.key}: {said}", "", "  "))
    for one in made:
        if one.left:
            lines.append(wrap(f"left: {one.source.key}: {one.left}", "", "  "))
    return "\n".join([*lines, "", *_totals(made, card, counter, result)])


def _short(problem: Problem) -> str:
    place = shorten_path(Path(problem.file))
    return f"{place}, line {problem.line}: {problem.message}" if problem.line else f"{place}: {problem.message}"


def shorten_path(path: Path) -> str:
    """A path as a person here would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        home = os.path.expanduser("~")  # noqa: PTH111  (Path.home() raises where there is none)
        return f"~{str(path)[len(home) :]}" if str(path).startswith(f"{home}/") else str(path)


def _costs(one: Adaptation) -> tuple[str, str, str, str]:
    """The skill, and its tokens before and after: always in the prompt, on use, on demand."""
    before, after = one.before, one.after
    return (
        one.source.key,
        _arrow(before.always, after.always),
        _arrow(before.body, after.body),
        _arrow(before.on_demand, after.on_demand),
    )


def _arrow(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} → {after:,}"


def _changes(one: Adaptation) -> str:
    if one.left:
        return "left as it is"
    if one.result is not None and one.result.status == "fell back":
        return "fell back"
    edits = [name if number == 1 else f"{name} ×{number}" for name, number in one.edits.items()]
    if one.added:
        edits.append(f"{count(len(one.added), 'section')} to references/")
    if one.after.always != one.before.always:
        edits.append("description")
    return ", ".join(edits) or "–"


def _totals(
    made: Sequence[Adaptation], card: ModelCard, counter: TokenCounter, result: RewriteResult | None
) -> Iterator[str]:
    always = _arrow(sum(one.before.always for one in made), sum(one.after.always for one in made))
    bodies = _arrow(sum(one.before.body for one in made), sum(one.after.body for one in made))
    demand = _arrow(sum(one.before.on_demand for one in made), sum(one.after.on_demand for one in made))
    share = ""
    if card.context_window:
        part = 100 * sum(one.after.always for one in made) / card.context_window
        largest = 100 * max((one.after.body for one in made), default=0) / card.context_window
        share = f", {part:.1f} % of {card.context_window:,}; the largest body takes {largest:.1f} %"
    yield wrap(f"Always in the prompt {always} tokens{share}. On use {bodies}, on demand {demand}.", "", "  ")
    how = "Counted by" if counter.exact else "Estimated:"
    yield wrap(f"{how} {counter.source}.", "", "  ")
    if result is not None:
        sections = sum(len(one.source.document.sections) for one in made)
        read = "" if result.read is None else f", which read {result.read} of {sections} sections"
        how = f"in {duration(result.seconds)} by {result.artifact}{read}"
        yield wrap(f"For {card.name} {how}.", "", "  ")


def plan_json(
    made: Sequence[Adaptation],
    problems: Sequence[Problem],
    card: ModelCard,
    counter: TokenCounter,
    result: RewriteResult | None,
    outcomes: Sequence[Outcome],
) -> dict[str, Any]:
    """The same for machines."""
    told = {outcome.file: outcome for outcome in outcomes}
    return {
        "card": {"name": card.name, "fingerprint": card.fingerprint, "context_window": card.context_window},
        "tokens": {"exact": counter.exact, "source": counter.source},
        "rewriter": None
        if result is None
        else {"name": result.artifact, "fingerprint": result.artifact_fingerprint, "read": result.read},
        "skills": [
            {
                "skill": one.source.key,
                "file": str(one.source.skill.file),
                "scope": one.source.skill.place.scope,
                "state": one.source.state,
                "left": one.left or None,
                "before": cost_json(one.before),
                "after": cost_json(one.after),
                "changed": one.changed,
                "edits": dict(one.edits),
                "added": sorted(one.added),
                "problems": problems_json(one.problems),
                "rewrite": None if one.result is None else one.result.to_json(),
                "applied": outcome_json(told[one.source.skill.real]) if one.source.skill.real in told else None,
            }
            for one in made
        ],
        "problems": problems_json(problems),
    }


def plan_html(
    made: Sequence[Adaptation],
    found: Found,
    card: ModelCard,
    counter: TokenCounter,
    result: RewriteResult | None,
    outcomes: Sequence[Outcome] | None,
    options: Mapping[str, Any],
) -> str:
    """The same as one page, every section before and after. `outcomes` are None where nothing was to be written."""
    from masa.html_report import Table, render_page

    rows = [
        (
            *_costs(one),
            _changes(one),
        )
        for one in made
    ]
    head = ("skill", "always", "on use", "on demand", "changes")
    told = {outcome.file: outcome for outcome in outcomes or ()}
    lines = [*card_text(card, options).splitlines(), *_totals(made, card, counter, result)]
    lines += [] if outcomes is not None else ["Nothing was written."]
    lines += [f"{problem.severity}: {_short(problem)}" for problem in found.problems]
    sections = [_html_section(one, told.get(one.source.skill.real)) for one in made]
    tables = [Table(head, rows, right=(1, 2, 3))]
    return render_page(f"Skills for {card.name}", [" ".join(line.split()) for line in lines], sections, tables)


def _html_section(one: Adaptation, outcome: Outcome | None) -> Section:
    from masa.formats.skill_md_document import parse_document
    from masa.html_report import Change, Section, Table

    source, group = one.source, one.result
    lines = [shorten_path(source.skill.file)]
    lines += [f"left: {one.left}"] if one.left else []
    lines += [outcome.message] if outcome is not None else []
    lines += [f"{problem.severity}: {problem.message}" for problem in one.problems]
    if group is not None:
        lines += [group.reason] if group.reason else []
        lines += [f"The guard ({violation.rule}): {violation.message}" for violation in group.violations]
    changes = []
    if one.after.always != one.before.always:
        document = parse_document(one.adapted, str(source.skill.file), folder=source.document.name)
        note = f"{one.before.always:,} → {one.after.always:,} tokens"
        changes.append(Change("description", source.document.description, document.description, note))
    if group is not None and group.status == "rewritten":
        changes += html_changes(group)
    moved = [(name, f"{one.after.files.get(name, 0):,}") for name in sorted(one.added)]
    tables = [Table(("moved to", "tokens"), moved, right=(1,))] if moved else []
    good = False if one.left or (outcome and not outcome.done) else True if one.changed else None
    return Section(source.key, _changes(one).replace("–", "unchanged"), good, lines, tables, changes)


def cost_json(cost: SkillCost) -> dict[str, Any]:
    return {
        "always": cost.always,
        "body": cost.body,
        "on_demand": cost.on_demand,
        "sections": [{"title": title, "tokens": tokens} for title, tokens in cost.sections],
        "files": dict(cost.files),
        "unreferenced": list(cost.unreferenced),
        "missing": list(cost.missing),
        "repeated": cost.repeated,
    }


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "file": str(outcome.file),
        "done": outcome.done,
        "message": outcome.message,
        "diff": outcome.diff or None,
    }


def outcome_text(outcomes: Sequence[Outcome], refused: Sequence[Adaptation], *, quiet: bool, as_json: bool) -> None:
    """What became of each skill: a line on stdout for what was done, one on stderr for what was not."""
    if as_json:
        return
    done = [outcome for outcome in outcomes if outcome.done]
    if done and not quiet:
        click.echo()
        said: dict[str, list[Outcome]] = {}
        for outcome in done:
            said.setdefault(outcome.message, []).append(outcome)
        for message, ones in said.items():
            names = ", ".join(outcome.file.parent.name for outcome in ones)
            click.echo(wrap(f"{count(len(ones), 'skill')} {message}: {names}", "", "  "))
    for outcome in outcomes:
        if not outcome.done:
            click.echo(click.style("Left: ", fg="yellow") + clean(outcome.message), err=True)
            show_diff(outcome.diff)
    for one in refused:
        click.echo(click.style("Left: ", fg="yellow") + clean(f"{one.source.skill.file}: {one.left}"), err=True)
        show_diff(one.source.diff)


def show_diff(diff: str) -> None:
    for line in clean(diff).splitlines():
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.echo(click.style(line, fg=colour, bold=line.startswith(("+++", "---"))))


# --- what is in effect ----------------------------------------------------------------------------------


def show_state(where: Sequence[str], action: str, card: ModelCard | None, model: str | None, *, as_json: bool) -> None:
    """`--status` and `--diff`: of adapted skills and, of banks and folders that are named, of their variants."""
    from masa.adapted import find_model
    from masa.cli.adapt import stores
    from masa.variants import list_variants

    for path in where:
        if not Path(path).exists():
            raise MasaError(f"{path}: no such file; give a folder of skills or a skill bank JSON file")
    banks = [Path(path) for path in where]
    variants = [(bank, variant) for bank in banks for variant in list_variants(bank)]
    ours = stores([path for path in where if Path(path).is_dir() or Path(path).name.lower() == "skill.md"])
    ours = ours if any(path.is_dir() for path in banks) or not where else []
    within = [path.resolve() for path in banks]
    entries = [
        (store, entry)
        for store in ours
        for entry in store.entries().values()
        if not within or any(store.path(entry).resolve().is_relative_to(folder) for folder in within)
    ]
    if model is not None:
        names = [variant.record.card_name for _, variant in variants if variant.record.card_name == model]
        model = names[0] if names else find_model(ours, model)
        variants = [(bank, variant) for bank, variant in variants if variant.record.card_name == model]
    if card is not None:
        variants = [(bank, variant) for bank, variant in variants if variant.record.card_name == card.name]
    if action == "diff":
        _show_diffs(entries, variants, model)
        return
    skills = [_state_json(store, entry, card) for store, entry in entries]
    listed = [_variant_json(bank, variant, card) for bank, variant in variants]
    if as_json:
        write_json({"skills": skills, "variants": listed})
        return
    if not skills and not listed:
        click.echo("Nothing here is adapted; `masa adapt --backbone MODEL --apply` does it.")
    if skills:
        rows = [
            (
                shorten_path(Path(skill["file"]).parent),
                skill["state"],
                skill["model"] or "–",
                ", ".join(skill["models"]),
                "stale" if skill["stale"] else "",
            )
            for skill in skills
        ]
        click.echo(table(rows, ("skill", "in effect", "for", "kept for", "")))
        for skill in skills:
            for reason in skill["stale"]:
                click.echo(wrap(f"{shorten_path(Path(skill['file']).parent)}: {reason}", "  ", "    "))
    for store in ours:
        if left := store.leftovers():
            told = f"{shorten_path(store.folder)}: {count(left, 'text')} of a run that was killed, or is at work now"
            click.echo(wrap(f"{told}; the next --apply or --undo cleans up", "", "  "))
    if listed:
        rows = [
            (one["id"], one["card"]["name"], one["artifact"]["name"], one["created"].replace("T", " ")[:19],
             "stale" if one["stale"] else "up to date")
            for one in listed
        ]  # fmt: skip
        click.echo(table(rows, ("variant", "backbone", "rewriter", "made (UTC)", "state")))
        for one in listed:
            for reason in one["stale"]:
                click.echo(wrap(f"{one['id']}: {reason}", "  ", "    "))
            click.echo(clean(f"  {one['output']}"))


def _show_diffs(
    entries: Sequence[tuple[Store, Entry]], variants: Sequence[tuple[Path, Variant]], model: str | None
) -> None:
    from masa.file_diff import text_diff
    from masa.variants import diff

    for store, entry in entries:
        path = store.path(entry)
        name = f"{path.parent.name}/{path.name}"
        if model is None and store.state(entry)[0] == "edited":
            show_diff(store.three_way(entry))
            continue
        chosen = model if model is not None else store.state(entry)[1]
        version = entry.versions.get(chosen)
        if version is None:
            continue
        show_diff(
            text_diff(store.text(entry.original), store.text(version.sha256), f"original/{name}", f"adapted/{name}")
        )
        for added, digest in version.added.items():
            show_diff(text_diff(None, store.text(digest), "", f"adapted/{path.parent.name}/{added}"))
    for bank, variant in variants:
        show_diff(diff(bank, variant))


def _fingerprint(rewriter: str) -> str | None:
    """That of a rewriter as it is here; None if it is not, and cannot be compared."""
    from masa.artifact import find_artifact, read_manifest

    try:
        return read_manifest(find_artifact(rewriter)).fingerprint
    except MasaError:
        return None


def _differs(file: Path, sha256: object) -> bool:
    """Whether a file is there and its bytes are others; of one that is gone nothing can be said."""
    from masa.checksums import sha256_file

    return file.is_file() and sha256_file(file) != sha256


def _state_json(store: Store, entry: Entry, card: ModelCard | None) -> dict[str, Any]:
    state, model = store.state(entry)
    stale = []
    if state == "edited":
        stale.append("somebody edited it; --diff shows how, --adopt takes it for a new original")
    elif state == "missing":
        stale.append("it is not there; --adopt forgets it")
    version = entry.versions.get(model)
    if version is not None:
        stale += stale_reasons(version.backbone, version.card, version.card_fingerprint, card)
        name = version.rewriter.get("name", "")
        now = _fingerprint(name) if name else None
        if now is not None and now != version.rewriter.get("fingerprint"):
            stale.append(f"the rewriter {name} has changed")
        facts = version.settings.get("facts")
        if isinstance(facts, dict) and _differs(store.base / str(facts.get("file")), facts.get("sha256")):
            stale.append(f"the facts in {facts['file']} have changed")
    return {
        "file": str(store.path(entry)),
        "state": state,
        "model": model or None,
        "models": sorted(entry.versions),
        "stale": stale,
    }


def stale_reasons(backbone: str, fields: Any, fingerprint: str, card: ModelCard | None) -> list[str]:
    """Whether the card of the model that a skill was adapted for has changed: `card`, or what `backbone` has now.

    A server is not asked unless the user names it.
    """
    from masa.backbones import resolve_backbone

    if card is None:
        if not backbone or backbone.lower().startswith(("http:", "https:")):
            return []
        try:
            card = resolve_backbone(backbone)
        except MasaError:
            return []
        if fields.get("weaknesses") and not card.weaknesses:
            return []  # a card of the user's was given beside it, which is not known here
    if card.fingerprint == fingerprint:
        return []
    now = card.fields()
    names = [name for name in {**fields, **now} if fields.get(name) != now.get(name)]
    return [f"the model card has changed ({', '.join(names) or 'another fingerprint'})"]


def _variant_json(bank: Path, variant: Variant, card: ModelCard | None) -> dict[str, Any]:
    from masa.variants import staleness

    record = variant.record
    return {
        "id": variant.path.name,
        "output": str(variant.output),
        "created": variant.created,
        "card": {"name": record.card_name, "fingerprint": record.card_fingerprint},
        "artifact": {"name": record.artifact_name, "fingerprint": record.artifact_fingerprint},
        "stale": list(staleness(variant, bank, card, _fingerprint(record.artifact_name))),
    }
