"""Any environment in a process of its own: for what keeps state of the process, blocks, or may crash.

The child is a fresh Python (nothing of the parent's memory, no `__main__` that runs again). Requests and answers are
JSON, a line each, over its standard input and output; what the environment itself prints goes to its error output.
The child ends by itself when the parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from masa.codec import facts_from_json
from masa.errors import MissingExtraError
from masa.facts import Facts
from masa.files import parse_json
from masa_training.environments.protocol import Environment, Split, Step, Task
from masa_training.errors import TrainingError

CHILD = "masa_training.environments.worker_child"
START_SECONDS = 300.0
ANSWER_SECONDS = 120.0
_CLOSE_SECONDS = 5.0
_TOLD = 300


class EnvironmentLostError(TrainingError):
    """The process of an environment ended or gave no answer in time: an infrastructure error, never a failure.

    The object cannot be used any more but for `close`; open a new one and play the episode again.
    """


def in_worker(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    answer_seconds: float = ANSWER_SECONDS,
    start_seconds: float = START_SECONDS,
) -> Environment:
    """As `open_environment`, in a new process. The object has `solution` if the environment has it.

    Options must be JSON values. Calls from several threads wait for each other.

    Raises:
        TrainingError, MissingExtraError: as `open_environment` raises them.
        EnvironmentLostError: if the process ends or is not ready in `start_seconds`. Every method raises it when
            the process ends or gives no answer in `answer_seconds`, after which it is killed.
    """
    process = _Process(name, answer_seconds)
    try:
        about = process.ask("open", start_seconds, name=name, options=dict(options or {}))
        return (SolvableWorker if about["solvable"] else Worker)(process, about)
    except BaseException:
        process.close()
        raise


class Worker:
    """An environment that lives in another process. Made by `in_worker`."""

    def __init__(self, process: _Process, about: Mapping[str, Any]) -> None:
        self._process = process
        self.name: str = about["name"]
        self.description: str = about["description"]
        self.max_steps: int = about["max_steps"]
        self.task_types: tuple[str, ...] = tuple(about["task_types"])
        self._tools: tuple[Mapping[str, Any], ...] = tuple(about["tools"])

    @property
    def pid(self) -> int:
        """Of the other process."""
        return self._process.pid

    def tasks(self, split: Split) -> Sequence[Task]:
        """As the environment's."""
        return [_task(task) for task in self._process.ask("tasks", split=split)]

    def tools(self) -> Sequence[Mapping[str, Any]]:
        """As the environment's; none where it has none."""
        return self._tools

    def facts(self) -> Facts:
        """As the environment's."""
        return facts_from_json(self._process.ask("facts"))

    def reset(self, task: Task, seed: int) -> Step:
        """As the environment's."""
        return _step(self._process.ask("reset", task=_as_json(task), seed=seed))

    def step(self, action: str) -> Step:
        """As the environment's."""
        return _step(self._process.ask("step", action=action))

    def close(self) -> None:
        """End the process, whatever state it is in."""
        self._process.close()


class SolvableWorker(Worker):
    """One that knows how its tasks are solved."""

    def solution(self, task: Task, seed: int) -> Sequence[str]:
        """As the environment's."""
        answer: Sequence[str] = self._process.ask("solution", task=_as_json(task), seed=seed)
        return answer


class _Process:
    """The child, and the one conversation with it."""

    def __init__(self, name: str, answer_seconds: float) -> None:
        self._name = name
        self._answer_seconds = answer_seconds
        self._lock = threading.Lock()
        self._lost = ""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        path = os.pathsep.join(its for its in sys.path if its)
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, "PYTHONPATH": path},
            )
        except OSError as error:
            self._errors.close()
            raise EnvironmentLostError(f"environment {name}: no process can be started ({error.strerror})") from error
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name=f"environment {name}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def ask(self, method: str, seconds: float | None = None, **arguments: Any) -> Any:
        """The result of a method of the environment.

        Raises:
            EnvironmentLostError, TrainingError, MissingExtraError, RuntimeError (for any other error there).
        """
        seconds = self._answer_seconds if seconds is None else seconds
        request = json.dumps({"method": method, **arguments}).encode() + b"\n"
        with self._lock:
            if self._lost:
                raise EnvironmentLostError(self._lost)
            assert self._child.stdin is not None
            try:
                self._child.stdin.write(request)
                self._child.stdin.flush()
                line = self._answers.get(timeout=seconds)
            except queue.Empty:
                raise self._loose(f"gave no answer to {method} in {seconds:g} s") from None
            except (OSError, ValueError):  # a broken pipe, or one that was closed
                line = b""
            except BaseException:  # Ctrl-C: the answer that is still to come would be taken for the next one
                self._loose(f"was given up during {method}")
                raise
            try:
                answer = parse_json(line)
            except ValueError:
                raise self._loose(self._ending(method)) from None
        return _result(answer)

    def close(self) -> None:
        with self._lock:
            self._lost = self._lost or f"environment {self._name}: is closed"
            with contextlib.suppress(OSError):
                if self._child.stdin is not None:
                    self._child.stdin.close()  # the child ends at the end of its input
            try:
                self._child.wait(_CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            self._errors.close()

    def _listen(self) -> None:
        """Lines of the child, the last of which is empty: it has ended."""
        assert self._child.stdout is not None
        with self._child.stdout as lines:
            while True:
                line = lines.readline()
                self._answers.put(line)
                if not line:
                    return

    def _loose(self, reason: str) -> EnvironmentLostError:
        self._child.kill()
        self._child.wait()
        self._lost = f"environment {self._name}: its process {reason}; play the episode again in a new one"
        return EnvironmentLostError(self._lost)

    def _ending(self, method: str) -> str:
        """How it ended, with the last line that it wrote."""
        deadline = time.monotonic() + 1  # its output ends a moment before the process does
        while self._child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        code = self._child.poll()
        how = (
            "is broken" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        )
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how} during {method}" + (f" ({last[:_TOLD]})" if last else "")


def _result(answer: Mapping[str, Any]) -> Any:
    if "missing_extra" in answer:
        raise MissingExtraError(*answer["missing_extra"])
    if "training_error" in answer:
        raise TrainingError(answer["training_error"])
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["result"]


def _as_json(task: Task) -> dict[str, Any]:
    return {**asdict(task), "payload": dict(task.payload)}


def _task(told: Mapping[str, Any]) -> Task:
    """A task as another process told it."""
    return Task(**{**told, "tools": tuple(told["tools"])})


def _step(fields: Mapping[str, Any]) -> Step:
    admissible = fields["admissible"]
    return Step(**{**fields, "admissible": None if admissible is None else tuple(admissible)})
