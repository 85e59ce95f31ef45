"""`masa export` as a process: this package may not import the build side."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from masa_training.errors import TrainingError

MASA: Sequence[str] = (sys.executable, "-m", "masa.cli")
_EVERY = 0.2
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
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
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
            process.wait()
        for reader in readers:
            reader.join()
    if code:
        if cancel():
            raise TerminatedError("cancelled")
        told = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
        what = " ".join(arguments[:2])
        raise TrainingError(
            told[-1] if told else f"masa {what} ended with {code}; {(lines or ['it said nothing'])[-1]}"
        )
    return "".join(printed)
