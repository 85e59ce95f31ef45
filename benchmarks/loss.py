"""What the edits take away, and how much of that the guard lets through.

    python benchmarks/loss.py examples/banks/household.json examples/skills
    python benchmarks/loss.py DATA/skillrl/*.json FOLDER... --json     # DATA as in docs/datasets.md
    python benchmarks/loss.py base.json --rewritten evolved-*.json     # also: how many of these rewrites pass the guard

Every edit is forced on every skill of the banks and skill folders given, alone, and its output is judged twice: by the
guard, and by a plain reading of its own that shares no code with either: the words of the source, in their order, that
are not in the output. A lost run of words counts

- as an *order* unless it opens with one of a few words that give a reason, an example or politeness,
- as a *literal* if it holds a character that prose does not, or a word in capitals or mixed case,
- as a *number* if it holds a digit or a number word,
- as a *negation* or a *condition* if it holds a word for one.

Layout is no loss: markers of lists, and the `and` or `then` between two steps. `drop` and `limit` take orders away
because the plan says so; their losses are counted apart, and each must be named by the report. What else is lost and
passes the guard is *unseen*; the goal is 0, and the exit status says whether it was reached. What the guard sends back
though nothing is lost is what its promise costs. The last row is a control: every clause taken out in turn.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from masa.edits import EDITS, EditCall, Plan, PlanLine, PlannedGroup, apply_plan
from masa.errors import MasaError
from masa.formats import load_bank
from masa.guard import check
from masa.guard.statements import lost_sentences
from masa.skills import Group, Skill

TOKEN = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*|\d+|[^\W\d_]+|[^\w\s]|_")
LAYOUT = frozenset(".,;:!?()[]*_~-–—\\\"'“”‘’#>")
JOINERS = frozenset({"and", "then", "next", "finally"})
MARKER = re.compile(r"(?m)^[ \t]*(?:\d{1,3}[.)]|[-*+•])(?=\s)|(?<!\S)\(?\w{1,2}[.)](?=\s)|\b[Ss]tep \d+\s?[:.–-]")
CLAUSE = re.compile(r"[^.!?;:,\n]*[.!?;:,\n]+\s*|[^.!?;:,\n]+\Z")
NEGATIONS = {"no", "not", "never", "none", "nothing", "nobody", "neither", "nor", "without", "cannot"}
CONDITIONS = {
    *("if", "unless", "except", "until", "only", "when", "whenever", "otherwise", "before", "after", "while", "must"),
    *("should", "shall", "need", "required"),
}
NUMBERS = {
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "twice", "half"),
    *("dozen", "both"),
}
HARMLESS = {
    *("because", "since", "so", "which", "to", "this", "doing", "e", "for", "such", "please", "note", "keep", "make"),
    *("be", "remember", "you", "it", "in", "thus", "allowing", "enabling", "helping", "saving", "improving", "giving"),
    *("that", "they", "when", "after", "once", "upon", "as", "while"),
}
"""How a run may open that is a reason, an example, politeness, or a condition stated beside the principle."""


@dataclass
class Tally:
    """What one edit did to all skills. `lost` counts runs of words by what they hold."""

    tried: int = 0
    changed: int = 0
    refused: int = 0
    refused_for_nothing: int = 0
    asked_for: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    caught: Counter[str] = field(default_factory=Counter)
    unseen: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    sent_back: list[str] = field(default_factory=list)


def words(text: str) -> list[str]:
    """Words and symbols of a text without the markers of its lists."""
    return TOKEN.findall(MARKER.sub(" ", text))


def lost_runs(before: str, after: str) -> Iterator[list[str]]:
    """Runs of words and symbols of a text that the other lacks."""
    left, right = words(before), words(after)
    matcher = difflib.SequenceMatcher(None, [w.casefold() for w in left], [w.casefold() for w in right], autojunk=False)
    for what, start, end, _, _ in matcher.get_opcodes():
        if what in ("delete", "replace"):
            run = left[start:end]
            if any(word.isalnum() and word.casefold() not in JOINERS for word in run):
                yield run


def kinds(run: list[str], condition: str) -> set[str]:
    """What a lost run of words holds."""
    low = [word.casefold() for word in run]
    said = [word for word in low if word not in LAYOUT]
    found = set()
    if any(word.isdigit() or word in NUMBERS for word in low):
        found.add("number")
    if any(word in NEGATIONS or word.endswith(("n't", "n’t")) for word in low):
        found.add("negation")
    stated = said[0] in ("when", "after", "once", "upon", "as", "while") and _stated(said, condition)
    if any(word in CONDITIONS for word in low) and not stated:
        found.add("condition")
    inner = [word for word in run if word not in LAYOUT][1:]
    if any(not word.isalpha() and word not in LAYOUT and not re.search("['’]", word) for word in run) or any(
        word != word.lower() and word != "I" for word in inner
    ):
        found.add("literal")
    if said[0] not in HARMLESS or (said[0] in ("when", "after", "once", "upon", "while") and not stated):
        found.add("order")
    return found


def _stated(said: list[str], condition: str) -> bool:
    known = {word.casefold()[:4] for word in words(condition)}
    return all(word[:4] in known for word in said[1:] if len(word) > 3)


def judge(group: Group, name: str, argument: str | None, tally: Tally) -> None:
    """Force one edit on each skill of a group, by itself, and count what became of it."""
    for number, skill in enumerate(group.skills, start=1):
        call = EditCall(name, argument)
        lines = tuple(PlanLine(n, (call if n == number else EditCall("keep"),)) for n in range(1, len(group) + 1))
        try:
            planned = apply_plan(group, Plan(lines))
        except ValueError:
            continue  # nothing above it to merge into, nothing else left, or code that no plan may drop
        tally.tried += 1
        if planned.group == group:
            continue
        tally.changed += 1
        refused = bool(check(group, planned.group, plan=planned))
        place = next((i for i, sources in enumerate(planned.sources) if number in sources), None)
        made = planned.group.skills[place] if place is not None else None
        losses = list(_losses(skill, made))
        if name in ("drop", "limit"):
            tally.asked_for += bool(losses)
            named = " ".join(lost_sentences(skill, made))
            tally.unnamed += [f"{skill.title}: {' '.join(run)}" for run, _ in losses if not _names(run, named)]
            continue
        _count(skill, made, refused, tally)


def control(group: Group, tally: Tally) -> None:
    """Take each clause out of each skill in turn, as no edit should: what the guard sees of losses that are there."""
    sources = tuple((number,) for number in range(1, len(group) + 1))
    for place, skill in enumerate(group.skills):
        for match in CLAUSE.finditer(skill.principle):
            left = skill.principle[: match.start()] + skill.principle[match.end() :]
            if not re.search(r"\w", left):
                continue
            made = replace(skill, principle=left)
            skills = (*group.skills[:place], made, *group.skills[place + 1 :])
            output = replace(group, skills=skills)
            tally.tried += 1
            tally.changed += 1
            _count(skill, made, bool(check(group, output, plan=PlannedGroup(output, sources, ()))), tally)


def _count(skill: Skill, made: Skill | None, refused: bool, tally: Tally) -> None:
    losses = list(_losses(skill, made))
    tally.refused += refused
    for run, held in losses:
        tally.lost.update(held)
        if refused:
            tally.caught.update(held)
        else:
            tally.unseen.append(f"{skill.title}: {' '.join(run)}  [{', '.join(sorted(held))}]")
    if refused and not losses:
        tally.refused_for_nothing += 1
        tally.sent_back.append(skill.title)


def _losses(skill: Skill, made: Skill | None) -> Iterator[tuple[list[str], set[str]]]:
    before = "\n".join((skill.title, skill.when_to_apply, skill.principle)) if made else skill.principle
    after = "\n".join((made.title, made.when_to_apply, made.principle)) if made else ""
    for run in lost_runs(before, after):
        held = kinds(run, skill.when_to_apply)
        if held:
            yield run, held


def _names(run: list[str], named: str) -> bool:
    said = [word.casefold() for word in words(named)]
    remaining = iter(said)
    return all(word.casefold() in remaining for word in run if word not in LAYOUT)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="FOLDER_OR_BANK")
    parser.add_argument(
        "--rewritten", nargs="+", type=Path, default=[], metavar="BANK", help="rewrites of the first bank, in free text"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--examples", type=int, default=10, help="losses to show for each edit (default 10)")
    given = parser.parse_args(arguments)
    try:
        groups = [group for path in given.paths for group in load_bank(path).groups() if len(group)]
        rewritten = passing(given.paths[0], given.rewritten)
    except MasaError as error:
        print(error, file=sys.stderr)
        return 2
    tallies: dict[str, Tally] = {}
    for name, edit in EDITS.items():
        for argument in edit.argument or (None,):
            tally = tallies.setdefault(name, Tally())
            for group in groups:
                judge(group, name, argument, tally)
    control_tally = tallies["(control)"] = Tally()
    for group in groups:
        control(group, control_tally)
    report(tallies, sum(map(len, groups)), rewritten, given.json, given.examples)
    return 1 if any(tally.unseen or tally.unnamed for tally in tallies.values()) else 0


def passing(base: Path, rewritten: list[Path]) -> dict[str, int]:
    """Of rewritten banks, the groups that the guard lets pass as free text, and all that the base has, too."""
    sources = {group.key: group for group in load_bank(base).groups()}
    pairs = [(sources.get(group.key), group) for path in rewritten for group in load_bank(path).groups() if len(group)]
    verdicts = [not check(source, group) for source, group in pairs if source is not None]
    return {"groups": len(verdicts), "passed": sum(verdicts)}


def report(tallies: dict[str, Tally], skills: int, rewritten: dict[str, int], as_json: bool, examples: int) -> None:
    """Print the figures, and for people examples of what got through and of what was sent back for nothing."""
    if as_json:
        edits = {
            name: {
                "tried": tally.tried,
                "changed": tally.changed,
                "lost": dict(tally.lost),
                "caught": dict(tally.caught),
                "unseen": tally.unseen,
                "refused": tally.refused,
                "refused_for_nothing": tally.refused_for_nothing,
                "changed_by_request": tally.asked_for,
                "lost_and_not_named": tally.unnamed,
            }
            for name, tally in tallies.items()
        }
        print(json.dumps({"skills": skills, "rewritten": rewritten, "edits": edits}, ensure_ascii=False, indent=2))
        return
    print(f"{skills} skills")
    if rewritten["groups"]:
        share = rewritten["passed"] / rewritten["groups"]
        print(f"{rewritten['passed']} of {rewritten['groups']} rewritten groups pass the guard ({share:.0%})")
    print()
    heads = ("changed", "losses", "caught", "unseen", "sent back for nothing", "by request", "not named")
    print(f"{'edit':18}" + "".join(f"{head:>{max(8, len(head) + 2)}}" for head in heads))
    for name, tally in tallies.items():
        figures = (
            *(tally.changed, tally.lost.total(), tally.caught.total(), len(tally.unseen)),
            *(tally.refused_for_nothing, tally.asked_for, len(tally.unnamed)),
        )
        cells = zip(heads, figures, strict=True)
        print(f"{name:18}" + "".join(f"{figure:>{max(8, len(head) + 2)}}" for head, figure in cells))
    for name, tally in tallies.items():
        for title, found in (
            ("unseen", tally.unseen),
            ("not named", tally.unnamed),
            ("sent back for nothing", tally.sent_back),
        ):
            for line in found[:examples]:
                print(f"\n{name}, {title}: {line}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
