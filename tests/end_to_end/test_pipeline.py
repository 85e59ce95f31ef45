"""`masa pipeline smallest`: from nothing to an artifact that passes, killed on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from masa.artifact import load_artifact
from masa.cards import load_card

pytestmark = [pytest.mark.model, pytest.mark.timeout(1800)]

STAGES = ["profile", "evolve", "dataset", "distill", "export", "verify"]


def pipeline(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "masa.cli", "pipeline", "smallest", "-o", str(folder), "--json", *more]


def recorded(folder: Path, event: str) -> list[str]:
    """The stages with that event, in order."""
    path = folder / "stages.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    told = [json.loads(line) for line in lines if line.endswith("\n")]
    return [its["stage"] for its in told if its["event"] == event]


def killed_after(folder: Path, stage: str) -> None:
    """Begin, and kill -9 as soon as the record says that the stage is finished."""
    begun = subprocess.Popen(pipeline(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while stage not in recorded(folder, "finished"):
        if begun.poll() is not None:
            assert begun.stderr is not None
            pytest.fail(f"it ended with {begun.returncode} before {stage} was finished: {begun.stderr.read()}")
        time.sleep(0.02)
    begun.send_signal(signal.SIGKILL)
    begun.communicate()


def gone_on_with(folder: Path) -> dict[str, Any]:
    done = subprocess.run(pipeline(folder, "--resume"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_from_nothing_to_a_verified_artifact_over_a_kill(smollm2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed_after(folder, "evolve")
    episodes = (folder / "evolve" / "events.jsonl").read_bytes()
    told = gone_on_with(folder)

    assert list(told["stages"]) == STAGES == recorded(folder, "finished"), "each finished once"
    assert recorded(folder, "begun")[:2] == STAGES[:2] and recorded(folder, "begun").count("evolve") == 1
    assert (folder / "evolve" / "events.jsonl").read_bytes() == episodes, "nothing was played again"
    assert load_card(folder / "profile" / "card.yaml").name == "SmolLM2-135M-Instruct"

    artifact = load_artifact(folder / "artifact" / "smallest")
    assert told["verified"] is True and told["artifact"] == str(artifact.path) and artifact.trained
    report = json.loads((artifact.path / "verify.json").read_text("utf-8"))
    assert report["passed"] is True
    assert {its["name"] for its in report["verdicts"] if its["passed"]} >= {"load", "tokens", "template", "kl", "top1"}
    assert all(artifact.entries[name].sha256 == sha256 for name, sha256 in report["subject"]["files"].items())

    before = (folder / "stages.jsonl").read_bytes()
    assert gone_on_with(folder) == told
    assert (folder / "stages.jsonl").read_bytes() == before, "what is finished is done once"
