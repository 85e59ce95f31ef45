"""Runs of `masa distill` on a random base of a few thousand weights: no tokenizer and no real weights are needed.

As a program it is what one of several processes does: train, and train again with a stop on the way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from masa_training.bases import open_base
from masa_training.checkpoint import Checkpoint
from masa_training.distill.config import DistillConfig
from masa_training.distill.run import StoppedError, train
from masa_training.distill.run_folder import Source
from masa_training.distill.schedule import Schedule, lay_out
from masa_training.encoding import Encoded
from masa_training.settings import make

SOURCE = Source("tiny", "0" * 64, "plan", "Bytes.", True, "Apache-2.0")


def tiny_config(base: Path, **changes: Any) -> DistillConfig:
    values: dict[str, Any] = {
        "base": str(base),
        "template": "chatml",
        "method": "lora",
        "rank": 2,
        "precision": "fp32",
        "learning_rate": 0.01,
        "batch_size": 2,
        "row_tokens": 20,
        "epochs": 1,
        "context_length": 64,
        "evaluations": 2,
        "patience": 0,
        "threads": 1,
        "report_to": [],
    }
    return DistillConfig(**{**values, **changes})


def encoded(count: int, *, start: int = 0) -> list[Encoded]:
    """Samples in pairs with a common prefix, every second of which is too long for a row with both; targets are alike
    in length."""
    found = []
    for number in range(start, start + count):
        pair = number // 2
        prefix = (100 + pair, *range(10, 24 if pair % 2 else 14))
        found.append(Encoded(f"s{number}", (*prefix, number % 7, 3), len(prefix), (number % 5, 7, number % 3, 256)))
    return found


def tiny_plan(config: DistillConfig, *, train: int = 14, held_out: int = 4) -> Schedule:
    return lay_out(config, open_base(config.base, config.template), encoded(train), encoded(held_out, start=50))


def run(
    config: DistillConfig, folder: Path, *, resume: bool = False, stop: Callable[[], bool] = lambda: False, **made: int
) -> Checkpoint:
    return train(config, SOURCE, lambda: tiny_plan(config, **made), folder, resume=resume, stop=stop)


def together(planned: Schedule, processes: int) -> Schedule:
    """What one process must do to take the steps of several: where all targets count alike, a mean of means."""
    steps = [*planned.steps, *planned.steps[: -len(planned.steps) % processes]]
    merged = [sum(steps[i : i + processes], ()) for i in range(0, len(steps), processes)]
    return replace(planned, steps=tuple(merged), steps_per_epoch=-(-planned.steps_per_epoch // processes))


def main(words: Sequence[str]) -> None:
    from masa_training.distill import processes

    config = make(DistillConfig, json.loads(words[0]), "test")
    folder = Path(words[1])
    assert processes.count() == 2
    whole = run(config, folder / "whole")
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 2 and not processes.main()

    try:
        run(config, folder / "stopped", stop=stop)
    except StoppedError as stopped:
        assert stopped.step == 2
    else:
        raise AssertionError("one process was told to stop, and all went on")
    again = run(config, folder / "stopped", resume=True)
    assert again.metrics == whole.metrics
    if processes.main():
        sys.stdout.write("done\n")
    processes.end()


if __name__ == "__main__":
    main(sys.argv[1:])
