"""The record of rollouts: one JSON object a line, on the disk before the next episode is counted."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from masa.files import make_folder, parse_json, read_text, write_atomic
from masa_training.append_only import append_records, is_empty, whole_lines
from masa_training.errors import TrainingError
from masa_training.rollouts.episodes import Episode, Job

EVENTS, SETTINGS = "events.jsonl", "settings.json"
FORMAT = 1


class Record:
    """The episodes of a run folder, or, without a folder, of memory only.

    An episode that is there already is not written again, so the same job never counts twice.
    """

    def __init__(
        self, folder: str | PathLike[str] | None, settings: Mapping[str, Any], *, resume: bool = False
    ) -> None:
        """Open a folder for a run with these settings.

        Raises:
            TrainingError: if it holds a run and `resume` is off, a run with other settings, or something else.
        """
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.episodes: dict[Job, Episode] = {}
        self._lock = threading.Lock()
        self._path: Path | None = None
        if folder is None:
            return
        where = make_folder(folder)
        self._path = where / EVENTS
        if (where / SETTINGS).exists():
            self._continue(where, resume)
        elif not is_empty(where):
            raise TrainingError(f"{where}: is not empty and holds no run; give another folder")
        else:
            text = json.dumps({"format": FORMAT, **self.settings}, indent=1, ensure_ascii=False)
            write_atomic(where / SETTINGS, f"{text}\n".encode())

    def add(self, episode: Episode) -> None:
        """Append an episode and wait until the disk has it.

        Raises:
            TrainingError: if it cannot be written; what was written before stays.
        """
        with self._lock:
            if episode.job in self.episodes and self.episodes[episode.job].outcome == "finished":
                return
            if self._path is not None:
                self._append({"event": "episode", **episode.to_dict()})
            self.episodes[episode.job] = episode

    def finished(self, job: Job) -> bool:
        """Whether the job was played to its end; a missing one is tried again by the next run."""
        found = self.episodes.get(job)
        return found is not None and found.outcome == "finished"

    def _append(self, event: Mapping[str, Any]) -> None:
        assert self._path is not None
        append_records(self._path, [event])

    def _continue(self, where: Path, resume: bool) -> None:
        assert self._path is not None
        if not resume:
            raise TrainingError(f"{where}: holds a run already; add --resume to continue, or give another folder")
        try:
            before = parse_json(read_text(where / SETTINGS))
            version = before.pop("format")
        except (ValueError, KeyError, AttributeError):
            raise TrainingError(f"{where / SETTINGS}: damaged; give another folder") from None
        differing = sorted(key for key in {*before, *self.settings} if before.get(key) != self.settings.get(key))
        if version != FORMAT or differing:
            what = ", ".join(differing) or f"format {version}"
            raise TrainingError(f"{where}: holds a run with other settings (differing: {what}); give another folder")
        for number, line in enumerate(whole_lines(self._path), start=1):
            try:
                event = parse_json(line)
                if event.pop("event") == "episode":
                    episode = Episode.from_dict(event)
                    self.episodes[episode.job] = episode
            except (ValueError, KeyError, TypeError, AttributeError):
                raise TrainingError(
                    f"{self._path}: line {number} is no event; remove the line, then continue with --resume"
                ) from None
