"""Seconds to adapt a project's skills in place, and whether they are read and undone as promised.

    python benchmarks/adapt.py [--backbone MODEL] [--weaknesses WORDS] [--json]

Seventeen skills in the folders of several clients (300 sections, two skills over 9,000 tokens, links, one broken) are
found, adapted by the shipped rewriter, applied, read by the rules of agentskills.io and by skills-ref where it is
installed, and undone. Every command is a process of its own with an empty cache. Exits with 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from machine import facts, print_facts

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.runtime.agent_folders import BROKEN, write_project

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LINK = re.compile(r"\]\(([^)#:]+)\)")

Tree = dict[str, tuple[int, bytes | str | None]]


def tree(project: Path) -> Tree:
    """Mode and content of every file, where every link leads, and the folders."""
    return {
        str(path.relative_to(project)): (
            path.lstat().st_mode,
            str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(project.rglob("*"))
    }


def faults(folder: Path) -> list[str]:
    """What a client would find wrong with a skill: the specification's rules, links, and skills-ref if it is there."""
    _, front, body = (folder / "SKILL.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(front)
    found = []
    if not (_NAME.fullmatch(fields["name"]) and len(fields["name"]) <= 64 and fields["name"] == folder.name):
        found.append(f"the name {fields['name']!r}")
    if not 1 <= len(fields["description"]) <= 1024:
        found.append("the description's length")
    found += [f"a link to {link}" for link in _LINK.findall(body) if not (folder / link).is_file()]
    try:
        from skills_ref import validate
    except ImportError:
        return found
    return found + list(validate(folder))


class Masa:
    """`masa adapt` in a project, with the weights that are here and a cache of its own."""

    def __init__(self, project: Path, folder: Path) -> None:
        from masa.folders import data_dir

        self.project = project
        self.environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "XDG_DATA_HOME": str(data_dir().parent),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }

    def __call__(self, *words: str) -> tuple[str, float, float]:
        """Its output, seconds on the clock and of the processor.

        Raises:
            SystemExit: if it fails.
        """
        command = [sys.executable, "-m", "masa.cli", "adapt", *words]
        begun, used = time.monotonic(), os.times()
        done = subprocess.run(
            command, cwd=self.project, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"masa adapt {' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
        now = os.times()
        processor = now.children_user + now.children_system - used.children_user - used.children_system
        return done.stdout, time.monotonic() - begun, processor


def measure(folder: Path, backbone: str, weaknesses: str) -> dict[str, Any]:
    """Run it all in `folder`; what was seen."""
    project = folder / "project"
    places = write_project(project)
    (folder / "card.yaml").write_text(f"weaknesses: {weaknesses}\n", encoding="utf-8")
    before = tree(project)
    masa = Masa(project, folder)
    told, seconds, processor = masa(
        "--backbone", backbone, "--card", "../card.yaml", "--budget", "6000", "--apply", "--json"
    )
    skills, problems = json.loads(told)["skills"], json.loads(told)["problems"]
    wrong = {name: faults(file.parent) for name, file in places.items() if name != BROKEN}
    undone = masa("--undo")[1]
    return {
        "found": len(skills),
        "told_as_broken": sum(problem["severity"] == "error" for problem in problems),
        "sections": sum(len(skill["before"]["sections"]) for skill in skills),
        "read": json.loads(told)["rewriter"]["read"],
        "applied": sum(skill["applied"]["done"] for skill in skills),
        "edited": sum(bool(skill["edits"]) for skill in skills),
        "largest_before": max(skill["before"]["body"] for skill in skills),
        "largest_after": max(skill["after"]["body"] for skill in skills),
        "moved": sum(len(skill["added"]) for skill in skills),
        "faults": {name: ones for name, ones in wrong.items() if ones},
        "undone": tree(project) == before,
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "undo_seconds": round(undone, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="qwen2.5-coder-1.5b", help="default: %(default)s")
    parser.add_argument("--weaknesses", default="skips steps", help="of its card; default: %(default)s")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    machine = facts()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder).resolve(), options.backbone, options.weaknesses)
    as_promised = found["applied"] == found["found"] and not found["faults"] and found["undone"]
    if options.json:
        print(json.dumps({**found, "as_promised": as_promised, "machine": machine}, indent=2))
    else:
        print_facts(machine)
        print(
            "{found} skills with {sections} sections found and {told_as_broken} told as broken; {edited} edited, "
            "{applied} applied, {moved} moved; largest body {largest_before:,} tokens, then {largest_after:,}, "
            "the rewriter read {read} sections".format(**found)
        )
        print(f"faults a client finds: {found['faults'] or 'none'}")
        print(f"undone: {'to the byte' if found['undone'] else 'NO'}, in {found['undo_seconds']:.1f} s")
        print("{seconds:.1f} s on the clock, {processor_seconds:.1f} s of processor; goal 60 s".format(**found))
    raise SystemExit(0 if as_promised else 1)


if __name__ == "__main__":
    main()
