"""What both searches share: asking the functions passed in, writing down what they answered, and resuming from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from masa_training.decisions import Decision
from masa_training.errors import TrainingError
from masa_training.search.acceptance import Acceptance
from masa_training.search.trace import C, Evaluation, Event, Node, Proposal, State, Trace, Verdict, best_nodes


@dataclass(frozen=True, slots=True)
class Failure:
    """What a proposer returns instead of a candidate: why there is none."""

    reason: str


@dataclass(frozen=True, slots=True)
class Situation(Generic[C]):
    """What a proposer is told.

    Attributes:
        round: counted from 1; the same in a replay, so that a proposer can derive its seed from it.
        node: the node to be rewritten.
        best: the K nodes of highest mean reward, best first, with their rewards.
        refused: nodes that were compared and not accepted, oldest first, with their decisions.
        problems: reasons of the proposals that failed, oldest first.
    """

    round: int
    node: Node[C]
    best: tuple[Node[C], ...]
    refused: tuple[Node[C], ...]
    problems: tuple[str, ...]


Propose = Callable[[Situation[C]], C | Failure]
"""Rewrites a node. A candidate that equals an earlier one (`==`) counts as a failure and is not played again."""

Evaluate = Callable[[C, int, int], Sequence[float | None]]
"""(candidate, first, count) to the rewards of episodes first … first + count − 1. Episode i is the same task and seed
for every candidate. None where an episode could not be played."""

Stop = Callable[[], str | None]
"""Asked before every proposal and every batch of episodes: a reason to stop here (a budget, a person), or None."""


class SearchStopped(Exception):  # noqa: N818 - not an error
    """Raised by a function passed in, such as an `Evaluate` whose budget is spent: the search ends with its trace.

    The message is the reason.
    """


class Record(State[C]):
    """The growing trace of one search. Every change of state goes through an event."""

    def __init__(
        self,
        start: C,
        propose: Propose[C],
        evaluate: Evaluate[C],
        accept: Acceptance,
        *,
        shown: int,
        stop: Stop | None,
        observe: Callable[[Event[C]], None] | None,
    ) -> None:
        super().__init__()
        self._propose, self._evaluate, self._accept = propose, evaluate, accept
        self._shown, self._stop, self._observe = shown, stop, observe
        self.add(Proposal(0, None, 0, start))

    def add(self, event: Event[C]) -> None:
        """Go on by one event, and tell the observer."""
        super().add(event)
        if self._observe is not None:
            self._observe(event)

    def search(self, kind: str, settings: Mapping[str, object], steps: Callable[[], str]) -> Trace[C]:
        """Take the steps of a search, which tell why they end, until then or until somebody stops it."""
        rule = {"accept": self._accept.name, "looks": list(self._accept.looks), "shown": self._shown}
        try:
            ended = steps()
        except SearchStopped as stopped:
            ended = str(stopped)
        return self.trace(kind, {**settings, **rule}, ended)

    def propose(self, round: int, parent: int) -> int | None:
        """Ask for a rewrite of a node; the number of the new node, None if the proposer failed.

        Raises:
            SearchStopped: if the search is to end here.
        """
        self._check()
        answer = self._propose(
            Situation(
                round,
                self.nodes[parent],
                best_nodes(self.nodes, self._shown),
                tuple(node for node in self.nodes if node.decision is not None and node.decision.verdict is not True),
                tuple(self.problems),
            )
        )
        if not isinstance(answer, Failure):
            twin = next((node.number for node in self.nodes if node.candidate == answer), None)
            if twin is None:
                self.add(Proposal(round, parent, len(self.nodes), answer))
                return len(self.nodes) - 1
            answer = Failure(f"the same as node {twin}")
        self.add(Proposal(round, parent, None, None, answer.reason))
        return None

    def compare(self, round: int, number: int) -> Decision:
        """Play a node and the incumbent, as many pairs as the rule asks for; the node becomes the incumbent if better.

        Raises:
            SearchStopped: if the search is to end here.
        """
        incumbent = self.best
        decision = None
        for look in self._accept.looks:
            for side in (number, incumbent):
                self._play(round, side, look)
            decision = self._accept.judge(self.nodes[number].rewards[:look], self.nodes[incumbent].rewards[:look])
            if not decision.open:
                break
        assert decision is not None
        self.add(Verdict(round, number, incumbent, decision))
        return decision

    def _play(self, round: int, number: int, up_to: int) -> None:
        node = self.nodes[number]
        first = len(node.rewards)
        if first >= up_to:
            return
        self._check()
        rewards = tuple(self._evaluate(node.candidate, first, up_to - first))
        if len(rewards) != up_to - first:
            raise ValueError(f"{len(rewards)} rewards for {up_to - first} episodes of node {number}")
        self.add(Evaluation(round, number, first, rewards))

    def _check(self) -> None:
        reason = self._stop() if self._stop is not None else None
        if reason is not None:
            raise SearchStopped(reason)


def replay(events: Iterable[Event[C]], propose: Propose[C], evaluate: Evaluate[C]) -> tuple[Propose[C], Evaluate[C]]:
    """Functions that give the recorded answers in order, then ask the ones passed in.

    A search calls them in an order that follows from their answers alone, so the beginning of a trace leads it back to
    where it was; no episode is played twice. The decisions in the record are not read: they are made again, alike.

    Raises (by the functions returned):
        TrainingError: if the search asks for something else than the record has next: it was begun with other settings.
    """
    recorded = list(events)
    proposals = [event for event in recorded if isinstance(event, Proposal) and event.round]
    evaluations = [event for event in recorded if isinstance(event, Evaluation)]
    candidates = {event.node: event.candidate for event in recorded if isinstance(event, Proposal)}
    proposals.reverse()
    evaluations.reverse()

    def recorded_propose(situation: Situation[C]) -> C | Failure:
        if not proposals:
            return propose(situation)
        event = proposals.pop()
        asked, found = (situation.round, situation.node.number), (event.round, event.parent)
        if asked != found:
            raise _other(f"a rewrite of node {asked[1]} in round {asked[0]}", f"of node {found[1]} in round {found[0]}")
        return Failure(event.problem or "") if event.candidate is None else event.candidate

    def recorded_evaluate(candidate: C, first: int, count: int) -> Sequence[float | None]:
        if not evaluations:
            return evaluate(candidate, first, count)
        event = evaluations.pop()
        found = f"episodes {event.first} to {event.first + len(event.rewards) - 1} of node {event.node}"
        asked = f"episodes {first} to {first + count - 1}"
        if (first, count) != (event.first, len(event.rewards)):
            raise _other(asked, found)
        if candidates.get(event.node) != candidate:
            raise _other(f"{asked} of another candidate", found)
        return event.rewards

    return recorded_propose, recorded_evaluate


def _other(asked: str, found: str) -> TrainingError:
    return TrainingError(
        f"the search asks for {asked}, its record goes on with {found}: it was begun with other settings; "
        "resume it with the configuration it was begun with, or start a new run folder"
    )
