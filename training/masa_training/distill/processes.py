"""Several processes of one run, as `accelerate launch` and `torchrun` start them. Alone, nothing here waits."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
from accelerate import PartialState  # type: ignore[import-untyped]

from masa_training.errors import TrainingError


def main() -> bool:
    """Whether this process writes what all have in common."""
    return bool(_state().is_main_process)


def count() -> int:
    return int(_state().num_processes)


def any_of(mine: bool) -> bool:
    """Whether it holds in any process; all must ask at the same time."""
    if count() == 1:
        return mine
    told = torch.tensor(int(mine), device=_state().device)
    torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
    return bool(told)


def first(action: Callable[[], None]) -> None:
    """The main process acts while the others wait.

    Raises:
        TrainingError: in the others, if it failed, with the same words; the main process raises what it was.
    """
    if count() == 1:
        action()
        return
    failure: list[str | None] = [None]
    try:
        if main():
            action()
    except Exception as error:
        failure = [str(error)]
        raise
    finally:
        torch.distributed.broadcast_object_list(failure)
    if failure[0] is not None:
        raise TrainingError(failure[0])


def end() -> None:
    """End this process, with success, if it is one of several.

    While Python tears itself down, threads of torch that still talk to the others may abort the process (2 of 20 runs
    here); the launcher then stops the others and calls the run a failure. So what is left to do is done, and no more.
    """
    if count() == 1:
        return
    torch.distributed.barrier()
    atexit._run_exitfuncs()  # of those who report elsewhere
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _state() -> PartialState:
    # transformers makes its own state anew with every TrainingArguments, so none is kept here.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(minutes=30))
