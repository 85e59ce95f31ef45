"""Tries llama.cpp in a process of its own, because a build for another CPU kills the process that runs it.

Run as a script, this file is that process: it writes a JSON object a line, one for every stage it
reaches, and imports nothing of masa.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.files import parse_json

STAGES = ("start", "import", "load", "decode")
_ILLEGAL_INSTRUCTION = 0xC000001D  # what Windows says instead of SIGILL


@dataclass(frozen=True, slots=True)
class Trial:
    """How far llama.cpp got.

    Attributes:
        reached: the last of `STAGES` that was completed; "decode" means that tokens were computed.
        tried: the last stage that was asked for: "import" without weights, else "decode".
        version: of llama-cpp-python, once imported.
        system_info: what llama.cpp says it was compiled with, once imported.
        gpu: whether this build can use a GPU.
        crash: the signal that ended the process, such as "SIGILL"; None when none did.
        error: the exception or other trouble that ended it; None when none did.
    """

    reached: str
    tried: str
    version: str | None = None
    system_info: str = ""
    gpu: bool = False
    crash: str | None = None
    error: str | None = None

    @property
    def works(self) -> bool:
        return self.crash is None and self.error is None and self.reached == self.tried

    @property
    def next_stage(self) -> str:
        """The stage during which it ended."""
        return STAGES[min(STAGES.index(self.reached) + 1, len(STAGES) - 1)]


def run_trial(weights: Path | None, *, timeout: float = 120.0) -> Trial:
    """Import llama_cpp and, with weights, load them and compute a few tokens, all in another process.

    `timeout` is in seconds. Never raises for anything that llama.cpp does.
    """
    tried = "import" if weights is None else "decode"
    if not sys.executable:
        return Trial("start", tried, error="this Python does not know its own executable")
    # -P keeps this folder off the search path, where masa's modules would hide others' of the same name.
    command = [sys.executable, "-P", __file__, *([] if weights is None else [str(weights)])]
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as expired:
        return _trial(expired.stdout or b"", tried, error=f"no answer within {timeout:g} s")
    except OSError as error:
        return Trial("start", tried, error=f"no process could be started ({error})")
    crash = _signal_name(run.returncode)
    error_text = None
    if run.returncode != 0 and crash is None:
        lines = run.stderr.decode("utf-8", "replace").strip().splitlines()
        error_text = lines[-1] if lines else f"exit code {run.returncode}"
    return _trial(run.stdout, tried, crash=crash, error=error_text)


def _trial(output: bytes, tried: str, *, crash: str | None = None, error: str | None = None) -> Trial:
    told: dict[str, Any] = {}
    for line in output.decode("utf-8", "replace").splitlines():
        # llama.cpp may write to the same stream, and the last line may be cut.
        with contextlib.suppress(ValueError):
            found = parse_json(line)
            told.update(found if isinstance(found, dict) else {})
    stage = told.get("stage")
    reached = stage if stage in STAGES else "start"
    return Trial(
        reached=reached,
        tried=tried,
        version=told.get("version"),
        system_info=str(told.get("system_info", "")),
        gpu=bool(told.get("gpu")),
        crash=crash,
        error=error,
    )


def _signal_name(returncode: int) -> str | None:
    if returncode & 0xFFFFFFFF == _ILLEGAL_INSTRUCTION:
        return "SIGILL"
    if returncode >= 0:
        return None
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def _child(weights: str | None) -> None:
    def tell(**facts: object) -> None:
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()

    tell(stage="start")
    import llama_cpp

    tell(
        stage="import",
        version=llama_cpp.__version__,
        system_info=llama_cpp.llama_print_system_info().decode("utf-8", "replace"),
        gpu=bool(llama_cpp.llama_supports_gpu_offload()),
    )
    if weights is None:
        return
    model = llama_cpp.Llama(model_path=weights, n_ctx=64, n_batch=32, verbose=False)
    tell(stage="load")
    # A batch and a single token take different kernels.
    model.eval(list(range(1, 17)))
    model.eval([1])
    tell(stage="decode")


if __name__ == "__main__":
    _child(sys.argv[1] if len(sys.argv) > 1 else None)
