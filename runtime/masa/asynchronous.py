"""Blocking work for programs of asyncio: it runs in a thread, and is told when nobody waits for it any more."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
Stopped = Callable[[], bool]
"""Polled by the work; once true, it should end."""


async def run(work: Callable[[Stopped], T]) -> T:
    """The result of `work`, which is told when the awaiting task is cancelled."""
    import asyncio  # takes as long as a tenth of a cached rewrite, and whoever calls this has it

    stopped = threading.Event()
    try:
        return await asyncio.to_thread(work, stopped.is_set)
    except asyncio.CancelledError:
        stopped.set()
        raise


async def iterate(work: Callable[[Stopped], Iterable[T]]) -> AsyncGenerator[T, None]:
    """What `work` yields, as it comes; `work` is told when the loop over this is left, and waited for."""
    import asyncio

    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()
    stopped = threading.Event()

    def produce() -> None:
        outcome: BaseException | None = None
        try:
            for item in work(stopped.is_set):
                loop.call_soon_threadsafe(queue.put_nowait, (item,))
        except BaseException as error:
            outcome = error
        loop.call_soon_threadsafe(queue.put_nowait, outcome)

    producer = asyncio.create_task(asyncio.to_thread(produce))
    try:
        while (found := await queue.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        stopped.set()
        await producer
