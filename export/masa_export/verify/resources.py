"""What an artifact costs on this device: size, load time, tokens per second, time of a bank, memory.

Measured in a fresh process (`masa_export.verify.resources_process`), which has loaded nothing but the runtime: so its
peak memory is what an agent pays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from masa.artifact import Artifact
from masa.files import parse_json
from masa.manifest import Manifest
from masa_export.errors import ExportError


@dataclass(frozen=True, slots=True)
class Resources:
    """What was measured.

    Attributes:
        bytes: of all files of the artifact, those inside packages included.
        load_seconds: from the manifest to a model that can be asked; files may be in the system's cache.
        prompt_speed: tokens a second of reading a prompt.
        decode_speed: tokens a second of writing, sequences side by side as in a rewrite.
        first_seconds, bank_seconds: until the first group and all groups of the bank are rewritten, without loading.
        groups: how many groups the bank has.
        memory: peak resident bytes of the process.
        runs: how many processes were measured; times and speeds are medians, memory is the largest.
        load_average: of the machine over the last minute, before; None where the system does not tell.
    """

    bytes: int
    load_seconds: float
    prompt_speed: float
    decode_speed: float
    first_seconds: float
    bank_seconds: float
    groups: int
    memory: int
    runs: int
    load_average: float | None


def size_of(artifact: Manifest) -> int:
    """Bytes of all files that the manifest names."""
    return sum(entry.size for entry in artifact.entries.values())


def measure_once(artifact: Artifact, bank: Path, *, threads: int | None = None) -> Resources:
    """Measure `artifact` on the skill bank in the file `bank`, in a process of its own.

    Raises:
        ExportError: with the process's last line, if it fails.
    """
    job = {"artifact": str(artifact.path), "bank": str(bank), "threads": threads}
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "masa_export.verify.resources_process"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=environment,
    )
    try:
        found: dict[str, Any] = parse_json(done.stdout) if done.returncode == 0 else {}
    except ValueError:
        found = {}
    if not found:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1][:300] if lines else f"exit code {done.returncode}"
        raise ExportError(f"{artifact.path}: cannot be measured ({why}); try masa rewrite with it")
    return Resources(bytes=size_of(artifact), runs=1, load_average=load, **found)


def summarize(found: list[Resources]) -> Resources:
    """Several measurements of one artifact (at least one) as one."""
    values = {name: [getattr(one, name) for one in found] for name in asdict(found[0])}
    loads = [load for load in values["load_average"] if load is not None]
    return Resources(
        bytes=found[0].bytes,
        load_seconds=median(values["load_seconds"]),
        prompt_speed=median(values["prompt_speed"]),
        decode_speed=median(values["decode_speed"]),
        first_seconds=median(values["first_seconds"]),
        bank_seconds=median(values["bank_seconds"]),
        groups=found[0].groups,
        memory=max(values["memory"]),
        runs=sum(values["runs"]),
        load_average=max(loads) if loads else None,
    )
