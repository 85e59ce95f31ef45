"""Resuming: a search asked again, answered from its record as far as that goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from masa_training.errors import TrainingError
from masa_training.search.record import Evaluate, Failure, Propose, Situation
from masa_training.search.trace import C, Evaluation, Event, Proposal


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
