"""What honest acceptance costs, and what it buys, and the search against its peers.

    python benchmarks/search.py
    python benchmarks/search.py --seeds 5 --null-runs 200          # a quick look
    python benchmarks/search.py --json

Everything is simulated (`masa_training.search.simulated`): backbones with a planted best group, Bernoulli episodes, and
one offline proposer for all sides. Three tables:

1. Decisions. Every rule judges the same stream of candidates, those that a hill climb meets, on fresh episodes; and
   candidates that equal the incumbent. A comparison at equal error rates: see both error columns.
2. Searches of the same number of proposals: episodes used and the true reward of what they return.
3. Searches of the same budget of episodes, with random search and GEPA's optimizer (from its package). GEPA may exceed
   the budget by the evaluation that it has begun.

Intervals are 95 %, by bootstrap over backbones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import machine
import numpy as np
from machine import Row
from search_sides import RULES, SIDES, gepa_version

from masa_training.search import Acceptance, FixedPaired, SequentialPaired, Strict, Verdict, hill_climb
from masa_training.search.simulated import SimulatedBackbone, Wordings, simulated_backbone, simulated_teacher
from masa_training.statistics import Interval, cluster_bootstrap, mean

_WORTH = 0.05
"""A candidate whose true reward is this much higher is one that should be found."""

Stream = dict[int, list[tuple[Wordings, Wordings]]]
Measured = dict[str, Interval | None]


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    lines: dict[str, Measured]

    def print(self) -> None:
        print(f"\n{self.title}")
        columns = list(next(iter(self.lines.values())))
        width = max(map(len, self.lines))
        print(" " * width + "".join(f"  {column:>20}" for column in columns))
        for name, values in self.lines.items():
            print(f"{name:<{width}}" + "".join(f"  {_show(values[column]):>20}" for column in columns), flush=True)

    def to_json(self) -> dict[str, object]:
        return {
            name: {column: None if value is None else value._asdict() for column, value in values.items()}
            for name, values in self.lines.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=24, help="simulated backbones (default %(default)s)")
    parser.add_argument("--null-runs", type=int, default=2000, help="equal candidates a rule (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="proposals in tables 1 and 2 (default %(default)s)")
    parser.add_argument("--budget", type=int, default=2000, help="episodes in table 3 (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.seeds < 2 or options.null_runs < options.seeds:
        parser.error("--seeds has to be at least 2, for an interval, and --null-runs at least as many")
    backbones = [simulated_backbone(seed) for seed in range(options.seeds)]
    found = machine.facts()
    version = gepa_version()
    found["gepa"] = version or "not installed, so its side is left out: pip install --no-deps gepa"
    if not options.json:
        machine.print_facts(found)
    tables = []
    for make in (
        lambda: decisions(backbones, options.rounds, options.null_runs),
        lambda: same_proposals(backbones, options.rounds),
        lambda: same_budget(backbones, options.budget, with_gepa=version is not None),
    ):
        tables.append(make())
        if not options.json:
            tables[-1].print()
    row = _row(tables[0])
    if options.json:
        shown = {table.title: table.to_json() for table in tables}
        print(json.dumps({"machine": found, "rows": [row.to_json()], "tables": shown}, indent=2))
    else:
        print()
        machine.print_rows([row])


def decisions(backbones: Sequence[SimulatedBackbone], rounds: int, null_runs: int) -> Table:
    """Error rates and episodes of every rule on one stream of candidates."""
    stream: Stream = {}
    for number, backbone in enumerate(backbones):
        trace = hill_climb(
            backbone.start,
            propose=simulated_teacher(backbone),
            evaluate=backbone.evaluate,
            accept=SequentialPaired(),
            rounds=rounds,
            patience=rounds,
        )
        stream[number] = [
            (trace.nodes[event.node].candidate, trace.nodes[event.incumbent].candidate)
            for event in trace.events
            if isinstance(event, Verdict)
        ]
    lines = {name: _judge_all(rule, backbones, stream, null_runs // len(backbones)) for name, rule in RULES.items()}
    count = sum(map(len, stream.values()))
    title = (
        f"1. {count} candidates of {len(backbones)} hill climbs; episodes a node, at most that many for the incumbent"
    )
    return Table(title, lines)


def _judge_all(rule: Acceptance, backbones: Sequence[SimulatedBackbone], stream: Stream, null_runs: int) -> Measured:
    """Accepted among equals, missed among the worthy, episodes by true difference; fresh luck for every comparison."""
    names = ("equal accepted", "worse accepted", "worthy missed", "episodes", "of worse", "of equal", "of worthy")
    by_seed: dict[str, dict[int, list[float]]] = {name: {} for name in names}

    def note(name: str, seed: int, value: float) -> None:
        by_seed[name].setdefault(seed, []).append(value)

    for seed, backbone in enumerate(backbones):
        for number, (candidate, incumbent) in enumerate(stream[seed]):
            accepted, played = judged(rule, backbone, candidate, incumbent, 1000 + 2 * number)
            note("episodes", seed, played)
            gain = backbone.true_reward(candidate) - backbone.true_reward(incumbent)
            if gain >= _WORTH:
                note("worthy missed", seed, not accepted)
                note("of worthy", seed, played)
            elif gain < 0:
                note("worse accepted", seed, accepted)
                note("of worse", seed, played)
        for number in range(null_runs):
            incumbent = stream[seed][number % len(stream[seed])][1]
            accepted, played = judged(rule, backbone, incumbent, incumbent, 100_000 + 2 * number)
            note("equal accepted", seed, accepted)
            note("of equal", seed, played)
    return {name: _interval(values) for name, values in by_seed.items()}


def judged(
    rule: Acceptance, backbone: SimulatedBackbone, candidate: Wordings, incumbent: Wordings, run: int
) -> tuple[bool, int]:
    """Whether the rule accepts, and after how many pairs it stopped."""
    sides: tuple[list[float], list[float]] = ([], [])
    look = 0
    for look in rule.looks:
        for side, group, luck in ((sides[0], candidate, run), (sides[1], incumbent, run + 1)):
            side += backbone.evaluate(group, len(side), look - len(side), run=luck)
        decision = rule.judge(*sides)
        if not decision.open:
            return decision.verdict is True, look
    raise AssertionError("a rule that stays open after its last look")


def same_proposals(backbones: Sequence[SimulatedBackbone], rounds: int) -> Table:
    """Hill climbs of the same number of rounds: all their episodes, the incumbents' included."""
    rules: dict[str, Acceptance] = {
        "sequential paired": SequentialPaired(),
        "fixed paired, N = 100": FixedPaired(),
        "strict, N = 100": Strict(),
    }
    lines = {}
    for name, rule in rules.items():
        used: dict[int, list[float]] = {}
        reward: dict[int, list[float]] = {}
        for seed, backbone in enumerate(backbones):
            trace = hill_climb(
                backbone.start,
                propose=simulated_teacher(backbone),
                evaluate=backbone.evaluate,
                accept=rule,
                rounds=rounds,
                patience=rounds,
            )
            used[seed], reward[seed] = [trace.episodes], [backbone.true_reward(trace.winner)]
        lines[name] = {"episodes": _interval(used), "true reward": _interval(reward)}
    return Table(f"2. Hill climbing, {rounds} proposals", lines)


def same_budget(backbones: Sequence[SimulatedBackbone], budget: int, *, with_gepa: bool) -> Table:
    """Every side with the same budget of episodes and proposals of the same kind."""
    lines: dict[str, Measured] = {}
    for name, side in SIDES.items():
        if name.startswith("GEPA") and not with_gepa:
            continue
        results = {seed: side(backbone, budget) for seed, backbone in enumerate(backbones)}
        lines[name] = {
            "true reward": _interval({seed: [result.reward] for seed, result in results.items()}),
            "episodes": _interval({seed: [result.episodes] for seed, result in results.items()}),
            "candidates": _interval({seed: [result.candidates] for seed, result in results.items()}),
        }
    ends: dict[str, Callable[[SimulatedBackbone], Wordings]] = {
        "(start)": lambda backbone: backbone.start,
        "(planted best)": lambda backbone: backbone.planted,
    }
    for name, group in ends.items():
        reward = _interval({seed: [it.true_reward(group(it))] for seed, it in enumerate(backbones)})
        lines[name] = {"true reward": reward, "episodes": None, "candidates": None}
    return Table(f"3. Searches with {budget} episodes each", lines)


def _row(table: Table) -> Row:
    """Row 9: episodes a node of the sequential rule over those of one look at 100."""
    ours, fixed = table.lines["sequential paired"], table.lines["fixed paired, N = 100"]
    episodes, most = ours["episodes"], fixed["episodes"]
    assert episodes is not None and most is not None
    ratio = episodes.estimate / most.estimate
    details = [
        f"episodes a node {_show(episodes)} against {most.estimate:.0f}",
        *(
            f"{name}: {_show(ours[name])} against {_show(fixed[name])}"
            for name in ("equal accepted", "worse accepted", "worthy missed", "of worse", "of equal", "of worthy")
        ),
        f"worthy: a true reward higher by {_WORTH} or more; worse: lower",
    ]
    figures = {"episodes": episodes._asdict(), "fixed": most._asdict()}
    what = "episodes a node, sequential paired"
    return Row(9, what, "one paired look at N = 100", ratio, "≤ 0.33", ratio <= 1 / 3, tuple(details), figures)


def _interval(values: dict[int, list[float]]) -> Interval | None:
    return cluster_bootstrap({seed: [float(it) for it in found] for seed, found in values.items()}, mean, seed=0)


def _show(value: Interval | None) -> str:
    if value is None:
        return "-"
    digits = 0 if np.abs(value.estimate) >= 10 else 3
    return f"{value.estimate:.{digits}f} ({value.low:.{digits}f}–{value.high:.{digits}f})"


if __name__ == "__main__":
    main()
