"""How long `import masa` takes.

    python benchmarks/imports.py

A bare interpreter and one that imports masa are started in turns. Compiled modules are on disk after the first,
uncounted start of each, as they are for a user.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import machine
from machine import Row, describe

_SIDES = {"bare": "pass", "import masa": "import masa", "from masa import Rewriter": "from masa import Rewriter"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="starts of each side (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = machine.facts()
    times: dict[str, list[float]] = {name: [] for name in _SIDES}
    for number in range(options.repeats + 1):
        for name, code in _SIDES.items():
            seconds = _start(code)
            if number:
                times[name].append(seconds)
    row = _row(times)
    if options.json:
        print(json.dumps({"machine": found, "rows": [row.to_json()]}, indent=2))
    else:
        machine.print_facts(found)
        print()
        machine.print_rows([row])


def _start(code: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begun


def _row(times: dict[str, list[float]]) -> Row:
    bare = statistics.median(times["bare"])
    more = 1000 * (statistics.median(times["import masa"]) - bare)
    details = [f"{name}: {describe(seconds)}" for name, seconds in times.items()]
    return Row(
        6,
        "`import masa`, ms more",
        "a bare interpreter",
        more,
        "≤ 80 ms",
        more <= 80,
        tuple(details),
        {name: [round(value, 5) for value in seconds] for name, seconds in times.items()},
    )


if __name__ == "__main__":
    main()
