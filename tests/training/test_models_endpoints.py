"""Several endpoints of one model: requests go where there is room, and on where one dies in the middle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.errors import TrainingError
from masa_training.models import Message, ModelError, Reply, Request, open_model
from masa_training.models.endpoints import Endpoint, Endpoints
from masa_training.models.limits import Retries
from masa_training.models.openai import ServerModel, ServerOptions
from tests.training.test_models_openai import HELLO, KEY, MODELS, Answer, Server, completion

QUICK = Retries(attempts=2, first=0.01, longest=0.02)
Answers = Sequence[Answer] | Callable[[dict[str, Any]], Answer]


@contextmanager
def served(
    *answers: Answers, models: Sequence[Answer] = (), **options: Any
) -> Iterator[tuple[list[Server], ServerModel]]:
    lists = [*models, *[MODELS] * len(answers)]
    servers = [Server(its, lists[number]) for number, its in enumerate(answers)]
    more = [server.url for server in servers[1:]]
    model = ServerModel(
        servers[0].url, "m", ServerOptions(**{"retries": QUICK, "timeout": 20, "endpoints": more, **options})
    )
    try:
        yield servers, model
    finally:
        model.close()
        for server in servers:
            server.close()


def requests(count: int) -> list[Request]:
    return [Request((Message("user", str(number)),)) for number in range(count)]


def echo(delay: float = 0.0) -> Callable[[dict[str, Any]], Answer]:
    return lambda body: replace(completion(f"re {body['messages'][0]['content']}"), delay=delay)


def texts(outcomes: Sequence[Reply | ModelError]) -> list[str]:
    return [outcome.text if isinstance(outcome, Reply) else f"error: {outcome}" for outcome in outcomes]


def test_requests_are_shared_out_and_answers_keep_their_order() -> None:
    with served(echo(0.02), echo(0.02), api_key=KEY, concurrency=4) as ((first, second), model):
        assert texts(model.reply(requests(20))) == [f"re {number}" for number in range(20)]
        assert abs(len(first.requests) - len(second.requests)) <= 6
        assert first.busiest <= 3 and second.busiest <= 3 and model.usage.retries == 0
        assert set(first.keys) == set(second.keys) == {f"Bearer {KEY}"}


def test_a_slow_endpoint_gets_fewer_requests() -> None:
    with served(echo(0.3), echo(0.005), concurrency=4) as ((slow, fast), model):
        assert len(model.reply(requests(24))) == 24
        assert len(slow.requests) < len(fast.requests) / 2


def test_a_server_that_dies_in_the_middle_costs_no_request() -> None:
    dying: list[Server] = []
    closed: list[threading.Thread] = []

    def die(body: dict[str, Any]) -> Answer:
        """The fifth request finds the server going down: it and all that follow there break."""
        server = dying[0]
        if len(server.requests) == 5:
            closed.append(threading.Thread(target=server.close))
            closed[0].start()
        if len(server.requests) >= 5:
            return replace(completion("half an answ"), cut=True)
        return completion(f"re {body['messages'][0]['content']}")

    with served(die, echo(0.01), concurrency=4, retries=Retries(attempts=1)) as ((first, second), model):
        dying.append(first)
        assert texts(model.reply(requests(40))) == [f"re {number}" for number in range(40)]
        closed[0].join(20)
        told = model.usage
        assert told.errors == 0 and told.requests == 40 and 1 <= told.retries <= 8
        assert len(second.requests) >= 36 - 4, "the rest went to the one that lives"
        before = len(second.requests)
        assert texts(model.reply(requests(6))) == [f"re {number}" for number in range(6)]
        assert len(second.requests) == before + 6 and model.usage.retries == told.retries, "it is left alone meanwhile"


def test_an_endpoint_that_comes_back_is_used_again() -> None:
    broken = Answer({"error": {"message": "loading"}}, 503)
    with served([broken, completion("back")], echo(), aside=0.2, concurrency=1) as ((first, _), model):
        assert texts(model.reply(requests(4))) == [f"re {number}" for number in range(4)]
        assert len(first.requests) == 1
        time.sleep(0.25)
        assert "back" in texts(model.reply(requests(4)))
        assert len(first.requests) > 1 and model.usage.errors == 0


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_a_refusal_that_may_be_one_endpoint_s_fault_sends_the_request_elsewhere(status: int) -> None:
    refusing = Answer({"error": {"message": "not here"}}, status)
    with served([refusing], echo(), concurrency=1) as ((first, second), model):
        assert texts(model.reply(requests(6))) == [f"re {number}" for number in range(6)]
        assert len(first.requests) == 1 and len(second.requests) == 6


def test_an_endpoint_that_refuses_for_good_does_not_end_what_another_answers_later() -> None:
    busy, refusing = Answer({"error": {"message": "busy"}}, 503), Answer({"error": {"message": "no key"}}, 401)
    with served([busy, completion("later")], [refusing], concurrency=1) as ((first, second), model):
        assert texts(model.reply([HELLO])) == ["later"]
        assert (len(first.requests), len(second.requests)) == (2, 1)


def test_a_request_that_is_at_fault_itself_is_asked_once() -> None:
    too_long = Answer({"error": {"message": "context length is 4096"}}, 400)
    with served([too_long], [too_long]) as (servers, model):
        (failed,) = model.reply([HELLO])
        assert isinstance(failed, ModelError) and not failed.retryable
        assert sum(len(server.requests) for server in servers) == 1


def test_all_endpoints_down_is_an_error_after_as_many_rounds_as_attempts() -> None:
    broken = Answer({"error": {"message": "out of memory"}}, 500)
    with served([broken], [broken], [broken], retries=Retries(attempts=2, first=0.01), concurrency=1) as (
        servers,
        model,
    ):
        (failed,) = model.reply([HELLO])
        assert isinstance(failed, ModelError) and failed.retryable and "out of memory" in str(failed)
        # The first round asks each of them once. Then all are aside, and a round is one try.
        assert sorted(len(server.requests) for server in servers) == [1, 1, 2]


def test_preflight_asks_every_endpoint_and_names_the_one_that_fails() -> None:
    other = Answer({"object": "list", "data": [{"id": "another", "object": "model"}]})
    with served(echo(), echo()) as ((first, second), model):
        assert isinstance(model.preflight(), Reply)  # type: ignore[attr-defined]
        assert len(first.requests) == len(second.requests) == 1
    with served(echo(), echo(), models=[MODELS, other]) as ((first, second), model):
        with pytest.raises(ModelError, match="no model 'm'") as failed:
            model.preflight()
        assert str(failed.value).startswith(second.url)
    with served(echo(), [Answer({}, 500)]) as ((first, second), model):
        with pytest.raises(ModelError, match="status 500") as failed:
            model.preflight()
        assert second.url in str(failed.value) and len(second.requests) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoints": "http://b/v1"}, "endpoints is 'http://b/v1'; a list of addresses belongs there"),
        ({"endpoints": ["b/v1"]}, "b/v1: not a server's address"),
        ({"endpoints": [3]}, "a list of addresses belongs there"),
        ({"endpoints": None}, "a list of addresses belongs there"),
        ({"aside": -1}, "aside is -1; seconds belong there"),
        ({"aside": "30"}, "aside is '30'; seconds belong there"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        open_model("openai:http://a/v1#m", **options)


def test_the_same_address_twice_is_one_endpoint() -> None:
    model = open_model("openai:http://a/v1#m", endpoints=["http://a/v1/", "http://b/v1", "http://b/v1"])
    assert repr(model) == "ServerModel('http://a/v1, http://b/v1', 'm')"
    model.close()


def test_where_all_endpoints_failed_they_are_tried_in_turn_and_not_one_for_all() -> None:
    now = 0.0
    three = [Endpoint(f"http://e{number}", None) for number in range(3)]  # type: ignore[arg-type]
    endpoints = Endpoints(three, aside=30, clock=lambda: now)
    for its in three:
        endpoints.failed(its)
        now += 1
    with ExitStack() as stack:
        taken = [stack.enter_context(endpoints.taken()) for _ in range(6)]
        assert taken == [*three, *three], "requests under way at once"
    tried = []
    for _ in range(6):
        with endpoints.taken() as its:
            tried.append(its)
            endpoints.failed(its)
            now += 1
    assert tried == [*three, *three], "requests one after another"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["take", "answer", "fail", "wait"]), max_size=60), st.integers(1, 4))
def test_whatever_happens_the_least_busy_healthy_endpoint_is_taken(steps: list[str], count: int) -> None:
    now = 0.0
    all_of_them = [Endpoint(f"http://e{number}", None) for number in range(count)]  # type: ignore[arg-type]
    endpoints = Endpoints(all_of_them, aside=10, clock=lambda: now)
    open_: list[tuple[Any, Endpoint]] = []
    for step in steps:
        if step == "wait":
            now += 4
        elif step == "take":
            healthy = [its for its in all_of_them if its.aside_until <= now]
            busy = {its.address: its.under_way for its in all_of_them}
            taking = endpoints.taken()
            chosen = taking.__enter__()
            open_.append((taking, chosen))
            if healthy:
                assert chosen in healthy and busy[chosen.address] == min(busy[its.address] for its in healthy)
            else:
                first = min((busy[its.address], its.aside_until) for its in all_of_them)
                assert (busy[chosen.address], chosen.aside_until) == first
        elif open_:
            taking, chosen = open_.pop(0)
            taking.__exit__(None, None, None)
            endpoints.failed(chosen) if step == "fail" else endpoints.answered(chosen)
            assert (chosen.aside_until > now) == (step == "fail")
    for taking, _ in open_:
        taking.__exit__(None, None, None)
    assert all(its.under_way == 0 for its in all_of_them)


def test_a_server_that_asks_to_wait_longer_is_left_alone_longer() -> None:
    now = 0.0
    one, other = (Endpoint(f"http://{name}", None) for name in "ab")  # type: ignore[arg-type]
    endpoints = Endpoints([one, other], aside=10, clock=lambda: now)
    endpoints.failed(one, after=60)
    endpoints.failed(other, after=1)
    assert (one.aside_until, other.aside_until) == (60, 10)
    assert not endpoints.others([]) and not endpoints.others([one])
    now = 11
    assert endpoints.others([one]) and not endpoints.others([other])
    with endpoints.taken() as chosen:
        assert chosen is other
