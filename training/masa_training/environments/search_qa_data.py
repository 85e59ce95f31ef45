"""Data sets of questions and passages: reading them, indexing them, splitting them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from masa.files import parse_json
from masa_training.environments.passage_search import PassageSearch
from masa_training.environments.protocol import Split
from masa_training.errors import TrainingError

_QUESTIONS, _CORPUS = "questions.jsonl", "corpus.jsonl"
_TRAIN, _VAL = 60, 80


@dataclass(frozen=True, slots=True)
class QaQuestion:
    """One question.

    Attributes:
        id: unique in its data set.
        text: the question.
        answers: every right one, at least one.
        type: as the data set names it; empty where it does not.
        in_own_passages: whether the corpus holds an answer; None where the data set does not say.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    type: str
    in_own_passages: bool | None


@dataclass(frozen=True, slots=True)
class DataSet:
    """Questions and the corpus to search, which never change: all episodes of a process share them.

    Attributes:
        questions: in the order of the file.
        passages: title and text of each, in the order of the file.
        search: over `passages`.
    """

    questions: tuple[QaQuestion, ...]
    passages: tuple[str, ...]
    search: PassageSearch


def split_of(question_id: str) -> Split:
    """By the SHA-256 of the id, so that a question never changes sides: 60 % train, 20 % val, 20 % test."""
    share = int.from_bytes(hashlib.sha256(question_id.encode()).digest()[:8], "big") % 100
    return "train" if share < _TRAIN else "val" if share < _VAL else "test"


def load_data_set(folder: Path) -> DataSet:
    """Read a folder with questions.jsonl and corpus.jsonl; a second call with unchanged files returns the same object.

    A question has id, question, answers and optionally type and answer_in_own_passages; a passage has text and
    optionally title. Other fields are allowed.

    Raises:
        TrainingError: if a file is missing or a line does not fit.
    """
    stamps = []
    for name in (_QUESTIONS, _CORPUS):
        try:
            stat = (folder / name).stat()
        except OSError as error:
            raise TrainingError(_missing(folder, name)) from error
        stamps.append((stat.st_mtime_ns, stat.st_size))
    return _load(folder.resolve(), tuple(stamps))


def _missing(folder: Path, name: str) -> str:
    others = sorted(path.parent.name for path in folder.parent.glob(f"*/{_QUESTIONS}"))
    there = f"there are {', '.join(others)}" if others else "bring them from the official releases of NQ or HotpotQA"
    return (
        f"search_qa: {folder / name} is missing; {there}, or point data_dir (--data-dir, MASA_DATA) at the folder that "
        f"holds searchqa/{folder.name}"
    )


@lru_cache(maxsize=4)
def _load(folder: Path, stamps: tuple[tuple[int, int], ...]) -> DataSet:
    del stamps  # part of the key only: files that change are read again
    questions: dict[str, QaQuestion] = {}
    for where, row in _rows(folder / _QUESTIONS):
        question = _question(row, where)
        if question.id in questions:
            raise TrainingError(f"{where}: the id {question.id} occurs twice; give every question its own")
        questions[question.id] = question
    passages = []
    for where, row in _rows(folder / _CORPUS):
        title = row.get("title")
        passages.append(f"{title}: {_text(row, 'text', where)}" if title else _text(row, "text", where))
    if not questions or not passages:
        name = _CORPUS if questions else _QUESTIONS
        raise TrainingError(f"{folder / name}: no lines in it; restore the file")
    return DataSet(tuple(questions.values()), tuple(passages), PassageSearch(passages))


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot be read as UTF-8 text ({error}); restore the file") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise TrainingError(f"{where}: not JSON ({error}); restore the file") from error
        if not isinstance(row, dict):
            raise TrainingError(f"{where}: found {line[:40]!r} where a JSON object belongs; restore the file")
        yield where, row


def _question(row: Mapping[str, Any], where: str) -> QaQuestion:
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(text, str) for text in answers):
        raise TrainingError(f"{where}: 'answers' is no list of texts with at least one; correct the line")
    own = row.get("answer_in_own_passages")
    return QaQuestion(
        id=_text(row, "id", where),
        text=" ".join(_text(row, "question", where).split()),
        answers=tuple(answers),
        type=str(row.get("type") or ""),
        in_own_passages=own if isinstance(own, bool) else None,
    )


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise TrainingError(f"{where}: {key!r} is no text; correct the line")
    return value
