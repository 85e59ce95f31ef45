"""The append-only record of a search: every proposal, evaluation and decision, and the state they add up to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from masa_training.decisions import Decision

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Proposal(Generic[C]):
    """The answer of the proposer, or the group that the search starts from (round 0, no parent).

    Attributes:
        parent: the node that was to be rewritten.
        node: the number of the new node; None if there is none, and then `problem` says why.
    """

    round: int
    parent: int | None
    node: int | None
    candidate: C | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Episodes `first`, `first` + 1, … of a node, and their rewards; None where an episode is missing."""

    round: int
    node: int
    first: int
    rewards: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A node compared with the incumbent, which it replaces if the verdict is True."""

    round: int
    node: int
    incumbent: int
    decision: Decision


Event = Proposal[C] | Evaluation | Verdict


@dataclass(frozen=True, slots=True)
class Node(Generic[C]):
    """A candidate and what is known of it at some moment of the search.

    Attributes:
        rewards: one for each episode played, in order; None where an episode is missing.
        decision: of the comparison with the incumbent of its round; None for the first node and before it.
    """

    number: int
    parent: int | None
    round: int
    candidate: C
    rewards: tuple[float | None, ...] = ()
    decision: Decision | None = None

    @property
    def known(self) -> list[float]:
        """The rewards without the missing ones."""
        return [reward for reward in self.rewards if reward is not None]

    @property
    def mean(self) -> float | None:
        """Mean reward of its episodes; None without any."""
        known = self.known
        return math.fsum(known) / len(known) if known else None


@dataclass(frozen=True, slots=True)
class Trace(Generic[C]):
    """What a search did.

    Attributes:
        kind: the algorithm.
        settings: its parameters.
        events: in the order in which they happened. Those of a search that was stopped are the beginning of those
            that it would have had.
        nodes: every candidate, by number, as known at the end.
        best: the number of the last incumbent.
        ended: why it ended, in words.
    """

    kind: str
    settings: Mapping[str, object]
    events: tuple[Event[C], ...]
    nodes: tuple[Node[C], ...]
    best: int
    ended: str

    @property
    def winner(self) -> C:
        """The candidate that is the last incumbent."""
        return self.nodes[self.best].candidate

    @property
    def episodes(self) -> int:
        """Episodes asked for, those that are missing included."""
        return sum(len(node.rewards) for node in self.nodes)

    def to_json(self, dump: Callable[[C], object]) -> dict[str, object]:
        """What `json.dumps` takes; `dump` does the same for a candidate."""
        return {
            "kind": self.kind,
            "settings": dict(self.settings),
            "best": self.best,
            "ended": self.ended,
            "events": [event_to_json(event, dump) for event in self.events],
        }


def best_nodes(nodes: Sequence[Node[C]], count: int) -> tuple[Node[C], ...]:
    """The nodes of highest mean reward, best first, the older of equals first; nodes without episodes never.

    Means of nodes that were given up early rest on the first few episodes only.
    """
    played = [(node.mean, node) for node in nodes]
    ranked = sorted(((mean, node) for mean, node in played if mean is not None), key=lambda it: (-it[0], it[1].number))
    return tuple(node for _, node in ranked[:count])


def event_to_json(event: Event[C], dump: Callable[[C], object]) -> dict[str, object]:
    """One event as `json.dumps` takes it, with its kind under "event"."""
    if isinstance(event, Proposal):
        candidate = None if event.candidate is None else dump(event.candidate)
        return {
            "event": "proposal",
            "round": event.round,
            "parent": event.parent,
            "node": event.node,
            "candidate": candidate,
            "problem": event.problem,
        }
    return {"event": "evaluation" if isinstance(event, Evaluation) else "verdict", **asdict(event)}


def event_from_json(value: Mapping[str, Any], load: Callable[[Any], C]) -> Event[C]:
    """The inverse of `event_to_json`.

    Raises:
        ValueError: if it is none of the kinds of event, or a field is missing or unknown.
    """
    fields = {key: field for key, field in value.items() if key != "event"}
    try:
        if value.get("event") == "proposal":
            candidate = None if fields["candidate"] is None else load(fields["candidate"])
            return Proposal(**{**fields, "candidate": candidate})
        if value.get("event") == "evaluation":
            return Evaluation(**{**fields, "rewards": tuple(fields["rewards"])})
        if value.get("event") == "verdict":
            return Verdict(**{**fields, "decision": Decision(**fields["decision"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"the fields of the event {value.get('event')!r} are not as expected: {error}") from error
    raise ValueError(f"an event of kind {value.get('event')!r}, expected proposal, evaluation or verdict")


class State(Generic[C]):
    """The state of one search. It changes by events alone, so that a record leads to the state that its search had.

    Attributes:
        events: all that were added, in order.
        nodes: by number.
        best: the number of the incumbent.
        failures: the parent of every proposal that failed.
        problems: why, in the same order.
    """

    def __init__(self, events: Iterable[Event[C]] = ()) -> None:
        """Raises ValueError, as `add`."""
        self.events: list[Event[C]] = []
        self.nodes: list[Node[C]] = []
        self.best = 0
        self.failures: list[int] = []
        self.problems: list[str] = []
        for event in events:
            self.add(event)

    def add(self, event: Event[C]) -> None:
        """Go on by one event.

        Raises:
            ValueError: if it cannot follow the others: it tells of a node that there is not.
        """
        if isinstance(event, Evaluation | Verdict):
            if not 0 <= event.node < len(self.nodes):
                raise ValueError(f"node {event.node} was never proposed")
            node = self.nodes[event.node]
            if isinstance(event, Evaluation):
                self.nodes[event.node] = replace(node, rewards=(*node.rewards, *event.rewards))
            else:
                self.nodes[event.node] = replace(node, decision=event.decision)
                if event.decision.verdict is True:
                    self.best = event.node
        elif event.node is None:
            if event.parent is None:
                raise ValueError("a proposal without a parent that failed")
            self.problems.append(event.problem or "")
            self.failures.append(event.parent)
        else:
            known = event.parent is None or 0 <= event.parent < len(self.nodes)
            if event.candidate is None or event.node != len(self.nodes) or not known:
                raise ValueError(f"node {event.node} of {event.parent} does not follow {len(self.nodes)} nodes")
            self.nodes.append(Node(event.node, event.parent, event.round, event.candidate))
        self.events.append(event)

    @property
    def round(self) -> int:
        """The last round or iteration that was begun; 0 before the first."""
        return self.events[-1].round if self.events else 0

    def trace(self, kind: str, settings: Mapping[str, object], ended: str) -> Trace[C]:
        """The state as a trace."""
        return Trace(kind, settings, tuple(self.events), tuple(self.nodes), self.best, ended)
