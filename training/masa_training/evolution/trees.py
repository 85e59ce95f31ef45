"""Trees of task types side by side: how many at a time, in which threads, with whose workers.

A tree spends its time waiting for episodes, so a thread of this process is enough for one; where its episodes are
played is the executor's affair. On Ray the thread follows the tree's task (`tree_tasks`). No two trees play the same
task or write about the same group, so that each of them comes to the trace that it would have come to alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeVar

from masa_training.errors import TrainingError
from masa_training.rollouts.executors import Executor, InProcess, Processes, Ray

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
