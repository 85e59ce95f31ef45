"""Any OpenAI-compatible server, through the official client: vLLM, SGLang, llama.cpp, Ollama, hosted models.

The client's own retries are off: one policy (`masa_training.models.limits`) decides here what is tried again.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from masa.files import parse_json
from masa.servers import find_model, listed_models
from masa_training.environments.tool_calls import read_call
from masa_training.errors import TrainingError
from masa_training.models.endpoints import Endpoint, Endpoints, make_endpoints
from masa_training.models.failures import Failure, NonsenseError, failure_of
from masa_training.models.limits import RateLimit, Retries
from masa_training.models.protocol import Message, Meter, ModelError, Reply, Request, Usage
from masa_training.models.texts import match, without_reasoning

Constraint = Literal["text", "structured_outputs", "guided_choice", "grammar", "json_schema"]
CONSTRAINTS: tuple[Constraint, ...] = get_args(Constraint)
_ELSEWHERE = (401, 403, 404)
"""Refusals that may be one endpoint's fault: a wrong key or model there. Others are the request's."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a server is asked.

    Attributes:
        api_key: for servers that want one; it is sent to this model's endpoints only and appears in no message or log.
        concurrency: requests under way at once, a thread each.
        timeout: seconds of silence after which one try has failed.
        retries: when to try again.
        requests_per_minute, tokens_per_minute: limits, prompt and answer together; None is none.
        prices: US dollars for a million prompt tokens and a million completion tokens.
        extra_body: further fields of every request, such as `{"chat_template_kwargs": {"enable_thinking": False}}`.
        constraint: how a choice among candidates is enforced: "structured_outputs" (vLLM since 0.12 and some before),
            "guided_choice" (older vLLM), "grammar" (llama.cpp's server), "json_schema" (most others), or "text": not at
            all; the answer is matched to the candidates.
        limit_field: what the server calls the most tokens to write; some hosted models want "max_completion_tokens".
        endpoints: further addresses that serve the same model with the same key; each request goes to the one with the
            fewest requests under way. `concurrency` and limits are of all together.
        aside: seconds for which an endpoint that failed is left alone while others work.
    """

    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    timeout: float = 300.0
    retries: Retries = field(default_factory=Retries)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    prices: tuple[float, float] | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    constraint: Constraint = "text"
    limit_field: str = "max_tokens"
    endpoints: Sequence[str] = ()
    aside: float = 30.0


class ServerModel:
    """One model of an OpenAI-compatible server, or of several that serve it alike."""

    def __init__(self, base_url: str, model: str, options: ServerOptions | None = None) -> None:
        """Nothing is sent before the first request; `preflight` finds out whether the server can be used.

        Raises:
            TrainingError: if the address or an option cannot be used.
            MissingExtraError: without the package openai.
        """
        self._options = options or ServerOptions()
        if self._options.constraint not in CONSTRAINTS:
            raise TrainingError(
                f"unknown constraint {self._options.constraint!r}; the known ones are {', '.join(CONSTRAINTS)}"
            )
        if self._options.concurrency < 1:
            raise TrainingError(f"concurrency {self._options.concurrency}; give at least 1")
        self.name = model
        self.concurrency = self._options.concurrency
        self._sockets: weakref.WeakSet[Any] = weakref.WeakSet()
        self._endpoints = make_endpoints(base_url, self._options, self._sockets)
        self._where = ", ".join(endpoint.address for endpoint in self._endpoints)
        self._meter = Meter(self._options.prices)
        self._limit = RateLimit(self._options.requests_per_minute, self._options.tokens_per_minute)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    @property
    def usage(self) -> Usage:
        return self._meter.total

    def preflight(self) -> Reply:
        """Ask every endpoint for its list of models and for one tiny answer, each once, without retries.

        Raises:
            ModelError: if one does not answer, refuses, has no such model, or answers nonsense.
        """
        reply = None
        for endpoint in self._endpoints:
            self._has_model(endpoint)
            request = Request((Message("user", "Answer with the word ok."),), max_tokens=8)
            outcome = self._reply(request, replace(self._options.retries, attempts=1), Endpoints([endpoint], aside=0))
            self._meter.add(request, outcome)
            if isinstance(outcome, ModelError):
                raise outcome
            reply = reply or outcome
        assert reply is not None
        return reply

    def _has_model(self, endpoint: Endpoint) -> None:
        try:
            models = listed_models(endpoint.client.get("/models", cast_to=object))
            if models is None:
                raise NonsenseError("its list of models is none")
        except Exception as error:
            failure = self._failure(error, endpoint)
            if failure.status not in (404, 405):  # some servers keep no list
                raise failure.error from None
            return
        if models and find_model(self.name, models) is None:
            listed = ", ".join(list(models)[:20]) + (", …" if len(models) > 20 else "")
            raise ModelError(f"{endpoint.address}: has no model {self.name!r}; it has: {listed}", retryable=False)

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        with self._lock:
            if self._threads is None and not self._closing.is_set():
                self._threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix="masa-model")
            threads = self._threads
        if threads is None:
            return [self._closed() for _ in requests]
        futures = []
        try:
            for request in requests:
                futures.append(threads.submit(self._counted, request))
            return [future.result() for future in futures]
        except BaseException as error:
            for future in futures:
                future.cancel()
            if self._closing.is_set() and isinstance(error, RuntimeError):  # closed by another thread meanwhile
                return [self._closed() for _ in requests]
            raise

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            threads, self._threads = self._threads, None
        for sock in list(self._sockets):
            # A thread that waits for an answer wakes up; closing alone would leave it waiting until the time limit.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if threads is not None:
            threads.shutdown(wait=True)
        self._endpoints.close()

    def __repr__(self) -> str:
        return f"ServerModel({self._where!r}, {self.name!r})"

    def _counted(self, request: Request) -> Reply | ModelError:
        outcome = self._reply(request, self._options.retries, self._endpoints)
        self._meter.add(request, outcome)
        return outcome

    def _reply(self, request: Request, retries: Retries, endpoints: Endpoints) -> Reply | ModelError:
        """One reply. A failed try is repeated at once where another endpoint works, which is no further attempt; else
        after a wait, as the policy says.
        """
        began = time.perf_counter()
        failed = 0
        tried: list[Endpoint] = []
        refused: list[Endpoint] = []
        passing: Failure | None = None
        body = self._body(request)
        size = sum(len(message.content) for message in request.messages) // 4 + request.max_tokens
        while not self._closing.is_set():
            correct = self._limit.enter(size, self._sleep)
            if self._closing.is_set():
                break
            with endpoints.taken(tried) as endpoint:
                try:
                    answer = endpoint.client.chat.completions.create(**body)
                    reply = _read(answer, request, self._options.constraint, time.perf_counter() - began)
                except Exception as error:
                    failure = self._failure(error, endpoint)
                else:
                    endpoints.answered(endpoint)
                    if reply.prompt_tokens:
                        correct(reply.prompt_tokens + reply.completion_tokens)
                    return reply
            if failure.error.retryable or failure.status in _ELSEWHERE:
                endpoints.failed(endpoint, failure.after)
                tried.append(endpoint)
                if failure.error.retryable:
                    passing = failure
                else:
                    refused.append(endpoint)
                if endpoints.others(tried):
                    self._meter.retried()
                    continue
                # One endpoint that refuses for good does not end what another one may answer later.
                failure = passing or failure
            failed += 1
            tried, passing = list(refused), None
            wait = retries.wait(failed, failure.after) if failure.error.retryable else None
            if wait is None:
                return failure.given_up(failed, retries.patience)
            self._meter.retried()
            self._sleep(wait)
        return self._closed()

    def _failure(self, error: Exception, endpoint: Endpoint) -> Failure:
        if self._closing.is_set():
            return Failure(self._closed())
        return failure_of(error, endpoint.address, self.name, self._options)

    def _closed(self) -> ModelError:
        return ModelError(f"{self._where}: the model was closed before it answered", retryable=False)

    def _sleep(self, seconds: float) -> None:
        self._closing.wait(seconds)

    def _body(self, request: Request) -> dict[str, Any]:
        extra = dict(self._options.extra_body)
        body: dict[str, Any] = {
            "model": self.name,
            "messages": _messages(request),
            "temperature": request.temperature,
        }
        if self._options.limit_field == "max_tokens":
            body["max_tokens"] = request.max_tokens
        else:
            extra[self._options.limit_field] = request.max_tokens
        if request.seed is not None:
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
        if request.candidates is not None:
            _constrain(body, extra, request.candidates, self._options.constraint)
        elif request.tools:
            body["tools"] = list(request.tools)
            if request.constrain:
                body["tool_choice"] = "required"  # servers enforce the tools' schemas then
        return body | {"extra_body": extra}


def _messages(request: Request) -> list[dict[str, Any]]:
    """The conversation; with tools, calls and their answers as such, so that the server's template sees them."""
    told: list[dict[str, Any]] = []
    for number, message in enumerate(request.messages):
        found = read_call(message.content) if request.tools and message.role == "assistant" else None
        if found is not None:
            function = {"name": found[0].name, "arguments": json.dumps(found[0].arguments, ensure_ascii=False)}
            call = {"id": f"call{number}", "type": "function", "function": function}
            told.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif message.role == "tool" and told and "tool_calls" in told[-1]:
            told.append({"role": "tool", "content": message.content, "tool_call_id": told[-1]["tool_calls"][0]["id"]})
        else:
            role = "user" if message.role == "tool" else message.role
            told.append({"role": role, "content": message.content})
    return told


def _constrain(body: dict[str, Any], extra: dict[str, Any], candidates: Sequence[str], how: Constraint) -> None:
    """Add to a request what makes the server answer with one of the candidates."""
    if how == "structured_outputs":
        extra["structured_outputs"] = {"choice": list(candidates)}
    elif how == "guided_choice":
        extra["guided_choice"] = list(candidates)
    elif how == "grammar":
        # JSON's escapes are GBNF's.
        extra["grammar"] = "root ::= " + " | ".join(json.dumps(candidate) for candidate in candidates)
    elif how == "json_schema":
        schema = {
            "type": "object",
            "properties": {"choice": {"type": "string", "enum": list(candidates)}},
            "required": ["choice"],
            "additionalProperties": False,
        }
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "choice", "strict": True, "schema": schema},
        }


def _read(answer: Any, request: Request, how: Constraint, seconds: float) -> Reply:
    """The reply in a chat completion.

    Raises:
        NonsenseError: if there is none.
    """
    choices = getattr(answer, "choices", None)
    if answer is None or isinstance(answer, str) or not isinstance(choices, list):
        raise NonsenseError("its answer is no chat completion")
    if not choices:
        raise NonsenseError("its answer has no choices")
    message = getattr(choices[0], "message", None)
    if message is None:
        raise NonsenseError("its first choice has no message")
    # Servers that split reasoning off put it into a field of its own, which is left where it is.
    text = without_reasoning(message.content or "").strip()
    calls = getattr(message, "tool_calls", None) if request.tools else None
    if calls:
        function = calls[0].function
        text = json.dumps({"name": function.name, "arguments": function.arguments}, ensure_ascii=False)
        if (found := read_call(text)) is not None:
            text = found[0].text
    if request.candidates is not None:
        text = _chosen(text, request.candidates, how)
    usage = answer.usage
    details = getattr(usage, "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None) or getattr(usage, "prompt_cache_hit_tokens", None)
    return Reply(
        text=text,
        prompt_tokens=int(getattr(usage, "prompt_tokens", None) or 0),
        completion_tokens=int(getattr(usage, "completion_tokens", None) or 0),
        cached_tokens=int(cached or 0),
        seconds=seconds,
        finish="length" if choices[0].finish_reason == "length" else "stop",
    )


def _chosen(text: str, candidates: Sequence[str], how: Constraint) -> str:
    if how == "json_schema":
        try:
            value = parse_json(text)
        except ValueError:
            value = None
        if isinstance(value, dict) and isinstance(value.get("choice"), str):
            text = value["choice"]
    return match(text, candidates) or text
