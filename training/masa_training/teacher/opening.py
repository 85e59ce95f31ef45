"""From the settings of a teacher to a teacher."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from masa.artifact import load_artifact
from masa.rewriter import Rewriter
from masa_training.errors import TrainingError
from masa_training.models import check_model, open_model
from masa_training.models.keys import key_in
from masa_training.models.limits import Retries
from masa_training.teacher.config import OPERATORS, RECORDED, TeacherConfig
from masa_training.teacher.llm import LLMTeacher
from masa_training.teacher.operators import OperatorTeacher
from masa_training.teacher.protocol import Summarizer, Teacher
from masa_training.teacher.recorded import RecordedTeacher, RecordingTeacher


@contextlib.contextmanager
def opened_teacher(settings: TeacherConfig) -> Iterator[Teacher]:
    """The teacher, checked once and closed at the end.

    Raises:
        TrainingError: if the model cannot be opened or asked, or a file or a key is missing.
    """
    with contextlib.ExitStack() as stack:
        teacher: Teacher
        if settings.model == OPERATORS:
            worder = stack.enter_context(Rewriter.load(settings.words)) if settings.words else None
            teacher = OperatorTeacher(worder=worder)
        elif settings.model.startswith(RECORDED):
            teacher = RecordedTeacher(settings.model.removeprefix(RECORDED))
        else:
            teacher = stack.enter_context(_opened(settings))
        yield RecordingTeacher(teacher, settings.record) if settings.record else teacher


@contextlib.contextmanager
def opened_summarizer(settings: TeacherConfig) -> Iterator[Summarizer]:
    """The teacher as one that sums up behaviour.

    Raises:
        TrainingError: as `opened_teacher`, and for a recording, which has no summaries.
    """
    if settings.model == OPERATORS:
        yield OperatorTeacher()
    elif settings.local:
        raise _no_summaries(settings)
    else:
        with _opened(settings) as teacher:
            yield teacher


def check_teacher(settings: TeacherConfig, *, sums_up: bool = False) -> None:
    """Refuse what `opened_teacher`, or `opened_summarizer`, would, without loading weights or asking a server.

    A key need not be there: a run can be planned before one is bought.

    Raises:
        MasaError: as these.
    """
    if settings.model.startswith(RECORDED):
        if sums_up:
            raise _no_summaries(settings)
        RecordedTeacher(settings.model.removeprefix(RECORDED))
    elif settings.model != OPERATORS:
        check_model(settings.model, _options(settings, keyed=False))
    elif settings.words and not sums_up:
        load_artifact(settings.words, verify=False)


def _no_summaries(settings: TeacherConfig) -> TrainingError:
    return TrainingError(f"teacher {settings.model}: a recording has rewrites and no summaries; name {OPERATORS}")


@contextlib.contextmanager
def _opened(settings: TeacherConfig) -> Iterator[LLMTeacher]:
    model = open_model(settings.model, **_options(settings))
    teacher = LLMTeacher(model, settings)
    try:
        teacher.preflight()
        yield teacher
    finally:
        teacher.close()


def _options(settings: TeacherConfig, *, keyed: bool = True) -> dict[str, Any]:
    options = dict(settings.options)
    if "retries" in options:
        try:
            options["retries"] = Retries(**options["retries"])
        except TypeError:
            names = ", ".join(Retries.__dataclass_fields__)
            raise TrainingError(
                f"teacher: options.retries has {options['retries']!r}; settings of {names} belong there"
            ) from None
    if keyed and settings.api_key_env:
        options["api_key"] = key_in(settings.api_key_env, "teacher")
    return options
