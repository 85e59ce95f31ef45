"""The folder of an evolution run: `config.yaml`, `events.jsonl` and `banks/`.

Events are only ever appended, and a line is on the disk before what follows from it is done. Everything else is
computed from them, so that a killed run goes on where it was; docs/datasets.md has the part that data sets read.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from masa.codec import group_from_json, group_to_json
from masa.errors import FormatError
from masa.files import make_folder, parse_json, parse_yaml, read_text, write_atomic
from masa.skills import Group
from masa_training.append_only import append_records, is_empty, whole_lines
from masa_training.bank_groups import WHOLE
from masa_training.errors import TrainingError
from masa_training.evolution.config import EvolveConfig
from masa_training.evolution.ledger import Played
from masa_training.rollouts import Episode
from masa_training.search import Event, Proposal, event_from_json, event_to_json
from masa_training.teacher.config import TeacherConfig

EVENTS, CONFIG = "events.jsonl", "config.yaml"
FORMAT = 1
SEARCHING = ("proposal", "evaluation", "verdict")
"""Kinds of event that a search makes."""
RESULT = ("node", "best", "whole")
"""Kinds of event that tell what a search found, when it has ended."""

_TEACHER: Mapping[str, Any] = json.loads(json.dumps(asdict(TeacherConfig())))


@dataclass(slots=True)
class Spent:
    """What a run has used so far, over all its sessions, by the names of `BudgetConfig`."""

    episodes: int = 0
    tokens: int = 0
    teacher_tokens: int = 0
    dollars: float = 0.0
    minutes: float = 0.0

    def add_episode(self, split: str, episode: Episode, before: Episode | None) -> None:
        """Episodes of the final test are not counted, one that is played again counts once."""
        if split != "test":
            self.episodes += before is None
            self.tokens += episode.prompt_tokens + episode.completion_tokens

    def add_time(self, values: Mapping[str, Any]) -> None:
        """An event "spent". In a record without its episodes it also says how many there were, and their tokens."""
        self.minutes += float(values["seconds"]) / 60
        self.episodes += int(values.get("episodes", 0))
        self.tokens += int(values.get("tokens", 0))

    def add_rewrite(self, values: Mapping[str, Any]) -> None:
        """What the teacher's answer cost."""
        self.teacher_tokens += int(values.get("tokens", 0))
        self.dollars += float(values.get("dollars", 0.0))


class RunFolder:
    """The events of a run, in memory and on the disk. Several threads may write, each to searches of its own."""

    def __init__(self, folder: Path, config: EvolveConfig, *, resume: bool = False) -> None:
        """Make the folder ours, or go on with the run in it.

        Raises:
            TrainingError: if it holds a run and `resume` is off, another run, or something else.
        """
        self.path = make_folder(folder)
        self.episodes: dict[Played, Episode] = {}
        self.searches: dict[str, list[Event[Group]]] = defaultdict(list)
        self.best: dict[str, Group] = {}
        self.rewrites: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.banks: dict[tuple[str, int], str] = {}
        """By group and node the fingerprint of the bank that was played for it."""
        self.spent = Spent()
        self.tested = False
        self.begun = False
        self._results: set[tuple[str, ...]] = set()
        self._lock = threading.Lock()
        self._claim(config, resume)
        self._ticked = time.monotonic()

    def episode(self, played: Played, episode: Episode, *, told: bool | None = None) -> None:
        """As `Ledger.episode`."""
        heard = {} if told is None else {"told": told}
        with self._lock:
            self._append({"event": "episode", "of": list(played), **heard, **episode.to_dict()})
            self.spent.add_episode(played.split, episode, self.episodes.get(played))
            self.episodes[played] = episode

    def search(self, key: str, event: Event[Group], bank: str | None = None) -> None:
        """As `Ledger.search`."""
        named = {} if bank is None else {"bank": bank}
        with self._lock:
            self._append({**event_to_json(event, group_to_json), "group": key, **named})
            self.searches[key].append(event)
            if bank is not None and isinstance(event, Proposal) and event.node is not None:
                self.banks[key, event.node] = bank

    def rewrite(self, key: str, values: Mapping[str, Any]) -> None:
        """As `Ledger.rewrite`."""
        with self._lock:
            self._append({"event": "rewrite", "group": key, **values})
            self.rewrites[key].append(dict(values))
            self.spent.add_rewrite(values)

    def tick(self) -> None:
        """As `Ledger.tick`, so that a limit on time holds over all sessions."""
        with self._lock:
            now = time.monotonic()
            seconds, self._ticked = now - self._ticked, now
            self._append({"event": "spent", "seconds": round(seconds, 3)})
            self.spent.minutes += seconds / 60

    def minutes(self) -> float:
        """Of all sessions, up to now."""
        with self._lock:
            return self.spent.minutes + (time.monotonic() - self._ticked) / 60

    def found(self, key: str, nodes: list[dict[str, Any]], best: int, group: Group) -> None:
        """Keep the result of a search: its evaluated nodes, then which of them is the best.

        The whole bank's nodes are those of its groups; each has one best, until its own search names another.
        """
        result: list[dict[str, Any]] = [{"event": "node", **node} for node in nodes]
        if key == WHOLE:
            groups = dict.fromkeys(node["group"] for node in nodes)
            result += [{"event": "best", "group": its, "node": f"{WHOLE}-{best}"} for its in groups]
            result.append({"event": "whole", "node": best})
        else:
            result.append({"event": "best", "group": key, "node": f"{key}-{best}"})
        with self._lock:
            # A kill may have left the first part of it.
            for event in result:
                if _result_key(event) not in self._results:
                    self._append(event)
            self.best[key] = group

    def run(self, values: Mapping[str, Any]) -> None:
        """The first event of all; a run that goes on has it already."""
        with self._lock:
            if not self.begun:
                self._append({"event": "run", "format": FORMAT, **values})
                self.begun = True

    def test(self, values: Mapping[str, Any]) -> None:
        """The final comparison, once."""
        with self._lock:
            if not self.tested:
                self._append({"event": "test", **values})
                self.tested = True

    def _append(self, event: Mapping[str, Any]) -> None:
        append_records(self.path / EVENTS, [event])

    def _claim(self, config: EvolveConfig, resume: bool) -> None:
        import yaml

        record = self.path / CONFIG
        wanted = json.loads(json.dumps(config.to_dict()))
        if not record.exists():
            if not is_empty(self.path):
                raise TrainingError(f"{self.path}: is not empty and holds no run; give another folder")
            write_atomic(record, yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True).encode())
            return
        if not resume:
            raise TrainingError(f"{self.path}: holds a run already; add --resume to continue, or give another folder")
        try:
            before = parse_yaml(read_text(record))
            differing = differences(before, wanted)
        except (ValueError, FormatError, AttributeError, TypeError):
            raise TrainingError(f"{record}: damaged; give another folder") from None
        if differing:
            raise TrainingError(f"{self.path}: its run has another {', '.join(differing)}; give another folder")
        for number, line in enumerate(whole_lines(self.path / EVENTS), start=1):
            try:
                self._read(parse_json(line))
            except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
                raise TrainingError(
                    f"{self.path / EVENTS}: line {number} is damaged ({error}); cut the file off before it, then go on "
                    "with --resume"
                ) from None

    def _read(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind in RESULT:
            self._results.add(_result_key(event))
        if kind == "run":
            self.begun = True
        elif kind == "test":
            self.tested = True
        elif kind == "spent":
            self.spent.add_time(event)
        elif kind == "episode":
            played, episode = episode_from_json(event)
            self.spent.add_episode(played.split, episode, self.episodes.get(played))
            self.episodes[played] = episode
        elif kind in SEARCHING:
            key, found, bank = search_from_json(event)
            self.searches[key].append(found)
            if bank is not None and isinstance(found, Proposal) and found.node is not None:
                self.banks[key, found.node] = bank
        elif kind == "rewrite":
            values = {name: value for name, value in event.items() if name not in ("event", "group")}
            self.rewrites[event["group"]].append(values)
            self.spent.add_rewrite(values)
        elif (search := ended_by(event)) is not None:
            key, number = search
            proposals = (e for e in self.searches[key] if isinstance(e, Proposal))
            self.best[key] = next(e.candidate for e in proposals if e.node == number and e.candidate)


def differences(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings of a recorded run that are others now, both as JSON values.

    A larger budget is how a run that reached its limit goes on. A setting that did not exist then had its default.
    """
    first, second = _settled(before), _settled(wanted)
    return sorted(key for key in second if key != "budget" and first.get(key) != second[key])


def _settled(values: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {its.name: its.default for its in fields(EvolveConfig) if its.default is not MISSING}
    settled = {**defaults, **values}
    teacher = settled["teacher"]
    named = {"model": teacher} if isinstance(teacher, str) else teacher
    return {**settled, "teacher": {**_TEACHER, **named}}


def _result_key(event: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two events of the kinds `RESULT` the same one."""
    return event["event"], event.get("group", WHOLE), str(event["id"] if event["event"] == "node" else event["node"])


def ended_by(event: Mapping[str, Any]) -> tuple[str, int] | None:
    """The group whose search an event ends, and the best node's number; None for other events.

    A best node that a group has from the whole bank's search ends no search of its own.

    Raises:
        KeyError, ValueError: if the event is damaged.
    """
    if event["event"] == "whole":
        return WHOLE, int(event["node"])
    if event["event"] != "best":
        return None
    key, _, number = str(event["node"]).rpartition("-")
    return (key, int(number)) if key == event["group"] else None


def episode_from_json(event: Mapping[str, Any]) -> tuple[Played, Episode]:
    """An event of the kind "episode": what happened, whatever was told of it.

    Raises:
        KeyError, TypeError, ValueError: if it is none.
    """
    values = {key: value for key, value in event.items() if key not in ("event", "of", "told")}
    return Played(*event["of"]), Episode.from_dict(values)


def search_from_json(event: Mapping[str, Any]) -> tuple[str, Event[Group], str | None]:
    """An event of one of the kinds `SEARCHING`: the group, what happened, the fingerprint of a new node's bank.

    Older runs recorded no fingerprints.

    Raises:
        KeyError, TypeError, ValueError: if it is none.
    """
    values = {key: value for key, value in event.items() if key not in ("group", "bank")}
    return event["group"], event_from_json(values, group_from_json), event.get("bank")
