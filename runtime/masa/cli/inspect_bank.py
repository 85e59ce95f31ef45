"""What is in a bank or skill folder, skill by skill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from masa.cli.loading import BankFile, load_bank_file, problems_json
from masa.cli.output import clean, count, table, wrap
from masa.errors import MasaError
from masa.facts import Facts
from masa.skills import Problem, Skill


@dataclass(frozen=True, slots=True)
class Finding:
    """A skill and what masa sees in it. `tokens` is None where they could not be counted."""

    group: str
    skill: Skill
    tokens: int | None
    protected: tuple[str, ...]
    edits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BankFindings:
    file: BankFile
    skills: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    client_fields: Mapping[str, tuple[str, ...]]
    counted_by: str
    """The rewriter whose tokenizer counted, or why none did."""


def examine(path: Path, facts: Facts | None, rewriter: str | None) -> BankFindings:
    """Look at every skill; count tokens with the rewriter's tokenizer where its weights are here."""
    from masa.edits import available_edits
    from masa.formats.skill_md import client_fields
    from masa.markdown import protected_spans

    file = load_bank_file(str(path))
    counter, by, close = _counter(rewriter)
    try:
        found = tuple(
            Finding(
                group.key,
                skill,
                counter(skill.text) if counter else None,
                protected_spans(skill.text),
                available_edits(skill, facts),
            )
            for group in file.bank.groups()
            for skill in group.skills
        )
    finally:
        close()
    return BankFindings(file, found, tuple(_problems(file)), client_fields(file.bank), by)


def as_text(found: BankFindings, *, edits: bool) -> str:
    bank = found.file.bank
    what = "skill folder" if found.file.folder else "skill bank"
    groups = [group for group in bank.groups() if len(group)]
    lines = [
        f"{click.style(clean(str(found.file.path)), bold=True)}: {what}, {count(len(bank), 'skill')} in "
        f"{count(len(groups), 'group')}, {count(len(bank.common_mistakes), 'common mistake')}",
        "",
    ]
    rows = []
    for group in groups:
        own = [finding for finding in found.skills if finding.group == group.key]
        rows.append(
            (
                group.key,
                str(len(group)),
                f"{sum(len(finding.skill.text) for finding in own):,}",
                _tokens(own),
                str(sum(len(finding.protected) for finding in own)),
            )
        )
    lines.append(table(rows, ("group", "skills", "characters", "tokens", "protected"), right=(1, 2, 3, 4)))
    lines += ["", found.counted_by]
    for finding in found.skills:
        if edits or finding.protected:
            name = f"{finding.group}/{finding.skill.skill_id or finding.skill.title}"
            lines += ["", f"{click.style(clean(name), bold=True)}  {clean(finding.skill.title)}"]
        if finding.protected:
            spans = ", ".join(_short(span) for span in dict.fromkeys(finding.protected))
            lines.append(wrap(f"protected: {spans}", "  ", "    "))
        if edits:
            lines.append(wrap(f"edits: {', '.join(finding.edits)}", "  ", "    "))
    if any(found.client_fields.values()):
        lines.append("")
    for key, fields in found.client_fields.items():
        if fields:
            lines.append(wrap(f"{key}: fields for clients, kept as they are: {', '.join(fields)}", "", "  "))
    if edits:
        lines += ["", *_contracts()]
    lines += ["", *map(_problem, found.problems)] if found.problems else ["", "No problems found."]
    return "\n".join(lines)


def as_json(found: BankFindings) -> dict[str, Any]:
    return {
        "path": str(found.file.path),
        "skills": len(found.file.bank),
        "common_mistakes": len(found.file.bank.common_mistakes),
        "groups": [
            {
                "group": group.key,
                "skills": [
                    {
                        "skill_id": finding.skill.skill_id,
                        "title": finding.skill.title,
                        "characters": len(finding.skill.text),
                        "tokens": finding.tokens,
                        "protected": list(finding.protected),
                        "edits": list(finding.edits),
                    }
                    for finding in found.skills
                    if finding.group == group.key
                ],
            }
            for group in found.file.bank.groups()
        ],
        "client_fields": {key: list(fields) for key, fields in found.client_fields.items() if fields},
        "problems": problems_json(found.problems),
    }


def _counter(rewriter: str | None) -> tuple[Callable[[str], int] | None, str, Callable[[], None]]:
    if rewriter is None:
        return None, "Tokens were not counted.", lambda: None
    from masa.artifact import load_artifact
    from masa.backends import open_backend
    from masa.prompt import Segment

    try:
        artifact = load_artifact(rewriter)
        backend = open_backend(artifact, vocab_only=True)
    except MasaError as error:
        return None, wrap(f"Tokens were not counted: {error}", "", "  "), lambda: None
    return (
        lambda text: len(backend.tokenize([Segment(text)])),
        f"Tokens as {clean(artifact.name)} counts them.",
        backend.close,
    )


def _problems(file: BankFile) -> Iterator[Problem]:
    """What a person may want to put right, though the bank can be used as it is."""
    from masa.formats.skill_md import validate_skill_folder
    from masa.guard import CONTROL_TOKENS

    where = str(file.path)
    yield from validate_skill_folder(file.path) if file.folder else file.bank.problems
    seen: dict[str, str] = {}
    for group in file.bank.groups():
        for number, skill in enumerate(group.skills, start=1):
            what = f"{group.key}, skill {number} ({skill.skill_id or skill.title})"
            if not skill.skill_id and not file.folder:
                yield Problem(where, None, f"{what}: has no skill_id, so it cannot be pinned; give it one", "note")
            elif seen.setdefault(skill.skill_id, what) != what:
                message = f"{what}: the skill_id is also used in {seen[skill.skill_id]}; make it unique"
                yield Problem(where, None, message, "warning")
            if tokens := [token for token in CONTROL_TOKENS if token in skill.text]:
                message = f"{what}: contains the chat-template token {tokens[0]!r}; rewrites that keep it are refused"
                yield Problem(where, None, message, "warning")


def _contracts() -> Iterator[str]:
    from masa.edits import EDITS

    yield click.style("What the edits do", bold=True)
    for edit in EDITS.values():
        argument = {"warn": " KIND", "limit": " N"}.get(edit.name, "")
        yield wrap(f"{edit.name}{argument}: {edit.changes}; preserves {edit.preserves}", "  ", "      ")


def _problem(problem: Problem) -> str:
    mark, colour = {"error": ("✗", "red"), "warning": ("!", "yellow"), "note": ("·", None)}[problem.severity]
    return click.style(f"{mark} ", fg=colour, bold=True) + wrap(str(problem), "", "  ")


def _tokens(findings: list[Finding]) -> str:
    counts = [finding.tokens for finding in findings]
    return f"{sum(n for n in counts if n is not None):,}" if None not in counts else "–"


def _short(span: str) -> str:
    line = " ".join(span.split())
    return line if len(line) <= 48 else line[:47] + "…"
