"""The tasks that belong to profiling alone: the end of every task type of the split `train`.

`masa evolve` leaves them out of what its teacher sees, so that profile, train, val and test share no task. A type's
last tasks are taken because a search watches its first ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from masa_training.environments import Task

SHARE = 4
"""One in so many tasks of a type, rounded down, is for profiling; a type with fewer tasks keeps them all."""


def profile_tasks(train: Sequence[Task]) -> list[Task]:
    """The tasks of `train` that are for profiling, types in turn, so that any number from the front has all types."""
    by_type: dict[str, list[Task]] = defaultdict(list)
    for task in train:
        by_type[task.type].append(task)
    kept = [some[len(some) - len(some) // SHARE :] for some in by_type.values()]
    deepest = max(map(len, kept), default=0)
    return [some[place] for place in range(deepest) for some in kept if place < len(some)]


def without_profile_tasks(train: Sequence[Task]) -> list[Task]:
    """The other tasks of `train`, in their order."""
    reserved = {task.id for task in profile_tasks(train)}
    return [task for task in train if task.id not in reserved]
