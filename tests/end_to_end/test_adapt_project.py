"""`masa adapt` as a user runs it: real processes, the shipped rewriter, skills-ref as the reader where it is."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.agent_folders import BROKEN, TOPICS, write_project


def contents(project: Path) -> dict[str, tuple[int, object]]:
    found: dict[str, tuple[int, object]] = {}
    for path in sorted(project.rglob("*")):
        content: object = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path.relative_to(project))] = (
            path.lstat().st_mode,
            str(path.readlink()) if path.is_symlink() else content,
        )
    return found


@pytest.mark.model
@pytest.mark.usefixtures("smollm2")
def test_seventeen_skills_are_adapted_read_and_undone(tmp_path: Path) -> None:
    project = tmp_path / "project"
    places = write_project(project)
    (tmp_path / "card.yaml").write_text("weaknesses: skips steps\n")
    before = contents(project)
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):  # the weights are where they are; the cache is the test's own
        environment[name] = os.environ.get(name) or str(Path.home() / ".local" / "share")
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def masa(*words: str) -> str:
        command = [sys.executable, "-m", "masa.cli", "adapt", *words]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    begun = seconds()
    told = json.loads(
        masa("--backbone", "qwen2.5-coder-1.5b", "--card", "../card.yaml", "--budget", "6000", "--apply", "--json")
    )
    # Under a minute on two cores; a busy machine takes longer, but no more of them.
    assert seconds() - begun < 120
    skills = {skill["skill"]: skill for skill in told["skills"]}
    assert set(skills) == {name for name, *_ in TOPICS}
    assert all(skill["applied"]["done"] and skill["edits"].get("steps") for skill in skills.values())
    assert all(skill["after"]["body"] < 6_000 for skill in skills.values())
    assert sum(bool(skill["added"]) for skill in skills.values()) == 2
    try:
        from skills_ref import validate
    except ImportError:
        validate = None
    for name, file in places.items():
        if name != BROKEN and validate is not None:
            assert validate(file.parent) == []
    assert places["csv-clean"].read_bytes() != before[".claude/skills/csv-clean/SKILL.md"][1]
    masa("--undo")
    assert contents(project) == before
