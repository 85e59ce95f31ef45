"""A model in this process: requests become token ids, take their slots, and are computed together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
    """A `Model` over an engine. Calls from several threads follow one another."""

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
        self._on_close = on_close
        self._closed = False

    @property
    def usage(self) -> Usage:
        return self._meter.total

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        outcomes: list[Reply | ModelError | None] = [None] * len(requests)
        with self._lock:
            for choosing in (True, False):
                chosen = [i for i, request in enumerate(requests) if (request.candidates is not None) == choosing]
                for start in range(0, len(chosen), self.concurrency):
                    some = chosen[start : start + self.concurrency]
                    for i, outcome in zip(some, self._round([requests[i] for i in some], choosing), strict=True):
                        outcomes[i] = outcome
        done = [outcome for outcome in outcomes if outcome is not None]
        for request, outcome in zip(requests, done, strict=True):
            self._meter.add(request, outcome)
        return done

    def close(self) -> None:
        with self._lock:
            self._closed = True
            engines = {id(slots.engine): slots.engine for slots in self._slots.values()}
            self._slots.clear()
            for engine in engines.values():
                engine.close()
            self._on_close()

    def _round(self, requests: Sequence[Request], choosing: bool) -> list[Reply | ModelError]:
        """At most `concurrency` requests of one kind."""
        began = time.perf_counter()
        outcomes: list[Reply | ModelError | None] = [None] * len(requests)
        try:
            slots = self._engine(choosing)
            jobs: list[_Job] = []
            for i, request in enumerate(requests):
                try:
                    jobs.append(self._job(i, request, slots.engine.length))
                except (MasaError, ValueError) as error:
                    outcomes[i] = ModelError(f"{self.name}: {error}", retryable=False)
            for job, slot in zip(jobs, slots.assign([job.prompt for job in jobs]), strict=True):
                job.slot = slot
            replies = self._choose(slots, jobs) if choosing else self._write(slots, jobs)
            seconds = time.perf_counter() - began
            for job, (text, written, scores, finish) in zip(jobs, replies, strict=True):
                outcomes[job.number] = Reply(text, len(job.prompt.tokens), written, job.cached, seconds, scores, finish)
        except (MasaError, MemoryError, RuntimeError) as error:
            self._forget()
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            failure = ModelError(f"{self.name}: {reason}", retryable=not self._closed)
            return [failure if outcome is None else outcome for outcome in outcomes]
        return [outcome for outcome in outcomes if outcome is not None]

    def _engine(self, choosing: bool) -> Slots:
        if self._closed:
            raise TrainingError("the model was closed; open it again")
        if choosing not in self._slots:
            if self._one and self._slots:
                (self._slots[choosing],) = self._slots.values()
            else:
                self._slots[choosing] = Slots(self._make[choosing]())
        return self._slots[choosing]

    def _forget(self) -> None:
        """After a failure in the middle of a pass nothing that the slots hold is believed."""
        for slots in self._slots.values():
            slots.forget()

    def _job(self, number: int, request: Request, length: int) -> _Job:
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
            answers.append((job.request.candidates[best], job.lengths[best], scores, "stop"))
            slots.settle(job.prompt, job.slot)
        return answers

    def _write(self, slots: Slots, jobs: Sequence[_Job]) -> list[_Answer]:
        asks = []
        for job in jobs:
            placed = slots.place(job.prompt, job.slot)
            job.cached = placed.cached
            asks.append(Ask(job.slot, placed.rest))
        running = list(jobs)
        rows = slots.engine.run(asks)
        while True:
            for job, logits in zip(running, rows, strict=True):
                self._take(job, logits[0])
            running = [job for job in running if job.finish is None]
            if not running:
                break
            rows = slots.engine.run([Ask(job.slot, job.output[-1:]) for job in running])
        for job in jobs:
            # The token that ends an answer, and the last before the limit, were never fed.
            slots.settle(job.prompt, job.slot, written=len(job.output))
        return [(without_reasoning(job.text), len(job.output), None, job.finish or "stop") for job in jobs]

    def _take(self, job: _Job, logits: NDArray[np.float32]) -> None:
        """Choose the next token of a free text, and see whether the text is complete."""
        request = job.request
        token = pick(logits, request.temperature, job.draws)
        if job.constraint is not None:
            # Greedy decoding hardly ever needs the mask; what is drawn has to be drawn from what is allowed.
            ending = token in self.chat.ends and job.constraint.complete
            if request.temperature or not (ending or job.constraint.allows(token)):
                token = pick(job.constraint.mask(logits, self.chat.ends), request.temperature, job.draws)
            if token not in self.chat.ends:
                job.constraint.advance(token)
        if token in self.chat.ends:
            self._finish(job, "stop")
            return
        job.output.append(token)
        stops = (*request.stop, *self.chat.stops)
        if stops:
            tail = job.output[-max(_TAIL, *(len(stop) for stop in stops)) :]
            if any(stop in self._text(tail) for stop in stops):
                self._finish(job, "stop")
                job.text = min((job.text.split(stop, 1)[0] for stop in stops), key=len)
                return
        if len(job.output) >= request.max_tokens:
            self._finish(job, "length")

    def _finish(self, job: _Job, finish: Finish) -> None:
        job.finish = finish
        job.text = self._text(job.output).strip()

    def _text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.detokenize(tokens).decode("utf-8", "replace")


_Answer = tuple[str, int, tuple[float, ...] | None, Finish]
"""Text, tokens written, scores and finish."""


@dataclass(slots=True)
class _Job:
    """A request on its way; `lengths` are the candidates' numbers of tokens."""

    number: int
    request: Request
    prompt: Encoded
    choice: Choice | None
    lengths: tuple[int, ...]
    draws: np.random.Generator
    constraint: Constraint | None = None
    slot: int = -1
    cached: int = 0
    output: list[int] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None
