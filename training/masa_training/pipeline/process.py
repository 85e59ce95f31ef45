"""The build side as a process: this package may not import it."""

from __future__ import annotations

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


def options(**values: Any) -> list[str]:
    """Settings as the options of a command of masa: `wrong_cards=2` is `--wrong-cards 2`.

    What is None or empty is left to the command's default; a truth is `--name` or `--no-name`; a list
    repeats its option.
    """
    spelled: list[str] = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            spelled.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list):
            spelled += [part for each in value for part in (f"--{option}", str(each))]
        elif value is not None and value != "":
            spelled += [f"--{option}", str(value)]
    return spelled
