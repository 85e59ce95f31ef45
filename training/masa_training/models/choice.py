"""Choosing among candidates: they form a tree of tokens, computed behind the prompt in one pass, each token once.

Three ways to score a candidate c = t1 … tn with the end token e:

- `total`: log P(t1 … tn, e), in nats: how likely the model is to write exactly this answer.
- `mean`: the same divided by n + 1, so that long candidates are not at a disadvantage.
- `constrained`: log-likelihood when at each token only those that lead to a candidate are allowed, as in decoding
  under a grammar; the candidates' probabilities add up to 1. Only places where candidates part need computing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Scoring = Literal["total", "mean", "constrained"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)

ROOT = -1


@dataclass(frozen=True, slots=True)
class Tree:
    """Tokens behind a prompt.

    Attributes:
        tokens: one per node, parents before their children.
        parents: the node before, `ROOT` for the prompt's last token.
        depths: tokens from the prompt to the node; 1 for a child of the root.
        rows: nodes (`ROOT` first) after which logits are wanted, in ascending order.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    rows: tuple[int, ...] = (ROOT,)

    def paths(self) -> list[tuple[int, ...]]:
        """The nodes from the root to each leaf."""
        inner = set(self.parents)
        return [self.path(node) for node in range(len(self.tokens)) if node not in inner]

    def path(self, node: int) -> tuple[int, ...]:
        """The nodes from the root to `node`, the root left out."""
        nodes = []
        while node != ROOT:
            nodes.append(node)
            node = self.parents[node]
        return tuple(reversed(nodes))


EMPTY = Tree()


@dataclass(frozen=True, slots=True)
class Choice:
    """Candidates as a tree.

    Attributes:
        tree: what has to be computed.
        moves: for every candidate its tokens and the end, as (node after which it comes, token).
        options: for every node that matters the tokens that may follow.
    """

    tree: Tree
    moves: tuple[tuple[tuple[int, int], ...], ...]
    options: dict[int, tuple[int, ...]]


def plan(candidates: Sequence[Sequence[int]], end: int, scoring: Scoring) -> Choice:
    """The tree of candidates given as token ids; `end` is the token that ends an answer.

    Raises:
        ValueError: if there is no candidate, or one of no tokens.
    """
    if not candidates or not all(candidates):
        raise ValueError("candidates must be at least one, none of them empty")
    tokens: list[int] = []
    parents: list[int] = []
    children: dict[int, dict[int, int]] = {ROOT: {}}
    ends: set[int] = set()
    routes = []
    for candidate in candidates:
        node, route = ROOT, []
        for token in candidate:
            route.append((node, token))
            if token not in children[node]:
                children[node][token] = len(tokens)
                children[len(tokens)] = {}
                tokens.append(token)
                parents.append(node)
            node = children[node][token]
        route.append((node, end))
        ends.add(node)
        routes.append(route)
    options = {node: (*after, *((end,) if node in ends else ())) for node, after in children.items()}
    if scoring == "constrained":
        options = {node: after for node, after in options.items() if len(after) > 1}
    kept: set[int] = set()
    for node in options:
        while node != ROOT and node not in kept:
            kept.add(node)
            node = parents[node]
    order = sorted(kept)  # children were numbered after their parents
    number = {ROOT: ROOT} | {node: i for i, node in enumerate(order)}
    depths: list[int] = []
    for node in order:
        parent = number[parents[node]]
        depths.append(1 if parent == ROOT else depths[parent] + 1)
    wanted = sorted({ROOT, *(number[node] for node in options)})
    tree = Tree(tuple(tokens[n] for n in order), tuple(number[parents[n]] for n in order), tuple(depths), tuple(wanted))
    moves = tuple(tuple((number[node], token) for node, token in route if node in options) for route in routes)
    return Choice(tree, moves, {number[node]: after for node, after in options.items()})


def score(choice: Choice, logits: NDArray[np.float32], scoring: Scoring) -> tuple[float, ...]:
    """The candidates' scores from logits of shape (rows of the tree, vocabulary)."""
    import numpy as np

    place = {node: i for i, node in enumerate(choice.tree.rows)}
    tables: dict[int, dict[int, float]] = {}
    for node, after in choice.options.items():
        row = logits[place[node]]
        chosen = row[list(after)].astype(np.float64)
        whole = chosen if scoring == "constrained" else row
        top = float(whole.max())
        normaliser = top + float(np.log(np.exp(whole - top).sum(dtype=np.float64)))
        tables[node] = dict(zip(after, (chosen - normaliser).tolist(), strict=True))
    totals = (sum(tables[node][token] for node, token in moves) for moves in choice.moves)
    if scoring == "mean":
        return tuple(total / len(moves) for total, moves in zip(totals, choice.moves, strict=True))
    return tuple(float(total) for total in totals)


def pick(scores: Sequence[float] | NDArray[np.float32], temperature: float, draws: np.random.Generator) -> int:
    """The best score, the first of several; with a temperature, a draw from softmax(scores / temperature)."""
    import numpy as np

    values = np.asarray(scores, dtype=np.float64)
    if temperature <= 0:
        return int(values.argmax())
    weights = np.exp((values - values.max()) / temperature)
    return int(draws.choice(len(weights), p=weights / weights.sum()))
