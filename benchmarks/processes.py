"""Whole processes of `masa rewrite`, from the start to the file written: cached or not, small banks and large ones.

    python benchmarks/processes.py
    python benchmarks/processes.py --old ../masa-6173c5a           # also against another checkout's code
    python benchmarks/processes.py --repeats 3 --rows cached,one,large

Every side is a fresh process with the shipped rewriter, and the form for this CPU where `masa pull` made one. Rounds
take the sides in turns. Peak memory is that of the process, from the kernel. The rows:

- *old*: a rewrite without a cache, against the code of another checkout (`--old`).
- *cached*: a rewrite that is in the cache, against the same uncached.
- *one*: one group changed and the others cached, against the uncached whole. The goal is the changed group's share
  of the tokens that are read, times 1.2.
- *large*: 800 skills in 60 groups against the bank: seconds a skill, and peak memory.
- *memory*: peak memory against the size of the weights that ran; of one more run, the most that was its own
  (anonymous) and the most that was of files, which the kernel may drop: libraries, and the weights that stay mapped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import machine

from masa import Rewriter, load_bank, save_bank
from masa.artifact import load_artifact
from masa.cards import load_card
from masa.folders import cache_dir
from masa.forms.finding import find_form
from masa.skills import Skill, SkillBank

_ROOT = Path(__file__).resolve().parent.parent
_BANK = _ROOT / "examples" / "banks" / "household.json"
_CARD = _ROOT / "examples" / "card.yaml"
_ROWS = ("old", "cached", "one", "large", "memory")


@dataclass(frozen=True, slots=True)
class Run:
    """One process: wall seconds, and peak resident memory in MB."""

    seconds: float
    memory: float


def rewrite(
    bank: Path,
    folder: Path,
    *,
    cache: Path | None = None,
    code: Path | None = None,
    watch: Callable[[int], object] = id,
) -> Run:
    """One process of `masa rewrite`, its result thrown away; `cache` keeps its rewrites, `code` is another checkout.

    `watch` is called with its process number while it runs.
    """
    command = [sys.executable, "-m", "masa.cli", "rewrite", str(bank), "--backbone", str(_CARD), "-q"]
    command += ["-o", str(folder / "out.json"), *([] if cache else ["--no-cache"])]
    # As installed: pip compiles modules once, and so does the first round here.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
        forms = cache / "masa" / "forms"
        if not forms.is_symlink():
            forms.parent.mkdir(parents=True, exist_ok=True)
            forms.symlink_to(cache_dir() / "forms")
    if code is not None:
        environment["PYTHONPATH"] = os.pathsep.join(str(code / part) for part in ("runtime", "training", "export"))
    (folder / "out.json").unlink(missing_ok=True)
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    if watch is not None:
        watch(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    return Run(seconds, usage.ru_maxrss * 1024 / 1e6)


class Watch:
    """The most memory that a process had of its own and of files, in MB, looked at every 10 ms until it ends."""

    def __init__(self) -> None:
        self.own = self.files = 0.0

    def __call__(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/status")
        while "RssAnon" in (text := status.read_text()):  # a process that has ended has none
            held = {name: value for name, _, value in (line.partition(":") for line in text.splitlines())}
            self.own = max(self.own, int(held["RssAnon"].split()[0]) * 1024 / 1e6)
            self.files = max(self.files, int(held["RssFile"].split()[0]) * 1024 / 1e6)
            time.sleep(0.01)


def medians(sides: Mapping[str, Callable[[], Run]], repeats: int) -> dict[str, Run]:
    """Every side `repeats` times, in turns and every second round backwards: the medians."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(repeats):
        for name in sides if number % 2 == 0 else reversed(list(sides)):
            runs[name].append(sides[name]())
            print(
                f"  {name}: {runs[name][-1].seconds:.2f} s, {runs[name][-1].memory:.0f} MB", file=sys.stderr, flush=True
            )
    return {
        name: Run(statistics.median(run.seconds for run in those), statistics.median(run.memory for run in those))
        for name, those in runs.items()
    }


def changed_bank(bank: SkillBank) -> tuple[SkillBank, str]:
    """The bank with one word more in the first skill of its last group, and that group's key."""
    group = [group for group in bank.groups() if len(group)][-1]
    first = replace(group.skills[0], principle=f"{group.skills[0].principle} Then go on.")
    return bank.with_groups({group.key: replace(group, skills=(first, *group.skills[1:]))}), group.key


def large_bank(bank: SkillBank, groups: int = 60, skills: int = 800) -> SkillBank:
    """So many skills in so many groups, made of the bank's: no two groups have the same text."""
    pool = [skill for group in bank.groups() for skill in group.skills]
    made: dict[str, tuple[Skill, ...]] = {}
    for number in range(groups):
        count = skills // groups + (number < skills % groups)
        those = (pool[(7 * number + place) % len(pool)] for place in range(count))
        made[f"type_{number:02}"] = tuple(
            replace(skill, skill_id=f"s{number:02}_{place:02}", title=f"{skill.title} {number}")
            for place, skill in enumerate(those)
        )
    return SkillBank((), made)


def share_of(bank: SkillBank, key: str) -> float:
    """A group's share of the tokens that a rewrite of the whole bank reads."""
    with Rewriter.load(cache=False) as rewriter:
        estimate = rewriter.estimate(bank, load_card(_CARD))
    own = {group.key: group.prompt_tokens for group in estimate.groups}
    return (own[key] + estimate.shared_tokens) / (sum(own.values()) + estimate.shared_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="another checkout")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default %(default)s)")
    parser.add_argument("--rows", default=",".join(_ROWS), help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = options.rows.split(",")
    found = machine.facts()
    if not options.json:
        machine.print_facts(found)
    bank = load_bank(_BANK)
    artifact = load_artifact("smollm2-135m")
    ran = find_form(artifact) or artifact
    weights = sum(entry.size for entry in ran.entries.values()) / 1e6
    told: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="masa-benchmark-") as name:
        folder = Path(name)
        whole = medians({"whole": lambda: rewrite(_BANK, folder)}, options.repeats)["whole"]
        told["whole"] = {"seconds": whole.seconds, "memory": whole.memory}
        if "old" in rows and options.old is not None:
            sides = {"old": lambda: rewrite(_BANK, folder, code=options.old), "now": lambda: rewrite(_BANK, folder)}
            both = medians(sides, options.repeats)
            told["old"] = {
                "old": both["old"].seconds,
                "now": both["now"].seconds,
                "times as fast": both["old"].seconds / both["now"].seconds,
            }
        cache = folder / "cache"
        if "cached" in rows or "one" in rows:
            rewrite(_BANK, folder, cache=cache)
        if "cached" in rows:
            cached = medians({"cached": lambda: rewrite(_BANK, folder, cache=cache)}, options.repeats)["cached"]
            told["cached"] = {"seconds": cached.seconds, "times as fast": whole.seconds / cached.seconds}
        if "one" in rows:
            other, key = changed_bank(bank)
            path = folder / "changed.json"
            save_bank(other, path)
            runs = []
            for number in range(options.repeats):  # each with the cache as it was: the changed group must be new
                copy = folder / f"cache-{number}"
                subprocess.run(["cp", "-r", str(cache), str(copy)], check=True)
                runs.append(rewrite(path, folder, cache=copy))
            seconds = statistics.median(run.seconds for run in runs)
            share = share_of(other, key)
            told["one"] = {"seconds": seconds, "of the whole": seconds / whole.seconds, "its share": share}
        if "large" in rows:
            path = folder / "large.json"
            save_bank(large_bank(bank), path)
            run = rewrite(path, folder)
            count = sum(len(group) for group in bank.groups())
            told["large"] = {
                "seconds": run.seconds,
                "seconds a skill": run.seconds / 800,
                "of the bank, seconds a skill": whole.seconds / count,
                "memory": run.memory,
            }
        told["memory"] = {"peak": whole.memory, "weights": weights, "times": whole.memory / weights}
        if "memory" in rows:
            watch = Watch()
            rewrite(_BANK, folder, watch=watch)
            told["memory"] |= {"its own": watch.own, "of files": watch.files}
    if options.json:
        print(json.dumps({"machine": found, "ran": ran.quantization, "rows": told}, indent=1))
        return
    print(
        f"\nran: {ran.kind} {ran.quantization}, {weights:.0f} MB; bank {_BANK.name}, {options.repeats} rounds, medians"
    )
    for row, figures in told.items():
        print(f"{row:<8}" + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
