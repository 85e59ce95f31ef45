"""Banks, cards, run folders and a base without a model, for tests of data sets. All texts are ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.codec import group_to_json, plan_from_json, plan_to_json
from masa.edits import EditCall, Plan, PlanLine, apply_plan
from masa.files import parse_yaml
from masa.languages import render_plan
from masa.prompt import CHATML, ChatTemplate
from masa.skills import GENERAL, Group, Skill
from masa_training.dataset.config import DatasetConfig
from masa_training.decisions import Decision
from masa_training.search import Proposal, Verdict, event_to_json
from masa_training.settings import make
from tests.support import ScriptedBackend

BACKBONES = ("1b", "2b", "3b")
ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {"home": ("clean", "heat", "fetch"), "shop": ("shoes", "lamps")}

_THINGS = {
    GENERAL: ("map", "door", "list", "place"),
    "clean": ("plate", "sink", "brush", "cup"),
    "heat": ("soup", "oven", "pan", "kettle"),
    "fetch": ("key", "drawer", "desk", "shelf"),
    "shoes": ("size", "colour", "price", "sole"),
    "lamps": ("bulb", "shade", "watt", "cable"),
}


def skill(identifier: str, principle: str, title: str = "", when: str = "When it helps.") -> dict[str, str]:
    return {
        "skill_id": identifier,
        "title": title or f"Title of {identifier}",
        "principle": principle,
        "when_to_apply": when,
    }


def base_skills(key: str) -> list[dict[str, str]]:
    """Three skills of a group, each about a thing of its own."""
    return [
        skill(
            f"{key}_{number}",
            f"Look for the {thing} before anything else. Take the {thing} with both hands, because it may fall down. "
            f"Then bring the {thing} to where it belongs and check that it stays there.",
            title=f"Handle the {thing}",
            when=f"When the task names a {thing}.",
        )
        for number, thing in enumerate(_THINGS[key][:3], start=1)
    ]


def made_skills(key: str, backbone: str, maker: str) -> list[dict[str, str]]:
    """What a maker ("adapter" or "evolved") made of the group for a backbone: two skills, one of them new."""
    first, new = _THINGS[key][0], _THINGS[key][3]
    return [
        skill(f"{key}_{maker}_1", f"Take the {first} first and bring it home, says {maker} of {backbone} for {key}."),
        skill(
            f"{key}_{maker}_2", f"Never forget the {new}; this is {maker} advice number two for {backbone} in {key}."
        ),
    ]


def bank(groups: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, Any]:
    specific = {key: list(skills) for key, skills in groups.items() if key != GENERAL}
    return {"general_skills": list(groups.get(GENERAL, ())), "task_specific_skills": specific}


def card_yaml(backbone: str) -> str:
    return (
        f"family: Toy\nvariant: {backbone.upper()}\nparameter_count: {backbone.upper()}\nnum_layers: {backbone[0]}\n"
        f"strengths: follows lists, like {backbone}\nweaknesses: repeats itself, like {backbone}\n"
    )


def write_banks(folder: Path) -> Path:
    """The authors' layout with two environments and three backbones; every evolved bank lacks the group `extra`."""
    for environment, keys in ENVIRONMENTS.items():
        place = folder / "banks" / environment
        place.mkdir(parents=True, exist_ok=True)
        base = {key: base_skills(key) for key in (GENERAL, *keys)}
        # A general skill has the same text in every environment in this toy, which real banks do not.
        base[GENERAL] = [dict(s, principle=f"In the {environment}: {s['principle']}") for s in base[GENERAL]]
        base["extra"] = [skill("extra_1", f"An extra skill of the {environment}.")]
        write_json(place / "base.json", bank(base))
        for backbone in BACKBONES:
            for maker in ("adapter", "evolved"):
                groups = {key: _made(key, backbone, maker, environment) for key in (GENERAL, *keys)}
                write_json(place / f"{backbone}_{maker}.json", bank(groups))
    cards = folder / "cards"
    cards.mkdir(exist_ok=True)
    for backbone in BACKBONES:
        (cards / f"{backbone}.yaml").write_text(card_yaml(backbone))
    return folder


def _made(key: str, backbone: str, maker: str, environment: str) -> list[dict[str, str]]:
    made = made_skills(key, backbone, maker)
    return [dict(each, principle=f"{each['principle']} It holds in the {environment}.") for each in made]


CONFIG = """\
name: toy
language: text
kind: published
sources:
  banks:
    - {environment: home, base: banks/home/base.json, adapter: "banks/home/{backbone}_adapter.json",
       evolved: "banks/home/{backbone}_evolved.json", card: "cards/{backbone}.yaml", backbones: [1b, 2b, 3b],
       description: a small home, origin: toy banks for home, licence: CC0-1.0}
    - {environment: shop, base: banks/shop/base.json, adapter: "banks/shop/{backbone}_adapter.json",
       evolved: "banks/shop/{backbone}_evolved.json", card: "cards/{backbone}.yaml", backbones: [1b, 2b, 3b],
       origin: toy banks for the shop, licence: CC0-1.0}
holdouts:
  test: {task_types: [heat]}
  validation: {task_types: [fetch]}
context_length: 20000
"""


def write_config(folder: Path, text: str = CONFIG) -> Path:
    """Banks and a configuration for them."""
    write_banks(folder)
    path = folder / "toy.yaml"
    path.write_text(text)
    return path


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))


def edit(path: Path, change: Any) -> None:
    """Rewrite a JSON file after `change` has worked on its value."""
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)


@dataclass(frozen=True)
class ByteBase:
    """A base whose tokens are bytes."""

    context_length: int = 100_000
    spec: str = "bytes"
    name: str = "bytes"
    template: ChatTemplate = CHATML

    def tokenizer(self) -> ScriptedBackend:
        return ScriptedBackend(lambda prompt: "")


def group(key: str) -> Group:
    return Group(None if key == GENERAL else key, tuple(Skill(**fields) for fields in base_skills(key)))


def plan(*lines: str, warnings: Sequence[str] = ()) -> Plan:
    """`plan("shorten", "steps emphasise")`; an edit with an argument is written `limit=2`."""
    parsed = []
    for number, line in enumerate(lines, start=1):
        calls = (word.partition("=") for word in line.split())
        parsed.append(PlanLine(number, tuple(EditCall(name, argument or None) for name, _, argument in calls)))
    return Plan(tuple(parsed), tuple(warnings))


def run_event(backbone: str = "Toy-1B", environment: str = "home", **more: Any) -> dict[str, Any]:
    card = {"family": "Toy", "variant": backbone.partition("-")[2], "weaknesses": f"repeats itself, like {backbone}"}
    return {"event": "run", "format": 2, "environment": environment, "backbone": backbone, "card": card, **more}


def chain(key: str, plans: Sequence[Plan | None], start: Group | None = None) -> list[dict[str, Any]]:
    """Events of a search that made one node after the other by these plans and found the last one best.

    For None the child is a new text without a plan. `start` is the group to begin with, if not that of the key. A node
    has three events, the teacher's answer first; the last event is the end of the search.
    """
    current = start or group(key)
    first = Proposal(0, None, 0, current)
    events: list[dict[str, Any]] = [{**event_to_json(first, group_to_json), "group": key}]
    for number, step in enumerate(plans, start=1):
        if step is None:
            current = Group(current.task_type, (Skill("w1", "Written", f"A new text for {key} {number}.", "Now."),))
        else:
            current = apply_plan(current, step).group
        told = {"round": number, "parent": number - 1, "plan": None if step is None else plan_to_json(step)}
        proposal = Proposal(number, number - 1, number, current)
        verdict = Verdict(number, number, number - 1, Decision(True, 0.1, None, "better"))
        events += [
            {"event": "rewrite", "group": key, **told},
            {**event_to_json(proposal, group_to_json), "group": key},
            {**event_to_json(verdict, group_to_json), "group": key},
        ]
    events.append({"event": "ended", "group": key, "best": len(plans)})
    return events


def as_format_1(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same run as it was written by the first format: plans as text, the end of a search by its best node."""
    old: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "ended":
            old.append({"event": "best", "group": event["group"], "node": f"{event['group']}-{event['best']}"})
        elif event["event"] == "rewrite" and event["plan"] is not None:
            old.append({**event, "plan": render_plan(plan_from_json(event["plan"]))})
        else:
            old.append(dict(event))
    return old


def write_run(folder: Path, events: Sequence[Mapping[str, Any]], tail: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + tail)
    return folder


def dataset_config(text: str, where: str = "configuration") -> DatasetConfig:
    """The configuration that a YAML text is."""
    return make(DatasetConfig, parse_yaml(text), where)
