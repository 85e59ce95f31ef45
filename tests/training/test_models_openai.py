"""The OpenAI-compatible client against a real HTTP server that fails in every way servers fail."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from masa_training.errors import TrainingError
from masa_training.models import Message, ModelError, Reply, Request, open_model
from masa_training.models.limits import RateLimit, Retries, retry_after
from masa_training.models.openai import ServerModel, ServerOptions

KEY = "sk-very-secret-4711"
HELLO = Request((Message("system", "Rules"), Message("user", "Hello")), max_tokens=32)
CHOICE = replace(HELLO, candidates=("look", 'say "hi"', "go to shelf 1"))
QUICK = Retries(attempts=3, first=0.01, longest=0.02)


@dataclass(frozen=True)
class Answer:
    """What the server sends: `cut` announces more bytes than come, `delay` seconds pass before."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    delay: float = 0.0


def completion(
    text: str | None, *, finish: str = "stop", usage: dict[str, Any] | None = None, **message: Any
) -> Answer:
    told = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25} if usage is None else usage
    return Answer(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
            ],
            **({"usage": told} if told else {}),
        }
    )


class Server:
    """Answers `POST /v1/chat/completions` by the script, one answer a request, the last one for ever."""

    def __init__(self, answers: Sequence[Answer] | Callable[[dict[str, Any]], Answer], models: Answer) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.busiest = 0
        self._running = 0
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send(models if self.path == "/v1/models" else Answer({"error": {"message": "no page"}}, 404))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    number = len(outer.requests)
                    outer.requests.append(body)
                    outer.keys.append(self.headers.get("Authorization", ""))
                    outer._running += 1
                    outer.busiest = max(outer.busiest, outer._running)
                try:
                    if self.path != "/v1/chat/completions":
                        answer = Answer({"error": {"message": "no page"}}, 404)
                    else:
                        answer = answers(body) if callable(answers) else answers[min(number, len(answers) - 1)]
                    outer.stopping.wait(answer.delay)
                finally:
                    with outer._lock:
                        outer._running -= 1
                self.send(answer)

            def send(self, answer: Answer) -> None:
                data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                try:
                    self.send_response(answer.status)
                    for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data) + (50 if answer.cut else 0)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    self.close_connection = True
                if answer.cut:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


MODELS = Answer({"object": "list", "data": [{"id": "m", "object": "model"}, {"id": "other", "object": "model"}]})


@contextmanager
def served(
    answers: Sequence[Answer] | Callable[[dict[str, Any]], Answer], *, models: Answer = MODELS, **options: Any
) -> Iterator[tuple[Server, ServerModel]]:
    server = Server(answers, models)
    model = ServerModel(server.url, "m", ServerOptions(**{"retries": QUICK, "timeout": 20, **options}))
    try:
        yield server, model
    finally:
        model.close()
        server.close()


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    """No thread survives a test; sockets left open would be warned of, and warnings fail here."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def only(outcomes: Sequence[Reply | ModelError]) -> Reply:
    (outcome,) = outcomes
    assert isinstance(outcome, Reply), outcome
    return outcome


def error(outcomes: Sequence[Reply | ModelError]) -> ModelError:
    (outcome,) = outcomes
    assert isinstance(outcome, ModelError), outcome
    return outcome


# --- what is asked and what is understood ---------------------------------------------------------------


def test_a_key_that_no_header_holds_is_refused_and_not_shown() -> None:
    with pytest.raises(TrainingError, match="API key") as caught:
        ServerModel("http://127.0.0.1:1/v1", "m", ServerOptions(api_key="sk\n4711"))
    assert "4711" not in str(caught.value)


def test_a_request_carries_what_was_asked_and_the_reply_what_was_told() -> None:
    usage = {
        "prompt_tokens": 90,
        "completion_tokens": 7,
        "total_tokens": 97,
        "prompt_tokens_details": {"cached_tokens": 64},
    }
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    with served([completion(" Hi. ", usage=usage)], extra_body=extra, prices=(1.0, 2.0), api_key=KEY) as (
        server,
        model,
    ):
        request = replace(HELLO, temperature=0.4, seed=7, stop=("\n",))
        reply = only(model.reply([request]))
        assert (reply.text, reply.finish, reply.scores) == ("Hi.", "stop", None)
        assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (90, 7, 64)
        assert reply.seconds > 0
        assert server.requests == [
            {
                "model": "m",
                "messages": [{"role": "system", "content": "Rules"}, {"role": "user", "content": "Hello"}],
                "temperature": 0.4,
                "max_tokens": 32,
                "seed": 7,
                "stop": ["\n"],
                **extra,
            }
        ]
        assert server.keys == [f"Bearer {KEY}"]
        assert model.usage.dollars == pytest.approx((90 + 14) / 1e6)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1"])
def test_no_proxy_sees_what_is_asked_of_this_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Server([completion("the proxy")], MODELS)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
    server = Server([completion("ok")], MODELS)
    model = ServerModel(server.url.replace("127.0.0.1", host), "m", ServerOptions(api_key=KEY, retries=QUICK))
    assert only(model.reply([HELLO])).text == "ok"
    assert server.keys == [f"Bearer {KEY}"] and proxy.keys == []
    model.close()
    server.close()
    proxy.close()


@pytest.mark.parametrize(
    ("answer", "text", "finish"),
    [
        (completion("<think>\nlong\n</think>\n\nlook"), "look", "stop"),
        (completion("look", reasoning_content="long thoughts"), "look", "stop"),
        (completion(None, reasoning_content="never came to an end", finish="length"), "", "length"),
        (completion("<think>cut", finish="length"), "", "length"),
    ],
)
def test_reasoning_is_no_part_of_the_reply(answer: Answer, text: str, finish: str) -> None:
    with served([answer]) as (_, model):
        reply = only(model.reply([HELLO]))
        assert (reply.text, reply.finish) == (text, finish)


@pytest.mark.parametrize(
    ("constraint", "field_name", "value", "answer"),
    [
        ("text", None, None, "Look."),
        ("structured_outputs", "structured_outputs", {"choice": list(CHOICE.candidates or ())}, "look"),
        ("guided_choice", "guided_choice", list(CHOICE.candidates or ()), "look"),
        ("grammar", "grammar", 'root ::= "look" | "say \\"hi\\"" | "go to shelf 1"', "look"),
        ("json_schema", "response_format", None, '{"choice": "look"}'),
    ],
)
def test_a_choice_is_enforced_the_way_the_server_knows(
    constraint: str, field_name: str | None, value: Any, answer: str
) -> None:
    with served([completion(answer)], constraint=constraint) as (server, model):
        assert only(model.reply([CHOICE])).text == "look"
        (body,) = server.requests
        plain = {"model", "messages", "temperature", "max_tokens"}
        assert set(body) - plain == ({field_name} if field_name else set())
        if value is not None:
            assert body[field_name or ""] == value
        if constraint == "json_schema":
            schema = body["response_format"]["json_schema"]["schema"]
            assert schema["properties"]["choice"]["enum"] == list(CHOICE.candidates or ())
        assert model.usage.unmatched == 0


TOOL = {"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}
LOOK = '{"name": "look", "arguments": {"at": "door"}}'


@pytest.mark.parametrize("constrain", [False, True])
def test_tools_and_calls_are_told_as_the_protocol_tells_them(constrain: bool) -> None:
    said = (Message("assistant", f"<tool_call>{LOOK}</tool_call>"), Message("tool", "It is shut."))
    request = replace(HELLO, messages=(*HELLO.messages, *said), tools=(TOOL,), constrain=constrain)
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "door"}'}}
    with served([completion(None, tool_calls=[call]), completion(LOOK)]) as (server, model):
        assert only(model.reply([request])).text == LOOK
        assert only(model.reply([request])).text == LOOK
        body = server.requests[0]
    assert body["tools"] == [TOOL]
    assert body.get("tool_choice") == ("required" if constrain else None)
    *_, asked, answered = body["messages"]
    assert asked["tool_calls"][0]["function"] == call["function"] and asked["role"] == "assistant"
    assert answered == {"role": "tool", "content": "It is shut.", "tool_call_id": asked["tool_calls"][0]["id"]}


def test_an_answer_that_is_no_candidate_is_kept_and_counted() -> None:
    with served([completion("I would dance")]) as (_, model):
        assert only(model.reply([CHOICE])).text == "I would dance"
        assert model.usage.unmatched == 1 and model.usage.errors == 0


def test_a_server_that_counts_no_tokens_is_noted() -> None:
    with served([completion("hi", usage={})]) as (_, model):
        assert only(model.reply([HELLO])).prompt_tokens == 0
        assert model.usage.uncounted == 1


def test_replies_come_in_the_order_of_requests_and_no_more_run_than_allowed() -> None:
    def echo(body: dict[str, Any]) -> Answer:
        text = body["messages"][0]["content"]
        return replace(completion(text), delay=0.05 if int(text) % 3 else 0.1)

    with served(echo, concurrency=3) as (server, model):
        requests = [Request((Message("user", str(i)),)) for i in range(9)]
        assert [reply.text for reply in model.reply(requests) if isinstance(reply, Reply)] == [str(i) for i in range(9)]
        assert 2 <= server.busiest <= 3


# --- faults ---------------------------------------------------------------------------------------------

FAULTS = {
    "too many": (Answer({"error": {"message": "slow down"}}, 429), "too many requests", True),
    "broken": (Answer({"error": {"message": "CUDA out of memory"}}, 500), "CUDA out of memory", True),
    "gateway": (Answer(b"<html>bad gateway</html>", 502, {"Content-Type": "text/html"}), "status 502", True),
    "cut": (replace(completion("hello"), cut=True), "broke in the middle", True),
    "no choices": (Answer({"id": "x", "object": "chat.completion", "choices": []}), "no choices", True),
    "null choices": (Answer({"id": "x", "choices": None}), "no chat completion", True),
    "no message": (Answer({"id": "x", "choices": [{"index": 0}]}), "no message", True),
    "half JSON": (Answer(b'{"choices": [{"mess'), "no JSON", True),
    "a page": (Answer(b"<html>hello</html>", 200, {"Content-Type": "text/html"}), "no chat completion", True),
    "a list": (Answer([1, 2]), "OpenAI-compatible", True),
    "refused": (Answer({"error": {"message": f"bad key {KEY}"}}, 401), "give an API key", False),
    "too long": (Answer({"error": {"message": "context length is 4096"}}, 400), "context length is 4096", False),
    "unknown": (Answer({"error": {"message": "no such model"}}, 404), "correct the address", False),
    "elsewhere": (Answer({}, 307, {"Location": "http://127.0.0.1:9/v1"}), "redirects to", False),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_retried_where_that_may_help_and_else_told(name: str) -> None:
    answer, message, retryable = FAULTS[name]
    with served([answer], api_key=KEY) as (server, model):
        failed = error(model.reply([HELLO]))
        assert failed.retryable is retryable
        text = str(failed)
        assert message in text and server.url in text and KEY not in text and "\n" not in text
        assert len(server.requests) == (QUICK.attempts if retryable else 1)
        assert model.usage.errors == 1 and model.usage.retries == len(server.requests) - 1
    if not retryable:
        return
    with served([answer, completion("after all")]) as (server, model):
        assert only(model.reply([HELLO])).text == "after all"
        assert model.usage.retries == 1 and model.usage.errors == 0


def test_one_fault_among_many_requests_stays_one() -> None:
    def sometimes(body: dict[str, Any]) -> Answer:
        return FAULTS["too long"][0] if body["messages"][0]["content"] == "3" else completion("ok")

    with served(sometimes) as (_, model):
        outcomes = model.reply([Request((Message("user", str(i)),)) for i in range(6)])
        assert [isinstance(outcome, ModelError) for outcome in outcomes] == [i == 3 for i in range(6)]


def test_a_server_that_is_silent_is_given_up_and_the_request_tried_again() -> None:
    with served([replace(completion("late"), delay=5), completion("now")], timeout=0.5) as (server, model):
        assert only(model.reply([HELLO])).text == "now"
        server.stopping.set()
    with served([replace(completion("late"), delay=5)], timeout=0.2, retries=Retries(attempts=1)) as (server, model):
        failed = error(model.reply([HELLO]))
        assert "no answer within 0.2 s" in str(failed) and failed.retryable
        server.stopping.set()


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else answers there
        model = ServerModel(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "m", ServerOptions(retries=QUICK))
        failed = error(model.reply([HELLO]))
        model.close()
    assert "no server answers" in str(failed) and "tried 3 times" in str(failed) and failed.retryable


def test_the_time_that_a_server_asks_for_is_waited() -> None:
    busy = Answer({}, 429, {"Retry-After": "0.3"})
    with served([busy, completion("ok")]) as (_, model):
        reply = only(model.reply([HELLO]))
        assert 0.3 <= reply.seconds < 10
    with served([Answer({}, 429, {"Retry-After": "4000"})]) as (server, model):
        failed = error(model.reply([HELLO]))
        assert "asks to wait 4000 s" in str(failed) and len(server.requests) == 1


def test_closing_wakes_up_who_waits_for_an_answer() -> None:
    with served([replace(completion("never"), delay=30)], timeout=60) as (server, model):
        outcomes: list[Reply | ModelError] = []
        caller = threading.Thread(target=lambda: outcomes.extend(model.reply([HELLO, HELLO])))
        caller.start()
        while len(server.requests) < 2:
            time.sleep(0.01)
        began = time.monotonic()
        model.close()
        caller.join()
        assert time.monotonic() - began < 10
        server.stopping.set()
        assert [str(o).partition(": ")[2] for o in outcomes] == ["the model was closed before it answered"] * 2
        assert "closed" in str(error(model.reply([HELLO])))
        model.close()


def test_the_key_is_in_no_log_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), served([FAULTS["refused"][0]], api_key=KEY) as (_, model):
        failed = error(model.reply([HELLO]))
        assert KEY not in repr(model) + repr(failed) + repr(ServerOptions(api_key=KEY))
    assert caplog.records and KEY not in caplog.text
    assert all(KEY not in repr(vars(record)) for record in caplog.records)


def test_no_socket_is_left_open(recwarn: pytest.WarningsRecorder) -> None:
    import gc

    with served([completion("ok"), FAULTS["cut"][0], completion("ok")], concurrency=4) as (_, model):
        model.reply([HELLO] * 6)
    del model
    gc.collect()
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]


# --- before a run -----------------------------------------------------------------------------------------


def test_preflight_asks_one_tiny_question() -> None:
    with served([completion("ok")]) as (server, model):
        assert model.preflight().text == "ok"
        assert len(server.requests) == 1 and server.requests[0]["max_tokens"] <= 16
    with served([completion("ok")], models=Answer({}, 404)) as (_, model):
        model.preflight()


@pytest.mark.parametrize(
    "models",
    [
        [{"id": "m"}],
        ["m"],
        {"data": None},
        {"object": "list", "data": [{"name": "m"}, {"id": None}]},
        {"models": [{"model": "m:latest"}]},
    ],
)
def test_preflight_reads_lists_in_every_form(models: Any) -> None:
    with served([completion("ok")], models=Answer(models)) as (_, model):
        assert model.preflight().text == "ok"


@pytest.mark.parametrize(
    ("models", "answer", "message"),
    [
        (
            Answer({"object": "list", "data": [{"id": "a"}, {"id": "b"}]}),
            completion("ok"),
            "has no model 'm'; it has: a, b",
        ),
        (Answer({"error": {"message": "who?"}}, 401), completion("ok"), "give an API key"),
        (Answer(b"<html>", 200, {"Content-Type": "text/html"}), completion("ok"), "OpenAI-compatible server"),
        (MODELS, FAULTS["broken"][0], "CUDA out of memory"),
        (MODELS, FAULTS["no choices"][0], "no choices"),
    ],
)
def test_preflight_says_what_is_wrong_without_trying_again(models: Answer, answer: Answer, message: str) -> None:
    with served([answer], models=models) as (server, model):
        with pytest.raises(ModelError, match=message):
            model.preflight()
        assert len(server.requests) <= 1


def test_a_server_is_opened_by_its_address() -> None:
    server = Server([completion("hi")], MODELS)
    model = open_model(f"openai:{server.url}#m", concurrency=2, retries=QUICK)
    assert (model.name, model.concurrency) == ("m", 2)
    assert only(model.reply([HELLO])).text == "hi"
    model.close()
    server.close()
    with pytest.raises(TrainingError, match="unknown constraint"):
        open_model(f"{server.url}#m", constraint="magic")


def test_a_key_is_in_the_variable_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server([completion("hi")], MODELS)
    with pytest.raises(TrainingError, match="BACKBONE_KEY"):
        open_model(f"openai:{server.url}#m", api_key_env="BACKBONE_KEY")
    monkeypatch.setenv("BACKBONE_KEY", f" {KEY}\n")
    model = open_model(f"openai:{server.url}#m", api_key_env="BACKBONE_KEY", retries=QUICK)
    assert only(model.reply([HELLO])).text == "hi" and server.keys == [f"Bearer {KEY}"]
    model.close()
    server.close()
    with pytest.raises(TrainingError, match="api_key and api_key_env"):
        open_model("openai:http://h/v1#m", api_key_env="BACKBONE_KEY", api_key="sk-1")
    with pytest.raises(TrainingError, match="api_key_env is a int"):
        open_model("openai:http://h/v1#m", api_key_env=3)


# --- limits -------------------------------------------------------------------------------------------------


def test_waits_grow_are_spread_and_honour_the_server() -> None:
    retries = Retries(attempts=5, first=1, longest=3, patience=100)
    assert [retries.wait(n, None, lambda: 1.0) for n in (1, 2, 3, 4, 5)] == [1, 2, 3, 3, None]
    assert retries.wait(1, None, lambda: 0.0) == 0.5
    assert retries.wait(1, 20, lambda: 1.0) == pytest.approx(20.1)
    assert retries.wait(1, 101) is None


def test_retry_after_is_a_number_or_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    date = (now + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert [retry_after(value, now) for value in ("7", "-1", date, "soon", "", None)] == [7, 0, 90, None, None, None]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def test_no_minute_sees_more_than_allowed() -> None:
    clock = Clock()
    limit = RateLimit(requests=3, tokens=100, clock=clock)
    begun: list[tuple[float, int]] = []
    for tokens in (10, 10, 10, 10, 90, 50, 60, 1, 1, 1, 1, 100):
        limit.enter(tokens, clock.sleep)
        begun.append((clock.now, tokens))
    for start, _ in begun:
        window = [tokens for moment, tokens in begun if start <= moment < start + 60]
        assert len(window) <= 3 and sum(window) <= 100
    assert clock.now < 8 * 60


def test_estimates_are_corrected_and_an_outsized_request_is_not_stuck() -> None:
    clock = Clock()
    limit = RateLimit(tokens=100, clock=clock)
    correct = limit.enter(100, clock.sleep)
    correct(10)
    limit.enter(80, clock.sleep)
    assert clock.now == 0
    limit.enter(500, clock.sleep)
    assert clock.now == pytest.approx(60)
