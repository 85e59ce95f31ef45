"""Hill climbing: rewrite the best group so far, keep what is better."""

from __future__ import annotations

from collections.abc import Callable

from masa_training.search.acceptance import Acceptance
from masa_training.search.record import Evaluate, Propose, Record, Stop
from masa_training.search.trace import C, Event, Trace


def hill_climb(
    start: C,
    *,
    propose: Propose[C],
    evaluate: Evaluate[C],
    accept: Acceptance,
    rounds: int = 10,
    patience: int = 3,
    shown: int = 5,
    stop: Stop | None = None,
    observe: Callable[[Event[C]], None] | None = None,
) -> Trace[C]:
    """Climb from `start` (arXiv 2605.30723: I = 10 rounds, patience p = 3, the K = 5 best groups shown).

    In round i = 1 … I, with x₀ = `start`:

        y = propose(xᵢ₋₁, the K best so far)        xᵢ = y if accept(y, xᵢ₋₁) else xᵢ₋₁

    It ends after I rounds, or as soon as p candidates in a row were compared and none accepted. A proposal that failed
    uses up a round, but says nothing about the summit: patience does not count it. An indecisive candidate is not
    accepted and counts. The rule is the level of each decision, not of the search: among I equal candidates each one
    is accepted with the rule's probability.

    Nothing here is random: with the same answers the same trace comes out, so that a search is resumed by answering
    from its record (`replay`).

    Args:
        shown: K.
        stop: asked before every proposal and every batch of episodes.
        observe: told every event, at once.

    Raises:
        ValueError: if a number is below 1, or `evaluate` returns another number of rewards than it was asked for.
    """
    if min(rounds, patience, shown) < 1:
        raise ValueError(f"rounds {rounds}, patience {patience} and shown {shown} have to be 1 or more")
    record = Record(start, propose, evaluate, accept, shown=shown, stop=stop, observe=observe)

    def climb() -> str:
        left = patience
        for round in range(1, rounds + 1):
            number = record.propose(round, record.best)
            if number is None:
                continue
            left = patience if record.compare(round, number).verdict is True else left - 1
            if not left:
                return f"{patience} candidates in a row were not accepted"
        return f"all {rounds} rounds done"

    return record.search("hill climbing", {"rounds": rounds, "patience": patience}, climb)
