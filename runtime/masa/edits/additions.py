"""Edits that add to a principle: `syntax`, `example`, `warn KIND`, and the warning skills of a plan."""

from __future__ import annotations

import re
from collections.abc import Sequence

from masa.facts import ActionForm, Facts
from masa.markdown import blocks, is_plain
from masa.skills import Skill

SYNTAX_LEAD = "Exact commands:"
EXAMPLE_LEAD = "Example:"

_WARNINGS: dict[str, tuple[str, str]] = {
    "loop": (
        "Do not loop",
        "Never repeat an action that changed nothing; try a different action or a different place.",
    ),
    "invalid-action": (
        "Use valid actions only",
        "Use only actions that the environment offers, spelled exactly; anything else has no effect.",
    ),
    "revisiting": (
        "Do not revisit",
        "Do not go back to a place you have already checked unless you need something that is there.",
    ),
    "undelivered-object": (
        "Deliver what you carry",
        "Bring what you hold to its destination and put it there; the task is not done while you carry it.",
    ),
    "answer-form": (
        "Answer in the required form",
        "Give only the answer itself, in exactly the form the task asks for, without a sentence around it.",
    ),
    "wrong-object": (
        "Check the name",
        "Take or choose only what the task names; compare the full name before you act.",
    ),
    "premature-stop": (
        "Finish the task",
        "Do not stop before every part of the task is done; compare the task with what you have reached.",
    ),
    "verbosity": (
        "Keep it short",
        "Keep your reply short: write only the next action or the answer, without explanations.",
    ),
}
WARN_KINDS: tuple[str, ...] = tuple(_WARNINGS)
"""The kinds of `warn`; each has one fixed sentence, extended by interface facts where they are known."""

_WARNING_CONDITIONS = {
    "loop": "Whenever an action changed nothing.",
    "invalid-action": "Before every action.",
    "revisiting": "When deciding where to go next.",
    "undelivered-object": "While you hold an object that the task needs.",
    "answer-form": "When giving the final answer.",
    "wrong-object": "Before taking or choosing something.",
    "premature-stop": "Before ending the task.",
    "verbosity": "In every reply.",
}
_WARNING_VERBS = {  # what a form of the interface does when it is worth naming in the warning
    "undelivered-object": frozenset({"put", "place", "move", "drop", "deliver", "insert", "store"}),
    "answer-form": frozenset({"answer", "respond", "reply", "finish", "submit"}),
}
_FAMILIES = tuple(
    frozenset(words.split())
    for words in (
        "go navigate head travel visit walk proceed return arrive goto",
        "take pick grab acquire collect fetch get hold carry pickup",
        "put place move drop deliver deposit placement store insert destination",
        "open unlock closed container drawer cabinet",
        "close shut",
        "examine inspect look check read observe",
        "use toggle switch turn activate lamp desklamp",
        "search query find lookup retrieve",
        "click select choose press option variant pick",
        "heat warm hot microwave",
        "cool chill cold fridge",
        "clean wash rinse sink sinkbasin",
        "buy purchase order checkout",
        "answer respond reply final submit",
        "inventory carrying holding",
    )
)
_CONTROL = re.compile(r"<\|[^<>\n]*\|>|<(?:start|end)_of_turn>|\[/?INST\]|</?s>|<<SYS>>|<(?:bos|eos|pad|unk)>")


def with_syntax(skill: Skill, facts: Facts | None) -> str:
    """The principle followed by the exact command forms that it speaks of and does not show yet.

    The forms that share a verb with the skill; all of them if none does. Unchanged without such forms, or
    where forms were listed before.
    """
    forms = missing_forms(skill, facts)
    if not forms:
        return skill.principle
    if is_plain(skill.principle) and len(forms) <= 6:
        return appended(skill.principle, f"{SYNTAX_LEAD} {', '.join(f'`{form.form}`' for form in forms)}.")
    listed = "\n".join(f"- `{form.form}`{f': {form.meaning}' if form.meaning else ''}" for form in forms)
    return appended(skill.principle, f"{SYNTAX_LEAD}\n{listed}", own_line=True)


def missing_forms(skill: Skill, facts: Facts | None) -> tuple[ActionForm, ...]:
    """The forms that `syntax` would append, in the order of the facts."""
    if facts is None or SYNTAX_LEAD in skill.principle:
        return ()
    forms = [form for form in facts.actions if _safe(form.form) and "`" not in form.form and "\n" not in form.form]
    speaks_of = [form for form in forms if _speaks_of(skill.text, form)] or forms
    return tuple(form for form in speaks_of if form.form not in skill.principle)


def _speaks_of(text: str, form: ActionForm) -> bool:
    words = frozenset(re.findall(r"[a-z]{2,}", text.lower()))
    verbs = re.findall(r"[a-z]{2,}", re.sub(r"\{[^{}]*\}|<[^<>]*>|\[[^\[\]]*\]", " ", form.form.lower())) or re.findall(
        r"[a-z]{2,}", form.form.lower()
    )
    verb = verbs[:1]
    related = frozenset(verb).union(*(family for family in _FAMILIES if verb and verb[0] in family))
    return bool(words & related) or any(word.rstrip("sed") in related for word in words if len(word) > 4)


def with_example(skill: Skill, facts: Facts | None) -> str:
    """The principle followed by the worked example of the facts that shares most words with the skill."""
    example = chosen_example(skill, facts)
    if example is None:
        return skill.principle
    if "\n" not in example:
        return appended(skill.principle, f"{EXAMPLE_LEAD} {example}")
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", example))])
    return appended(skill.principle, f"{EXAMPLE_LEAD}\n{fence}\n{example}\n{fence}", own_line=True)


def chosen_example(skill: Skill, facts: Facts | None) -> str | None:
    """The example that `example` would append; None without facts, or if the skill shows one of theirs."""
    if facts is None:
        return None
    examples = [example.strip() for example in facts.examples if example.strip() and _safe(example)]
    if not examples or any(example in skill.principle.replace("\r\n", "\n") for example in examples):
        return None
    return max(examples, key=lambda example: shared_words(skill, example))  # the first of equals


def shared_words(skill: Skill, text: str) -> int:
    """How many content words of a text the skill has, too."""
    from masa.edits.english import content_words

    return len(content_words(skill.text) & content_words(text))


def with_warning(principle: str, kind: str, facts: Facts | None) -> str:
    """The principle followed by the warning of a kind; unchanged if it carries that warning."""
    if has_warning(principle, kind):
        return principle
    warning = _WARNINGS[kind][1]
    return appended(principle, f"Warning: {warning[0].lower()}{warning[1:]}{_known(kind, facts)}")


def has_warning(principle: str, kind: str) -> bool:
    """Whether a principle carries the warning of a kind, as an appendix or as a skill of its own."""
    return _WARNINGS[kind][1][1:] in principle


def warning_skill(kind: str, facts: Facts | None, skill_id: str) -> Skill:
    """The skill that the plan line `+ warn KIND` adds."""
    title, warning = _WARNINGS[kind]
    return Skill(skill_id, title, warning + _known(kind, facts), _WARNING_CONDITIONS[kind])


def _known(kind: str, facts: Facts | None) -> str:
    """What interface facts add to a warning: the forms it is about."""
    if facts is None:
        return ""
    safe = [form.form for form in facts.actions if _safe(form.form) and "`" not in form.form and "\n" not in form.form]
    if kind == "invalid-action":
        return f" Actions: {_quoted(safe)}." if safe else ""
    verbs = _WARNING_VERBS.get(kind, frozenset())
    about = [form for form in safe if verbs & frozenset(re.findall(r"[a-z]+", form.lower())[:1])]
    return f" Command: {_quoted(about)}." if about else ""


def _quoted(forms: Sequence[str]) -> str:
    return ", ".join(f"`{form}`" for form in forms)


def _safe(text: str) -> bool:
    """Whether a text from outside holds nothing that a chat template would read as its own."""
    return not _CONTROL.search(text)


def appended(principle: str, addition: str, *, own_line: bool = False) -> str:
    """Principle with an addition: behind its last sentence if it is one paragraph, else in a new paragraph.

    Unchanged where Markdown would swallow the addition, as behind a code fence that is never closed.
    """
    body = principle.rstrip()
    ending = principle[len(body) :]
    if is_plain(principle) and "\n" not in body and not own_line and not body.endswith(":"):
        return f"{closed(body)} {addition}{ending}"
    before = [part.kind for part in blocks(body)]
    result = f"{body}\n\n{addition}{ending}"
    after = [part.kind for part in blocks(result)]
    if after[: len(before)] != before or len(after) <= len(before):
        return principle
    return result


def closed(text: str) -> str:
    """Text that ends like a sentence."""
    return text if re.search(r"[.!?…。！？][\"'”’)\]*_~]*\\?$", text) else f"{text}."
