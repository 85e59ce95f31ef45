"""A teacher's answers are recorded and given again, failures too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from masa_training.errors import TrainingError
from masa_training.teacher import (
    Asked,
    OperatorTeacher,
    RecordedTeacher,
    RecordingTeacher,
    Rewrite,
    TeacherConfig,
    TeacherError,
    opened_summarizer,
    opened_teacher,
)
from tests.training.teacher_server import GROUP, asked, seen


class Failing:
    def rewrite(self, asked: Asked) -> Rewrite:
        raise TeacherError("the server timed out", tokens=70, dollars=0.5)


def test_the_same_questions_get_the_same_answers_plans_included(tmp_path: Path) -> None:
    path = tmp_path / "teacher.jsonl"
    recording = RecordingTeacher(OperatorTeacher(), path)
    first = recording.rewrite(asked())
    later = asked(refused=((first.group, "worse"),))
    second = recording.rewrite(later)
    recorded = RecordedTeacher(path)
    assert first.plan is not None and first.group != second.group
    assert recorded.rewrite(asked()) == first
    assert recorded.rewrite(later) == second
    # What was watched and with which rewards does not matter: a recording serves another backbone too.
    assert recorded.rewrite(asked(seen=(seen("go"),), best=((GROUP, 0.3),))) == first


def test_failures_are_recorded_with_what_they_cost(tmp_path: Path) -> None:
    path = tmp_path / "teacher.jsonl"
    with pytest.raises(TeacherError, match="timed out"):
        RecordingTeacher(Failing(), path).rewrite(asked())
    with pytest.raises(TeacherError, match="timed out") as caught:
        RecordedTeacher(path).rewrite(asked())
    assert (caught.value.tokens, caught.value.dollars) == (70, 0.5)


def test_a_question_that_was_not_recorded_is_a_failed_proposal(tmp_path: Path) -> None:
    path = tmp_path / "teacher.jsonl"
    RecordingTeacher(OperatorTeacher(), path).rewrite(asked())
    with pytest.raises(TeacherError, match="no answer was recorded for this state of heat"):
        RecordedTeacher(path).rewrite(asked(problems=("one",)))


@pytest.mark.parametrize("line", ["{", "{}", "[]", json.dumps({"asked": "x", "rewrite": {"skills": []}})])
def test_a_damaged_recording_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "teacher.jsonl"
    RecordingTeacher(OperatorTeacher(), path).rewrite(asked())
    path.write_text(path.read_text("utf-8") + line + "\n")
    with pytest.raises(TrainingError, match=r"teacher\.jsonl:2"):
        RecordedTeacher(path)


def test_settings_open_recordings(tmp_path: Path) -> None:
    path = tmp_path / "teacher.jsonl"
    with opened_teacher(TeacherConfig(record=str(path))) as teacher:
        first = teacher.rewrite(asked())
    with opened_teacher(TeacherConfig(model=f"recorded:{path}")) as teacher:
        assert teacher.rewrite(asked()) == first
    missing = TeacherConfig(model=f"recorded:{tmp_path / 'none'}")
    with pytest.raises(TrainingError, match="no recording of a teacher is there"), opened_teacher(missing):
        pass
    recorded = TeacherConfig(model=f"recorded:{path}")
    with pytest.raises(TrainingError, match="a recording has rewrites and no summaries"), opened_summarizer(recorded):
        pass
