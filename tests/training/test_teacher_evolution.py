"""Evolution with a teacher behind a server: good rewrites, garbage, budgets, and a real llama.cpp server."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from masa.skills import GENERAL
from masa_training.errors import TrainingError
from masa_training.evolution.config import card_of
from masa_training.evolution.run import evolve
from masa_training.models import ModelError, open_model
from tests.training.teacher_server import LOOPED, stepwise
from tests.training.test_evolution import Reader, config, events, searched
from tests.training.test_models_openai import MODELS, Answer, Server, completion
from tests.training.test_teacher_llm import BROKEN, GROUPS


def teacher(url: str, **settings: Any) -> dict[str, Any]:
    options = {"timeout": 0.5, "retries": {"attempts": 1}}
    return {"model": f"openai:{url}#m", "options": options, "prices": [1.0, 10.0], **settings}


@pytest.fixture
def good() -> Any:
    server = Server(stepwise, MODELS)
    yield server
    server.close()


def test_valid_rewrites_over_http_are_accepted_where_they_help(good: Server, tmp_path: Path) -> None:
    record = tmp_path / "teacher.jsonl"
    settings = config(tmp_path / "c.yaml", teacher=teacher(good.url, record=str(record)))
    evolved = evolve(settings, tmp_path / "run", model=Reader())
    assert evolved.ended == ""
    general = evolved.searches[GENERAL]
    assert general["failed"] == 0 and general["accepted"] == 1, "numbering helps once, a further step does not"
    assert all(skill.principle.startswith("1. ") for skill in evolved.bank.general)
    better, beyond_none = [row for row in evolved.test["differences"] if row["arm"] == "evolved"]
    assert (better["against"], beyond_none["against"]) == ("base", "no-skill")
    assert better["verdict"] is True
    said = [event for event in events(tmp_path / "run") if event["event"] == "rewrite"]
    asked = len(good.requests) - 1  # the preflight
    assert sum(event["tokens"] for event in said) == 25 * asked
    assert sum(event["dollars"] for event in said) == pytest.approx(asked * (20 * 1 + 5 * 10) / 1e6)
    assert all(event["attribution"] == {"premature-stop": 1.0} for event in said if event["attribution"])
    # The recording does the same again, without the server.
    good.close()
    again = config(tmp_path / "c.yaml", teacher=f"recorded:{record}")
    assert evolve(again, tmp_path / "again", model=Reader()).bank == evolved.bank
    assert searched(tmp_path / "again")[1:] == searched(tmp_path / "run")[1:]


def test_every_kind_of_garbage_costs_a_round_and_ends_nothing(tmp_path: Path) -> None:
    garbage = [
        *(answer for name, (answer, _) in BROKEN.items()),
        *(completion(text) for text in GROUPS),
        completion(LOOPED.replace('"episode": 1', '"episode": 99')),
        completion(None),
        Answer({"choices": [{"index": 0}]}),
    ]
    turns = itertools.cycle(garbage)

    def answer(body: dict[str, Any]) -> Answer:
        return next(turns) if body["messages"][0]["role"] == "system" else completion("ok")

    server = Server(answer, MODELS)
    try:
        settings = config(
            tmp_path / "c.yaml", rounds=12, iterations=8, test_tasks=4, teacher=teacher(server.url, attempts=2)
        )
        evolved = evolve(settings, tmp_path / "run", model=Reader())
    finally:
        server.close()
    assert evolved.ended == "" and evolved.test
    for search in evolved.searches.values():
        assert search["failed"] == search["proposals"] > 0 and search["finished"]
    problems = [event["problem"] for event in events(tmp_path / "run") if event["event"] == "proposal"]
    told = {problem.partition(":")[0] for problem in problems if problem}
    assert told == {"the teacher gave no attribution", "the teacher's attribution cannot be used after 2 answers"}
    assert len(set(problems)) > 10, "each with its own reason"


@pytest.mark.parametrize(
    ("budget", "name"), [({"teacher_tokens": 60}, "teacher_tokens"), ({"dollars": 1e-4}, "dollars")]
)
def test_the_teacher_s_budget_stops_the_run_failed_proposals_included(
    good: Server, tmp_path: Path, budget: dict[str, float], name: str
) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        return completion("no idea") if body["messages"][0]["role"] == "system" else completion("ok")

    server = Server(answer, MODELS)
    try:
        settings = config(tmp_path / "c.yaml", budget=budget, teacher=teacher(server.url))
        stopped = evolve(settings, tmp_path / "run", model=Reader())
        assert len(server.requests) == 1 + 3, "one proposal of three answers, and no more"
    finally:
        server.close()
    assert f"{name} is spent" in stopped.ended and stopped.searches[GENERAL]["failed"] == 1


def test_a_teacher_that_cannot_be_asked_at_all_is_an_error_before_anything_is_played(tmp_path: Path) -> None:
    server = Server([Answer({}, 401)], MODELS)
    try:
        settings = config(tmp_path / "c.yaml", teacher=teacher(server.url))
        with pytest.raises(TrainingError, match="give an API key"):
            evolve(settings, tmp_path / "run", model=Reader())
    finally:
        server.close()
    assert [event["event"] for event in events(tmp_path / "run")] == ["run"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"model": "operators", "modell": 1}, "unknown setting 'teacher.modell'; did you mean 'model'"),
        ({"attempts": "many"}, "teacher.attempts is .*; a whole number"),
        (["operators"], "teacher is .*; settings"),
    ],
)
def test_wrong_settings_of_the_teacher_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        config(tmp_path / "c.yaml", teacher=value)


def test_a_card_file_is_read_for_the_teacher_and_the_record(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text("family: Reader\nnum_layers: 3\nweaknesses: null\n")
    backbone = {"name": "Reader-1B", "spec": "", "card": str(tmp_path / "card.yaml")}
    assert card_of(config(tmp_path / "c.yaml", backbone=backbone)) == {"family": "Reader", "num_layers": 3}


@pytest.mark.model
def test_a_local_llama_cpp_server_as_teacher(smollm2: Path, tmp_path: Path) -> None:
    """SmolLM2-135M is no good teacher; the run ends all the same, and whatever it wrote is accounted for."""
    for module in ("uvicorn", "fastapi", "sse_starlette", "pydantic_settings", "starlette_context"):
        pytest.importorskip(module, reason=f"llama_cpp.server needs {module}, which is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "llama_cpp.server", "--model", str(smollm2), "--port", str(port), "--n_ctx", "4096"]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        spec = f"openai:http://127.0.0.1:{port}/v1#{smollm2}"
        model = open_model(spec)
        deadline = time.monotonic() + 180
        while True:
            assert time.monotonic() < deadline and process.poll() is None, "the server did not start"
            try:
                model.preflight()  # type: ignore[attr-defined]
                break
            except ModelError:
                time.sleep(0.5)
        model.close()
        local = {"model": spec, "characters": 800, "episodes": 1, "attempts": 2, "max_tokens": 160}
        settings = config(
            tmp_path / "c.yaml", bank="lookup/concise", teacher=local, rounds=2, iterations=0, test_tasks=4, growth=4
        )
        evolved = evolve(settings, tmp_path / "run", model=Reader())
    finally:
        process.terminate()
        process.wait(20)
    general = evolved.searches[GENERAL]
    assert evolved.ended == "" and evolved.test and general["proposals"] == 2
    said = [event for event in events(tmp_path / "run") if event["event"] == "rewrite"]
    assert len(said) == 2 and all(event["tokens"] > 300 for event in said)
    problems = [event["problem"] for event in events(tmp_path / "run") if event.get("problem")]
    assert len(problems) == general["failed"] and all("server" not in problem for problem in problems)
