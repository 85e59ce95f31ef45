"""Compare arms that were played in runs of their own, task by task, as the tables of docs/results/evolution.md do.

python scripts/pair_runs.py runs/filing runs/one-pass --against start --level 0.975

FOLDERs are those of `masa evolve` (its final test: the arms `start`, `evolved` and `no-skill`) and of `masa evaluate
banks`. Same tasks, agent and model are not checked: they are the settings of the runs. An arm that several folders
have is read from the last. Success and reward in percent, differences in points, paired by task and seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masa_training.statistics import cluster_bootstrap, mean, paired_differences

Arms = dict[str, dict[tuple[str, int], dict[str, float]]]
"""By arm, and by task and seed, success and reward."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--against", nargs="*", default=["start"], metavar="ARM", help="default start")
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals (default %(default)s)")
    given = parser.parse_args(arguments)
    arms: Arms = {}
    for folder in given.folders:
        records = sorted(folder.rglob("events.jsonl"))
        if not records:
            raise SystemExit(f"{folder}: no events.jsonl there; give the folder of a run")
        for record in records:
            for arm, key, measured in episodes(record):
                arms.setdefault(arm, {})[key] = measured
    if unknown := set(given.against) - set(arms):
        raise SystemExit(f"no run has the arm {', '.join(sorted(unknown))}; there are: {', '.join(arms)}")
    for arm, of_tasks in arms.items():
        shares = [f"{what} {100 * sum(m[what] for m in of_tasks.values()) / len(of_tasks):.1f}" for what in MEASURES]
        print(f"{arm}: {len(of_tasks)} episodes, {', '.join(shares)}")
        for other in given.against:
            for what in MEASURES if other != arm else ():
                print(f"  {what} - {other}: {difference(of_tasks, arms[other], what, given.level)}")
    return 0


MEASURES = ("success", "reward")


def episodes(record: Path) -> Iterator[tuple[str, tuple[str, int], dict[str, float]]]:
    """The finished episodes of a record; of a search those of its final test."""
    start = ""
    for line in record.read_text("utf-8").splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "proposal" and event["node"] == 0:
            start = event["bank"]
        if event["event"] != "episode" or event["outcome"] != "finished":
            continue
        arm = event["job"]["arm"]
        if "of" in event:
            if event["of"][1] != "test":
                continue
            arm = {start: "start", "no-skill": arm}.get(arm, "evolved")
        measured = {what: float(event[what]) for what in MEASURES}
        yield arm, (event["job"]["task"], event["job"]["seed"]), measured


def difference(
    first: dict[tuple[str, int], dict[str, float]],
    second: dict[tuple[str, int], dict[str, float]],
    what: str,
    level: float,
) -> str:
    """The mean difference over the tasks that both have, with its interval."""
    pairs = [
        (task, first[task, seed][what], second[task, seed][what]) for task, seed in first if (task, seed) in second
    ]
    found = cluster_bootstrap(paired_differences(pairs), mean, resamples=20_000, seed=0, level=level)
    if found is None:
        return f"undefined over {len(pairs)} pairs"
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * found.estimate:+.1f} [{low:+.1f}, {high:+.1f}], {level:.1%}, {found.clusters} tasks"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
