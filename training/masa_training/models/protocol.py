"""What a language model is to agents and to the teacher: requests in, replies or errors out."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from masa_training.errors import TrainingError

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: "system", "user", "assistant", or "tool" for what a tool answered.
        content: the text.
        shared: letters at its beginning that many conversations have in common, which models in process compute once.
    """

    role: str
    content: str
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked.

    Attributes:
        messages: the conversation; the model writes the next assistant turn. Where each request of an episode
            extends the one before, models in process compute only what is new.
        candidates: the model chooses one of them; None asks for free text.
        max_tokens: most tokens of free text.
        temperature: 0 is greedy. With candidates, the choice is drawn from softmax(scores / temperature).
        seed: makes sampling repeatable; None draws anew each time. Greedy replies need none.
        stop: texts that end free text; they are not part of it.
        tools: what the model may call, each as OpenAI-compatible servers and chat templates take it. They are told in
            the form of the model's own chat template, or behind the system message where it has none.
        constrain: free text can be nothing but one call of a tool: by a grammar in process, `tool_choice` on servers.
    """

    messages: tuple[Message, ...]
    candidates: tuple[str, ...] | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    constrain: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answers.

    Attributes:
        text: the candidate chosen, or free text without reasoning. Where a server's answer matches no candidate, it is
            that answer, unchanged: `reply.text not in request.candidates` tells.
        prompt_tokens: tokens of the prompt, the cached ones included.
        completion_tokens: tokens written, reasoning included; for a choice, those of the chosen candidate.
        cached_tokens: prompt tokens that were not computed again.
        seconds: from taking up the request to the reply, retries and waiting for a rate limit included; requests that
            are computed together each count the whole time.
        scores: one per candidate, in their order, as the model's `scoring` says; None if it has none to tell.
        finish: "length" if free text was cut at `max_tokens`.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    seconds: float
    scores: tuple[float, ...] | None = None
    finish: Finish = "stop"


class ModelError(TrainingError):
    """One request has no reply, for the reason that the message tells in one sentence.

    `retryable` says whether the same request may succeed later: the server was down, busy or broken.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals of a model since it was opened.

    Attributes:
        requests: requests that were given, failed ones included.
        errors: those that ended without a reply.
        retries: attempts beyond the first, of all requests.
        unmatched: replies whose text was none of the candidates.
        uncounted: replies whose server told no token counts; their tokens are missing here.
        seconds: sum over replies of `Reply.seconds`; not wall time where requests run side by side.
        dollars: price of the tokens; None where no prices were given.
    """

    requests: int = 0
    errors: int = 0
    retries: int = 0
    unmatched: int = 0
    uncounted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    dollars: float | None = None


class Model(Protocol):
    """A language model. It may be used from several threads.

    Attributes:
        name: for tables and events.
        concurrency: how many requests are worth giving at once; more are worked off in turn.
    """

    name: str
    concurrency: int

    @property
    def usage(self) -> Usage:
        """Totals so far."""
        ...

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        """One reply or error per request, in their order; never raises for what befalls one of them."""
        ...

    def close(self) -> None:
        """Release memory, sockets and threads. Calling it twice is allowed."""
        ...


class Stream(Protocol):
    """Requests to a model that come one by one, for one thread."""

    def put(self, key: Any, request: Request) -> None:
        """Ask; `key` tells the reply apart."""
        ...

    def ready(self) -> list[tuple[Any, Reply | ModelError]]:
        """Wait until something that was asked is answered; empty where nothing was asked."""
        ...

    def close(self) -> None:
        """Give up what is not answered yet."""
        ...


class _Rounds:
    """A stream of a model that has none of its own: all that was asked is answered together."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._asked: list[tuple[Any, Request]] = []

    def put(self, key: Any, request: Request) -> None:
        self._asked.append((key, request))

    def ready(self) -> list[tuple[Any, Reply | ModelError]]:
        asked, self._asked = self._asked, []
        outcomes = self._model.reply([request for _, request in asked]) if asked else []
        return [(key, outcome) for (key, _), outcome in zip(asked, outcomes, strict=True)]

    def close(self) -> None:
        self._asked = []


def stream_of(model: Model) -> Stream:
    """The model's own stream, which refills a slot as soon as it is free, or one that asks in rounds."""
    make = getattr(model, "stream", None)
    stream: Stream = make() if make else _Rounds(model)
    return stream


class Meter:
    """Adds up `Usage`; safe between threads."""

    def __init__(self, prices: tuple[float, float] | None = None) -> None:
        """`prices` are US dollars for a million prompt tokens and for a million completion tokens."""
        self._prices = prices
        self._total = Usage(dollars=None if prices is None else 0.0)
        self._lock = threading.Lock()

    @property
    def total(self) -> Usage:
        with self._lock:
            return self._total

    def retried(self) -> None:
        with self._lock:
            self._total = replace(self._total, retries=self._total.retries + 1)

    def add(self, request: Request, outcome: Reply | ModelError) -> None:
        with self._lock:
            total = replace(self._total, requests=self._total.requests + 1)
            if isinstance(outcome, ModelError):
                self._total = replace(total, errors=total.errors + 1)
                return
            unmatched = request.candidates is not None and outcome.text not in request.candidates
            dollars = total.dollars
            if self._prices is not None and dollars is not None:
                paid, written = self._prices
                dollars += (paid * outcome.prompt_tokens + written * outcome.completion_tokens) / 1e6
            self._total = replace(
                total,
                unmatched=total.unmatched + unmatched,
                uncounted=total.uncounted + (outcome.prompt_tokens == 0),
                prompt_tokens=total.prompt_tokens + outcome.prompt_tokens,
                completion_tokens=total.completion_tokens + outcome.completion_tokens,
                cached_tokens=total.cached_tokens + outcome.cached_tokens,
                seconds=total.seconds + outcome.seconds,
                dollars=dollars,
            )
