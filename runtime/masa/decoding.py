"""The decoding loop: many groups side by side, a shared prefix, constrained, several tokens a step.

A small model that decodes one sequence leaves a CPU mostly idle: a step for eight sequences costs little more
than a step for one. So all groups of a bank run as parallel sequences; when a short one ends, the next takes its
slot. Prompts are computed one by one, never mixed into a step, so that the numbers of a sequence do not depend
on its neighbours and batched output equals one-by-one output.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from masa.backends import Session
from masa.constraint import Constraint
from masa.sampling import Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence to decode: the prompt after the shared prefix, a limit, and what the output must look like.

    `salt` tells the job's random numbers from those of others; default its number.
    """

    number: int
    prompt: Sequence[int]
    max_tokens: int
    constraint: Callable[[], Constraint] | None = None
    salt: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished sequence.

    `reason` is "stop" (the output is whole), "length" (cut at `max_tokens`), "loop" (it had begun to repeat
    itself) or "cancelled". `steps` counts forward passes, which are fewer than tokens where some were forced
    or guessed.
    """

    number: int
    tokens: tuple[int, ...]
    reason: str
    prompt_tokens: int
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Progress after a prompt or a step: jobs done and running, tokens so far, seconds since the start."""

    done: int
    running: int
    total: int
    prompt_tokens: int
    tokens: int
    seconds: float


def decode(
    session: Session,
    shared: Sequence[int],
    jobs: Sequence[Job],
    *,
    stop: Sequence[int],
    sampling: Sampling | None = None,
    on_tick: Callable[[Tick], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Generator[Completion, None, None]:
    """Decode all jobs, yielding each as it finishes.

    `session` must have room for the longest job; `stop` are the token ids that end an output.
    After `cancelled()` returns true, the rest is yielded as "cancelled".
    """
    sampling = sampling or Sampling()
    started = time.perf_counter()
    waiting = deque(jobs)
    free = deque(range(min(session.slots, sampling.parallel or session.slots)))
    running: dict[int, _Sequence] = {}
    done = prompt_tokens = tokens = 0

    def tick() -> None:
        if on_tick:
            written = tokens + sum(len(sequence.output) for sequence in running.values())
            on_tick(Tick(done, len(running), len(jobs), prompt_tokens, written, time.perf_counter() - started))

    if jobs and not cancelled():
        session.share(shared)
        prompt_tokens += len(shared)
        tick()
    while (waiting or running) and not cancelled():
        while waiting and free and not cancelled():
            job, slot = waiting.popleft(), free.popleft()
            sequence = _Sequence(job, shared, frozenset(stop), sampling)
            running[slot] = sequence
            sequence.choose(session.begin(slot, job.prompt))
            prompt_tokens += len(job.prompt)
            tick()
        # The first token may already have ended a sequence.
        if live := {slot: sequence for slot, sequence in running.items() if not sequence.reason}:
            feeds = [(slot, sequence.pending) for slot, sequence in live.items()]
            rows = session.step(feeds, [len(s.draft) + 1 for s in live.values()])
            for (slot, sequence), logits in zip(live.items(), rows, strict=True):
                refused = sequence.verify(logits)
                if refused and not sequence.reason:
                    session.rewind(slot, refused)
        for slot, sequence in list(running.items()):
            if sequence.reason:
                done += 1
                tokens += len(sequence.output)
                del running[slot]
                session.release(slot)
                free.append(slot)
                yield sequence.completion()
        tick()
    for slot, sequence in running.items():
        session.release(slot)
        sequence.reason = sequence.reason or "cancelled"
        yield sequence.completion()
    for job in waiting:
        yield Completion(job.number, (), "cancelled", len(job.prompt), 0, 0.0)


def decode_apart(
    sessions: Sequence[Session],
    shared: Sequence[int],
    jobs: Sequence[Job],
    *,
    stop: Sequence[int],
    sampling: Sampling | None = None,
    on_tick: Callable[[Tick], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Generator[Completion, None, None]:
    """`decode` with the jobs dealt out to sessions that compute at the same time, each in a thread of its own.

    `on_tick` and `cancelled` are called in the caller's thread.
    """
    if min(len(sessions), len(jobs)) < 2:
        yield from decode(sessions[0], shared, jobs, stop=stop, sampling=sampling, on_tick=on_tick, cancelled=cancelled)
        return
    shares = _dealt(jobs, min(len(sessions), len(jobs)))
    events: queue.SimpleQueue[tuple[int, Tick | Completion | BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()

    def work(number: int) -> None:
        end: BaseException | None = None
        try:
            for completion in decode(
                sessions[number],
                shared,
                shares[number],
                stop=stop,
                sampling=sampling,
                on_tick=lambda tick: events.put((number, tick)),
                cancelled=stopped.is_set,
            ):
                events.put((number, completion))
        except BaseException as error:
            end = error
        events.put((number, end))

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(shares))]
    latest: dict[int, Tick] = {}
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            if cancelled():
                stopped.set()
            number, event = events.get()
            if isinstance(event, Completion):
                yield event
            elif isinstance(event, BaseException):
                raise event
            elif event is None:
                running -= 1
            elif on_tick:
                latest[number] = event
                on_tick(_summed(list(latest.values()), len(jobs), len(shared)))
    finally:
        stopped.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def _dealt(jobs: Sequence[Job], count: int) -> list[list[Job]]:
    """The jobs in `count` shares of about the same length, each in the order of `jobs`."""
    shares: list[list[Job]] = [[] for _ in range(count)]
    for job in sorted(jobs, key=lambda job: -len(job.prompt)):
        min(shares, key=lambda share: sum(len(one.prompt) for one in share)).append(job)
    places = {job.number: place for place, job in enumerate(jobs)}
    return [sorted(share, key=lambda job: places[job.number]) for share in shares]


def _summed(ticks: Sequence[Tick], total: int, shared: int) -> Tick:
    """Of several sessions; the shared prefix counts once."""
    return Tick(
        sum(tick.done for tick in ticks),
        sum(tick.running for tick in ticks),
        total,
        sum(tick.prompt_tokens for tick in ticks) - shared * (sum(tick.prompt_tokens > 0 for tick in ticks) - 1),
        sum(tick.tokens for tick in ticks),
        max(tick.seconds for tick in ticks),
    )


@dataclass(slots=True)
class _Sequence:
    """A job while it runs. `pending` is what the next step feeds; its last `len(draft)` tokens are guesses."""

    job: Job
    shared: Sequence[int]
    stop: frozenset[int]
    sampling: Sampling
    output: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    reason: str = ""
    steps: int = 0
    started: float = field(default_factory=time.perf_counter)
    constraint: Constraint | None = None
    generator: np.random.Generator | None = None

    def __post_init__(self) -> None:
        if self.job.constraint:
            self.constraint = self.job.constraint()
        if self.sampling.temperature > 0:
            import numpy as np

            self.generator = np.random.default_rng(
                [self.sampling.seed, self.job.number if self.job.salt is None else self.job.salt]
            )

    def choose(self, logits: NDArray[np.float32]) -> None:
        """Take the next token from the logits after the prompt, and prepare the next step."""
        self._prepare(self._take(logits))

    def verify(self, logits: NDArray[np.float32]) -> int:
        """Read the rows of a step: one after the certain tokens, one after each guess.

        Guesses stand as long as they are what would have been chosen. Returns how many fed tokens must be
        forgotten.
        """
        self.steps += 1
        draft, accepted = self.draft, 0
        while True:
            taken = self._take(logits[accepted])
            if self.reason or draft[accepted : accepted + len(taken)] != taken:
                break
            accepted += len(taken)
        agreed = _common(draft[accepted:], taken) if not self.reason else 0
        self._prepare(taken[agreed:])
        return len(draft) - accepted - agreed

    def _take(self, logits: NDArray[np.float32]) -> list[int]:
        """Choose one token, and with it those that the constraint forces after it."""
        token = self._pick(logits)
        if token in self.stop:
            self.reason = "stop"
            return []
        taken = [token]
        if self.constraint:
            self.constraint.advance(token)
            if self.sampling.forced and not self.constraint.finished:
                for forced in self.constraint.forced():
                    if forced in self.stop:
                        break
                    self.constraint.advance(forced)
                    taken.append(forced)
        self.output += taken
        if self.constraint and self.constraint.finished:
            self.reason = "stop"
        elif len(self.output) >= self.job.max_tokens:
            self.reason = "length"
        elif repeats(self.output):
            self.reason = "loop"
        return taken

    def _pick(self, logits: NDArray[np.float32]) -> int:
        if self.generator is None:
            best = int(logits.argmax())
            if self.constraint is None or self._admits(best):
                return best
            return int(self.constraint.mask(logits, sorted(self.stop)).argmax())
        import numpy as np

        if self.constraint is not None:
            logits = self.constraint.mask(logits, sorted(self.stop))
        scaled = logits.astype(np.float64) / self.sampling.temperature
        weights = np.exp(scaled - scaled.max())
        return int(self.generator.choice(len(weights), p=weights / weights.sum()))

    def _admits(self, token: int) -> bool:
        assert self.constraint is not None
        return self.constraint.complete if token in self.stop else self.constraint.allows(token)

    def _prepare(self, certain: list[int]) -> None:
        """Set what the next step feeds: the certain tokens and, behind them, guesses."""
        self.draft = []
        if not self.reason and self.sampling.draft and self.generator is None:
            room = min(self.sampling.draft, self.job.max_tokens - len(self.output))
            self.draft = look_up([*self.job.prompt, *self.output], room)
        self.pending = certain + self.draft

    def completion(self) -> Completion:
        return Completion(
            self.job.number,
            tuple(self.output),
            self.reason,
            len(self.job.prompt),
            self.steps,
            time.perf_counter() - self.started,
        )


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def look_up(tokens: Sequence[int], count: int, *, longest: int = 4, shortest: int = 2) -> list[int]:
    """Guess the next `count` tokens: what followed the last earlier occurrence of the final n-gram.

    Prompt lookup decoding: a rewrite copies much of its input. Longer n-grams are tried first.
    """
    tokens = list(tokens)
    for size in range(longest, shortest - 1, -1):
        if len(tokens) <= size:
            continue
        tail = tokens[-size:]
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start] == tail[0] and tokens[start : start + size] == tail:
                return tokens[start + size : start + size + count]
    return []


def repeats(tokens: Sequence[int], *, times: int = 4, longest: int = 48, least: int = 24) -> bool:
    """Whether the end of `tokens` is one piece `times` times over, at least `least` tokens in all."""
    length = len(tokens)
    for period in range(1, min(longest, length // times) + 1):
        if tokens[-1] != tokens[-1 - period]:
            continue
        # Short pieces need more repetitions: `- - -` is a rule in Markdown, not a loop.
        span = max(period * times, -(-least // period) * period)
        if span <= length and tokens[length - span : length - period] == tokens[length - span + period :]:
            return True
    return False
