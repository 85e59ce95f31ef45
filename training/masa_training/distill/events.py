"""The record of a run: one JSON object a line, flushed to the disk at once, never rewritten."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from masa.files import parse_json
from masa_training.append_only import append_records, whole_lines
from masa_training.distill import processes


class EventLog:
    """Appends events to a file and tells a listener; of several processes, only the main one."""

    def __init__(self, path: Path, listener: Callable[[str, Mapping[str, Any]], None] | None = None) -> None:
        self._path = path
        self._listener = listener

    def write(self, event: str, **values: Any) -> None:
        """Add an event.

        Raises:
            TrainingError: if it cannot be written.
        """
        if not processes.main():
            return
        line = {"event": event, "time": round(time.time(), 1), **values}
        append_records(self._path, [line])
        if self._listener:
            self._listener(event, values)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a file in order; a torn line is left out."""
    events = []
    for line in whole_lines(path):
        try:
            event = parse_json(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


class StopCallback(TrainerCallback):
    """Ends training after a step, with a checkpoint, once one of the processes is asked to."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if processes.any_of(self._stop()):
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True


class BestCallback(TrainerCallback):
    """Lets the last step compete for the best weights, and finds the best ones so far in a folder that was moved."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # transformers 5 has already forgotten the path of a folder that was moved.
        if state.best_global_step:
            there = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(there) if there.is_dir() else None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


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
