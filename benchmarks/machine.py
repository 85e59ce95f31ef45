"""Facts about the machine and the process, and how results are printed. Used by every benchmark here."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from masa import cpu

_PACKAGES = ("masa-skills", "llama-cpp-python", "llguidance", "numpy", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a benchmark's table.

    Attributes:
        number: the row's place in that table.
        what, against: its two sides, in words.
        ratio: the ratio that the goal speaks of; None if the row was not run.
        goal: the goal as printed, for example "≥ 4".
        reached: whether `ratio` meets the goal; None if not run.
        details: lines under the table: what was measured on each side, or why nothing was.
        figures: the same as numbers, for --json.
    """

    number: int
    what: str
    against: str
    ratio: float | None
    goal: str
    reached: bool | None
    details: tuple[str, ...]
    figures: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        return {
            "row": self.number,
            "what": self.what,
            "against": self.against,
            "ratio": self.ratio,
            "goal": self.goal,
            "reached": self.reached,
            "details": list(self.details),
            "figures": dict(self.figures),
        }


def print_rows(rows: Sequence[Row]) -> None:
    """A table of ratios and goals, then the details of every row."""
    print(f"{'row':>3}  {'ratio':>9}  {'goal':<8} {'':<8} what, against")
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}" if row.ratio < 100 else f"{row.ratio:.0f}"
        verdict = {True: "reached", False: "missed", None: "not run"}[row.reached]
        print(f"{row.number:>3}  {ratio:>9}  {row.goal:<8} {verdict:<8} {row.what}, against {row.against}")
    for row in rows:
        if row.details:
            print(f"\nrow {row.number}")
            for line in row.details:
                print(f"  {line}")


def describe(seconds: Sequence[float]) -> str:
    """Median and range of some times."""
    middle, low, high = statistics.median(seconds), min(seconds), max(seconds)
    unit, scale = ("s", 1.0) if middle >= 1 else ("ms", 1e3)
    return f"{middle * scale:.2f} {unit} (median of {len(seconds)}, {low * scale:.2f} to {high * scale:.2f})"


def facts(threads: int | None = None) -> dict[str, object]:
    """CPU, cores, threads used, load average at the start, versions."""
    found: dict[str, object] = {
        "cpu": cpu.detect().model or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
    }
    if threads is not None:
        found["threads"] = threads
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def print_facts(found: Mapping[str, object]) -> None:
    print("; ".join(f"{key} {value}" for key, value in found.items() if value is not None))
    load, cores = found.get("load_average"), os.cpu_count() or 1
    if isinstance(load, list) and load[0] > 0.3 * cores:
        print(
            f"NOTE: the load average was {load[0]} on {cores} cores at the start. Something else is running; "
            "llama.cpp's threads wait for each other, so these numbers are not those of a quiet machine."
        )


def memory() -> dict[str, int]:
    """Memory of this process in bytes: `peak` resident, and on Linux `pss` and `uss` (private) as they are now.

    The peak is VmHWM where there is one: `ru_maxrss` of a fresh process can still be that of its parent.
    """
    found: dict[str, int] = {}
    status = Path("/proc/self/status")
    if status.is_file():
        found["peak"] = _kibibytes(status.read_text(), "VmHWM")
    else:
        import resource

        scale = 1 if sys.platform == "darwin" else 1024
        found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    rollup = Path("/proc/self/smaps_rollup")
    if rollup.is_file():
        text = rollup.read_text()
        found["pss"] = _kibibytes(text, "Pss")
        found["uss"] = _kibibytes(text, "Private_Clean") + _kibibytes(text, "Private_Dirty")
    return found


def _kibibytes(text: str, name: str) -> int:
    line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
