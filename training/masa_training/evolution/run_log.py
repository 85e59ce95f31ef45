"""The folder of an evolution run, `config.yaml`, `events.jsonl` and `banks/`: who may write, what, and what it says.

Events are only ever appended, and a line is on the disk before what follows from it is done. Everything else is
computed from them, so that a killed run goes on where it was: `Run` is what they add up to, for the run itself, for
reports and studies, and for data sets. docs/evolution.md lists the events.

Format 1 ended a search by events "best" and "whole", wrote plans as text, and beside them events "node", which are read
for the groups of the whole bank's skills alone.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from masa.codec import group_from_json, group_to_json, plan_from_json, plan_to_json
from masa.edits import EDITS, Plan
from masa.errors import FormatError
from masa.files import make_folder, parse_json, parse_yaml, read_bytes, read_text, write_atomic
from masa.languages import ParseError, parse_plan
from masa.skills import Group
from masa_training.append_only import append_records, is_empty
from masa_training.bank_groups import WHOLE, climbs
from masa_training.errors import TrainingError
from masa_training.evolution.config import BudgetConfig, EvolveConfig
from masa_training.rollouts import Episode
from masa_training.rollouts.episodes import Score, reward_of
from masa_training.search import (
    Evaluation,
    Event,
    Proposal,
    State,
    Verdict,
    event_from_json,
    event_to_json,
)
from masa_training.teacher.config import TeacherConfig

EVENTS, CONFIG = "events.jsonl", "config.yaml"
FORMAT = 2

CANCELLED = "cancelled"
"""Why a run ended that was told to."""

_SEARCHING = ("proposal", "evaluation", "verdict")
_TEACHER: Mapping[str, Any] = json.loads(json.dumps(asdict(TeacherConfig())))


class Played(NamedTuple):
    """Which episode it is: of which bank, for what, of which task, with which seed."""

    bank: str
    split: str
    task: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the teacher said when it was asked for a rewrite.

    Attributes:
        parent: the node that was to be rewritten.
        source: whether the plan begins with that node's group or with the search's first one.
        plan: None where it wrote freely or failed.
        attribution: share of the failed episodes that show each symptom.
    """

    round: int
    parent: int
    source: Literal["group", "original"] = "group"
    plan: Plan | None = None
    note: str = ""
    attribution: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0
    dollars: float = 0.0


@dataclass(slots=True)
class Spent:
    """What a run has used so far, over all its sessions, by the names of `BudgetConfig`."""

    episodes: int = 0
    tokens: int = 0
    teacher_tokens: int = 0
    dollars: float = 0.0
    minutes: float = 0.0


@dataclass(slots=True)
class Search:
    """The search for one group, as far as it got.

    Attributes:
        answers: all of the teacher's, also those of a round that was asked again after a kill.
        banks: by node the fingerprint of the bank that played for it; empty in the oldest runs.
        best: the best node's number once the search has ended.
    """

    key: str
    state: State[Group] = field(default_factory=State)
    answers: list[Answer] = field(default_factory=list)
    banks: dict[int, str] = field(default_factory=dict)
    best: int | None = None

    @property
    def kind(self) -> str:
        return "hill climbing" if climbs(self.key) else "tree search"

    @property
    def finished(self) -> bool:
        return self.best is not None

    @property
    def incumbent(self) -> Group | None:
        """The best group so far; None if the search did not begin."""
        return self.state.nodes[self.state.best].candidate if self.state.nodes else None

    def answer(self, round: int) -> Answer | None:
        """What led to the node of a round: the last word counts."""
        return next((its for its in reversed(self.answers) if its.round == round), None)

    def in_numbers(self) -> dict[str, Any]:
        """Proposals, those that failed, accepted, rejected and indecisive edits, and episodes evaluated."""
        events = list(self.state.events)
        verdicts = [event.decision.verdict for event in events if isinstance(event, Verdict)]
        return {
            "proposals": sum(isinstance(event, Proposal) and event.round > 0 for event in events),
            "failed": sum(isinstance(event, Proposal) and event.node is None for event in events),
            "accepted": verdicts.count(True),
            "rejected": verdicts.count(False),
            "indecisive": verdicts.count(None),
            "episodes": sum(len(event.rewards) for event in events if isinstance(event, Evaluation)),
            "finished": self.finished,
        }


@dataclass(slots=True)
class Run:
    """What the events of a run add up to.

    Attributes:
        about: the event "run"; empty before it.
        settings: `config.yaml`; empty if it cannot be read.
        searches: by group, in the order of the run, those not begun yet included where the run says that they will be.
        homes: by skill_id the group of each skill of the bank that the search for the whole bank began with.
        test: the final comparison, as `masa_training.evaluate.banks.report` makes it; empty until it was played.
        events: how many there are.
        torn: whether the last line is not whole: written at this moment, or when the run was killed.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    searches: dict[str, Search] = field(default_factory=dict)
    episodes: dict[Played, Episode] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    test: Mapping[str, Any] = field(default_factory=dict)
    events: int = 0
    torn: bool = False

    @property
    def penalty(self) -> float:
        """λ of the run's rewards."""
        return float(self.settings.get("penalty", 0.0))

    @property
    def score(self) -> Score:
        """What the run's rewards are made of."""
        return "reward" if self.settings.get("score") == "reward" else "success"

    def reward(self, episode: Episode) -> float | None:
        """R of an episode, as the run decides by it; None for a missing one."""
        return reward_of(episode, self.penalty, self.score)

    @property
    def finished(self) -> bool:
        return bool(self.test) and all(search.finished for search in self.searches.values())

    def search(self, key: str) -> Search:
        """The search for a group, made where it is missing."""
        if not isinstance(key, str):
            raise TypeError(f"found {key!r} where the name of a group belongs")
        return self.searches.setdefault(key, Search(key))

    def take(self, event: dict[str, Any], *, turns: bool = True) -> None:
        """Go on by one event of the file; kinds that this version does not know are passed over.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: if it is damaged.
        """
        kind = event["event"]
        if kind == "run":
            if event.get("format", 1) > FORMAT:
                raise ValueError(f"format {event['format']}, this masa reads 1 to {FORMAT}; upgrade masa")
            self.about = event
            for key in event.get("groups", ()):
                self.search(key)
        elif kind == "episode":
            values = {key: value for key, value in event.items() if key not in ("event", "of", "told")}
            self.played(Played(*event["of"]), Episode.from_dict(values if turns else {**values, "turns": ()}))
        elif kind in _SEARCHING:
            values = {key: value for key, value in event.items() if key not in ("group", "bank")}
            self.searched(event["group"], event_from_json(values, group_from_json), event.get("bank"))
        elif kind == "rewrite":
            self.answered(event["group"], self._answer(event))
        elif kind == "spent":
            # In a record without its episodes it also says how many there were, and their tokens.
            self.spent.minutes += float(event["seconds"]) / 60
            self.spent.episodes += int(event.get("episodes", 0))
            self.spent.tokens += int(event.get("tokens", 0))
        elif kind == "homes":
            self.homes = {str(skill): str(key) for skill, key in event["skills"].items()}
        elif kind == "ended":
            self.ended(event["group"], int(event["best"]))
        elif kind == "test":
            self.test = _tested(event)
        elif kind == "node" and event["id"] == f"{WHOLE}-0":
            self.homes |= {str(skill["skill_id"]): str(event["group"]) for skill in event["skills"]}
        elif kind == "whole":
            self.ended(WHOLE, int(event["node"]))
        elif kind == "best":
            # A best node that a group has from the whole bank's search ends no search of its own.
            key, _, number = str(event["node"]).rpartition("-")
            if key == event["group"]:
                self.ended(key, int(number))

    def played(self, played: Played, episode: Episode) -> None:
        """An episode. Those of the final test count to no budget, one that is played again counts once."""
        if played.split != "test":
            self.spent.episodes += played not in self.episodes
            self.spent.tokens += episode.prompt_tokens + episode.completion_tokens
        self.episodes[played] = episode

    def searched(self, key: str, event: Event[Group], bank: str | None) -> None:
        """An event of a search; `bank` is the fingerprint of the bank that plays for a new node."""
        search = self.search(key)
        search.state.add(event)
        if bank is not None and isinstance(event, Proposal) and event.node is not None:
            search.banks[event.node] = str(bank)

    def answered(self, key: str, answer: Answer) -> None:
        """An answer of the teacher."""
        self.search(key).answers.append(answer)
        self.spent.teacher_tokens += answer.tokens
        self.spent.dollars += answer.dollars

    def ended(self, key: str, best: int) -> None:
        """The end of a search."""
        search = self.search(key)
        if not 0 <= best < len(search.state.nodes):
            raise ValueError(f"the best node {best} of {key} was never proposed")
        search.best = best

    def _answer(self, event: Mapping[str, Any]) -> Answer:
        plan, nodes = event.get("plan"), self.search(event["group"]).state.nodes
        parent, source = int(event["parent"]), event.get("source", "group")
        if isinstance(plan, str):
            skills = len(nodes[0 if source == "original" else parent].candidate)
            try:  # every known edit is admitted for every skill: what the search did, it did
                plan = parse_plan(plan, [tuple(EDITS)] * skills)
            except ParseError:
                plan = None
        elif plan is not None:
            plan = plan_from_json(plan)
        return Answer(
            round=int(event["round"]),
            parent=parent,
            source=source,
            plan=plan,
            note=str(event.get("note") or ""),
            attribution=dict(event.get("attribution") or {}),
            tokens=int(event.get("tokens", 0)),
            dollars=float(event.get("dollars", 0.0)),
        )


def read_run(folder: Path) -> Run:
    """The run in a folder, without the turns of its episodes. Nothing there is changed: it may be going on.

    Raises:
        TrainingError: if there is no run, or a line that is not the last one is damaged.
    """
    path = folder / EVENTS
    if not path.is_file():
        raise TrainingError(f"{folder}: no {EVENTS} in it, so it is no run; give the folder that masa evolve made")
    run = Run(settings=_settings(folder / CONFIG))
    _read(run, path, turns=False)
    return run


def _read(run: Run, path: Path, *, turns: bool) -> None:
    try:
        *lines, rest = read_bytes(path).split(b"\n")
    except FormatError as error:
        raise TrainingError(str(error)) from None
    run.torn = bool(rest.strip())
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            run.take(parse_json(line.decode("utf-8", "replace")), turns=turns)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = f"missing {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
            raise TrainingError(
                f"{path}: line {number} is no event of masa evolve ({reason}); restore the file from a copy, or cut it "
                "off before that line"
            ) from None
        run.events += 1


class SearchLog(Protocol):
    """What a search writes to: the run's log, or, on another machine, whatever passes it on to that.

    What is in it already is neither asked nor played again.
    """

    @property
    def episodes(self) -> Mapping[Played, Episode]: ...

    def recorded(self, key: str) -> list[Event[Group]]:
        """The events of the search for a group so far."""
        ...

    def episode(self, played: Played, episode: Episode, *, told: bool | None = None) -> None:
        """Keep an episode as it was; `told` is the outcome that the search hears, where that may be another one."""
        ...

    def search(self, key: str, event: Event[Group], bank: str | None = None) -> None:
        """Keep an event of the search for a group; `bank` is the fingerprint of the bank that plays for a new node."""
        ...

    def answer(self, key: str, answer: Answer) -> None:
        """Keep what the teacher said of a rewrite."""
        ...

    def tick(self) -> None:
        """Keep how long this session worked since the last tick, so that a limit on time holds over all sessions."""
        ...


class RunLog:
    """The events of a run, on the disk and folded in `run`. Several threads may write, each to searches of its own."""

    def __init__(self, folder: Path, config: EvolveConfig, *, resume: bool = False) -> None:
        """Make the folder ours, or go on with the run in it.

        Raises:
            TrainingError: if it holds a run and `resume` is off, another run, or something else.
        """
        self.path = make_folder(folder)
        self._lock = threading.Lock()
        settings = self._claim(config, resume)
        self.run = Run(settings=settings)
        if (self.path / EVENTS).exists():
            _read(self.run, self.path / EVENTS, turns=True)
        self._ticked = time.monotonic()

    @property
    def episodes(self) -> Mapping[Played, Episode]:
        return self.run.episodes

    def recorded(self, key: str) -> list[Event[Group]]:
        """As `SearchLog.recorded`."""
        search = self.run.searches.get(key)
        return [] if search is None else list(search.state.events)

    def begin(self, about: Mapping[str, Any], homes: Mapping[str, str]) -> None:
        """The first events: what the run is, and the groups of a whole bank's skills. A resumed run has them."""
        if not self.run.about:
            self._write({"event": "run", "format": FORMAT, **about})
        if homes and not self.run.homes:
            self._write({"event": "homes", "skills": dict(homes)})

    def episode(self, played: Played, episode: Episode, *, told: bool | None = None) -> None:
        """As `SearchLog.episode`."""
        heard = {} if told is None else {"told": told}
        with self._lock:
            self._append({"event": "episode", "of": list(played), **heard, **episode.to_dict()})
            self.run.played(played, episode)

    def search(self, key: str, event: Event[Group], bank: str | None = None) -> None:
        """As `SearchLog.search`."""
        named = {} if bank is None else {"bank": bank}
        with self._lock:
            self._append({**event_to_json(event, group_to_json), "group": key, **named})
            self.run.searched(key, event, bank)

    def answer(self, key: str, answer: Answer) -> None:
        """As `SearchLog.answer`."""
        values = {its.name: getattr(answer, its.name) for its in fields(Answer)}
        plan = None if answer.plan is None else plan_to_json(answer.plan)
        with self._lock:
            self._append({"event": "rewrite", "group": key, **values, "plan": plan})
            self.run.answered(key, answer)

    def tick(self) -> None:
        """As `SearchLog.tick`."""
        with self._lock:
            now = time.monotonic()
            seconds, self._ticked = now - self._ticked, now
            self._append({"event": "spent", "seconds": round(seconds, 3)})
            self.run.spent.minutes += seconds / 60

    def ended(self, key: str, best: int) -> None:
        """Keep that a search has ended, and its best node."""
        if not self.run.search(key).finished:
            self._write({"event": "ended", "group": key, "best": best})

    def test(self, values: Mapping[str, Any]) -> None:
        """The final comparison, once."""
        if not self.run.test:
            self._write({"event": "test", **values})

    def spent(self) -> Spent:
        """Over all sessions, up to now."""
        with self._lock:
            return replace(self.run.spent, minutes=self.run.spent.minutes + (time.monotonic() - self._ticked) / 60)

    def _write(self, event: dict[str, Any]) -> None:
        with self._lock:
            self._append(event)
            self.run.take(event)

    def _append(self, event: Mapping[str, Any]) -> None:
        append_records(self.path / EVENTS, [event])

    def _claim(self, config: EvolveConfig, resume: bool) -> dict[str, Any]:
        import yaml

        record = self.path / CONFIG
        wanted: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
        if not record.exists():
            if not is_empty(self.path):
                raise TrainingError(f"{self.path}: is not empty and holds no run; give another folder")
            write_atomic(record, yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True).encode())
            return wanted
        if not resume:
            raise TrainingError(f"{self.path}: holds a run already; add --resume to continue, or give another folder")
        try:
            differing = differences(parse_yaml(read_text(record)), wanted)
        except (ValueError, FormatError, AttributeError, TypeError):
            raise TrainingError(f"{record}: damaged; give another folder") from None
        if differing:
            raise TrainingError(f"{self.path}: its run has another {', '.join(differing)}; give another folder")
        return wanted


class Meter:
    """What a run has spent, over all its sessions, against its budget."""

    def __init__(self, limits: BudgetConfig, log: RunLog, cancelled: Callable[[], bool]) -> None:
        self.limits = limits
        self.spent = log.spent
        self._cancelled = cancelled

    def over(self) -> str | None:
        """A reason to stop, or None."""
        if self._cancelled():
            return CANCELLED
        spent = self.spent()
        for limit in fields(BudgetConfig):
            most = getattr(self.limits, limit.name)
            if most and getattr(spent, limit.name) >= most:
                return f"the budget of {most:g} {limit.name} is spent"
        return None


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


def _settings(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(read_text(path))
    except (FormatError, OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _tested(event: Mapping[str, Any]) -> dict[str, Any]:
    """The final comparison in the form of today: the oldest gave the environment's reward without an interval."""
    rows = []
    for row in event.get("rows", ()):
        reward = row.get("environment_reward")
        if isinstance(reward, int | float):
            row = {**row, "environment_reward": {"estimate": reward, "low": None, "high": None}}
        rows.append(row)
    return {"score": "success", **event, **({"rows": rows} if rows else {})}
