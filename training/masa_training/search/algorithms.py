"""The two searches: hill climbing keeps what is better, UCB1 trees rewrite where rewards are high or unknown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from masa_training.search.acceptance import Acceptance
from masa_training.search.record import Evaluate, Propose, Record, Stop
from masa_training.search.trace import C, Event, Node, Proposal, Trace


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


def tree_search(
    start: C,
    *,
    propose: Propose[C],
    evaluate: Evaluate[C],
    accept: Acceptance,
    iterations: int = 10,
    exploration: float = 1.4,
    width: int = 3,
    shown: int = 5,
    stop: Stop | None = None,
    observe: Callable[[Event[C]], None] | None = None,
) -> Trace[C]:
    """Grow a tree from `start` (arXiv 2605.30723: J = 10 iterations, C = 1.4; UCB1: Auer, Cesa-Bianchi, Fischer, 2002).

    An iteration selects a node, asks for a rewrite of it, adds the rewrite as its child and compares the child with the
    incumbent, the best node so far, which it replaces if accepted. Nodes that are not accepted stay in the tree, since
    a rewrite of them may be good. To select, descend from the root: at a node that has room for a child (fewer than
    `width` of them, or no child at all) stop and rewrite it, so that unvisited children come first, as UCB1 demands;
    else go to the child n of highest

        UCB1(n) = R̄(n) + C·√(ln N_parent / N_n)

    N counts visits: how many iterations went through a node, its own included; the root's own is its place as the
    start, so that N of a node is 1 + iterations below it. R̄ is the mean reward over all episodes of n and its
    descendants, so a node with more episodes has more weight. The two differ on purpose: a candidate that was given up
    after a few episodes has been visited as much as any, but says less about the mean.

    A proposal that failed is a visit without episodes and takes up room, so that a node that cannot be rewritten is
    left in peace; where there is no child to go to, it is tried again. Nothing here is random; equal children: the
    older one.

    Args:
        iterations: J, failed proposals included.
        exploration: C.
        width: room for children that a node has before the search goes below it; the paper does not say.
        shown: K, how many of the best groups the proposer is shown.
        stop: asked before every proposal and every batch of episodes.
        observe: told every event, at once.

    Raises:
        ValueError: if a number is out of range, or `evaluate` returns another number of rewards than it was asked for.
    """
    if min(iterations, width, shown) < 1 or exploration < 0:
        raise ValueError(
            f"iterations {iterations}, width {width} and shown {shown} have to be 1 or more, "
            f"exploration {exploration} 0 or more"
        )
    record = Record(start, propose, evaluate, accept, shown=shown, stop=stop, observe=observe)

    def grow() -> str:
        for iteration in range(1, iterations + 1):
            branches = _branches(record.nodes, record.failures)
            number = record.propose(iteration, _select(branches, exploration, width))
            if number is not None:
                record.compare(iteration, number)
        return f"all {iterations} iterations done"

    settings = {"iterations": iterations, "exploration": exploration, "width": width}
    return record.search("tree search", settings, grow)


@dataclass(slots=True)
class Branch:
    """A node and everything below it: its share of UCB1.

    Attributes:
        failures: proposals of this very node that failed.
        visits: N.
        episodes, total: how many rewards there are in the branch, and their sum.
    """

    children: list[int] = field(default_factory=list)
    failures: int = 0
    visits: int = 0
    episodes: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float | None:
        """R̄; None without episodes."""
        return self.total / self.episodes if self.episodes else None


def ucb1(branch: Branch, parent_visits: int, exploration: float) -> float:
    """R̄(n) + C·√(ln N_parent / N_n); infinite where nothing is known: without a visit or without episodes."""
    if branch.mean is None or not branch.visits:
        return math.inf
    return branch.mean + exploration * math.sqrt(math.log(parent_visits) / branch.visits)


def branches(trace: Trace[C]) -> tuple[Branch, ...]:
    """The branch under each node of a finished tree search, by number; for reports."""
    failed = [event.parent for event in trace.events if isinstance(event, Proposal) and event.node is None]
    return tuple(_branches(trace.nodes, [parent for parent in failed if parent is not None]))


def _branches(nodes: Sequence[Node[C]], failures: Sequence[int]) -> list[Branch]:
    """Visits and rewards, counted from scratch: a tree has tens of nodes, an episode takes seconds."""
    found = [Branch() for _ in nodes]
    for node in nodes:
        if node.parent is not None:
            found[node.parent].children.append(node.number)
        for number in _path(nodes, node.number):
            found[number].visits += 1
            found[number].episodes += len(node.known)
            found[number].total += math.fsum(node.known)
    for parent in failures:
        found[parent].failures += 1
        for number in _path(nodes, parent):
            found[number].visits += 1
    return found


def _path(nodes: Sequence[Node[C]], number: int) -> list[int]:
    """A node and its ancestors."""
    path = []
    at: int | None = number
    while at is not None:
        path.append(at)
        at = nodes[at].parent
    return path


def _select(found: Sequence[Branch], exploration: float, width: int) -> int:
    at = 0
    while (here := found[at]).children and len(here.children) + here.failures >= width:
        at = max(here.children, key=lambda child: (ucb1(found[child], here.visits, exploration), -child))
    return at
