"""Arms of several runs are paired by task: a search's final test, and banks that were played on their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TASKS = 20


def episode(arm: str, task: int, success: bool, **more: Any) -> str:
    job = {"arm": arm, "task": f"t{task}", "seed": 0}
    told = {"event": "episode", "job": job, "outcome": "finished", "success": success, "reward": 0.5, **more}
    return json.dumps(told) + "\n"


def pair(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = repository / "scripts" / "pair_runs.py"
    return subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)


def test_a_search_and_a_bank_played_alone_are_paired(repository: Path, tmp_path: Path) -> None:
    search, alone = tmp_path / "search", tmp_path / "alone" / "model"
    for folder in (search, alone):
        folder.mkdir(parents=True)
    lines = [json.dumps({"event": "proposal", "node": 0, "bank": "aaa"}) + "\n"]
    for task in range(TASKS):
        of = {bank: {"of": [bank, "test", f"t{task}", 0]} for bank in ("aaa", "bbb")}
        lines += [episode("aaa", task, False, **of["aaa"]), episode("bbb", task, task % 2 == 0, **of["bbb"])]
        lines.append(episode("aaa", task, True, of=["aaa", "val", f"t{task}", 0]))  # decided the search: no test
    (search / "events.jsonl").write_text("".join(lines))
    (alone / "events.jsonl").write_text("".join(episode("pass", task, task < 15) for task in range(TASKS)))
    told = pair(repository, str(search), str(alone.parent), "--against", "start", "evolved").stdout
    assert "start: 20 episodes, success 0.0, reward 50.0" in told
    assert "pass: 20 episodes, success 75.0, reward 50.0\n  success - start: +75.0 [" in told
    assert "  success - evolved: +25.0 [" in told and "  reward - evolved: +0.0 [+0.0, +0.0]" in told


def test_what_is_no_run_or_no_arm_is_one_sentence(repository: Path, tmp_path: Path) -> None:
    done = pair(repository, str(tmp_path))
    assert done.returncode == 1 and "give the folder of a run" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "events.jsonl").write_text(episode("pass", 0, True))
    done = pair(repository, str(tmp_path))
    assert done.returncode == 1 and "no run has the arm start; there are: pass" in done.stderr
