r"""The output languages of a rewriter, *text* and *plan*: one renderer, one parser and one constraint each.

A third, *wording*, is one skill's text in other words; `masa.wording` has its operations and their forms.

A grammar here and the parser beside it are built from the same pattern, so that whatever constrained
decoding lets through parses, and nothing else does.

Text language, one block a skill, blocks separated by an empty line::

    ## [1,3] Search each place once
    When: the object has not been found
    Open every container before you judge it empty.

The bracket names the source skills that the block was made of, `[+]` a skill that has none. A body line
that would read as a heading, and a first or last line that would read as a separator, gets a backslash in
front; titles and conditions write a newline as `\n`. Rendering then parsing is the identity on groups
whose skills have a title and a principle.

Plan language, one line a source skill, then the warnings to add::

    1 shorten
    2 steps syntax
    3 merge-up
    + warn loop
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from masa.edits import EDITS, WARN_KINDS, EditCall, Plan, PlanLine
from masa.errors import MasaError
from masa.skills import Group, Skill

LANGUAGES = ("plan", "text", "wording")
PARALLEL = {"plan": 3, "text": 8, "wording": 16}
"""Groups or skills written side by side: a plan is so short that more of them cost memory and save no time."""
MAX_EDITS_PER_LINE = 3
MAX_WARNINGS = 2

_STRUCTURAL = tuple(name for name, edit in EDITS.items() if edit.structural)
_TRANSFORMING = tuple(name for name, edit in EDITS.items() if not edit.structural)


class ParseError(MasaError, ValueError):
    """The text is not in the language; nothing of it may be used."""


# --- text language ---------------------------------------------------------------------------------

# A line of a body: not empty, and not the start of the next block.
_BODY_LINE = r"(?:[^#\n][^\n]*|#(?:[^#\n][^\n]*)?|##(?:[^ \n][^\n]*)?)"
_HEADING = re.compile(r"## \[([+0-9,]+)\](?: (.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One skill as the text language writes it: its source numbers (1-based; none for a new skill) and fields."""

    sources: tuple[int, ...]
    title: str
    when_to_apply: str
    principle: str


def render_blocks(blocks: Iterable[Block]) -> str:
    """Blocks as text, without a final newline."""
    return "\n\n".join(_render_block(block) for block in blocks)


def numbered(group: Group) -> tuple[Block, ...]:
    """The group as the prompt shows it: every skill a block whose source is its own number."""
    return tuple(
        Block((number,), skill.title, skill.when_to_apply, skill.principle)
        for number, skill in enumerate(group.skills, start=1)
    )


def text_pattern(sources: int) -> str:
    """Regular expression of all texts that rewrite a group of `sources` skills (Rust and Python syntax)."""
    number = "(?:" + "|".join(str(n) for n in range(sources, 0, -1)) + ")"
    block = rf"## \[(?:\+|{number}(?:,{number})*)\] [^\n]+\nWhen:(?: [^\n]+)?\n{_BODY_LINE}(?:\n+{_BODY_LINE})*"
    return rf"{block}(?:\n\n{block})*"


def parse_blocks(text: str, sources: int) -> tuple[Block, ...]:
    """The blocks of a text that rewrites a group of `sources` skills.

    Raises:
        ParseError: if `text` is not in the language of `text_pattern(sources)`.
    """
    blocks = []
    lines = text.split("\n")
    starts = [index for index, line in enumerate(lines) if line.startswith("## ")]
    if not starts or starts[0] != 0:
        raise ParseError("the text does not begin with a skill heading (## [1] Title)")
    block_pattern = re.compile(text_pattern(sources))
    for start, end in zip(starts, [*starts[1:], len(lines) + 1], strict=True):
        if end <= len(lines) and lines[end - 1] != "":
            raise ParseError(f"line {end}: no empty line before the heading")
        block = lines[start : end - 1]
        if not block_pattern.fullmatch("\n".join(block)):
            raise ParseError(f"line {start + 1}: not a skill block: {lines[start][:60]!r}")
        blocks.append(_parse_block(block))
    return tuple(blocks)


def _render_block(block: Block) -> str:
    numbers = ",".join(map(str, block.sources)) or "+"
    title = f" {_one_line(block.title)}" if block.title else ""
    when = f" {_one_line(block.when_to_apply)}" if block.when_to_apply else ""
    return f"## [{numbers}]{title}\nWhen:{when}\n{_escape(block.principle)}"


def _parse_block(lines: Sequence[str]) -> Block:
    heading = _HEADING.fullmatch(lines[0])
    assert heading is not None  # the block matched the pattern
    numbers = heading.group(1)
    sources = () if numbers == "+" else tuple(dict.fromkeys(int(n) for n in numbers.split(",")))
    return Block(
        sources,
        _unescape_line(heading.group(2) or ""),
        _unescape_line(lines[1][len("When: ") :]),
        _unescape("\n".join(lines[2:])),
    )


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _unescape_line(text: str) -> str:
    return re.sub(r"\\([\\n])", lambda m: "\n" if m.group(1) == "n" else "\\", text)


def _needs_escape(line: str, *, edge: bool) -> bool:
    bare = line.lstrip("\\")
    return bare.startswith("## ") or (edge and not bare)


def _escape(text: str) -> str:
    lines = text.split("\n")
    last = len(lines) - 1
    return "\n".join("\\" + line if _needs_escape(line, edge=i in (0, last)) else line for i, line in enumerate(lines))


def _unescape(text: str) -> str:
    lines = text.split("\n")
    last = len(lines) - 1
    return "\n".join(
        line[1:] if line.startswith("\\") and _needs_escape(line, edge=i in (0, last)) else line
        for i, line in enumerate(lines)
    )


# --- plan language ---------------------------------------------------------------------------------


def render_plan(plan: Plan) -> str:
    """The plan as text, without a final newline."""
    lines = [f"{line.source} " + " ".join(str(call) for call in line.edits) for line in plan.lines]
    return "\n".join([*lines, *(f"+ warn {kind}" for kind in plan.warnings)])


def parse_plan(text: str, allowed: Sequence[Sequence[str]], *, warnings: int = MAX_WARNINGS) -> Plan:
    """The plan that `text` is, for a group whose i-th skill admits the edits `allowed[i]`.

    Raises:
        ParseError: if `text` is not in the language of `plan_grammar(allowed, warnings=warnings)`.
    """
    lines = text.split("\n")
    if len(lines) < len(allowed):
        raise ParseError(f"the plan has {len(lines)} lines for {len(allowed)} skills")
    parsed = []
    surviving = False
    for number, (line, names) in enumerate(zip(lines, allowed, strict=False), start=1):
        if not re.fullmatch(_line_pattern(number, _sieve(names, surviving)), line):
            raise ParseError(f"line {number}: {line[:60]!r} is no list of edits that skill {number} admits")
        parsed.append(_parse_line(number, line))
        surviving = surviving or parsed[-1].edits[0].name != "drop"
    if allowed and not surviving:
        raise ParseError("the plan drops every skill")
    rest = lines[len(allowed) :]
    if not re.fullmatch(_warnings_pattern(warnings), "".join(f"\n{line}" for line in rest)):
        raise ParseError(f"line {len(allowed) + 1}: not a list of warnings: {rest[0][:60]!r}")
    return Plan(tuple(parsed), tuple(line.removeprefix("+ warn ") for line in rest))


def plan_grammar(allowed: Sequence[Sequence[str]], *, warnings: int = MAX_WARNINGS) -> str:
    """Lark grammar (llguidance) of all plans for a group whose i-th skill admits the edits `allowed[i]`.

    At most `warnings` lines at the end add a warning.

    Every source skill has exactly one line. At least one skill survives, nothing is merged up while no
    skill above it survives; a group that cannot be dropped entirely is a matter of the grammar, not of luck.
    """
    rules = []
    count = len(allowed)
    ending = "warnings" if warnings else ""
    for number, names in enumerate(allowed, start=1):
        last = number == count
        # `bare_i`: no skill above line i survives; `open_i`: one does.
        for state, surviving in (("bare", False), ("open", True)):
            options = _sieve(names, surviving)
            survivors = [name for name in options if name != "drop"]
            rest = ending if last else rf'"\n" open_{number + 1}'
            rules.append(f"{state}_{number}: {_terminal(number, survivors)} {rest}")
            if "drop" in options:
                dropped = f'"{number} drop"'
                if surviving:
                    rules[-1] += f" | {dropped} {rest}"
                elif not last:
                    rules[-1] += rf' | {dropped} "\n" bare_{number + 1}'
    start = "start: bare_1" if allowed else 'start: ""'
    if warnings:
        rules.append(f"warnings: /{_warnings_pattern(warnings)}/")
    return "\n".join([start, *rules])


def _sieve(names: Sequence[str], surviving: bool) -> list[str]:
    """The edits of `names` in canonical order; merging up needs a skill above."""
    known = [name for name in (*_STRUCTURAL, *_TRANSFORMING) if name in names]
    return [name for name in known if surviving or name != "merge-up"]


def _terminal(number: int, names: Sequence[str]) -> str:
    return f"/{_line_pattern(number, names)}/"


def _line_pattern(number: int, names: Sequence[str]) -> str:
    structural = [name for name in names if name in _STRUCTURAL]
    transforming = [_call_pattern(name) for name in names if name in _TRANSFORMING]
    alternatives = [*structural, *_combinations(transforming, MAX_EDITS_PER_LINE)]
    return f"{number} (?:{'|'.join(alternatives)})"


def _combinations(calls: Sequence[str], depth: int) -> list[str]:
    """Patterns of one to `depth` of the calls, in order, separated by blanks."""
    patterns = []
    for index, call in enumerate(calls):
        tail = _combinations(calls[index + 1 :], depth - 1) if depth > 1 else []
        patterns.append(f"{call}(?: (?:{'|'.join(tail)}))?" if tail else call)
    return patterns


def _call_pattern(name: str) -> str:
    arguments = EDITS[name].argument
    return name if arguments is None else f"{name} (?:{'|'.join(arguments)})"


def _warnings_pattern(most: int) -> str:
    """Up to `most` different kinds, in canonical order, each on a line of its own."""
    return _warning_tail(tuple(WARN_KINDS), most)


def _warning_tail(kinds: Sequence[str], depth: int) -> str:
    if not kinds or not depth:
        return ""
    options = [rf"\n\+ warn {kind}{_warning_tail(kinds[i + 1 :], depth - 1)}" for i, kind in enumerate(kinds)]
    return f"(?:{'|'.join(options)})?"


def _parse_line(number: int, line: str) -> PlanLine:
    words = line.split(" ")[1:]
    calls = []
    while words:
        name = words.pop(0)
        calls.append(EditCall(name, words.pop(0) if EDITS[name].argument is not None else None))
    return PlanLine(number, tuple(calls))


def skills_from_blocks(blocks: Sequence[Block], source: Group, bank_group: Group | None = None) -> tuple[Skill, ...]:
    """Skills for the blocks of a rewritten group.

    A block keeps the identifier and the unknown fields of its first source that no earlier block took;
    a block without one gets a new identifier that `bank_group` (the group with its pinned skills; default
    `source`) does not use.
    """
    taken: set[str] = set()
    everything = bank_group or source
    reserved = {skill.skill_id for skill in everything.skills}
    skills = []
    for block in blocks:
        origins = [source.skills[n - 1] for n in block.sources]
        origin = next((skill for skill in origins if skill.skill_id not in taken), None)
        if origin is not None:
            skill = Skill(origin.skill_id, block.title, block.principle, block.when_to_apply, extra=origin.extra)
        else:
            identifier = _fresh_identifier(taken | reserved, everything)
            skill = Skill(identifier, block.title, block.principle, block.when_to_apply)
        taken.add(skill.skill_id)
        skills.append(skill)
    return tuple(skills)


def _fresh_identifier(used: set[str], source: Group) -> str:
    """The next number in the numbering of the group's own identifiers (`gen_012` after `gen_011`)."""
    pattern = re.compile(r"(.*?)(\d+)")
    numbered_ids = [match for skill in source.skills if (match := pattern.fullmatch(skill.skill_id))]
    stem, width = (numbered_ids[-1].group(1), len(numbered_ids[-1].group(2))) if numbered_ids else ("new_", 3)
    number = 1 + max((int(m.group(2)) for m in numbered_ids if m.group(1) == stem), default=0)
    while f"{stem}{number:0{width}d}" in used:
        number += 1
    return f"{stem}{number:0{width}d}"
