"""Environments in a process of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from masa.errors import MissingExtraError
from masa_training.environments import Environment, open_environment
from masa_training.environments.worker import EnvironmentLostError, Worker, in_worker
from masa_training.errors import TrainingError


@pytest.fixture(scope="module")
def lookup() -> Iterator[Environment]:
    worker = in_worker("lookup")
    yield worker
    worker.close()


def pid_of(worker: Environment) -> int:
    assert isinstance(worker, Worker)
    return worker.pid


def ended(pid: int, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").is_file() and ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return True
        time.sleep(0.02)
    return False


def test_an_environment_in_a_worker_answers_as_one_in_this_process(lookup: Environment) -> None:
    here = open_environment("lookup")
    assert (lookup.name, lookup.description, lookup.max_steps) == (here.name, here.description, here.max_steps)
    assert lookup.task_types == here.task_types and lookup.facts() == here.facts()
    tasks = list(here.tasks("val"))
    assert list(lookup.tasks("val")) == tasks
    task = tasks[3]
    solution = here.solution(task, 5)  # type: ignore[attr-defined]
    assert lookup.solution(task, 5) == list(solution)  # type: ignore[attr-defined]
    assert lookup.reset(task, 5) == here.reset(task, 5)
    for action in ("nonsense \u0000 \U0001f600", *solution):
        there = lookup.step(action)
        assert there == here.step(action)
    assert there.success


def test_the_worker_is_another_process_and_ends_with_close() -> None:
    worker = in_worker("lookup")
    pid = pid_of(worker)
    assert pid != os.getpid() and not ended(pid, 0.05)
    worker.close()
    assert ended(pid)
    worker.close()
    with pytest.raises(EnvironmentLostError, match="closed"):
        worker.tasks("val")


def test_a_killed_worker_is_lost_and_says_so_every_time() -> None:
    worker = in_worker("lookup")
    os.kill(pid_of(worker), signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(EnvironmentLostError, match="signal 9"):
            worker.tasks("val")
    worker.close()


def test_a_worker_that_hangs_is_killed_after_its_time() -> None:
    worker = in_worker("lookup", answer_seconds=0.3)
    os.kill(pid_of(worker), signal.SIGSTOP)
    with pytest.raises(EnvironmentLostError, match=r"tasks in 0\.3"):
        worker.tasks("val")
    assert ended(pid_of(worker))
    worker.close()


def test_an_error_of_the_environment_arrives_and_the_worker_lives_on(lookup: Environment) -> None:
    with pytest.raises(RuntimeError, match=r"^\w+Error: "):
        lookup.tasks("nowhere")  # type: ignore[arg-type]
    assert lookup.tasks("val")


def test_what_open_environment_refuses_a_worker_refuses_in_the_same_words() -> None:
    with pytest.raises(TrainingError) as here:
        open_environment("lokup")
    with pytest.raises(TrainingError) as there:
        in_worker("lokup")
    assert str(there.value) == str(here.value) and "lookup" in str(here.value)


def test_a_missing_extra_is_told_from_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alfworld").mkdir()
    (tmp_path / "alfworld" / "__init__.py").write_text("raise ModuleNotFoundError('gone', name='alfworld')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"pip install .*\[alfworld\]"):
        in_worker("household")


def test_what_an_environment_prints_does_not_disturb_the_conversation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import masa_training.environments.lookup.environment as e, os\n"
        "real = e.Lookup.tasks\n"
        "def loud(self, split):\n"
        "    print('{\"result\": 1}', flush=True); os.system('echo noise')\n"
        "    return real(self, split)\n"
        "e.Lookup.tasks = loud\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = in_worker("lookup")
    assert list(worker.tasks("test")) == list(open_environment("lookup").tasks("test"))
    worker.close()


def test_a_worker_ends_when_its_parent_is_killed() -> None:
    script = (
        "from masa_training.environments.worker import in_worker; print(in_worker('lookup').pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not ended(pid, 0.05)
        parent.kill()
    assert ended(pid)
