"""The record of a pipeline: `stages.jsonl`, which stage was begun with which settings and on what, and its end.

It never says alone that a stage is finished: what the stage left does (`masa_training.pipeline.stages`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.files import make_folder, parse_json
from masa_training.append_only import append_records, is_empty, whole_lines
from masa_training.errors import TrainingError

EVENTS = "stages.jsonl"


@dataclass(frozen=True, slots=True)
class Begun:
    """How a stage was last begun: `inputs` are checksums of what it worked on, by name."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a stage ended: seconds of its last session, and figures of its own."""

    seconds: float
    figures: Mapping[str, Any]


class Record:
    """What was done in a folder."""

    def __init__(self, folder: Path) -> None:
        """Read what there is; nothing is made.

        Raises:
            TrainingError: if a line is damaged.
        """
        self.path = folder / EVENTS
        self.begun: dict[str, Begun] = {}
        self.ended: dict[str, Ended] = {}
        for number, line in enumerate(whole_lines(self.path), start=1):
            try:
                event = parse_json(line)
                stage = event["stage"]
                if event["event"] == "begun":
                    self.begun[stage] = Begun(event["settings"], event["inputs"])
                    self.ended.pop(stage, None)
                else:
                    self.ended[stage] = Ended(event["seconds"], event["figures"])
            except (ValueError, KeyError, TypeError):
                raise TrainingError(
                    f"{self.path}: line {number} is damaged; remove it, then continue with --resume"
                ) from None

    def claim(self, *, resume: bool) -> None:
        """Make the folder a pipeline's, or go on with the one in it.

        Raises:
            TrainingError: if it holds one and `resume` is off, or something else.
        """
        folder = make_folder(self.path.parent)
        if self.path.exists():
            if not resume:
                raise TrainingError(
                    f"{folder}: holds a pipeline already; add --resume to continue, or give another folder"
                )
        elif not is_empty(folder):
            raise TrainingError(f"{folder}: is not empty and holds no pipeline; give another folder")
        else:
            self.path.touch()

    def begin(self, stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        """A stage is begun, or goes on."""
        self._append({"event": "begun", "stage": stage, "settings": settings, "inputs": inputs})
        self.begun[stage] = Begun(settings, inputs)

    def end(self, stage: str, ended: Ended) -> None:
        """A stage is finished."""
        told = {"seconds": ended.seconds, "figures": dict(ended.figures)}
        self._append({"event": "finished", "stage": stage, **told})
        self.ended[stage] = ended

    def _append(self, event: Mapping[str, Any]) -> None:
        append_records(self.path, [event])


def difference(before: Mapping[str, Any], wanted: Mapping[str, Any], at: str = "") -> tuple[str, Any, Any] | None:
    """The first setting that was another one before: its dotted name, what it was and what it is; None if none was.

    A setting that masa did not have then is passed over.
    """
    keys = [*before, *(key for key in wanted if at and key not in before)]
    for key in keys:
        name = f"{at}.{key}" if at else key
        old, new = before.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found = difference(old, new, name)
            if found is not None:
                return found
        elif old != new:
            return name, old, new
    return None
