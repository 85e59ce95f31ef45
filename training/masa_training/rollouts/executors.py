"""Where episodes are played: in this process, in local processes, or on a Ray cluster.

An executor hands jobs out in small shares and takes a share back whose worker died, so a lost worker costs its
unfinished episodes a second beginning and nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
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

_STARTS = 3
"""Attempts to start a local Ray cluster."""


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
    """A local process, its share of the jobs, and which of them are not back yet, with how often each was begun.

    Each worker has a pipe of its own. A queue that they share is guarded by a lock, and a worker that is killed while
    it holds that lock silences all others for good.
    """

    process: Any
    pipe: Connection
    left: dict[Job, int] = field(default_factory=dict)

    def give(self, share: Mapping[Job, int]) -> None:
        """Hand over jobs; a worker that is dead by now keeps them until it is buried."""
        self.left = dict(share)
        with contextlib.suppress(OSError):
            self.pipe.send(tuple(share))

    def told(self) -> Episode | str | None:
        """What it sent, an episode or why it cannot go on; None if it sent nothing, or died while it did."""
        try:
            return self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):
            return None

    def end(self) -> None:
        """Let an idle worker leave, and stop one that is still busy."""
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(timeout=0 if self.left else _PATIENCE_SECONDS)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()
        self.pipe.close()


@dataclass(frozen=True)
class Processes:
    """Local processes, each with a model and environments of its own; for models behind a server, or for many cores."""

    count: int

    def run(self, spec: WorkerSpec, jobs: Sequence[Job], *, cancel: Cancel) -> Iterator[Episode]:
        waiting: deque[tuple[Job, int]] = deque((job, 1) for job in jobs)
        workers: list[_Worker] = []
        share = max(1, min(spec.slots or _SHARE, -(-len(jobs) // self.count)))
        try:
            while (waiting or any(worker.left for worker in workers)) and not cancel():
                while waiting and len(workers) < self.count:
                    workers.append(_started(spec))
                for worker in workers:
                    if not worker.left and waiting:
                        worker.give(dict(waiting.popleft() for _ in range(min(share, len(waiting)))))
                ready = wait([worker.pipe for worker in workers], timeout=_POLL_SECONDS)
                for worker in [worker for worker in workers if worker.pipe in ready]:
                    told = worker.told()
                    if isinstance(told, str):
                        raise TrainingError(told)
                    if told is None:  # readable and nothing to read: the other end is closed
                        workers.remove(worker)
                        yield from _bury(worker, waiting, spec)
                    else:
                        yield replace(told, attempts=max(worker.left.pop(told.job), told.attempts))
        finally:
            for worker in workers:
                worker.end()


def _started(spec: WorkerSpec) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(spec, theirs), daemon=False)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    return _Worker(process, ours)


def _bury(worker: _Worker, waiting: deque[tuple[Job, int]], spec: WorkerSpec) -> Iterator[Episode]:
    """Give the jobs of a dead worker to others; those that were begun too often are missing."""
    worker.end()
    reason = f"its worker process died (exit code {worker.process.exitcode})"
    for job, attempt in worker.left.items():
        if attempt < spec.attempts:
            waiting.append((job, attempt + 1))
        else:
            yield Episode(job=job, task_type="", outcome="missing", reason=reason, attempts=attempt)


def _serve(spec: WorkerSpec, pipe: Connection) -> None:
    """The life of a worker process: play the shares that come in until None does, or the parent is gone."""
    with contextlib.suppress(KeyboardInterrupt, OSError):  # OSError: nobody is there to be told
        try:
            with opened(spec) as player:
                while (share := pipe.recv()) is not None:
                    for episode in player.play(share):
                        pipe.send(episode)
        except MasaError as error:
            pipe.send(str(error))
        except Exception:
            pipe.send(f"a worker failed: {traceback.format_exc(limit=-3)}")


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
        with self.connected() as ray:
            yield from self._played(ray, spec, jobs, cancel)

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """The module `ray`, connected; who connects within this block shares the connection.

        Raises:
            TrainingError: if there is no cluster at the address.
            MissingExtraError: without the package ray.
        """
        try:
            import ray
        except ImportError:
            raise MissingExtraError("rollouts on Ray", "ray") from None
        ours = not ray.is_initialized()
        if ours:
            _connect(ray, self.address)
        try:
            yield ray
        finally:
            if ours:
                ray.shutdown()

    def _played(self, ray: Any, spec: WorkerSpec, jobs: Sequence[Job], cancel: Cancel) -> Iterator[Episode]:
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


def _connect(ray: Any, address: str) -> None:
    # A local cluster has 30 fixed seconds to come up, too few on a busy machine, and Ray then raises a bare Exception.
    for attempt in range(_STARTS):
        try:
            ray.init(address=address or None, include_dashboard=False, log_to_driver=False)
            return
        except Exception as error:
            ray.shutdown()
            if address or attempt == _STARTS - 1:
                raise TrainingError(
                    f"ray: no cluster at {address or 'this machine'} ({' '.join(str(error).split())[:200]}); start one "
                    "(ray start --head) or leave the address out"
                ) from None


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
