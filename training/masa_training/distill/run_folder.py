"""The folder of a training run: whose it is, and where it stopped."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from masa.files import parse_json, parse_yaml, write_atomic
from masa_training.append_only import is_empty
from masa_training.checkpoint import RECORD
from masa_training.distill.config import DistillConfig
from masa_training.errors import TrainingError
from masa_training.settings import make

RUN, EVENTS = "config.yaml", "events.jsonl"

RESUMABLE = ("threads", "row_tokens", "gradient_checkpointing", "report_to")
"""Settings that may differ when a run goes on: they change how a step is computed, not what it is."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a run learns from, as its checkpoint will tell.

    Attributes:
        sha256: of all that determines the samples.
        language: what is learned: an output language of rewriters, or "action".
        summary: one sentence.
        synthetic: whether targets follow from stated rules and not from results in an environment.
    """

    name: str
    sha256: str
    language: str
    summary: str
    synthetic: bool
    licence: str


def claim(folder: Path, config: DistillConfig, source: Source, resume: bool, *, processes: int = 1) -> bool:
    """Make the run folder ours, or check that it holds this very run; says whether that run is yet to begin.

    Raises:
        TrainingError: if it holds something else, or its run is finished.
    """
    import yaml

    record = folder / RUN
    if record.is_file():
        if not resume:
            raise TrainingError(f"{folder}: holds a run already; go on with it (--resume) or name another folder")
        finished = (folder / "checkpoint" / RECORD).is_file()
        # One that ended before its first event was no run: with what was wrong put right, it is another.
        if finished or (folder / EVENTS).is_file():
            check_same(folder, config, source, processes=processes)
            if finished:
                raise TrainingError(f"{folder}: its run is finished; see {folder / 'checkpoint'}")
            return False
    elif folder.exists() and not is_empty(folder):
        raise TrainingError(f"{folder}: is not empty and holds no run; name another folder")
    wanted = {"dataset": {"name": source.name, "sha256": source.sha256}, **config.to_dict()}
    if processes > 1:
        wanted["processes"] = processes
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be made ({error.strerror}); name another folder") from None
    write_atomic(record, yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True).encode("utf-8"))
    return True


def release(folder: Path) -> None:
    """Give back a folder whose run did not begin, unless it holds something besides the claim."""
    with contextlib.suppress(OSError):  # what is not empty stays
        (folder / "checkpoints").rmdir()
    if [path.name for path in folder.iterdir()] == [RUN]:
        (folder / RUN).unlink()
        folder.rmdir()


def check_same(folder: Path, config: DistillConfig, source: Source, *, processes: int = 1) -> None:
    """Check that the run in a folder is one with this configuration, data and number of processes.

    Raises:
        TrainingError: if it is another, or its record is damaged.
    """

    record = folder / RUN
    try:
        found = parse_yaml(record.read_text("utf-8"))
        there = found.pop("dataset")["sha256"]
        shared = found.pop("processes", 1)
        before = make(DistillConfig, found, str(record)).to_dict()
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise TrainingError(f"{record}: damaged ({error!r}); name another folder") from None
    differs = [key for key, value in config.to_dict().items() if before[key] != value and key not in RESUMABLE]
    if differs:
        key = differs[0]
        raise TrainingError(
            f"{folder}: its run has {key} {before[key]!r}, not {config.to_dict()[key]!r}; resume with the same "
            "configuration or name another folder"
        )
    if shared != processes:
        raise TrainingError(
            f"{folder}: its run has {shared} processes, not {processes}; resume with as many or name another folder"
        )
    if there != source.sha256:
        raise TrainingError(f"{folder}: its run was started on other data; resume with that data set")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of transformers in `folder`; the ones that a kill left unfinished are removed.

    transformers writes `trainer_state.json` last.
    """
    complete: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        try:
            state = parse_json((path / "trainer_state.json").read_text("utf-8"))
            if state["global_step"] != int(number):
                raise ValueError("another checkpoint's state")
            complete.append((int(number), path))
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(path, ignore_errors=True)
    return max(complete)[1] if complete else None
