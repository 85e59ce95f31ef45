"""A pipeline: stage after stage in one folder, finished ones recognised and passed over.

`stages.jsonl` records which stage was begun with which settings and on what, and its end. It never says alone that a
stage is finished: what the stage left does (`masa_training.pipeline.stages`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masa.errors import MasaError
from masa.files import make_folder, parse_json
from masa_training.append_only import append_records, is_empty, whole_lines, writing
from masa_training.errors import TrainingError
from masa_training.pipeline.checks import missing
from masa_training.pipeline.config import settings_of
from masa_training.pipeline.stages import STAGES, CancelledError, Checksums, Stage, Work, left_of, stage_of

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


FINISHED, BEGUN, OPEN = "finished", "begun", "open"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pipeline came to.

    Attributes:
        stages: by name of a finished stage its figures; `seconds` those of its last session.
        artifact: None until it is exported.
        verified: whether the artifact passed; never true before the last stage.
        stopped: the stage at which the person stopped it; empty otherwise.
    """

    folder: Path
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    artifact: Path | None = None
    verified: bool = False
    stopped: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "output": str(self.folder),
            "stages": {name: dict(figures) for name, figures in self.stages.items()},
            "seconds": dict(self.seconds),
            "artifact": None if self.artifact is None else str(self.artifact),
            "verified": self.verified,
            "stopped": self.stopped or None,
        }


class StageError(TrainingError):
    """A stage cannot be done; everything before it is kept."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"stage {stage}: {reason}")
        self.stage = stage


def run_pipeline(work: Work, *, resume: bool = False, until: str = STAGES[-1]) -> Outcome:
    """Do what is not finished yet, up to and with the stage `until`.

    Settings are compared with the recorded ones before anything is done, stages that come later included.

    Raises:
        StageError: if a stage cannot be done, or was done with other settings or from something else.
        TrainingError: if the folder holds something else, or a pipeline and `resume` is off, if another process works
            in it, or if something is missing or wrong that a stage to come will need.
    """
    with writing(work.folder):
        return _run(work, resume, STAGES[: STAGES.index(until) + 1])


def _run(work: Work, resume: bool, names: Sequence[str]) -> Outcome:
    record = Record(work.folder)
    record.claim(resume=resume)
    for name in names:
        check_settings(work, record, stage_of(name))
    # The first alone: a person mends one thing after the other.
    for sentence in missing(work, to_do(work, record, names))[:1]:
        raise TrainingError(sentence)
    done: dict[str, Mapping[str, Any]] = {}
    before: Checksums = {}
    stopped = ""
    for number, name in enumerate(names, start=1):
        stage = stage_of(name)
        state, left = state_of(work, record, stage, before)
        told = {FINISHED: "finished before", BEGUN: "goes on", OPEN: "begins"}[state]
        work.watch.stage(name, number, len(names), told)
        if left is None:
            if work.cancel():
                stopped = name
                break
            try:
                left = _perform(work, record, stage, before)
            except CancelledError:
                stopped = name
                break
            finally:
                work.watch.ended(name)
        ended = record.ended.get(name)
        done[name] = {} if ended is None else ended.figures
        before = {f"{name}/{key}": value for key, value in left.items()}
    seconds = {name: ended.seconds for name, ended in record.ended.items() if name in done}
    artifact = work.artifact if "export" in done else None
    return Outcome(work.folder, done, seconds, artifact, "verify" in done, stopped)


def to_do(work: Work, record: Record, names: Sequence[str]) -> list[str]:
    """Those of these stages of which nothing whole is there; the record alone knows nothing of deleted folders."""
    return [name for name in names if name not in record.begun or left_of(stage_of(name), work) is None]


def state_of(work: Work, record: Record, stage: Stage, before: Checksums) -> tuple[str, Checksums | None]:
    """How far a stage is, and what it left if it is finished; `before` is what the stage before it left.

    Raises:
        StageError: if it was made from something else.
    """
    begun = record.begun.get(stage.name)
    if begun is None:
        return OPEN, None
    left = left_of(stage, work)
    if left is None:
        return BEGUN, None
    if begun.inputs != before:
        raise StageError(
            stage.name,
            f"was made from another {_of(begun.inputs, before)} than there is now; delete {stage.place(work)} to have "
            "it made again",
        )
    return FINISHED, left


def check_settings(work: Work, record: Record, stage: Stage) -> None:
    """Refuse to go on with a stage whose settings were others when it was begun.

    Raises:
        StageError: naming the first setting that differs.
    """
    begun = record.begun.get(stage.name)
    if begun is None:
        return
    kept = left_of(stage, work) is not None if stage.partial is None else stage.partial(work).exists()
    differs = difference(begun.settings, _plain(settings_of(work.config, stage.name))) if kept else None
    if differs is not None:
        name, old, new = differs
        raise StageError(
            stage.name,
            f"{name} is {new!r}, but {work.folder} was begun with {old!r}; go on with that, give another folder, or "
            f"delete {stage.place(work)} to have the stage done anew",
        )


def _perform(work: Work, record: Record, stage: Stage, before: Checksums) -> Checksums:
    if stage.name not in record.begun and stage.partial is not None and stage.partial(work).exists():
        raise StageError(stage.name, f"{stage.place(work)}: exists, but no stage made it; move it away")
    record.begin(stage.name, _plain(settings_of(work.config, stage.name)), before)
    began = time.monotonic()
    try:
        figures = stage.perform(work)
        left = stage.left(work)
    except CancelledError:
        raise
    except MasaError as error:
        raise StageError(stage.name, str(error)) from error
    if left is None:
        raise StageError(stage.name, f"{stage.place(work)}: is not complete after it; report this as a bug")
    record.end(stage.name, Ended(round(time.monotonic() - began, 1), _plain(figures)))
    return left


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As the record gives them back."""
    return dict(json.loads(json.dumps(values)))


def _of(inputs: Checksums, before: Checksums) -> str:
    names = [*inputs, *before]
    return names[0].partition("/")[0] if names else "stage"
