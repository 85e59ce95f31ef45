"""A teacher's answers in a file, and a teacher that gives them again: for tests, or to repeat a run offline."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from masa.codec import group_from_json, group_to_json, skills_to_json
from masa.files import parse_json
from masa.languages import render_plan
from masa_training.append_only import append_records, whole_lines
from masa_training.errors import TrainingError
from masa_training.teacher.protocol import Asked, Rewrite, Teacher, TeacherError


class RecordingTeacher:
    """Passes questions on to a teacher and appends every answer to a file, one JSON object a line; failures too."""

    def __init__(self, teacher: Teacher, path: str | PathLike[str]) -> None:
        self._teacher = teacher
        self._path = Path(path)
        self._lock = threading.Lock()

    def rewrite(self, asked: Asked) -> Rewrite:
        try:
            rewrite = self._teacher.rewrite(asked)
        except TeacherError as error:
            self._keep(asked, {"problem": str(error), "tokens": error.tokens, "dollars": error.dollars})
            raise
        self._keep(asked, {"rewrite": _rewrite_json(rewrite)})
        return rewrite

    def _keep(self, asked: Asked, answer: Mapping[str, Any]) -> None:
        line = {"asked": question_key(asked), "group": asked.group.key, **answer}
        with self._lock:
            append_records(self._path, [line])


class RecordedTeacher:
    """Gives the recorded answer to each recorded question; where one was recorded several times, in order.

    A question is known by its group and by the groups that were refused before; which episodes were watched and what
    rewards they had does not matter. A question that was never recorded is a failed proposal.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        """Read a file that a `RecordingTeacher` wrote.

        Raises:
            TrainingError: if it is missing, or one of its lines is no answer.
        """
        self._path = Path(path)
        self._lock = threading.Lock()
        self._answers: dict[str, deque[Mapping[str, Any]]] = defaultdict(deque)
        if not self._path.is_file():
            raise TrainingError(f"{self._path}: no recording of a teacher is there; give another file")
        for number, line in enumerate(whole_lines(self._path), start=1):
            try:
                value = parse_json(line)
                if "rewrite" in value:
                    value["rewrite"] = _rewrite(value["rewrite"])
                else:
                    str(value["problem"])
                self._answers[value["asked"]].append(value)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise TrainingError(f"{self._path}:{number}: this line is no recorded answer; record again") from None

    def rewrite(self, asked: Asked) -> Rewrite:
        with self._lock:
            waiting = self._answers.get(question_key(asked))
            value = None if not waiting else waiting.popleft() if len(waiting) > 1 else waiting[0]
        if value is None:
            raise TeacherError(f"{self._path}: no answer was recorded for this state of {asked.group.key}")
        if "problem" in value:
            raise TeacherError(value["problem"], tokens=value.get("tokens", 0), dollars=value.get("dollars", 0.0))
        rewrite: Rewrite = value["rewrite"]
        return rewrite


def question_key(asked: Asked) -> str:
    """What a recording knows a question by."""
    told = [
        asked.environment,
        asked.group.key,
        skills_to_json(asked.group.skills),
        [skills_to_json(group.skills) for group, _ in asked.refused],
        len(asked.problems),
    ]
    return hashlib.sha256(json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()[:24]


def _rewrite_json(rewrite: Rewrite) -> dict[str, Any]:
    return {
        **group_to_json(rewrite.group),
        "plan": render_plan(rewrite.plan) if rewrite.plan else None,
        "source": rewrite.source,
        "attribution": dict(rewrite.attribution),
        "note": rewrite.note,
        "tokens": rewrite.tokens,
        "dollars": rewrite.dollars,
    }


def _rewrite(value: Mapping[str, Any]) -> Rewrite:
    if value["source"] not in ("group", "original"):
        raise ValueError(value["source"])
    return Rewrite(
        group=group_from_json(value),
        plan=_plan(value["plan"]),
        source=value["source"],
        attribution=value["attribution"],
        note=value["note"],
        tokens=value["tokens"],
        dollars=value["dollars"],
    )


def _plan(text: str | None) -> Any:
    if text is None:
        return None
    from masa.edits import EDITS
    from masa.languages import parse_plan

    lines = [line for line in text.split("\n") if not line.startswith("+")]
    return parse_plan(text, [tuple(EDITS)] * len(lines))
