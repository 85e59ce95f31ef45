"""`masa adapt` as a user runs it: real processes, the shipped rewriter, skills-ref as the reader where it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.model
@pytest.mark.usefixtures("smollm2")
def test_seventeen_skills_are_adapted_read_and_undone(repository: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / "adapt.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    assert done.returncode == 0 and found["as_promised"], done.stdout + done.stderr
    assert (found["found"], found["told_as_broken"], found["sections"]) == (16, 1, 300)
    assert found["edited"] == found["applied"] == 16 and found["undone"] and not found["faults"]
    assert found["largest_before"] > 9_000 and found["largest_after"] < 6_000
    # Under a minute on two quiet cores; a busy machine takes longer, but no more of its processor.
    assert found["processor_seconds"] < 120
