#!/usr/bin/env python3
"""Give masa inputs that are almost right, by the million, and keep those that it does not survive.

    python scripts/fuzz.py                                      every target, 20,000 inputs each
    python scripts/fuzz.py bank gguf --inputs 1000000           two targets, a million each
    python scripts/fuzz.py skill-md --seconds 600 --seed 7      for ten minutes, with other numbers
    python scripts/fuzz.py skill-md --resume --inputs 1000000   go on where the last run with that seed was stopped
    python scripts/fuzz.py bank --replay fuzz/bank-*.input      try saved inputs again

Every input must end in a result or in a MasaError; any other exception, more than a second, or something that was read
and is not written back is a failure. Input number N of a target follows from the seed and N alone. The smallest input
found for each failure lies in the folder `--out` with its traceback. Exit code 0: no failure, 1: some, 2: wrong use.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import multiprocessing.sharedctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzz_targets import TARGETS, Target

from masa.errors import MasaError

SLOW = 1.0
"""Seconds of computing after which an input counts as a hang; waiting for a busy machine is none of its time."""
STUCK = 60.0
"""Seconds after which the process is ended that does not come back from an input at all; half of it for an attempt."""
MINIMISING = 20.0
"""Seconds that are spent on making one failing input smaller."""
MEMORY = 4 << 30
"""Bytes of address space beyond what the process has at the start; more is a failure, not the end of the machine."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that masa did not survive. `signature` is the same for failures at the same place."""

    target: str
    number: int
    signature: str
    data: bytes
    report: str


@dataclass(slots=True)
class Tally:
    """What became of the inputs so far; `slowest` in seconds."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    failed: int = 0
    slowest: float = 0.0


def generate(target: Target, seed: int, number: int) -> bytes:
    """Input `number` of a target."""
    return target.make(Random(f"{seed} {target.name} {number}"))


def attempt(target: Target, data: bytes) -> tuple[str, str, float]:
    """("read", "refused" or a failure's signature; its traceback; the seconds of computing that it took)."""
    report, started = "", time.thread_time()
    try:
        with _alarm(STUCK / 2):
            target.check(data)
        outcome = "read"
    except MasaError as error:
        outcome = "refused"
        if not str(error).strip() or not str(error).isprintable():
            outcome = f"{_signature(error)} is told in more than one printable line"
            report = f"{str(error)!r}\n"
    except Exception as error:
        outcome, report = _signature(error), "".join(traceback.format_exception(error)[-40:])
    return outcome, report, time.thread_time() - started


def examine(target: Target, data: bytes) -> tuple[str, str, float]:
    """`attempt`, but an input that was slow every time of three is a failure."""
    outcome, report, seconds = attempt(target, data)
    for _ in range(2):
        if seconds <= SLOW:
            break
        seconds = min(seconds, attempt(target, data)[2])
    if seconds > SLOW and outcome in ("read", "refused"):
        outcome, report = f"slow: over {SLOW:g} s", f"{seconds:.1f} s for {len(data):,} bytes\n"
    return outcome, report, seconds


def fuzz(
    target: Target,
    *,
    seed: int,
    numbers: range,
    seconds: float = float("inf"),
    on_failure: Callable[[Failure], None],
    on_input: Callable[[int, Tally], None] = lambda number, tally: None,
) -> Tally:
    """Try the inputs with these numbers, in this process, until the time is over."""
    tally = Tally()
    ends = time.monotonic() + seconds
    seen: dict[str, int] = {}
    for number in numbers:
        if time.monotonic() > ends:
            break
        on_input(number, tally)
        data = generate(target, seed, number)
        outcome, report, taken = examine(target, data)
        tally.inputs += 1
        tally.slowest = max(tally.slowest, taken)
        if outcome == "read":
            tally.read += 1
        elif outcome == "refused":
            tally.refused += 1
        else:
            tally.failed += 1
            seen[outcome] = seen.get(outcome, 0) + 1
            if seen[outcome] == 1:
                smaller = minimised(data, lambda found, like=outcome: examine(target, found)[0] == like)  # type: ignore[misc]
                on_failure(Failure(target.name, number, outcome, smaller, report))
    return tally


def minimised(data: bytes, fails: Callable[[bytes], bool], *, seconds: float = MINIMISING) -> bytes:
    """A smaller input that still fails: pieces are left out as long as that helps and the time lasts."""
    ends = time.monotonic() + seconds
    piece = max(1, len(data) // 2)
    while piece:
        start, shorter = 0, False
        while start < len(data) and time.monotonic() < ends:
            without = data[:start] + data[start + piece :]
            if fails(without):
                data, shorter = without, True
            else:
                start += piece
        if time.monotonic() >= ends:
            break
        piece = piece if shorter and piece == 1 else piece // 2
    return data


def _signature(error: BaseException) -> str:
    """The kind of an exception and the last place in masa that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}masa{os.sep}" in frame.filename]
    place = f" in {Path(ours[-1].filename).name}:{ours[-1].name}" if ours else ""
    said = f": {error}" if isinstance(error, AssertionError) else ""
    return f"{type(error).__name__}{place}{said}"


class _Hang(Exception):  # noqa: N818
    """The alarm went off."""


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, in a process that `prepare` made ready for it."""
    if not hasattr(signal, "SIGALRM") or signal.getsignal(signal.SIGALRM) is not _ring:
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _ring(*_: object) -> None:
    raise _Hang(f"no end after {STUCK / 2:g} s")


# --- the command -----------------------------------------------------------------------------------


class Campaign:
    """One target in a process of its own, which is started again behind an input that it does not come back from."""

    def __init__(self, target: Target, seed: int, out: Path) -> None:
        self.target, self._seed, self._out = target, seed, out
        self._state = out / f"{target.name}-{seed}.json"
        self.tally = Tally()
        self.failures: list[Failure] = []
        self.next = 0

    def resume(self) -> None:
        """Go on where the last run with this seed was stopped."""
        if self._state.is_file():
            kept = json.loads(self._state.read_text("utf-8"))
            self.next, self.tally = kept["next"], Tally(**kept["tally"])

    def run(self, inputs: int, seconds: float) -> None:
        """Try the inputs up to number `inputs` (exclusive), or as far as the time goes."""
        started, done = time.monotonic(), self.next
        while self.next < inputs and (left := started + seconds - time.monotonic()) > 0:
            self._one_process(inputs, left)
            self._save()
        speed = (self.next - done) / max(1e-9, time.monotonic() - started)
        _say(f"{self._line()} · {speed:,.0f} a second")

    def _one_process(self, inputs: int, seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        here = context.Value("q", self.next, lock=False)
        ours, theirs = context.Pipe(duplex=False)
        first = self.next
        process = context.Process(
            target=_work, args=(self.target.name, self._seed, range(first, inputs), seconds, here, theirs), daemon=True
        )
        process.start()
        theirs.close()
        before, told, moved = Tally(**_plain(self.tally)), time.monotonic(), time.monotonic()
        last = first
        ended = False
        while not ended:
            try:
                while ours.poll(0.2):
                    kind, value = ours.recv()
                    if kind == "failure":
                        self._fail(value)
                    else:
                        self.tally = _sum(before, value)
                        self.next = first + value.inputs
                        ended = kind == "end"
            except EOFError:
                if not ended:
                    process.join()
                    self._skip(here.value, f"the process ended with code {process.exitcode}")
                ended = True
            if here.value != last:
                last, moved = here.value, time.monotonic()
            elif time.monotonic() - moved > STUCK and process.is_alive() and last > first:
                process.kill()
                self._skip(last, f"no end after {STUCK:g} s")
                ended = True
            if time.monotonic() - told > 20:
                told = time.monotonic()
                _say(self._line())
                self._save()
        process.join()

    def _skip(self, number: int, why: str) -> None:
        self.next = number + 1
        self.tally.inputs += 1
        self.tally.failed += 1
        self._fail(Failure(self.target.name, number, why, generate(self.target, self._seed, number), why))

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        digest = hashlib.sha256(failure.signature.encode("utf-8", "replace")).hexdigest()[:8]
        path = self._out / f"{failure.target}-{digest}.input"
        if not path.exists() or path.stat().st_size > len(failure.data):
            path.write_bytes(failure.data)
            head = f"{failure.signature}\ntarget {failure.target}, seed {self._seed}, number {failure.number}\n\n"
            path.with_suffix(".txt").write_text(head + failure.report, "utf-8", errors="replace")
        _say(f"{failure.target}: {failure.signature} (number {failure.number}, {len(failure.data):,} bytes: {path})")

    def _save(self) -> None:
        self._state.write_text(json.dumps({"next": self.next, "tally": _plain(self.tally)}), "utf-8")

    def _line(self) -> str:
        t = self.tally
        return (
            f"{self.target.name}: {t.inputs:,} inputs, {t.read:,} read, {t.refused:,} refused, {t.failed:,} failed, "
            f"slowest {t.slowest:.2f} s"
        )


def _work(
    name: str, seed: int, numbers: range, seconds: float, here: Any, pipe: Any
) -> None:  # runs in the other process
    prepare()
    reported = time.monotonic()

    def on_input(number: int, tally: Tally) -> None:
        nonlocal reported
        here.value = number
        if time.monotonic() - reported > 1:
            reported = time.monotonic()
            pipe.send(("tally", tally))

    with contextlib.suppress(KeyboardInterrupt):
        tally = fuzz(
            TARGETS[name],
            seed=seed,
            numbers=numbers,
            seconds=seconds,
            on_failure=lambda failure: pipe.send(("failure", failure)),
            on_input=on_input,
        )
        pipe.send(("end", tally))


def prepare() -> None:
    """Make this process one that survives what it is about to try: an alarm, and a limit on memory."""
    import logging

    logging.disable(logging.CRITICAL)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _ring)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


def _plain(tally: Tally) -> dict[str, Any]:
    return {name: getattr(tally, name) for name in Tally.__slots__}


def _sum(before: Tally, more: Tally) -> Tally:
    whole = {name: getattr(before, name) + getattr(more, name) for name in Tally.__slots__}
    return Tally(**(whole | {"slowest": max(before.slowest, more.slowest)}))


def _say(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join(f"{target.name} ({target.what})" for target in TARGETS.values())
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default all of: {known}")
    parser.add_argument("--target", action="append", default=[], help="the same, for scripts; may be given often")
    parser.add_argument("--inputs", type=int, default=20_000, help="inputs for each target (default 20000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="the longest time for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="folder of failing inputs (default fuzz)")
    parser.add_argument("--resume", action="store_true", help="go on where the last run with this seed was stopped")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="try these files with one target")
    options = parser.parse_args(arguments)
    names = [*options.targets, *options.target] or list(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        parser.error(f"unknown target {unknown[0]!r}; known: {', '.join(TARGETS)}")
    if options.replay:
        if len(names) != 1:
            parser.error("--replay needs the one target that the files are for")
        return _replay(TARGETS[names[0]], options.replay)
    options.out.mkdir(parents=True, exist_ok=True)
    campaigns = [Campaign(TARGETS[name], options.seed, options.out) for name in names]
    try:
        for campaign in campaigns:
            if options.resume:
                campaign.resume()
            campaign.run(options.inputs, options.seconds)
    except KeyboardInterrupt:
        _say("stopped; --resume goes on")
    return 1 if any(campaign.tally.failed for campaign in campaigns) else 0


def _replay(target: Target, files: list[Path]) -> int:
    prepare()
    failed = False
    for file in files:
        outcome, report, seconds = examine(target, file.read_bytes())
        failed = failed or outcome not in ("read", "refused")
        _say(f"{file}: {outcome} ({seconds:.3f} s)\n{report}".rstrip())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
