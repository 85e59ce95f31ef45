"""The report of a run as Markdown: what a page of results or a pull request takes in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from masa.files import write_atomic
from masa.skills import Skill
from masa_training.evaluate.banks.report import to_markdown as tested
from masa_training.evolution.run_log import Run, Search, read_run
from masa_training.evolution.views import numbers
from masa_training.evolution.views.drawings import state_of, states
from masa_training.search import Proposal
from masa_training.tables import bracketed, table

MARKDOWN = "report.md"

_SECOND_STEP = re.compile(r"(?:^|\s)2[.)]\s")


def write_markdown(folder: Path) -> Path:
    """Write `report.md` of the run in a folder, from its record alone; the path.

    Raises:
        TrainingError: if there is no run, or its record is damaged.
    """
    path = folder / MARKDOWN
    write_atomic(path, to_markdown(read_run(folder), folder.resolve().name).encode("utf-8", "replace"))
    return path


def to_markdown(run: Run, name: str) -> str:
    """Edits by group and verdict, each accepted one in words, rates on the deciding tasks, the final test."""
    settings = run.settings
    backbone = settings.get("backbone") or {}
    lines = [
        f"# {settings.get('name') or name}{'' if run.finished else ' (PARTIAL)'}",
        "",
        f"{backbone.get('name', 'a backbone')} in {settings.get('environment', 'an environment')}, from the bank "
        f"{settings.get('bank', 'not recorded')}, teacher {_teacher(run)}.",
        "",
        "## Edits",
        "",
        *table(
            ["group", "search", "accepted", "rejected", "undecided", "no proposal", "deciding episodes"],
            [_counts(group) for group in run.searches.values()],
            left=2,
        ),
        "",
    ]
    accepted = [row for group in run.searches.values() for row in _accepted(group)]
    if accepted:
        lines += ["Accepted:", "", *table(["group", "node", "from", "edit", "why"], accepted), ""]
    groups = [group for group in run.searches.values() if group.state.nodes]
    lines += [
        "## Skills, from the start to the best so far",
        "",
        *table(
            ["group", "skills", "words a skill", "of them numbered steps"],
            [_look(group) for group in groups],
            left=1,
        ),
        "",
    ]
    types = numbers.by_type(run)
    if types:
        lines += [
            "## Deciding tasks",
            "",
            *table(
                ["task type", "SR at the start", "SR of the best", "difference of R", "pairs"],
                [
                    [
                        row.task_type,
                        bracketed(row.start, ".0%"),
                        bracketed(row.best, ".0%"),
                        bracketed(row.difference, "+.3f"),
                        str(row.pairs),
                    ]
                    for row in types
                ],
                left=1,
            ),
            "",
            "The search chose by these: the best bank looks better here than it is.",
            "",
        ]
    if run.test.get("rows"):
        text = tested(run.test).strip()
        lines += ["## Final test", "", *(f"#{line}" if line.startswith("##") else line for line in _body(text)), ""]
    return "\n".join(lines).rstrip() + "\n"


def _teacher(run: Run) -> str:
    found = run.settings.get("teacher", "operators")
    return str(found.get("model", "operators")) if isinstance(found, dict) else str(found)


def _counts(group: Search) -> list[str]:
    found = states(group.state.nodes)
    cost = numbers.cost(group)
    unfinished = "" if group.finished else " (not finished)"
    verdicts = [str(found[word]) for word in ("accepted", "rejected", "indecisive")]
    return [group.key, group.kind + unfinished, *verdicts, str(cost.failed), f"{cost.episodes:,}"]


def _accepted(group: Search) -> Iterator[list[str]]:
    rounds = {event.node: event.round for event in group.state.events if isinstance(event, Proposal)}
    for node in group.state.nodes:
        if state_of(node) == "accepted":
            said = group.answer(rounds.get(node.number, 0))
            reason = node.decision.reason if node.decision else ""
            yield [group.key, str(node.number), str(node.parent), (said.note if said else "") or "not recorded", reason]


def _look(group: Search) -> list[str]:
    """How the wording changed, in numbers."""
    both = [group.state.nodes[node].candidate.skills for node in (0, group.state.best)]

    def change(of: Callable[[tuple[Skill, ...]], int]) -> str:
        start, best = map(of, both)
        return f"{start} → {best}"

    return [
        group.key,
        change(len),
        change(lambda skills: round(sum(len(skill.principle.split()) for skill in skills) / max(1, len(skills)))),
        change(lambda skills: sum(bool(_SECOND_STEP.search(skill.principle)) for skill in skills)),
    ]


def _body(text: str) -> Iterator[str]:
    """The lines of a report less its title."""
    lines = text.splitlines()
    yield from lines[2:] if lines and lines[0].startswith("# ") else lines
