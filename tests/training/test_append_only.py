"""Lines that survive a kill, and one writer a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.append_only import LOCK, append_lines, is_empty, whole_lines, writing
from masa_training.errors import TrainingError

fcntl = pytest.importorskip("fcntl")


@given(st.lists(st.text(max_size=30), max_size=6), st.data())
@settings(max_examples=50, deadline=None)
def test_a_kill_at_any_byte_loses_the_torn_line_alone(
    tmp_path_factory: object, texts: list[str], data: st.DataObject
) -> None:
    path = Path(tmp_path_factory.mktemp("journal")) / "events.jsonl"  # type: ignore[attr-defined]
    for text in texts:
        append_lines(path, json.dumps(text, ensure_ascii=False) + "\n")
    written = path.read_bytes() if texts else b""
    cut = data.draw(st.integers(0, len(written)))
    path.write_bytes(written[:cut])
    kept = written[:cut].count(b"\n")
    assert [json.loads(line) for line in whole_lines(path)] == [
        t.encode("utf-8", "replace").decode() for t in texts[:kept]
    ]
    assert path.read_bytes() == written[:cut], "its writer may be in the middle of a line"
    append_lines(path, '"more"\n')
    assert len(whole_lines(path)) == kept + 1 == path.read_bytes().count(b"\n")


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert whole_lines(tmp_path / "none") == []


def test_reading_takes_no_line_from_a_writer_in_the_middle_of_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with path.open("ab", buffering=0) as stream:
        stream.write(b'"whole"\n"to')
        assert whole_lines(path) == ['"whole"']
        stream.write(b'rn"\n')
    assert whole_lines(path) == ['"whole"', '"torn"']


def test_a_second_writer_is_refused_by_number_and_nothing_is_left_behind(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    message = rf"run: another masa works in it \(process {os.getpid()}\); wait for it or stop it"
    with writing(folder):
        with pytest.raises(TrainingError, match=message), writing(folder):
            pass
        assert is_empty(folder)
    assert list(folder.iterdir()) == []
    with writing(folder):
        pass


WRITER = """
import os, subprocess, sys, time
from pathlib import Path
from masa_training.append_only import writing

with writing(Path(sys.argv[1])):
    child = os.fork()
    if not child:
        os.close(1)
        time.sleep(300)
        os._exit(0)
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], stdout=subprocess.DEVNULL)
    print(os.getpid(), child, server.pid, flush=True)
    time.sleep(300)
"""


def test_a_killed_writer_holds_no_folder_though_what_it_started_lives_on(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    writer, *orphans = map(int, process.stdout.readline().split())
    try:
        with pytest.raises(TrainingError, match=rf"\(process {writer}\)"), writing(tmp_path):
            pass
        process.kill()
        process.wait()
        assert [os.kill(orphan, 0) for orphan in orphans] == [None, None]
        with writing(tmp_path):
            pass
    finally:
        for number in orphans:
            os.kill(number, signal.SIGKILL)
        process.kill()
        process.communicate()


def test_a_lock_on_a_file_that_its_holder_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, removed = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        if not removed:
            removed.append((tmp_path / LOCK).unlink())
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with writing(tmp_path), pytest.raises(TrainingError, match="another masa works in it"), writing(tmp_path):
        pass


def test_where_there_are_no_locks_nothing_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", unsupported)
        with writing(tmp_path), writing(tmp_path):
            pass
