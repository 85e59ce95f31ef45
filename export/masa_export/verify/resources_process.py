"""The process that is measured: `python -m masa_export.verify.resources_process`, its job as JSON on stdin.

The result goes to stdout as JSON, an error in one line to stderr with exit code 1.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masa.artifact import load_artifact
from masa.backends import open_backend
from masa.decoding import Sampling
from masa.engine import Engine
from masa.errors import FormatError, MasaError
from masa.estimate import measure
from masa.formats import load_bank
from masa.interpret import prepare
from masa.languages import PARALLEL
from masa.progress import Tracker
from masa.prompt import Request

_CARD = {"family": "Sample", "parameter_count": "4B", "base_or_instruct": "instruct", "weaknesses": "skips steps"}


def run(job: Mapping[str, Any]) -> dict[str, Any]:
    """Do the job that `masa_export.verify.resources` describes."""
    begun = time.perf_counter()
    artifact = load_artifact(Path(job["artifact"]), verify=False)
    backend = open_backend(artifact, threads=job["threads"])
    loaded = time.perf_counter() - begun
    groups = [group for group in load_bank(job["bank"]).groups() if len(group)]
    if not groups:
        raise FormatError(f"{job['bank']}: has no skills to rewrite; give another bank")
    works = [
        prepare(Request(group, _CARD), frozenset(), artifact.language, cautious=not artifact.trained)
        for group in groups
    ]
    slots = min(PARALLEL[artifact.language], len(works))
    prompt_speed, decode_speed = measure(backend, slots)
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
        "groups": len(works),
        "memory": peak_memory(),
    }


def peak_memory() -> int:
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
        json.dump(run(json.load(sys.stdin)), sys.stdout)
    except MasaError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
