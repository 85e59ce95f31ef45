#!/usr/bin/env python3
"""Where the time of episodes goes: model, environment, and everything else.

python benchmarks/rollouts.py [--environment NAME ...] [--backbone SPEC] [--tasks N] [--repeats N] [--json]

A 135M backbone chooses among the admissible actions, with the environment's moderate skill bank in its prompt. The
share of everything else and the episodes an hour are medians of several rounds over the same tasks. The second side
plays one episode at a time instead of eight.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from machine import Row, facts, print_facts, print_rows

from masa.formats import load_bank
from masa_training.agents import AgentConfig
from masa_training.environments import open_environment
from masa_training.instruments.config import BANKS
from masa_training.models import Model, open_model
from masa_training.rollouts import Arm, Job, WorkerSpec, opened

GOAL_SHARE = 0.05
GOAL_EPISODES = {"lookup": 3000, "household": 1000}
SLOTS = 8


@dataclass(frozen=True, slots=True)
class Round:
    """One pass over the tasks, in seconds of wall time."""

    episodes: int
    steps: int
    seconds: float
    model: float
    environment: float

    @property
    def overhead(self) -> float:
        """Share of the wall time that is neither model nor environment."""
        return max(0.0, self.seconds - self.model - self.environment) / self.seconds

    @property
    def an_hour(self) -> float:
        return 3600 * self.episodes / self.seconds


def play(spec: WorkerSpec, model: Model, tasks: int) -> Round:
    """The first `tasks` tasks of the split, once."""
    with opened(spec, model) as player:
        known = open_environment(spec.environment, **spec.options)
        jobs = [Job("moderate", task.id, 0) for task in known.tasks(spec.split)[:tasks]]
        known.close()
        began = time.monotonic()
        episodes = list(player.play(jobs))
        seconds = time.monotonic() - began
    lost = next((episode for episode in episodes if episode.outcome == "missing"), None)
    if lost is not None:
        raise SystemExit(
            f"{spec.environment}: task {lost.job.task} could not be played ({lost.reason}); nothing is measured"
        )
    return Round(
        len(episodes),
        sum(episode.steps for episode in episodes),
        seconds,
        sum(episode.model_seconds for episode in episodes),
        sum(episode.environment_seconds for episode in episodes),
    )


def measured(name: str, model: Model, tasks: int, repeats: int) -> tuple[list[Round], list[Round]]:
    """Rounds with eight episodes side by side, and with one, in turns; the first of each warms up and is dropped."""
    spec = WorkerSpec(
        environment=name,
        split="val",
        model="",
        arms={"moderate": Arm(name="moderate", bank=load_bank(BANKS / name / "moderate.json"))},
        agent=AgentConfig(choose=True),
        slots=SLOTS,
    )
    together, alone = [], []
    for _ in range(repeats + 1):
        together.append(play(spec, model, tasks))
        alone.append(play(replace(spec, slots=1), model, max(1, tasks // 4)))
    return together[1:], alone[1:]


def row(name: str, together: list[Round], alone: list[Round]) -> Row:
    share = statistics.median(r.overhead for r in together)
    speed = statistics.median(r.an_hour for r in together)
    single = statistics.median(r.an_hour for r in alone)
    last = together[-1]
    goal = GOAL_EPISODES.get(name)
    wanted = f", goal {goal:,}" if goal else ""
    return Row(
        number=8,
        what=f"{name}: everything but model and environment",
        against="wall time of the episodes",
        ratio=share,
        goal=f"≤ {GOAL_SHARE}",
        reached=share <= GOAL_SHARE,
        details=(
            f"{name}: {speed:,.0f} episodes an hour, median of {len(together)} rounds of {last.episodes} ({SLOTS} side "
            f"by side{wanted}), {last.steps / last.episodes:.1f} steps an episode",
            f"{name}: model {last.model / last.seconds:.1%}, environment {last.environment / last.seconds:.1%}, "
            f"everything else {last.overhead:.1%} of the last round's {last.seconds:.1f} s",
            f"{name}: {SLOTS} side by side {speed / single:.2f} times as many episodes an hour as one at a time "
            f"({single:,.0f})",
        ),
        figures={
            "overhead": share,
            "episodes_an_hour": speed,
            "one_at_a_time": single,
            "goal_episodes_an_hour": goal,
            "rounds": [r.an_hour for r in together],
        },
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", action="append", help="repeatable; lookup and household unless given")
    parser.add_argument("--backbone", default="transformers:smollm2-135m", help="as masa evaluate takes it")
    parser.add_argument("--model-option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tasks", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON there too")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    given: dict[str, Any] = {}
    if chosen.backbone.startswith(("transformers:", "checkpoint:")):
        given = {"scoring": "constrained", "together": SLOTS}
    for option in chosen.model_option:
        key, _, value = option.partition("=")
        given[key] = int(value) if value.isdigit() else value
    found = facts()
    rows = []
    model = open_model(chosen.backbone, **given)
    try:
        for name in chosen.environment or ("lookup", "household"):
            rows.append(row(name, *measured(name, model, chosen.tasks, chosen.repeats)))
    finally:
        model.close()
    value = json.dumps({"machine": found, "backbone": chosen.backbone, "rows": [r.to_json() for r in rows]}, indent=1)
    if chosen.output:
        chosen.output.write_text(value + "\n", "utf-8")
    if chosen.json:
        print(value)
        return
    print_facts(found)
    print_rows(rows)


if __name__ == "__main__":
    main()
