"""Stands in for `masa export` where tests run it as a process: the same files, no model; settings are checked for real.

It fails where the checkpoint's folder holds a file `refuse-export` or `refuse-verify`, and waits on `wait`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.runtime.artifact_samples import ADAPTER, WEIGHTS, write_artifact


def main(arguments: list[str]) -> int:
    kind = arguments[1]
    if kind == "check":
        from masa.cli.application import root

        root.main(arguments)
    sys.stderr.write("Working …\n")
    options = dict(itertools.pairwise(arguments))
    checkpoint = Path(options["--against"] if kind == "verify" else arguments[2])
    with (checkpoint.parent / "asked.jsonl").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    while (checkpoint / "wait").exists():
        time.sleep(0.05)
    refused = (checkpoint / f"refuse-{'verify' if kind == 'verify' else 'export'}").exists()
    if kind == "verify":
        artifact = Path(arguments[2])
        content = json.loads((artifact / "manifest.json").read_text())
        files = {name: its["sha256"] for name, its in content["files"].items()}
        verdicts = [{"name": "kl", "value": 0.5 if refused else 0.001}]
        report = {"passed": not refused, "subject": {"files": files}, "verdicts": verdicts}
        (artifact / "verify.json").write_text(json.dumps(report))
        if refused:
            sys.stderr.write(f"Error: {artifact}: is not what was trained: kl is 0.5\n")
        return int(refused)
    if refused:
        sys.stderr.write("Error: the adapter cannot be written\n")
        return 1
    told = hashlib.sha256((checkpoint / "masa.json").read_bytes()).digest()
    files = {"weights.gguf": WEIGHTS, "adapter.gguf": ADAPTER + told}
    write_artifact(Path(options["--artifact"]), files, adapter="adapter.gguf")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
