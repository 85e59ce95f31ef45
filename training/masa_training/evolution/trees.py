"""Trees of task types side by side, in threads of this process or as tasks of a Ray cluster.

A tree spends its time waiting for episodes, so a thread is enough for one. No two trees play the same task or write
about the same group, so each comes to the trace that it would have come to alone. On Ray a tree is searched where its
backbone is: the worker opens model and teacher once. What happens there comes back in order and is written into the
run's folder here, so that a run that is killed, or a worker that is lost, goes on from what had come back.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from masa.errors import MasaError
from masa.facts import Facts
from masa.skills import Group, SkillBank
from masa_training.environments import Task
from masa_training.errors import TrainingError
from masa_training.evolution.config import EvolveConfig
from masa_training.evolution.playing import Arena
from masa_training.evolution.run_log import Answer, Played, RunLog
from masa_training.evolution.searching import GroupSearch, Told
from masa_training.models import open_model
from masa_training.rollouts import Episode
from masa_training.rollouts.executors import Executor, InProcess, Processes, Ray
from masa_training.search import Event
from masa_training.teacher import Asked, Rewrite, opened_teacher
from masa_training.teacher.config import TeacherConfig

_POLL_SECONDS = 0.5
_STARTS = 3
"""How often the task of one tree is begun; each goes on from what the one before told."""


@dataclass(frozen=True, slots=True)
class TreeWork:
    """Everything that a worker needs to search a tree, and what is known of it already.

    Attributes:
        events: of the search, recorded before.
        episodes: of the tree's tasks, recorded before.
    """

    config: EvolveConfig
    bank: SkillBank
    key: str
    train: Sequence[Task]
    val: Sequence[Task]
    facts: Facts | None
    card: Mapping[str, Any]
    events: Sequence[Event[Group]] = ()
    episodes: Mapping[Played, Episode] = field(default_factory=dict)


Kind = Literal["episode", "search", "answer", "end"]
Said = tuple[Kind, tuple[Any, ...]]
"""One thing that happened in a tree. "end" comes last, with the reason why it cannot go on, empty if it is done."""


class Elsewhere:
    """The teacher, seen from here, of a tree that was searched as a task: nothing is left to ask it."""

    def rewrite(self, asked: Asked) -> Rewrite:
        raise TrainingError("a tree's task ended before its search did; continue with --resume")


class _Told:
    """A log that says everything at once and keeps what its search asks for."""

    def __init__(self, work: TreeWork, say: Callable[[Said], None]) -> None:
        self.episodes: dict[Played, Episode] = dict(work.episodes)
        self._events = list(work.events)
        self._say = say

    def episode(self, played: Played, episode: Episode, *, told: bool | None = None) -> None:
        self.episodes[played] = episode
        self._say(("episode", (played, episode, told)))

    def recorded(self, key: str) -> list[Event[Group]]:
        return self._events

    def search(self, key: str, event: Event[Group], bank: str | None = None) -> None:
        self._say(("search", (event, bank)))

    def answer(self, key: str, answer: Answer) -> None:
        self._say(("answer", (answer,)))

    def tick(self) -> None:
        """Time is counted where the run's folder is."""


def fits_a_task(teacher: TeacherConfig) -> bool:
    """Whether a teacher can be opened by a worker: it reads and writes no file of this machine."""
    return not teacher.record and not teacher.model.startswith("recorded:")


def tree_events(work: TreeWork) -> Iterator[Said]:
    """The life of the task: search the tree and give what happens, in order."""
    said: queue.SimpleQueue[Said] = queue.SimpleQueue()
    halt = threading.Event()

    def stop() -> str | None:
        return "stopped" if halt.is_set() else None

    def search() -> None:
        reason = ""
        try:
            with contextlib.ExitStack() as stack:
                model = open_model(work.config.backbone.spec, **work.config.backbone.options)
                stack.callback(model.close)
                log = _Told(work, said.put)
                GroupSearch(
                    config=work.config,
                    log=log,
                    arena=Arena(work.config, log, model=model, stop=stop),
                    teacher=stack.enter_context(opened_teacher(work.config.teacher_config())),
                    bank=work.bank,
                    key=work.key,
                    train=work.train,
                    val=work.val,
                    facts=work.facts,
                    card=work.card,
                    stop=stop,
                ).run()
        except MasaError as error:
            reason = str(error)
        except BaseException:
            reason = f"the search of {work.key} failed: {traceback.format_exc(limit=-3)}"
        said.put(("end", (reason,)))

    thread = threading.Thread(target=search, name=f"masa-tree-{work.key}", daemon=True)
    thread.start()
    try:
        while (one := said.get())[0] != "end":
            yield one
        yield one
    finally:
        halt.set()


def searched_as_task(
    executor: Ray,
    work: Callable[[], TreeWork],
    log: RunLog,
    *,
    stop: Callable[[], str | None],
    told: Callable[[Told], None] = lambda told: None,
    progress: Callable[[Episode], None] = lambda episode: None,
) -> None:
    """Search a tree on the cluster until it is done or `stop` has a reason; all that it does is in the folder then.

    Args:
        work: makes the task from what the folder has; called again where a worker was lost.

    Raises:
        TrainingError: if the tree cannot be searched there, or its workers are lost again and again.
    """
    with executor.connected() as ray:
        remote = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(tree_events)
        for start in range(_STARTS):
            one = work()
            try:
                # Closed before the connection is, whatever happens here: else the task would play on for nobody.
                with contextlib.closing(_items(ray, remote.remote(one), stop)) as items:
                    keep(items, one.key, log, told=told, progress=progress)
                return
            except ray.exceptions.RayTaskError as error:
                raise TrainingError(f"ray: the task of the tree {one.key} failed: {error.cause}") from None
            except ray.exceptions.RayError as error:
                if start == _STARTS - 1:
                    raise TrainingError(
                        f"ray: the workers of the tree {one.key} were lost {_STARTS} times ({type(error).__name__}); "
                        "see the cluster's log, then continue with --resume"
                    ) from None


def keep(
    items: Iterable[Said],
    key: str,
    log: RunLog,
    *,
    told: Callable[[Told], None] = lambda told: None,
    progress: Callable[[Episode], None] = lambda episode: None,
) -> None:
    """Write what a tree says into the folder, and tell of it.

    Raises:
        TrainingError: if it says that it cannot go on.
    """
    for kind, values in items:
        if kind == "episode":
            played, episode, heard = values
            log.episode(played, episode, told=heard)
            progress(episode)
        elif kind == "search":
            event, bank = values
            log.search(key, event, bank)
            log.tick()
            told(Told(key, event))
        elif kind == "answer":
            log.answer(key, values[0])
        elif values[0]:
            raise TrainingError(values[0])


def _items(ray: Any, stream: Any, stop: Callable[[], str | None]) -> Generator[Said, None, None]:
    """What the task says, until it ends or there is a reason to stop it."""
    try:
        while not stop():
            ready, _ = ray.wait([stream], num_returns=1, timeout=_POLL_SECONDS, fetch_local=False)
            if ready:
                try:
                    reference = next(stream)
                except StopIteration:
                    return
                yield ray.get(reference)
    finally:
        # Where it has ended this does nothing.
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.cancel(stream)


T = TypeVar("T")

_SERVERS = ("openai:", "http://", "https://")


def trees_at_a_time(wanted: int, types: int, spec: str, executor: Executor | None) -> int:
    """How many of the trees of so many task types are searched at the same time; `wanted` 0 leaves it to us.

    All, where the backbone is behind a server or has workers of its own, but no more than so many workers as were asked
    for; one after another where it is in this process.

    Raises:
        TrainingError: if more than one is wanted of a backbone in this process.
    """
    in_process = (executor is None or isinstance(executor, InProcess)) and not spec.startswith(_SERVERS)
    if in_process and wanted > 1:
        raise TrainingError(
            f"{wanted} trees at a time: the backbone {spec or 'given'} runs in this process, which searches one after "
            "another; leave --trees out, or add --executor processes"
        )
    # A Ray cluster without a number of ours has as many workers as it schedules.
    workers = executor.count if isinstance(executor, Processes | Ray) and executor.count else types
    return max(1, min(wanted or (1 if in_process else types), types, workers))


def shared(executor: Executor | None, trees: int) -> Executor | None:
    """The executor that each of so many trees gets, so that together they have the workers that were asked for."""
    if isinstance(executor, Processes | Ray) and executor.count:
        return replace(executor, count=max(1, executor.count // trees))
    return executor  # a cluster without a number of ours schedules by itself


def side_by_side(calls: Sequence[Callable[[], T]], many: int, halt: threading.Event) -> list[T]:
    """What the functions return, in their order; at most `many` run at a time, with 1 here and one after another.

    As soon as one raises, `halt` is set, which the others are to heed; then it is raised, when all have ended.
    """
    if many == 1:
        return [call() for call in calls]
    with ThreadPoolExecutor(many, thread_name_prefix="masa-tree") as threads:
        futures = [threads.submit(call) for call in calls]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            halt.set()
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]


def held(executor: Executor | None) -> AbstractContextManager[object]:
    """Keep one connection to the Ray cluster meanwhile, for trees that would else close it on one another.

    Raises:
        TrainingError, MissingExtraError: as `Ray.connected`.
    """
    return executor.connected() if isinstance(executor, Ray) else contextlib.nullcontext()
