"""kill -9 at ten random moments: the run that goes on each time ends as one that nobody touched."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from masa_training.evolution.run import evolve
from masa_training.evolution.run_log import EVENTS
from tests.training.test_evolution import Reader, config, events, searched

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
PATIENCE = 120
"""Seconds that a loaded machine may take to write the next events."""

RUN = """
import sys, time
from pathlib import Path
from masa_training.evolution.run import evolve
from tests.training.test_evolution import Reader, config

class Slow(Reader):
    def reply(self, requests):
        time.sleep(0.01)
        return super().reply(requests)

folder = Path(sys.argv[1])
evolve(config(folder / "c.yaml"), folder / "run", resume=(folder / "run").exists(), model=Slow())
"""


def begin(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, str(folder)], cwd=ROOT, stderr=subprocess.PIPE)


def lines_of(folder: Path) -> int:
    path = folder / "run" / EVENTS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    whole = evolve(config(tmp_path / "c.yaml"), tmp_path / "whole", model=Reader())
    every = len(events(tmp_path / "whole"))
    rng = random.Random(0)
    moments = sorted(rng.sample(range(1, every - 20), KILLS))
    killed = 0
    for moment in moments:
        process = begin(tmp_path)
        until = time.monotonic() + PATIENCE
        while process.poll() is None and lines_of(tmp_path) < moment:
            if time.monotonic() > until:
                pytest.fail(f"no {moment} events within {PATIENCE} seconds")
            time.sleep(0.002)
        process.kill()
        _, said = process.communicate()
        killed += process.returncode == -9
        assert process.returncode in (-9, 0), said.decode()
    assert killed >= KILLS - 2, "most were killed in the middle"
    last = begin(tmp_path)
    _, said = last.communicate(timeout=PATIENCE)
    assert last.returncode == 0, said.decode()
    assert searched(tmp_path / "run") == searched(tmp_path / "whole")
    played = [tuple(event["of"]) for event in events(tmp_path / "run") if event["event"] == "episode"]
    assert len(set(played)) == len(played), "nothing is evaluated twice"
    assert (tmp_path / "run" / "banks" / "evolved.json").read_bytes() == whole.path.read_bytes()
