"""The record of a run: one JSON object a line, flushed to the disk at once, never rewritten."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class EventLog:
    """Appends events to a file and tells a listener."""

    def __init__(self, path: Path, listener: Callable[[str, Mapping[str, Any]], None] | None = None) -> None:
        self._path = path
        self._listener = listener
        _end_line(path)

    def write(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "time": round(time.time(), 1), **values}, ensure_ascii=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._listener:
            self._listener(event, values)


def _end_line(path: Path) -> None:
    """A kill may have torn the last line; what follows must begin on a new one."""
    if path.is_file() and path.stat().st_size and path.read_bytes()[-1:] != b"\n":
        with path.open("ab") as file:
            file.write(b"\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a file in order; a torn line is left out."""
    events = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


class StopCallback(TrainerCallback):
    """Ends training after a step, with a checkpoint, once it is asked to."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._stop():
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True


class EventCallback(TrainerCallback):
    """Turns what transformers' Trainer logs into events."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        logs = logs or {}
        if "eval_loss" in logs:
            found = {"nll": "eval_loss", "constrained_nll": "eval_constrained"}
            self._events.write(
                "evaluated", step=state.global_step, **{k: logs[v] for k, v in found.items() if v in logs}
            )
        elif "loss" in logs:
            kept = ("loss", "grad_norm", "learning_rate", "tokens_per_second", "computed_tokens_per_second")
            self._events.write(
                "trained", step=state.global_step, of=state.max_steps, **{k: logs[k] for k in kept if k in logs}
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._events.write("saved", step=state.global_step)
