"""The build side as a process: this package may not import it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from masa_training.errors import TrainingError

# Where this process is killed, the other end of the pipe closes and the command ends as well: it must not work on in a
# folder that somebody goes on with. os.read, since a thread that waits in sys.stdin aborts the interpreter's exit.
_WITH_ITS_PARENT = """
import os, sys, threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
from masa.cli import main
sys.exit(main())
"""
MASA: Sequence[str] = (sys.executable, "-c", _WITH_ITS_PARENT)
# A function of the build side that only reads: its module and name, its arguments as JSON, its result as JSON.
_ASKED = """
import importlib, json, sys
from masa.errors import MasaError
module, name, given = sys.argv[1:]
told = json.loads(given)
try:
    found = getattr(importlib.import_module(module), name)(*told["given"], **told["named"])
except MasaError as error:
    sys.exit(f"Error: {error}")
print(json.dumps(found, default=str))
"""
_EVERY = 0.2
_GRACE = 20.0
_ERROR = "Error: "


class TerminatedError(TrainingError):
    """The process was stopped because the person asked for it."""


def run_masa(
    arguments: Sequence[str], *, say: Callable[[str], None], cancel: Callable[[], bool] = lambda: False
) -> str:
    """Run a command of masa to its end; what it printed. `say` is told every line of its progress.

    Raises:
        TerminatedError: if it was cancelled.
        TrainingError: if it ended with an error, in its own words.
    """
    command = [*MASA, *arguments]
    lines: list[str] = []
    printed: list[str] = []
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise TrainingError(f"{command[0]}: cannot be started ({error.strerror}); mend the installation") from None

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip())
            if not line.startswith(_ERROR) and line.strip():
                say(line.rstrip())

    def collect() -> None:
        assert process.stdout is not None
        printed.append(process.stdout.read())

    readers = [threading.Thread(target=each, daemon=True) for each in (read, collect)]
    for reader in readers:
        reader.start()
    try:
        while True:
            try:
                code = process.wait(_EVERY)
                break
            except subprocess.TimeoutExpired:
                if cancel():
                    raise TerminatedError("cancelled") from None
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for reader in readers:
            reader.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if code:
        if cancel():
            raise TerminatedError("cancelled")
        told = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
        what = " ".join(arguments[:2])
        raise TrainingError(
            told[-1] if told else f"masa {what} ended with {code}; {(lines or ['it said nothing'])[-1]}"
        )
    return "".join(printed)


def asked_of_export(module: str, name: str, *given: Any, **named: Any) -> Any:
    """What a function of `masa_export` makes of these JSON values, as JSON values; where settings are checked early.

    Raises:
        TrainingError: if it refuses them, in its own words.
    """
    told = json.dumps({"given": given, "named": named})
    command = [sys.executable, "-c", _ASKED, f"masa_export.{module}", name, told]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TrainingError(last.removeprefix(_ERROR))
    return json.loads(done.stdout)
