"""Where the points and lines of a search's pictures go: numbers only, the template draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from masa.skills import Group
from masa_training.search import Node, State, Verdict

_LEFT, _TOP, _BOTTOM, _RIGHT = 46, 14, 34, 16
_ACROSS, _DOWN = 104, 30


@dataclass(frozen=True, slots=True)
class Dot:
    """A node of a picture.

    Attributes:
        state: "start", "accepted", "rejected", "indecisive" or "open" (not compared to the end yet).
        low, high: where the bar of its interval ends; None without one.
    """

    number: int
    x: float
    y: float
    state: str
    mean: float | None
    best: bool
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean reward by round: every candidate, and the incumbent as a line of steps."""

    width: float
    height: float
    dots: tuple[Dot, ...]
    line: str
    across: tuple[Tick, ...]
    down: tuple[Tick, ...]
    failed: tuple[Tick, ...]
    """Rounds without a proposal."""


@dataclass(frozen=True, slots=True)
class Edge:
    """From a node to its child; `kept` on the way from the start to the best node."""

    path: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes by depth from left to right, a row for each leaf; a node stands in the row of its first child."""

    width: float
    height: float
    dots: tuple[Dot, ...]
    edges: tuple[Edge, ...]


def state_of(node: Node[Group]) -> str:
    """What became of a node, in the words of `Dot`."""
    if node.parent is None:
        return "start"
    if node.decision is None:
        return "open"
    return {True: "accepted", False: "rejected", None: "indecisive"}[node.decision.verdict]


def interval_of(node: Node[Group]) -> tuple[float, float] | None:
    """95 % interval of a mean reward by Student's t over episodes; None for fewer than two or without any spread."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    known, mean = node.known, node.mean
    if len(known) < 2 or mean is None:
        return None
    spread = math.sqrt(math.fsum((reward - mean) ** 2 for reward in known) / (len(known) - 1) / len(known))
    if not spread:
        return None
    half = float(stdtrit(len(known) - 1, 0.975)) * spread
    return mean - half, mean + half


def curve(state: State[Group], *, lowest: float = 0.0, height: float = 240) -> Curve:
    """The picture of a search as it went; `lowest` is the least reward that there can be, −λ."""
    last = max(1, state.round)
    intervals = {node.number: interval_of(node) for node in state.nodes}
    shown = [value for bounds in intervals.values() if bounds for value in bounds]
    shown += [node.mean for node in state.nodes if node.mean is not None]
    low, high = max(lowest, min([0.0, *shown])), min(1.0, max([0.1, *shown]))
    step = _step(high - low, 4)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    width = max(560.0, _LEFT + _RIGHT + 16.0 * last)

    def x(round: int) -> float:
        return _rounded(_LEFT + (width - _LEFT - _RIGHT) * round / last)

    def y(value: float) -> float:
        inside = min(max(value, low), high)
        return _rounded(_TOP + (height - _TOP - _BOTTOM) * (high - inside) / (high - low))

    dots = []
    for node in state.nodes:
        if node.mean is None:
            continue
        bounds = intervals[node.number]
        bar = (None, None) if bounds is None else (y(bounds[0]), y(bounds[1]))
        best = node.number == state.best
        dots.append(Dot(node.number, x(node.round), y(node.mean), state_of(node), node.mean, best, *bar))
    every = max(1, round(_step(last, 10)))
    count = round((high - low) / step)
    return Curve(
        width,
        height,
        tuple(dots),
        _steps(state, x, y, last),
        tuple(Tick(x(number), str(number)) for number in range(0, last + 1, every)),
        tuple(Tick(y(low + step * number), f"{low + step * number:g}"[:6]) for number in range(count + 1)),
        tuple(Tick(x(event.round), "") for event in state.events if getattr(event, "problem", None)),
    )


def tree(state: State[Group]) -> Tree:
    """The picture of who was rewritten into whom."""
    nodes = state.nodes
    children: list[list[int]] = [[] for _ in nodes]
    depth = [0] * len(nodes)
    for node in nodes:
        if node.parent is not None:
            children[node.parent].append(node.number)
            depth[node.number] = depth[node.parent] + 1
    row = [0.0] * len(nodes)
    leaves = 0
    waiting = [0] if nodes else []
    while waiting:  # not recursive: a search that always goes on from its best node is as deep as it is long
        number = waiting.pop()
        if not children[number]:
            row[number] = float(leaves)
            leaves += 1
        waiting += reversed(children[number])
    for number in reversed(range(len(nodes))):  # children have higher numbers than their parents
        if children[number]:
            row[number] = row[children[number][0]]
    kept = set()
    at: int | None = state.best if nodes else None
    while at is not None:
        kept.add(at)
        at = nodes[at].parent
    place = [(_rounded(20.0 + _ACROSS * depth[n]), _rounded(20.0 + _DOWN * row[n])) for n in range(len(nodes))]
    edges = []
    for node in nodes:
        if node.parent is not None:
            (x, y), (to_x, to_y) = place[node.parent], place[node.number]
            middle = _rounded((x + to_x) / 2)
            edges.append(Edge(f"M{x},{y}C{middle},{y} {middle},{to_y} {to_x},{to_y}", node.number in kept))
    dots = [
        Dot(node.number, *place[node.number], state_of(node), node.mean, node.number == state.best) for node in nodes
    ]
    width = 20.0 + _ACROSS * (max(depth, default=0) + 1)
    return Tree(width, 20.0 + _DOWN * max(1, leaves), tuple(dots), tuple(edges))


def _steps(state: State[Group], x: Callable[[int], float], y: Callable[[float], float], last: int) -> str:
    """The incumbent from round to round, as an SVG path; empty where its mean is not known."""
    changes = [(0, 0)]
    for event in state.events:
        if isinstance(event, Verdict) and event.decision.verdict is True:
            changes.append((event.round, event.node))
    path: list[str] = []
    for place, (round, at) in enumerate(changes):
        mean = state.nodes[at].mean if state.nodes else None
        if mean is None:
            continue
        until = changes[place + 1][0] if place + 1 < len(changes) else last
        path.append(f"{'L' if path else 'M'}{x(round)},{y(mean)}L{x(until)},{y(mean)}")
    return "".join(path)


def _step(span: float, count: int) -> float:
    """A round number that divides a span into about so many parts."""
    rough = max(span, 1e-6) / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _rounded(value: float) -> float:
    return round(value, 1)


def states(nodes: Sequence[Node[Group]]) -> dict[str, int]:
    """How many nodes were accepted, rejected, left indecisive or are open."""
    found = dict.fromkeys(("accepted", "rejected", "indecisive", "open"), 0)
    for node in nodes:
        if node.parent is not None:
            found[state_of(node)] += 1
    return found
