"""`masa evaluate banks` from the outside: a real environment, a real llama.cpp, and mistakes told in one sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from masa.cli import root
from tests.tiny_gguf import write_tiny_gguf

SERVED = "openai:http://127.0.0.1:9/v1#m"
"""A server that nobody runs: a plan asks nothing."""
SMALL = ("--option", "size=60", "--tasks", "8")


@pytest.fixture(scope="module")
def tiny(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"tiny=llama:{write_tiny_gguf(smollm2, tmp_path_factory.mktemp('base') / 'tiny.gguf')}"


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skill = {"skill_id": "g1", "title": "Search first", "principle": "Search before you answer.", "when_to_apply": ""}
    path = tmp_path_factory.mktemp("banks") / "terse.json"
    path.write_text(json.dumps({"general_skills": [skill], "task_specific_skills": {}, "common_mistakes": []}))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "masa.cli", "evaluate", "banks", "lookup", *map(str, arguments)]


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["evaluate", "banks", *arguments])


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_WAIT_POLICY": "passive"}


@pytest.mark.model
def test_arms_are_played_by_a_real_model_and_told_in_all_forms(tiny: str, bank: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--backbone", tiny, "--choose", "--bank", bank, "--facts-only", bank, *SMALL, "-o", out, "--json")
    found = subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(), timeout=300)
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert told["complete"]
    assert [(row["backbone"], row["arm"], row["episodes"]) for row in told["rows"]] == [
        (None, "random", 8),
        ("tiny", "no-skill", 8),
        ("tiny", "terse", 8),
        ("tiny", "facts-only", 8),
    ]
    rows = {row["arm"]: row for row in told["rows"]}
    assert rows["terse"]["skills"] == 1 and rows["no-skill"]["skills"] == 0
    assert rows["no-skill"]["prompt_tokens"] < rows["terse"]["prompt_tokens"] < rows["facts-only"]["prompt_tokens"]
    assert {"report.json", "report.csv", "report.md"} <= {path.name for path in out.iterdir()}
    again = subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(), timeout=300)
    assert again.returncode == 1 and "add --resume" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.model
def test_a_run_killed_with_signal_9_ends_with_the_numbers_of_one_that_was_not(
    tiny: str, bank: Path, tmp_path: Path
) -> None:
    arguments = ("--backbone", tiny, "--choose", "--bank", bank, *SMALL, "--seeds", 3, "--slots", 2, "--json")
    whole = subprocess.run(
        command(*arguments, "-o", tmp_path / "whole"), capture_output=True, text=True, env=environment(), timeout=300
    )
    assert whole.returncode == 0, whole.stderr
    killed = subprocess.Popen(
        command(*arguments, "-o", tmp_path / "killed"), stdout=subprocess.DEVNULL, env=environment()
    )
    events = tmp_path / "killed" / "tiny" / "events.jsonl"
    while not events.exists() or len(events.read_bytes().splitlines()) < 5:
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = len(events.read_bytes().splitlines())
    rest = subprocess.run(
        command(*arguments, "-o", tmp_path / "killed", "--resume"),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
    )
    assert rest.returncode == 0, rest.stderr
    assert before < len(events.read_bytes().splitlines()) <= 49
    one, other = json.loads(whole.stdout), json.loads(rest.stdout)
    assert one["rows"] == other["rows"] and one["differences"] == other["differences"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lookup",), "there is no backbone; name one with --backbone"),
        (("lokup", "--backbone", "x"), "no environment is called 'lokup'; did you mean lookup?"),
        (("lookup", "--backbone", "x", "--split", "valid"), "no split is called 'valid'"),
        (("lookup", "--backbone", "x", "--option", "sise=3"), "its options sise do not fit"),
        (("lookup", "--backbone", "x", "--bank", "missing.json"), "missing.json: no such file"),
        (("lookup", "--backbone", "x", "--bank", "lookup/concize"), 'did you mean "lookup/concise"?'),
        (("lookup", "--backbone", "x", "--a-a", "y"), "--a-a y: there is no such arm"),
        (("lookup", "--backbone", "x", "--a-a", "no-skill"), "--a-a needs an even number of seeds"),
        (("lookup", "--backbone", "a=x", "--backbone", "a=y"), "two of the backbones are called 'a'"),
        (("lookup", "--backbone", "no-such-model", "--tasks", "1"), "no-such-model"),
        (
            ("lookup", "--backbone", "a=http://h/v1#m", "--model-option", "api_key=sk-1"),
            "a: options has api_key, which",
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = evaluate(*arguments, "-q", "-o", str(tmp_path / "out"))
    assert result.exit_code == 1 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and "sk-1" not in result.stderr


def test_a_dry_run_says_what_would_be_played_and_plays_nothing(bank: Path, tmp_path: Path) -> None:
    arguments = ("lookup", "--backbone", f"x={SERVED}", "--bank", str(bank), "--seeds", "2", "--dry-run")
    result = evaluate(*arguments, "--json", "-o", str(tmp_path / "out"))
    told = json.loads(result.stdout)
    assert told["episodes"] == 2 * 50 * 3 and not (tmp_path / "out").exists()
    shown = evaluate(*arguments).stdout
    assert "x: no-skill, terse (200 episodes)" in shown and "50 tasks, 2 episodes per task and arm" in shown
    assert "1 episode per task" in evaluate("lookup", "--backbone", SERVED, "--dry-run").stdout


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("nomodel", "nomodel: no such model; give a GGUF file, a name that masa pull brings (smollm2-135m"),
        ("smollm2-135n", 'no such model; did you mean "smollm2-135m"?'),
        ("Qwen3-4B", "Qwen3-4B: a model card, not the model itself; give a GGUF file"),
        ("examples/card.yaml", "examples/card.yaml: a model card, not the model itself"),
        ("README.md", "README.md: not a GGUF file"),
        ("examples", "examples: a folder without an artifact"),
        ("transformers:nothing", "nothing: no such model"),
        ("localhost:11434", "a server is openai:http://localhost:11434#MODEL"),
        ("openai:http://h/v1", "name the model behind the address"),
        ("checkpoint:nowhere", "nowhere: no such folder"),
        ("instrument:nosuch", "instrument:nosuch"),
        ("replay:nosuch.jsonl", "nosuch.jsonl: no such recording"),
    ],
)
def test_a_dry_run_refuses_what_is_no_backbone_as_the_run_does(backbone: str, message: str, tmp_path: Path) -> None:
    arguments = ("lookup", "--backbone", backbone, "--tasks", "1")
    result = evaluate(*arguments, "--dry-run")
    assert result.exit_code == 1 and message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    played = evaluate(*arguments, "-q", "-o", str(tmp_path / "out"))
    assert played.exit_code == 1 and len(played.stderr.strip().splitlines()) == 1


def test_a_bank_of_which_nothing_is_shown_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    arguments = ("lookup", "--backbone", SERVED, "--bank", "examples/skills")
    for more in (("--dry-run",), ("-o", str(tmp_path / "out"))):
        result = evaluate(*arguments, *more)
        assert result.exit_code == 1 and "none of the bank's skills is shown" in result.stderr
        assert "pantry-report" in result.stderr and "masa check" in result.stderr
    assert not list(tmp_path.rglob("*.jsonl")), "the random policy would have come first"


def test_two_arms_with_the_same_bank_are_named(bank: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(bank.read_bytes())
    given = ("lookup", "--backbone", "smollm2-135m", "--facts-only", str(bank), "--dry-run")
    assert "same bank" not in evaluate(*given, "--bank", str(bank)).stderr
    assert "terse and copy are the same bank" in evaluate(*given, "--bank", str(bank), "--bank", str(copy)).stderr


def test_an_environment_alone_is_short_for_banks(tmp_path: Path) -> None:
    arguments = ["lookup", "--backbone", SERVED, "--dry-run", "--json"]
    told = CliRunner().invoke(root, ["evaluate", *arguments])
    assert told.exit_code == 0 and told.stdout == evaluate(*arguments).stdout
    assert "No such command" in CliRunner().invoke(root, ["evaluate", "rewriters"]).stderr
