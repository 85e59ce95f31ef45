"""What came of a search, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from masa.skills import Group
from masa_training.search import Evaluation, Event, Proposal, Verdict


def in_numbers(events: Sequence[Event[Group]], *, finished: bool) -> dict[str, Any]:
    """Proposals, those that failed, accepted, rejected and indecisive edits, and episodes evaluated."""
    verdicts = [event.decision.verdict for event in events if isinstance(event, Verdict)]
    return {
        "proposals": sum(isinstance(event, Proposal) and event.round > 0 for event in events),
        "failed": sum(isinstance(event, Proposal) and event.node is None for event in events),
        "accepted": verdicts.count(True),
        "rejected": verdicts.count(False),
        "indecisive": verdicts.count(None),
        "episodes": sum(len(event.rewards) for event in events if isinstance(event, Evaluation)),
        "finished": finished,
    }
