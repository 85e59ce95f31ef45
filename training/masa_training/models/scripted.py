"""Models without weights: a function that answers, and replies that were recorded."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from masa.files import parse_json
from masa_training.errors import TrainingError
from masa_training.models.protocol import Message, Meter, Model, ModelError, Reply, Request, Usage
from masa_training.models.texts import match

Script = Callable[[Request], str | Reply | ModelError]


class ScriptedModel:
    """Answers what a function says; the requests that it got are in `seen`.

    A text becomes a reply: with candidates it must match one as a server's free text would, tokens count as words.
    """

    def __init__(self, script: Script, *, name: str = "scripted", concurrency: int = 8) -> None:
        self.name = name
        self.concurrency = concurrency
        self.seen: list[Request] = []
        self._script = script
        self._meter = Meter()
        self._lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        return self._meter.total

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        outcomes = []
        for request in requests:
            with self._lock:
                self.seen.append(request)
                began = time.perf_counter()
                answer = self._script(request)
                if isinstance(answer, str):
                    answer = _as_reply(request, answer, time.perf_counter() - began)
            self._meter.add(request, answer)
            outcomes.append(answer)
        return outcomes

    def close(self) -> None:
        pass


def _as_reply(request: Request, text: str, seconds: float) -> Reply:
    if request.candidates is not None:
        text = match(text, request.candidates) or text
    words = sum(len(message.content.split()) for message in request.messages)
    return Reply(text, words, len(text.split()), 0, seconds)


class RecordingModel:
    """Passes requests on to a model and appends every request with its reply to a file, one JSON object a line.

    `replay_model` answers from such a file. Errors are not recorded.
    """

    def __init__(self, model: Model, path: str | PathLike[str]) -> None:
        self.name = model.name
        self.concurrency = model.concurrency
        self._model = model
        self._path = Path(path)
        self._lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        return self._model.usage

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        outcomes = self._model.reply(requests)
        lines = [
            json.dumps({"request": request_json(request), "reply": reply_json(outcome)}, ensure_ascii=False) + "\n"
            for request, outcome in zip(requests, outcomes, strict=True)
            if isinstance(outcome, Reply)
        ]
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
        return outcomes

    def close(self) -> None:
        self._model.close()


def replay_model(recorded: str | PathLike[str] | Sequence[tuple[Request, Reply]], *, name: str = "replay") -> Model:
    """A model that gives the recorded reply to each recorded request; where one was recorded several times, in order,
    and the last again and again.

    A request that was never recorded is an error that cannot be retried.

    Raises:
        TrainingError: if the file is missing or one of its lines is no recorded request.
    """
    pairs = recorded if not isinstance(recorded, str | PathLike) else _read(Path(recorded))
    waiting: dict[str, list[Reply]] = {}
    for request, reply in pairs:
        waiting.setdefault(_key(request), []).append(reply)

    def script(request: Request) -> Reply | ModelError:
        replies = waiting.get(_key(request))
        if not replies:
            last = request.messages[-1].content if request.messages else ""
            return ModelError(
                f"{name}: no reply was recorded for this request (its last message begins {last[:60]!r}); "
                "record again with the same prompts and settings",
                retryable=False,
            )
        return replies.pop(0) if len(replies) > 1 else replies[0]

    return ScriptedModel(script, name=name)


def request_json(request: Request) -> dict[str, Any]:
    """A request as JSON values."""
    return {
        "messages": [[message.role, message.content] for message in request.messages],
        "candidates": None if request.candidates is None else list(request.candidates),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "stop": list(request.stop),
        **({"tools": list(request.tools), "constrain": request.constrain} if request.tools else {}),
    }


def reply_json(reply: Reply) -> dict[str, Any]:
    """A reply as JSON values."""
    return {
        "text": reply.text,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "cached_tokens": reply.cached_tokens,
        "seconds": round(reply.seconds, 4),
        "scores": None if reply.scores is None else list(reply.scores),
        "finish": reply.finish,
    }


def _key(request: Request) -> str:
    return hashlib.sha256(json.dumps(request_json(request), sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> list[tuple[Request, Reply]]:
    try:
        lines = [line for line in path.read_text("utf-8").split("\n") if line]
    except OSError as error:
        raise TrainingError(f"{path}: no recording can be read there ({error.strerror}); give another file") from None
    pairs = []
    for number, line in enumerate(lines, start=1):
        try:
            value = parse_json(line)
            pairs.append((_request(value["request"]), _reply(value["reply"])))
        except (ValueError, KeyError, TypeError):
            raise TrainingError(f"{path}:{number}: this line is no recorded request; record again") from None
    return pairs


def _request(value: Mapping[str, Any]) -> Request:
    candidates = value["candidates"]
    return Request(
        tuple(Message(role, content) for role, content in value["messages"]),
        None if candidates is None else tuple(candidates),
        value["max_tokens"],
        value["temperature"],
        value["seed"],
        tuple(value["stop"]),
        tuple(value.get("tools", ())),
        value.get("constrain", False),
    )


def _reply(value: Mapping[str, Any]) -> Reply:
    scores = value["scores"]
    return Reply(**{**value, "scores": None if scores is None else tuple(scores)})
