"""The events of a run folder that a data set is made from: `events.jsonl`, one JSON object a line.

docs/datasets.md documents the schema; `masa evolve` writes it. Events and keys that are not known here are passed over,
so that the search may record more than a data set needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masa.cards import FIELDS, ModelCard
from masa.codec import facts_from_json, skills_from_json
from masa.errors import CardError, FormatError
from masa.facts import Facts
from masa.files import decode, parse_json, read_bytes
from masa.formats import load_bank
from masa.skills import GENERAL, Group
from masa_training.errors import TrainingError

EVENTS = "events.jsonl"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Node:
    """A group that the search evaluated: `plan` made it from `parent`; `reward` is a mean over `episodes`."""

    id: str
    parent: str | None
    group: Group
    plan: str | None = None
    reward: float | None = None
    episodes: int = 0
    accepted: bool = False


@dataclass(slots=True)
class Run:
    """What a run folder has recorded so far.

    Attributes:
        nodes: by group key, in the order they were made.
        best: by group key the id of the best node; the last word counts.
        adapters: by group key the teacher's one-shot rewrite.
        worse: keys of groups for which a rewrite was found to be worse than what the search began with.
        torn: whether the last line was cut off, as a killed run leaves it.
    """

    folder: Path
    environment: str = ""
    backbone: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    task: str = ""
    facts: Facts | None = None
    licence: str = "unknown"
    nodes: dict[str, dict[str, Node]] = field(default_factory=dict)
    best: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, Group] = field(default_factory=dict)
    worse: set[str] = field(default_factory=set)
    torn: bool = False


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        FormatError: if there are no events, or a line that is not the last one is damaged or no event.
    """
    path = folder / EVENTS
    if not path.is_file():
        raise FormatError(f"{folder}: no {EVENTS} in it, so it is no run folder; give the folder that masa evolve made")
    lines = read_bytes(path).split(b"\n")
    run = Run(folder)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            event = parse_json(decode(line, where))
            if not isinstance(event, dict):
                raise ValueError("no object")
        except (ValueError, FormatError):
            if number == len(lines):  # no line break behind it: the run was killed while it wrote
                run.torn = True
                break
            raise FormatError(f"{where}: not a JSON object; the file is damaged, restore it from a copy") from None
        try:
            _take(run, event)
        except (KeyError, TypeError, ValueError, AttributeError, CardError) as error:
            reason = f"missing {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise FormatError(f"{where}: not an event of masa evolve ({reason}); the file is damaged") from None
    if not run.backbone:
        raise FormatError(f'{path}: no event "run", which names backbone and environment; the run never began')
    return run


def _take(run: Run, event: Mapping[str, Any]) -> None:
    kind = event["event"]
    if kind == "run":
        if event.get("format", FORMAT) != FORMAT:
            raise ValueError(f"format {event['format']}, this masa reads {FORMAT}")
        run.environment, run.backbone = _text(event["environment"]), _text(event["backbone"])
        # Fields that this version does not know are passed over; a wrong type is an error.
        run.card = ModelCard(**{key: value for key, value in event["card"].items() if key in FIELDS}).fields()
        run.description, run.task = _text(event.get("description", "")), _text(event.get("task", ""))
        run.licence = _text(event.get("licence", "unknown"))
        if event.get("facts") is not None:
            run.facts = facts_from_json(event["facts"])
    elif kind == "node":
        group = _group(run, event)
        node = Node(
            id=_text(event["id"]),
            parent=None if event.get("parent") is None else _text(event["parent"]),
            group=group,
            plan=None if event.get("plan") is None else _text(event["plan"]),
            reward=None if event.get("reward") is None else float(event["reward"]),
            episodes=int(event.get("episodes", 0)),
            accepted=bool(event.get("accepted", False)),
        )
        nodes = run.nodes.setdefault(group.key, {})
        if node.parent is not None and node.parent not in nodes:
            raise ValueError(f"node {node.id} comes before its parent {node.parent}")
        nodes[node.id] = node
    elif kind == "best":
        key, node_id = _text(event["group"]), _text(event["node"])
        if node_id not in run.nodes.get(key, {}):
            raise ValueError(f"the best node {node_id} of {key} was never recorded")
        run.best[key] = node_id
    elif kind == "verdict":
        decision = event["decision"]
        if event.get("incumbent") == 0 and decision["verdict"] is False and float(decision["difference"]) < 0:
            run.worse.add(_text(event["group"]))
    elif kind == "adapter":
        group = _group(run, event)
        run.adapters[group.key] = group


def _group(run: Run, event: Mapping[str, Any]) -> Group:
    """The group of an event: its skills written out, or those of a bank in the folder."""
    key = _text(event["group"])
    if "skills" in event:
        return Group(None if key == GENERAL else key, skills_from_json(event["skills"]))
    path = (run.folder / _text(event["bank"])).resolve()
    if not path.is_relative_to(run.folder.resolve()):
        raise ValueError(f"the bank {event['bank']!r} is outside the run folder")
    try:
        return load_bank(path).group(key)
    except FormatError as error:
        raise TrainingError(str(error)) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"found {value!r} where a text belongs")
    return value
