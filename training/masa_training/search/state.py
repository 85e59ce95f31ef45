"""What the events of a search add up to: the nodes as known so far, the incumbent, and what failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Generic

from masa_training.search.trace import C, Evaluation, Event, Node, Trace, Verdict


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
