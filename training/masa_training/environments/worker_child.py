"""The other side of `masa_training.environments.worker`: an environment that answers requests from its parent."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, BinaryIO

from masa.codec import facts_to_json
from masa.errors import MasaError, MissingExtraError
from masa.files import parse_json
from masa_training.environments.protocol import Environment, Task
from masa_training.environments.registry import open_environment


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the environment prints, in C as well
    sys.stdout = sys.stderr
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    environment: Environment | None = None
    while True:
        request = parse_json(requests.get())
        try:
            if request["method"] == "open":
                environment = open_environment(request["name"], **request["options"])
                answer = {"result": _about(environment)}
            else:
                assert environment is not None
                answer = {"result": _answer(environment, request)}
        except Exception as error:
            answer = _told(error)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _listen(lines: BinaryIO, requests: queue.SimpleQueue[bytes]) -> None:
    """Even an environment that never returns ends with its parent."""
    for line in lines:
        requests.put(line)
    os._exit(0)


def _about(environment: Environment) -> dict[str, Any]:
    return {
        "name": environment.name,
        "description": environment.description,
        "max_steps": environment.max_steps,
        "task_types": list(environment.task_types),
        "solvable": hasattr(environment, "solution"),
        "tools": list(getattr(environment, "tools", tuple)()),
    }


def _answer(environment: Environment, request: Mapping[str, Any]) -> Any:
    method = request["method"]
    if method == "tasks":
        return [{**asdict(task), "payload": dict(task.payload)} for task in environment.tasks(request["split"])]
    if method == "facts":
        return facts_to_json(environment.facts())
    if method == "step":
        return asdict(environment.step(request["action"]))
    task = Task(**{**request["task"], "tools": tuple(request["task"]["tools"])})
    if method == "reset":
        return asdict(environment.reset(task, request["seed"]))
    return list(environment.solution(task, request["seed"]))  # type: ignore[attr-defined]


def _told(error: Exception) -> dict[str, Any]:
    if isinstance(error, MissingExtraError):
        return {"missing_extra": [error.feature, error.extra]}
    if isinstance(error, MasaError):
        return {"training_error": str(error)}
    return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
