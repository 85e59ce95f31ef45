"""Where episodes are played: in this process, in local processes, or on a Ray cluster.

An executor hands jobs out in small shares and takes a share back whose worker died, so a lost worker costs its
unfinished episodes a second beginning and nothing else.
"""

from __future__ import annotations

import multiprocessing
import queue
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from masa.errors import MasaError, MissingExtraError
from masa_training.errors import TrainingError
from masa_training.models import Model
from masa_training.rollouts.episodes import Episode, Job
from masa_training.rollouts.playing import WorkerSpec, opened

Cancel = Callable[[], bool]
_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 5.0
_SHARE = 8
"""Jobs that a worker gets at a time, unless it says how many it plays side by side."""


class Executor(Protocol):
    """Plays jobs somewhere."""

    def run(self, spec: WorkerSpec, jobs: Sequence[Job], *, cancel: Cancel) -> Iterator[Episode]:
        """The episodes of the jobs in the order in which they end, each job once.

        Raises:
            TrainingError: if a job cannot be played at all, or workers die again and again.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """Here, with a model that may be given and stays open."""

    model: Model | None = None

    def run(self, spec: WorkerSpec, jobs: Sequence[Job], *, cancel: Cancel) -> Iterator[Episode]:
        with opened(spec, self.model) as player:
            yield from player.play(jobs, cancel=cancel)


@dataclass
class _Worker:
    """A local process, its share of the jobs, and which of them are not back yet, with how often each was begun."""

    process: Any
    inbox: Any
    left: dict[Job, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Processes:
    """Local processes, each with a model and environments of its own; for models behind a server, or for many cores."""

    count: int

    def run(self, spec: WorkerSpec, jobs: Sequence[Job], *, cancel: Cancel) -> Iterator[Episode]:
        context = multiprocessing.get_context("spawn")
        outbox = context.Queue()
        waiting: deque[tuple[Job, int]] = deque((job, 1) for job in jobs)
        workers: dict[int, _Worker] = {}
        share = max(1, min(spec.slots or _SHARE, -(-len(jobs) // self.count)))
        started = 0
        try:
            while (waiting or any(worker.left for worker in workers.values())) and not cancel():
                while waiting and len(workers) < self.count:
                    inbox = context.Queue()
                    process = context.Process(target=_serve, args=(started, spec, inbox, outbox), daemon=False)
                    process.start()
                    workers[started] = _Worker(process, inbox)
                    started += 1
                for worker in workers.values():
                    if not worker.left and waiting:
                        worker.left = dict(waiting.popleft() for _ in range(min(share, len(waiting))))
                        worker.inbox.put(tuple(worker.left))
                try:
                    number, told = outbox.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    yield from _bury(workers, waiting, spec)
                    continue
                if isinstance(told, str):
                    raise TrainingError(told)
                attempt = workers[number].left.pop(told.job, None) if number in workers else None
                if attempt is not None:  # else its worker was thought dead, and the job was given to another
                    yield replace(told, attempts=max(attempt, told.attempts))
        finally:
            for worker in workers.values():
                worker.inbox.put(None)
            for worker in workers.values():
                worker.process.join(timeout=0 if worker.left else _PATIENCE_SECONDS)
                if worker.process.is_alive():
                    worker.process.terminate()
                    worker.process.join()


def _bury(workers: dict[int, _Worker], waiting: deque[tuple[Job, int]], spec: WorkerSpec) -> Iterator[Episode]:
    """Give the jobs of dead workers to others; those that were begun too often are missing."""
    for number, worker in list(workers.items()):
        if worker.process.is_alive():
            continue
        del workers[number]
        reason = f"its worker process died (exit code {worker.process.exitcode})"
        for job, attempt in worker.left.items():
            if attempt < spec.attempts:
                waiting.append((job, attempt + 1))
            else:
                yield Episode(job=job, task_type="", outcome="missing", reason=reason, attempts=attempt)


def _serve(number: int, spec: WorkerSpec, inbox: Any, outbox: Any) -> None:
    """The life of a worker process: play the shares that come in until None does."""
    try:
        with opened(spec) as player:
            while (share := inbox.get()) is not None:
                for episode in player.play(share):
                    outbox.put((number, episode))
    except MasaError as error:
        outbox.put((number, str(error)))
    except KeyboardInterrupt:
        return
    except Exception:
        outbox.put((number, f"a worker failed: {traceback.format_exc(limit=-3)}"))


@dataclass(frozen=True)
class Ray:
    """A Ray cluster; an empty address starts one on this machine.

    Attributes:
        address: as `ray.init` takes it, such as "auto" or "ray://head:10001".
        count: tasks at a time; 0 takes one for every CPU of the cluster.
    """

    address: str = ""
    count: int = 0

    def run(self, spec: WorkerSpec, jobs: Sequence[Job], *, cancel: Cancel) -> Iterator[Episode]:
        try:
            import ray
        except ImportError:
            raise MissingExtraError("rollouts on Ray", "ray") from None
        ours = not ray.is_initialized()
        if ours:
            try:
                ray.init(address=self.address or None, include_dashboard=False, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise TrainingError(
                    f"ray: no cluster at {self.address or 'this machine'} ({error}); start one (ray start --head) "
                    "or leave the address out"
                ) from None
        count = self.count or max(1, int(ray.cluster_resources().get("CPU", 1)))
        remote = ray.remote(num_cpus=1, max_retries=spec.attempts - 1)(_play_share)
        size = max(1, min(spec.slots or _SHARE, -(-len(jobs) // count)))
        shares = [tuple(jobs[i : i + size]) for i in range(0, len(jobs), size)]
        reference = ray.put(spec)
        waiting = deque(shares)
        running: dict[Any, tuple[Job, ...]] = {}
        try:
            while (waiting or running) and not cancel():
                while waiting and len(running) < count:
                    one = waiting.popleft()
                    running[remote.remote(reference, one)] = one
                done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_SECONDS)
                for handle in done:
                    share = running.pop(handle)
                    try:
                        episodes = ray.get(handle)
                    except ray.exceptions.RayTaskError as error:
                        raise TrainingError(f"ray: a task failed: {error.cause}") from None
                    except ray.exceptions.RayError as error:
                        reason = f"its Ray worker was lost ({type(error).__name__})"
                        episodes = [
                            Episode(job=job, task_type="", outcome="missing", reason=reason, attempts=spec.attempts)
                            for job in share
                        ]
                    yield from episodes
        finally:
            for handle in running:
                ray.cancel(handle, force=True)
            if ours:
                ray.shutdown()


def _play_share(spec: WorkerSpec, jobs: Sequence[Job]) -> list[Episode]:
    with opened(spec) as player:
        return list(player.play(jobs))


def make_executor(kind: str, *, workers: int = 0, address: str = "") -> Executor:
    """The executor of that name: "in-process", "processes" or "ray".

    Raises:
        TrainingError: for another name, or a number that does not fit.
    """
    if workers < 0:
        raise TrainingError(f"workers is {workers}; it must be at least 0")
    match kind:
        case "in-process":
            return InProcess()
        case "processes":
            import os

            return Processes(workers or os.cpu_count() or 1)
        case "ray":
            return Ray(address, workers)
    raise TrainingError(f"no executor is called {kind!r}; there are in-process, processes and ray")
