"""What an artifact costs on this device: size, load time, tokens per second, time of a bank, memory.

Measured in a fresh process (`python -m masa_export.verify.device_cost`, its job as JSON on stdin, the result as JSON on
stdout), which has loaded nothing but the runtime: so its peak memory is what an agent pays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from masa.artifact import Artifact, load_artifact
from masa.backends import open_backend
from masa.engine import Engine
from masa.errors import FormatError, MasaError
from masa.estimate import measure
from masa.files import parse_json
from masa.formats import load_bank
from masa.group_rewrite import prepare
from masa.languages import PARALLEL
from masa.manifest import Manifest
from masa.progress import Tracker
from masa.prompt import Request
from masa.rewording import Order
from masa.sampling import Sampling
from masa_export.errors import ExportError

_CARD = {"family": "Sample", "parameter_count": "4B", "base_or_instruct": "instruct", "weaknesses": "skips steps"}


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
    done = subprocess.run(
        [sys.executable, "-m", "masa_export.verify.device_cost"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env={"OMP_WAIT_POLICY": "passive", **os.environ},
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


def _measure_here(job: Mapping[str, Any]) -> dict[str, Any]:
    """Do the job of `measure_once` in this process."""
    begun = time.perf_counter()
    artifact = load_artifact(Path(job["artifact"]), verify=False)
    backend = open_backend(artifact, threads=job["threads"])
    loaded = time.perf_counter() - begun
    groups = [group for group in load_bank(job["bank"]).groups() if len(group)]
    if not groups:
        raise FormatError(f"{job['bank']}: has no skills to rewrite; give another bank")
    if artifact.language == "wording":
        works = [Order((skill,), "steps").work() for group in groups for skill in group.skills]
    else:
        works = [
            prepare(Request(group, _CARD), frozenset(), artifact.language, cautious=not artifact.trained)
            for group in groups
        ]
    prompt_speed, decode_speed = measure(backend, min(PARALLEL[artifact.language], len(works)))
    engine = Engine(artifact, lambda: backend, artifact.language, keep_warm=False)
    begun = time.perf_counter()
    first = None
    for _ in engine.run(works, Sampling(), Tracker(len(works), None), lambda: False):
        first = time.perf_counter() - begun if first is None else first
    whole = time.perf_counter() - begun
    engine.close()
    return {
        "load_seconds": loaded,
        "prompt_speed": prompt_speed,
        "decode_speed": decode_speed,
        "first_seconds": first or whole,
        "bank_seconds": whole,
        "groups": len(groups),
        "memory": _peak_memory(),
    }


def _peak_memory() -> int:
    """The largest resident size of this process so far, in bytes.

    VmHWM where there is one: `ru_maxrss` of a fresh process can still be that of its parent.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    try:
        json.dump(_measure_here(json.load(sys.stdin)), sys.stdout)
    except MasaError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
