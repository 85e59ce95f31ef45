"""A short run of `scripts/fuzz.py` over every target, and that it finds, shrinks and keeps what fails."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from masa.errors import FormatError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
fuzz = importlib.import_module("fuzz")
targets = importlib.import_module("fuzz_targets")
TARGETS = targets.TARGETS


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """The fuzzer makes a process that survives; this one has other tests to run."""
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.getsignal(signal.SIGALRM)
    yield
    logging.disable(logging.NOTSET)
    resource.setrlimit(resource.RLIMIT_AS, limit)
    signal.signal(signal.SIGALRM, handler)


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_ends_in_a_result_or_a_sentence(name: str) -> None:
    failures: list[Any] = []
    tally = fuzz.fuzz(TARGETS[name], seed=1, numbers=range(150), on_failure=failures.append)
    assert tally.read and tally.refused, "inputs must be almost right"
    fuzz.fuzz(TARGETS[name], seed=1, numbers=range(150, 1_000_000), seconds=2, on_failure=failures.append)
    assert [failure.report for failure in failures] == []


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_follows_from_seed_and_number(name: str) -> None:
    target = TARGETS[name]
    assert [fuzz.generate(target, 1, n) for n in range(20)] == [fuzz.generate(target, 1, n) for n in range(20)]
    assert fuzz.generate(target, 1, 7) != fuzz.generate(target, 2, 7)


def _make(r: Random) -> bytes:
    return bytes(r.randrange(256) for _ in range(40))


def _check(data: bytes) -> None:
    if 7 in data:
        raise FormatError("a seven")
    if 8 in data:
        raise targets.Loss("an eight")
    if 9 in data:
        started = time.thread_time()
        while time.thread_time() < started + 0.02:
            pass
    if 10 in data:
        raise KeyError(10)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(fuzz, "SLOW", 0.01)
    yield targets.Target("faulty", "", _make, _check)


def test_failures_are_told_once_each_and_made_small(faulty: Any) -> None:
    failures: list[Any] = []
    tally = fuzz.fuzz(faulty, seed=0, numbers=range(300), on_failure=failures.append)
    assert tally.inputs == 300 == tally.read + tally.refused + tally.failed
    assert {(failure.signature.split(":")[0], failure.data) for failure in failures} == {
        ("Loss", b"\x08"),
        ("slow", b"\x09"),
        ("KeyError", b"\x0a"),
    }


def test_the_command_keeps_failures_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["manifest", "--inputs", "30", "--out", str(tmp_path)]) == 0
    assert "manifest: 30 inputs" in capsys.readouterr().out
    assert fuzz.main(["manifest", "--inputs", "40", "--resume", "--out", str(tmp_path)]) == 0
    assert "manifest: 40 inputs" in capsys.readouterr().out
    (tmp_path / "bad.input").write_bytes(b"{")
    assert fuzz.main(["manifest", "--replay", str(tmp_path / "bad.input")]) == 0
    with pytest.raises(SystemExit, match="2"):
        fuzz.main(["nothing"])
