"""`masa check`: forms of evaluations, the checks, the verdict, budgets, what is kept, and every kind of bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.chat_server import chat_server, completion
from tests.runtime.artifact_samples import write_artifact
from tests.support import ScriptedBackend

from masa import chat as chat_module
from masa.checking import Comparison
from masa.cli import root
from masa.errors import FormatError, MasaError
from masa.evals import Check, load_evals, passed

SKILL = "---\nname: greet\ndescription: Greets.\n---\n# Greet\n\nSay hello first. Then say the name.\n"
EVALS = {
    "skill_name": "greet",
    "evals": [
        {"id": number, "prompt": f"Greet Ada {number}.", "assertions": [{"type": "contains", "value": "hello"}]}
        for number in range(8)
    ],
}
Check_ = Callable[..., tuple[Result, list[dict[str, Any]]]]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_module, "_PAUSE", 0.0)


@pytest.fixture
def skill(tmp_path: Path) -> Path:
    folder = tmp_path / "greet"
    (folder / "evals").mkdir(parents=True)
    (folder / "SKILL.md").write_text(SKILL)
    (folder / "evals" / "evals.json").write_text(json.dumps(EVALS))
    return folder


@pytest.fixture
def adapted(tmp_path: Path) -> Path:
    folder = tmp_path / "by-hand"
    folder.mkdir()
    (folder / "SKILL.md").write_text(
        SKILL.replace("Say hello first. Then say the name.", "1. Say hello.\n2. Say the name.")
    )
    return folder


def arm(body: dict[str, Any]) -> str:
    system = body["messages"][0]["content"] if body["messages"][0]["role"] == "system" else ""
    return "none" if not system else "adapted" if "1. Say" in system else "original"


@pytest.fixture
def check(skill: Path, adapted: Path, tmp_path: Path) -> Check_:
    """Run the command against a server that answers by arm; gives the result and the requests."""

    def run(says: Any, *words: str, adapted: Path | None = adapted) -> tuple[Result, list[dict[str, Any]]]:
        say = says if callable(says) else lambda body: says[arm(body)]
        with chat_server(say) as (address, asked):
            more = ["--adapted", str(adapted)] if adapted else []
            line = [
                "check",
                str(skill),
                "--backbone",
                address,
                "-o",
                str(tmp_path / "log"),
                "--runs",
                "1",
                *more,
                *words,
            ]
            return CliRunner().invoke(root, line), asked

    return run


def told(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


GOOD = {"none": "hi", "original": "hi", "adapted": "Hello, Ada"}


def test_an_adapted_skill_that_helps_is_better_and_kept(check: Check_, tmp_path: Path) -> None:
    result, asked = check(GOOD, "--json", "--keep", str(tmp_path / "best"))
    found = told(result)
    assert (found["verdict"], found["best"]) == ("better", "adapted")
    assert found["adapted_against_original"]["gained"] == 8 and found["original_against_none"]["verdict"] == "undecided"
    assert (
        "1. Say hello." in (tmp_path / "best/SKILL.md").read_text() and (tmp_path / "best/evals/evals.json").is_file()
    )
    assert len(asked) == 24 and {body["seed"] for body in asked} == {0}
    system = next(body["messages"][0]["content"] for body in asked if arm(body) == "original")
    assert "Say hello first." in system and "description:" not in system


def test_the_rewriter_is_told_the_facts(check: Check_, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from masa.backends.llama import LlamaBackend

    monkeypatch.setattr(LlamaBackend, "load", lambda *args, **kwargs: ScriptedBackend(lambda prompt: "1 example"))
    monkeypatch.setenv("MASA_HOME", str(tmp_path / "masa"))
    write_artifact(tmp_path / "rewriter")
    (tmp_path / "facts.yaml").write_text("environment: hall\nexamples: ['Greet Bo: 1. Say hello, Bo']\n")
    words = ["--facts", str(tmp_path / "facts.yaml"), "--rewriter", str(tmp_path / "rewriter"), "--json"]
    result, asked = check(GOOD, *words, adapted=None)
    assert told(result)["verdict"] == "better"
    assert any("Greet Bo: 1. Say hello, Bo" in body["messages"][0]["content"] for body in asked)
    both, _ = check(GOOD, "--facts", str(tmp_path / "facts.yaml"))
    assert both.exit_code == 2 and "--facts is for the rewriter" in both.output
    missing, _ = check(GOOD, "--facts", str(tmp_path / "none.yaml"), adapted=None)
    assert missing.exit_code == 1 and "none.yaml: cannot be read" in missing.output


def test_the_page_shows_the_verdict_the_skill_and_every_answer(check: Check_, tmp_path: Path) -> None:
    says = {"none": "<script>hi</script>", "original": "hi", "adapted": "Hello, Ada"}
    result, _ = check(says, "--html", str(tmp_path / "report.html"))
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Better" in page and "8 gained, 0 lost" in page and "<ins>" in page
    assert page.count("Hello, Ada") == 8 and "Greet Ada 7." in page
    assert page.count("&lt;script&gt;") == 8 and "<script>" not in page
    result, asked = check(says, "--html", str(tmp_path))
    assert result.exit_code == 1 and not asked


def test_an_adapted_skill_that_hurts_is_worse_and_the_original_is_kept(check: Check_, tmp_path: Path) -> None:
    says = {"none": "hi", "original": "hello Ada", "adapted": "hi"}
    result, _ = check(says, "--keep", str(tmp_path / "best"))
    assert result.exit_code == 0 and "worse, -100 points" in result.output
    assert (tmp_path / "best/SKILL.md").read_text() == SKILL


def test_undecided_says_how_many_more_pairs_and_keeps_the_original(check: Check_, tmp_path: Path) -> None:
    def say(body: dict[str, Any]) -> str:
        number = int(body["messages"][-1]["content"].strip(".").split()[-1])
        return "hello" if arm(body) == "adapted" and number < 3 else "hi"

    result, _ = check(say, "--json", "--keep", str(tmp_path / "best"))
    found = told(result)
    assert (found["verdict"], found["best"]) == ("undecided", "original")
    assert found["adapted_against_original"]["more_pairs"] == 7  # 15 pairs with 6 gained: p = 0.03
    assert (tmp_path / "best/SKILL.md").read_text() == SKILL


def test_a_skill_that_nothing_changes_is_not_asked_twice(check: Check_, skill: Path) -> None:
    result, asked = check(GOOD, "--json", adapted=skill)
    assert told(result)["verdict"] == "the same text" and len(asked) == 16


def test_runs_have_seeds_of_their_own_that_arms_share(check: Check_) -> None:
    _, asked = check(GOOD, "--runs", "3")
    seeds = {
        name: sorted(body["seed"] for body in asked if arm(body) == name) for name in ("none", "original", "adapted")
    }
    assert seeds["none"] == seeds["original"] == seeds["adapted"] == sorted([0, 1, 2] * 8)
    assert {body["temperature"] for body in asked} == {0.7}


@pytest.mark.parametrize(
    ("words", "calls"), [(["--max-calls", "10"], 10), (["--max-tokens", "20"], 3), (["--max-seconds", "1"], 24)]
)
def test_a_budget_stops_cleanly_and_resume_goes_on(check: Check_, words: list[str], calls: int) -> None:
    result, asked = check(GOOD, *words, "--json")
    found = told(result)
    assert len(asked) == calls or words[0] == "--max-seconds"
    assert bool(found["stopped"]) == (len(asked) < 24)
    result, asked = check(GOOD, "--json", "--resume")
    # The address is another one, and so is the backbone: nothing is mixed.
    assert result.exit_code == 1 and "other settings (backbone)" in result.output


def test_what_was_answered_is_not_asked_again(check: Check_, skill: Path, adapted: Path, tmp_path: Path) -> None:
    failing = True

    def say(body: dict[str, Any]) -> Any:
        return (500, b"{}") if failing and len(asked) > 9 else GOOD[arm(body)]

    with chat_server(say) as (address, asked):
        words = ["check", str(skill), "--backbone", address, "--adapted", str(adapted), "--runs", "1"]
        words += ["-o", str(tmp_path / "log"), "--json"]
        result = CliRunner().invoke(root, words)
        assert result.exit_code == 1 and "--resume" in result.output and "500" in result.output
        failing, before = False, len(asked)
        assert told(CliRunner().invoke(root, [*words, "--resume"]))["verdict"] == "better"
        assert len(asked) - before == 24 - 9


def test_a_judge_is_asked_about_sentences_only_when_named(check: Check_, skill: Path, tmp_path: Path) -> None:
    entry = {
        "id": "a",
        "prompt": "Greet.",
        "assertions": ["The answer is friendly", {"type": "contains", "value": "h"}],
    }
    (skill / "evals/evals.json").write_text(json.dumps([entry]))
    result, asked = check(GOOD, "--json")
    assert told(result)["checks_left_out"] == 1 and len(asked) == 3
    with chat_server(lambda body: "YES" if "Hello" in body["messages"][0]["content"] else "No.") as (judge, judged):
        result, _ = check(GOOD, "--json", "--judge", judge, "-o", str(tmp_path / "second"))
    found = told(result)
    assert [found["arms"][name]["right"] for name in ("none", "original", "adapted")] == [0, 0, 1]
    assert len(judged) == 2, "equal answers are judged once"
    assert not any("adapted" in body["messages"][0]["content"] for body in judged), "the judge does not know the arm"


def test_a_command_runs_in_the_sandbox_that_is_named(check: Check_, skill: Path) -> None:
    entry = {"prompt": "Greet.", "assertions": [{"type": "command", "value": "grep -q Hello"}]}
    (skill / "evals/evals.json").write_text(json.dumps([entry]))
    result, asked = check(GOOD)
    assert result.exit_code == 1 and "--sandbox" in result.output and asked == []
    result, _ = check(GOOD, "--sandbox", "sh -c", "--json")
    assert told(result)["arms"]["adapted"]["right"] == 1 and told(result)["arms"]["none"]["right"] == 0


def test_a_model_that_never_stops_is_cut_and_counted(check: Check_) -> None:
    result, _ = check(
        lambda body: completion("hello " * body["max_tokens"], finish="length"), "--answer-tokens", "9", "--json"
    )
    assert told(result)["arms"]["original"]["cut"] == 8


def test_a_server_that_does_not_count_tokens(check: Check_) -> None:
    answer = {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}
    found = told(check(lambda body: answer, "--json")[0])
    assert found["tokens_saved"] is None and found["arms"]["none"]["tokens"] is None


@pytest.mark.parametrize("backbone", ["Qwen3-4B", "examples/card.yaml"])
@pytest.mark.parametrize("what", ["--backbone", "--judge"])
def test_a_card_cannot_answer(skill: Path, backbone: str, what: str) -> None:
    words = ["check", str(skill), "--backbone", "http://127.0.0.1:9#m", what, backbone]
    for more in ([], ["--dry-run"]):
        result = CliRunner().invoke(root, [*words, *more])
        assert result.exit_code == 1 and result.output.count("\n") == 1
        assert f"{backbone}: a model card, not the model itself" in result.output and "URL#MODEL" in result.output


def test_dry_run_asks_nothing(check: Check_) -> None:
    result, asked = check(GOOD, "--dry-run", "--runs", "2")
    assert result.exit_code == 0 and "48 answers" in result.output and asked == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no JSON"),
        ("[]", "no list of evaluations"),
        ('{"cases": []}', "no list of evaluations"),
        ('[{"question": "x"}]', "prompt"),
        ('[{"prompt": "x", "asertions": []}]', "asertions"),
        ('[{"prompt": "x", "assertions": "x"}]', "must be a list"),
        ('[{"prompt": "x", "assertions": [{"type": "equals", "value": "x"}]}]', "json_schema"),
        ('[{"prompt": "x", "assertions": [{"type": "regex", "value": "("}]}]', "regular expression"),
        ('[{"prompt": "x", "assertions": [{"type": "contains", "value": 4}]}]', "text"),
        ('[{"prompt": "x", "files": ["../../etc/passwd"], "assertions": []}]', "outside"),
        ('[{"prompt": "x", "files": ["none.txt"]}]', "no such file"),
        ('[{"id": 1, "prompt": "x"}, {"id": 1, "prompt": "y"}]', "taken"),
        ('[{"prompt": "x", "expected_output": "a greeting"}]', "--judge"),
        ('[{"prompt": "x"}]', "--judge"),
    ],
)
def test_an_eval_file_of_another_form_is_told_in_one_sentence(
    check: Check_, skill: Path, content: str, says: str
) -> None:
    (skill / "evals/evals.json").write_text(content)
    result, asked = check(GOOD)
    assert result.exit_code == 1 and says in result.output and asked == []
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1


def test_other_mistakes_are_told_in_one_sentence(check: Check_, skill: Path, tmp_path: Path) -> None:
    for words, says in (
        (["--keep", str(skill)], "already exists"),
        (["--evals", str(tmp_path / "none.json")], "no such file"),
        (["--adapted", str(tmp_path)], "no SKILL.md"),
        (["--rewriter", "none-such"], 'no rewriter "none-such"'),
        (["--backbone", "qwen3:4b"], "a server as http://localhost:11434#qwen3:4b"),
        (["--keep", str(skill), "--dry-run"], "already exists"),
        (["--adapted", str(tmp_path), "--dry-run"], "no SKILL.md"),
    ):
        result, asked = check(GOOD, *words, adapted=None)
        assert result.exit_code == 1 and says in result.output and result.output.count("\n") == 1 and asked == []


def test_prompts_may_come_as_lines_or_paragraphs(skill: Path, tmp_path: Path) -> None:
    lines = tmp_path / "p.jsonl"
    lines.write_text('{"prompt": "a", "assertions": [{"type": "regex", "value": "^x"}]}\n\n{"prompt": "b"}\n')
    assert [(one.key, one.prompt, one.checks) for one in load_evals(lines, skill)] == [
        ("1", "a", (Check("regex", "^x"),)),
        ("2", "b", ()),
    ]
    text = tmp_path / "p.txt"
    text.write_text("one\nprompt\n\n\nanother\n")
    assert [one.prompt for one in load_evals(text, skill)] == ["one\nprompt", "another"]


def test_files_are_put_below_the_prompt(skill: Path) -> None:
    (skill / "evals/data.csv").write_text("a,b\n")
    (skill / "evals/evals.json").write_text('[{"prompt": "Read.", "files": ["evals/data.csv"]}]')
    assert load_evals(skill / "evals/evals.json", skill)[0].prompt == "Read.\n\nFile `evals/data.csv`:\n```\na,b\n```"


@pytest.mark.parametrize(
    ("check", "answer", "right"),
    [
        (Check("contains", "Total: 12"), "the total: 12 euro", True),
        (Check("not_contains", "sorry"), "Sorry, no", False),
        (Check("regex", r"^\d+$"), "text\n12\n", True),
        (Check("json_schema", {"type": "object", "required": ["a"]}), '```json\n{"a": 1}\n```', True),
        (Check("json_schema", {"type": "object", "required": ["a"]}), '{"b": 1}', False),
        (Check("json_schema", {"type": "object"}), "no JSON", False),
    ],
)
def test_deterministic_checks(check: Check, answer: str, right: bool) -> None:
    assert passed(check, "", answer) is right


def test_a_schema_that_is_none_and_a_sandbox_that_is_not_there() -> None:
    with pytest.raises(MasaError, match="schema"):
        passed(Check("json_schema", {"type": "nothing"}), "", "{}")
    with pytest.raises(MasaError, match="cannot be started"):
        passed(Check("command", "x"), "", "{}", sandbox=["/nowhere/sandbox"])
    with pytest.raises(FormatError, match="no such file"):
        load_evals(Path("/nowhere/evals.json"), Path("/nowhere"))


def test_the_verdict_is_the_exact_test() -> None:
    assert Comparison(20, 6, 0).verdict == "better" and Comparison(20, 5, 0).verdict == "undecided"
    assert Comparison(20, 0, 6).verdict == "worse" and Comparison(40, 9, 3).verdict == "undecided"
    low, high = Comparison(50, 10, 2).interval  # Agresti and Min: (10 - 2) / 52, sqrt(13 - 64 / 52) / 52
    assert (round(low, 3), round(high, 3)) == (0.025, 0.283)
    assert Comparison(0, 0, 0).difference is None and Comparison(10, 2, 2).more is None
