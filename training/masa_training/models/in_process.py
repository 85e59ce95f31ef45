"""A model in this process: requests become token ids, take their slots, and are computed together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from masa.backends.tokenizing import Tokenizer
from masa.constraint import Constraint
from masa.errors import MasaError
from masa_training.environments.tool_calls import call_grammar
from masa_training.errors import TrainingError
from masa_training.models.chat import ChatFormat, Encoded
from masa_training.models.choice import SCORINGS, Choice, Scoring, pick, plan, score
from masa_training.models.protocol import Finish, Meter, ModelError, Reply, Request, Usage
from masa_training.models.slots import Ask, Engine, Slots
from masa_training.models.texts import without_reasoning

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TAIL = 24
"""Tokens at the end of a text in which a stop text is looked for; longer stop texts are looked for in the whole."""


class InProcessModel:
    """A `Model` over an engine. Passes of several threads follow one another."""

    def __init__(
        self,
        name: str,
        chat: ChatFormat,
        tokenizer: Tokenizer,
        choosing: Callable[[], Engine],
        writing: Callable[[], Engine] | None = None,
        *,
        slots: int,
        scoring: Scoring = "total",
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """`choosing` and `writing` make the engines for candidates and for free text, when first needed.

        Without `writing` one engine does both.
        """
        if scoring not in SCORINGS:
            raise TrainingError(f"{name}: unknown scoring {scoring!r}; the known ones are {', '.join(SCORINGS)}")
        self.name = name
        self.concurrency = slots
        self.chat = chat
        self.scoring: Scoring = scoring
        self._tokenizer = tokenizer
        self._make = {True: choosing, False: writing or choosing}
        self._one = writing is None
        self._slots: dict[bool, Slots] = {}
        self._meter = Meter()
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._busy: set[int] = set()
        """Slots of the engine for writing that streams hold."""
        self._on_close = on_close
        self._closed = False

    @property
    def usage(self) -> Usage:
        return self._meter.total

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        outcomes: dict[int, Reply | ModelError] = {}
        with closing(self.stream()) as stream:
            for i, request in enumerate(requests):
                stream.put(i, request)
            while len(outcomes) < len(requests):
                outcomes.update(stream.ready())
        return [outcomes[i] for i in range(len(requests))]

    def stream(self) -> InProcessStream:
        """Requests as they come: a slot goes on with the next one as soon as it is free."""
        return InProcessStream(self)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            engines = {id(slots.engine): slots.engine for slots in self._slots.values()}
            self._slots.clear()
            for engine in engines.values():
                engine.close()
            self._on_close()

    def _chosen(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        """The choices of at most `concurrency` requests."""
        began = time.perf_counter()
        outcomes: list[Reply | ModelError | None] = [None] * len(requests)
        try:
            slots = self._engine(choosing=True)
            jobs: list[_Job] = []
            for i, request in enumerate(requests):
                job = self._job(i, request, slots.engine.length)
                if isinstance(job, ModelError):
                    outcomes[i] = job
                else:
                    jobs.append(job)
            for job, slot in zip(jobs, slots.assign([job.prompt for job in jobs]), strict=True):
                job.slot = slot
            replies = self._choose(slots, jobs)
            seconds = time.perf_counter() - began
            for job, (text, written, scores) in zip(jobs, replies, strict=True):
                outcomes[job.number] = Reply(text, len(job.prompt.tokens), written, job.cached, seconds, scores)
        except (MasaError, MemoryError, RuntimeError) as error:
            failure = self._failure(error)
            return [failure if outcome is None else outcome for outcome in outcomes]
        return [outcome for outcome in outcomes if outcome is not None]

    def _failure(self, error: BaseException) -> ModelError:
        """What a failure in the middle of a pass is to its requests; nothing that the slots hold is believed."""
        for slots in self._slots.values():
            slots.forget()
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return ModelError(f"{self.name}: {reason}", retryable=not self._closed)

    def _engine(self, choosing: bool) -> Slots:
        if self._closed:
            raise TrainingError("the model was closed; open it again")
        if choosing not in self._slots:
            if self._one and self._slots:
                (self._slots[choosing],) = self._slots.values()
            else:
                self._slots[choosing] = Slots(self._make[choosing]())
        return self._slots[choosing]

    def _job(self, number: int, request: Request, length: int) -> _Job | ModelError:
        try:
            return self._made(number, request, length)
        except (MasaError, ValueError) as error:
            return ModelError(f"{self.name}: {error}", retryable=False)

    def _made(self, number: int, request: Request, length: int) -> _Job:
        import numpy as np

        prompt = self.chat.encode(request.messages, request.tools)
        choice, answers = None, []
        if request.candidates is None:
            longest = request.max_tokens
            if longest < 1:
                raise TrainingError(f"max_tokens is {longest}; give at least 1")
        else:
            answers = [self.chat.answer(candidate) for candidate in request.candidates]
            choice = plan(answers, self.chat.ends[0], self.scoring)
            longest = max(map(len, answers))
        if len(prompt.tokens) + longest > length:
            raise TrainingError(
                f"a prompt of {len(prompt.tokens)} tokens and {longest} behind it do not fit into {length}; "
                "open the model with a larger `length` or shorten the conversation"
            )
        draws = np.random.default_rng(request.seed)
        constraint = self._constraint(request) if choice is None and request.constrain else None
        return _Job(number, request, prompt, choice, tuple(map(len, answers)), draws, constraint)

    def _constraint(self, request: Request) -> Constraint:
        make = getattr(self._tokenizer, "grammar_tokenizer", None)
        if make is None or not request.tools:
            raise TrainingError("a reply is constrained to calls of tools, by llama.cpp; give tools, or leave it free")
        return Constraint(make(), call_grammar(request.tools))

    def _choose(self, slots: Slots, jobs: Sequence[_Job]) -> list[_Answer]:
        asks = []
        for job in jobs:
            placed = slots.place(job.prompt, job.slot)
            assert job.choice is not None
            job.cached = placed.cached
            asks.append(Ask(job.slot, placed.rest, job.choice.tree))
        answers: list[_Answer] = []
        for job, logits in zip(jobs, slots.engine.run(asks), strict=True):
            assert job.choice is not None and job.request.candidates is not None
            scores = score(job.choice, logits, self.scoring)
            best = pick(scores, job.request.temperature, job.draws)
            answers.append((job.request.candidates[best], job.lengths[best], scores))
            slots.settle(job.prompt, job.slot)
        return answers

    def _place(self, slots: Slots, job: _Job) -> None:
        """Give a job that writes a slot that is free; its prompt is what the first pass computes."""
        (job.slot,) = slots.assign([job.prompt], self._busy)
        self._busy.add(job.slot)
        placed = slots.place(job.prompt, job.slot)
        job.feed, job.cached = placed.rest, placed.cached

    def _pass(self, slots: Slots, jobs: Sequence[_Job]) -> list[_Job]:
        """One pass for jobs that write; those that it completed."""
        rows = slots.engine.run([Ask(job.slot, job.feed) for job in jobs])
        for job, logits in zip(jobs, rows, strict=True):
            job.fed = len(job.output)
            self._take(job, logits[0])
        done = [job for job in jobs if job.finish is not None]
        for job in done:
            # The last tokens were never fed.
            slots.settle(job.prompt, job.slot, job.output[: job.fed])
        return done

    def _take(self, job: _Job, logits: NDArray[np.float32]) -> None:
        """Choose the next token of a free text, add what must follow it, and see whether the text is complete."""
        request, constraint = job.request, job.constraint
        token = pick(logits, request.temperature, job.draws)
        if constraint is not None:
            # Greedy decoding hardly ever needs the mask; what is drawn has to be drawn from what is allowed.
            ending = token in self.chat.ends and constraint.complete
            if request.temperature or not (ending or constraint.allows(token)):
                token = pick(constraint.mask(logits, self.chat.ends), request.temperature, job.draws)
        if token in self.chat.ends:
            self._finish(job, "stop")
            return
        new = [token]
        if constraint is not None:
            constraint.advance(token)
            for forced in constraint.forced():
                constraint.advance(forced)
                new.append(forced)
        new = new[: request.max_tokens - len(job.output)]
        job.feed = new
        job.output += new
        stops = (*request.stop, *self.chat.stops)
        if stops:
            tail = job.output[-max(_TAIL, *(len(stop) for stop in stops)) :]
            if any(stop in self._text(tail) for stop in stops):
                self._finish(job, "stop")
                job.text = min((job.text.split(stop, 1)[0] for stop in stops), key=len)
                return
        if constraint is not None and constraint.finished:
            self._finish(job, "stop")
        elif len(job.output) >= request.max_tokens:
            self._finish(job, "length")

    def _finish(self, job: _Job, finish: Finish) -> None:
        job.finish = finish
        job.text = self._text(job.output).strip()

    def _text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.detokenize(tokens).decode("utf-8", "replace")


class InProcessStream:
    """A `Stream` of an `InProcessModel`. Of several streams, each advances its own requests."""

    def __init__(self, model: InProcessModel) -> None:
        self._model = model
        self._waiting: deque[tuple[Any, Request]] = deque()
        self._writing: list[_Job] = []
        self._keys: dict[int, Any] = {}
        self._count = 0

    def put(self, key: Any, request: Request) -> None:
        self._waiting.append((key, request))

    def ready(self) -> list[tuple[Any, Reply | ModelError]]:
        model = self._model
        with model._lock:
            choices = [(key, request) for key, request in self._waiting if request.candidates is not None]
            if choices and not (model._one and self._writing):
                self._waiting = deque(one for one in self._waiting if one[1].candidates is None)
                found = self._choices(choices)
            else:
                found = self._write() if self._waiting or self._writing else []
        return found

    def close(self) -> None:
        """Give up what is under way."""
        with self._model._lock:
            self._free(self._writing)
            self._writing.clear()
            self._waiting.clear()

    def _choices(self, asked: Sequence[tuple[Any, Request]]) -> list[tuple[Any, Reply | ModelError]]:
        model, outcomes = self._model, []
        while model._one and model._busy:
            model._freed.wait()
        for start in range(0, len(asked), model.concurrency):
            some = asked[start : start + model.concurrency]
            told = model._chosen([request for _, request in some])
            for (key, request), outcome in zip(some, told, strict=True):
                model._meter.add(request, outcome)
                outcomes.append((key, outcome))
        return outcomes

    def _write(self) -> list[tuple[Any, Reply | ModelError]]:
        """Go on until a request is done."""
        model = self._model
        found: list[tuple[Any, Request, Reply | ModelError]] = []
        try:
            slots = model._engine(choosing=False)
            while not found:
                while self._waiting and len(model._busy) < model.concurrency:
                    key, request = self._waiting.popleft()
                    job = model._job(self._count, request, slots.engine.length)
                    if isinstance(job, ModelError):
                        found.append((key, request, job))
                        continue
                    self._keys[self._count] = key
                    self._count += 1
                    self._writing.append(job)
                    model._place(slots, job)
                if not self._writing:
                    if not found:
                        model._freed.wait()
                    continue
                done = model._pass(slots, self._writing)
                self._writing = [job for job in self._writing if job.finish is None]
                self._free(done)
                for job in done:
                    reply = Reply(
                        without_reasoning(job.text),
                        len(job.prompt.tokens),
                        len(job.output),
                        job.cached,
                        time.perf_counter() - job.began,
                        None,
                        job.finish or "stop",
                    )
                    found.append((self._keys.pop(job.number), job.request, reply))
        except (MasaError, MemoryError, RuntimeError) as error:
            failure = model._failure(error)
            found += [(self._keys.pop(job.number), job.request, failure) for job in self._writing]
            found += [(key, request, failure) for key, request in self._waiting]
            self._free(self._writing)
            self._writing.clear()
            self._waiting.clear()
        for _, request, outcome in found:
            model._meter.add(request, outcome)
        return [(key, outcome) for key, _, outcome in found]

    def _free(self, jobs: Sequence[_Job]) -> None:
        self._model._busy -= {job.slot for job in jobs}
        self._model._freed.notify_all()


_Answer = tuple[str, int, tuple[float, ...] | None]
"""Text, tokens written and scores."""


@dataclass(slots=True)
class _Job:
    """A request on its way.

    Attributes:
        lengths: the candidates' numbers of tokens.
        feed: what the next pass computes.
        fed: how much of `output` was computed.
    """

    number: int
    request: Request
    prompt: Encoded
    choice: Choice | None
    lengths: tuple[int, ...]
    draws: np.random.Generator
    constraint: Constraint | None = None
    slot: int = -1
    cached: int = 0
    began: float = field(default_factory=time.perf_counter)
    feed: Sequence[int] = ()
    fed: int = 0
    output: list[int] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None
