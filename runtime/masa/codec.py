"""How skills, groups, plans, interface facts and chat templates are written as JSON values, and read back.

Caches, data sets, checkpoints, recordings and run folders hold them so. Reading accepts every form that was ever
written, and refuses what is of another one with a KeyError, TypeError or ValueError, for the caller to place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from masa.edits.plan import EditCall, Plan, PlanLine
from masa.facts import ActionForm, Facts
from masa.json_fields import Fields
from masa.prompt import ChatTemplate, Segment
from masa.skills import Group, Skill

_SKILL = ("skill_id", "title", "principle", "when_to_apply")
_ACTION = ("form", "meaning", "example")
_PIECES = ("before_system", "before_user", "before_assistant")


def skills_to_json(skills: Iterable[Skill]) -> list[list[str]]:
    """A list of four texts for each skill: id, title, principle, when it applies. Unknown fields are left out."""
    return [[skill.skill_id, skill.title, skill.principle, skill.when_to_apply] for skill in skills]


def skills_from_json(values: Sequence[Any]) -> tuple[Skill, ...]:
    """The inverse of `skills_to_json`; a skill may also be an object of these fields, without a condition."""
    fields = (_texts(value, _SKILL, optional=1) for value in values)
    return tuple(Skill(skill_id, title, principle, when) for skill_id, title, principle, when in fields)


def group_to_json(group: Group) -> dict[str, Any]:
    """Task type (null for the general skills) and skills."""
    return {"task_type": group.task_type, "skills": skills_to_json(group.skills)}


def group_from_json(value: Mapping[str, Any]) -> Group:
    """The inverse of `group_to_json`; other keys do not matter."""
    task_type = value["task_type"]
    if task_type is not None and not isinstance(task_type, str):
        raise TypeError(f"found {task_type!r:.40} where a task type belongs")
    return Group(task_type, skills_from_json(value["skills"]))


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """For each skill the list of its edits, spelled as in the plan language, and the kinds of the warnings added."""
    return {"edits": [[str(call) for call in line.edits] for line in plan.lines], "warnings": list(plan.warnings)}


def plan_from_json(value: Mapping[str, Any]) -> Plan:
    """The inverse of `plan_to_json`; whether there are such edits is not looked at."""
    lines = []
    for number, edits in enumerate(value["edits"], start=1):
        words = [_text(edit).partition(" ") for edit in edits]
        lines.append(PlanLine(number, tuple(EditCall(name, argument or None) for name, _, argument in words)))
    return Plan(tuple(lines), tuple(map(_text, value["warnings"])))


def facts_to_json(facts: Facts) -> dict[str, Any]:
    """Environment, rules and examples, and a list of three texts for each action: form, meaning, example."""
    return {
        "environment": facts.environment,
        "actions": [[action.form, action.meaning, action.example] for action in facts.actions],
        "rules": list(facts.rules),
        "examples": list(facts.examples),
    }


def facts_from_json(value: Mapping[str, Any]) -> Facts:
    """The inverse of `facts_to_json`; an action may also be an object of these fields, lists may be missing."""
    return Facts(
        environment=_text(value["environment"]),
        actions=tuple(ActionForm(*_texts(action, _ACTION, optional=2)) for action in value.get("actions", ())),
        rules=tuple(map(_text, value.get("rules", ()))),
        examples=tuple(map(_text, value.get("examples", ()))),
    )


def template_to_json(template: ChatTemplate) -> dict[str, Any]:
    """A chat template as manifests and checkpoints spell it."""
    pieces = {name: [[segment.text, segment.control] for segment in getattr(template, name)] for name in _PIECES}
    return {**pieces, "stop": list(template.stop)}


def template_from_fields(fields: Fields, stop: Callable[[], tuple[str, ...]] | None = None) -> ChatTemplate:
    """The inverse of `template_to_json`; `stop` finds the texts that end an answer where they stand elsewhere."""
    before_system, before_user, before_assistant = (
        tuple(Segment(text, control) for text, control in fields.segments(name)) for name in _PIECES
    )
    return ChatTemplate(before_system, before_user, before_assistant, stop() if stop else fields.strings("stop"))


def _texts(value: Any, names: Sequence[str], *, optional: int) -> list[str]:
    """The fields of a list with all of them, or of an object that may lack the last `optional` ones."""
    if isinstance(value, Mapping):
        needed = len(names) - optional
        value = [value[name] for name in names[:needed]] + [value.get(name, "") for name in names[needed:]]
    if not isinstance(value, list | tuple) or len(value) != len(names):
        raise ValueError(f"expected a list of {len(names)} texts")
    return list(map(_text, value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"found {value!r:.40} where a text belongs")
    return value
