"""The prompt of a rewriter, version 1: what it reads before it writes a group.

Training and runtime render through this module only. A prompt is a list of segments (text, is_control):
control segments come from the artifact's chat template and are tokenized with special tokens parsed;
everything else (skills, cards, tasks) is tokenized as plain text, so that a chat-template token spelled
inside a skill stays a spelling.

The order is chosen for sharing and for learning. What all groups of a bank have in common comes first
(instruction, environment, task, interface facts) and is computed once; then the group; the model card comes
last, because a small rewriter that reads the card before the skills learned to ignore it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from masa.facts import Facts
from masa.languages import numbered, render_blocks
from masa.skills import Group
from masa.wording import OPERATIONS

if TYPE_CHECKING:
    pass

PROMPT_VERSION = 1
"""Version that this module writes. Older ones stay readable: `render_prompt` takes the artifact's."""

SUPPORTED_VERSIONS = (1,)

_TEXT_INSTRUCTION = """\
You adapt an agent's skills to the language model that will read them. You get the skills of one group \
and the model card of the reader. Write the group anew so that this reader follows it best: change wording, \
length, order and structure, merge or split skills, but keep every command, name, link and code as it is, and \
invent nothing. Write each skill as a heading with the numbers of the skills it comes from ([+] for a new one), \
the condition under which it applies, and the text:

## [1] Title
When: condition
Text."""

_PLAN_INSTRUCTION = """\
You adapt an agent's skills to the language model that will read them. You get the skills of one group \
and the model card of the reader. Write a plan: for each skill one line with its number and the edits that help \
this reader. Edits:
keep: good as it is
drop: useless for this reader
merge-up: join to the skill above
first: move to the front
shorten: only the core instruction
condition-action: if this, do that
steps: numbered steps
syntax: add the exact commands
example: add a worked example
emphasise: mark as important
warn KIND: add a warning
limit N: at most N sentences
Example of a plan for three skills:
1 shorten
2 steps syntax
3 condition-action"""

_WORDING_INSTRUCTION = """\
You reword an agent's skill as the operation says. Every order, condition, exception, number, name, command and path \
stays, and nothing is invented."""

INSTRUCTIONS: Mapping[str, str] = {
    "text": _TEXT_INSTRUCTION,
    "plan": _PLAN_INSTRUCTION,
    "wording": _WORDING_INSTRUCTION,
}
_ASK: Mapping[str, str] = {
    "text": "Write the group for this reader.",
    "plan": "Write the plan for this reader.",
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt. Only control segments may contain special tokens."""

    text: str
    control: bool = False


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The fixed pieces of a base model's chat format around a system and a user message."""

    before_system: tuple[Segment, ...]
    before_user: tuple[Segment, ...]
    before_assistant: tuple[Segment, ...]
    stop: tuple[str, ...]

    @property
    def controls(self) -> tuple[str, ...]:
        """The special tokens that this template uses, for the guard."""
        pieces = (*self.before_system, *self.before_user, *self.before_assistant)
        return tuple(dict.fromkeys((*(piece.text for piece in pieces if piece.control), *self.stop)))


CHATML = ChatTemplate(
    before_system=(Segment("<|im_start|>", True), Segment("system\n")),
    before_user=(
        Segment("<|im_end|>", True),
        Segment("\n"),
        Segment("<|im_start|>", True),
        Segment("user\n"),
    ),
    before_assistant=(
        Segment("<|im_end|>", True),
        Segment("\n"),
        Segment("<|im_start|>", True),
        Segment("assistant\n"),
    ),
    stop=("<|im_end|>",),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What a rewriter is asked: the group, for whom, and what is known about the task.

    `card` holds the non-null fields of the model card in canonical order; empty means no card. In the wording language
    `operation` is what to do with the skill, or the two skills, of the group, `keep` is what must not be lost.
    """

    group: Group
    card: Mapping[str, object]
    task: str = ""
    environment: str = ""
    facts: Facts | None = None
    operation: str = ""
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """Segments in two parts: `shared` is equal for all groups of one rewrite, `own` is the group's."""

    shared: tuple[Segment, ...]
    own: tuple[Segment, ...]


def render_prompt(
    request: Request, language: str, template: ChatTemplate = CHATML, *, version: int = PROMPT_VERSION
) -> Prompt:
    """The prompt for one group in the given output language (of `masa.languages.LANGUAGES`).

    Raises:
        ValueError: if the language or the prompt version is unknown.
    """
    if version not in SUPPORTED_VERSIONS:
        raise ValueError(f"prompt version {version}; this masa knows {', '.join(map(str, SUPPORTED_VERSIONS))}")
    if language not in INSTRUCTIONS:
        raise ValueError(f"unknown output language {language!r}; known: {', '.join(INSTRUCTIONS)}")
    opening = (*template.before_system, Segment(INSTRUCTIONS[language]), *template.before_user)
    if language == "wording":
        # The skill first: all operations on it share that part.
        own = (Segment(_skills(request.group)), Segment(_order(request)), *template.before_assistant)
        return Prompt(opening, own)
    shared = (*opening, *_as_text(_setting(request)))
    own = (
        Segment(_group(request.group)),
        Segment(_reader(request.card)),
        Segment(_ASK[language]),
        *template.before_assistant,
    )
    return Prompt(shared, own)


def _as_text(text: str) -> Sequence[Segment]:
    return (Segment(text),) if text else ()


def _setting(request: Request) -> str:
    """What holds for the whole bank: environment, task and interface facts; empty if nothing is known."""
    environment = request.environment or (request.facts.environment if request.facts else "")
    lines = [f"Environment: {environment}"] if environment else []
    if request.task:
        lines.append(f"Task: {request.task}")
    if request.facts:
        if request.facts.actions:
            lines.append("Commands: " + "; ".join(action.form for action in request.facts.actions))
        lines += [f"Rule: {rule}" for rule in request.facts.rules]
    return "\n".join(lines) + "\n\n" if lines else ""


def _group(group: Group) -> str:
    head = "General skills" if group.task_type is None else f"Skills for the task type {group.task_type}"
    return f"{head}:\n\n{render_blocks(numbered(group))}\n\n"


def _skills(group: Group) -> str:
    """The texts to reword, each with its condition; titles are labels, and stay."""
    parts = []
    for skill in group.skills:
        when = " ".join(skill.when_to_apply.split())
        parts.append((f"When: {when}\n" if when else "") + f"Skill:\n{skill.principle.strip()}\n\n")
    return "".join(parts)


def _order(request: Request) -> str:
    operation = OPERATIONS[request.operation]
    keep = "; ".join(" ".join(span.split()) for span in request.keep)
    return f"Operation: {operation.name}. {operation.instruction}\n" + (f"Keep: {keep}\n" if keep else "")


def _reader(card: Mapping[str, object]) -> str:
    if not card:
        return "Reader: unknown\n\n"
    return "Reader:\n" + "\n".join(f"{key}: {_value(value)}" for key, value in card.items()) + "\n\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    # A card is outside text too: a line break would let a value pose as another field.
    return " ".join(str(value).split())
