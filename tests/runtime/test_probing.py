"""Asking a backbone, in process or on a server, and the exercises that make its card."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.chat_server import chat_server, completion

from masa import chat as chat_module
from masa.cards import ModelCard, load_card
from masa.chat import AnswerLog, Reply, answer_of, open_chat
from masa.cli import root
from masa.errors import BackendError, MasaError
from masa.exercises import REPEATING, WORDS, Exercise, exercises, repeats
from masa.files import parse_yaml
from masa.probing import Rate, judge, probe, with_probe

MESSAGE = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_module, "_PAUSE", 0.0)


# --- asking -----------------------------------------------------------------------------------------


def test_a_server_is_asked_by_the_protocol_and_its_counts_are_kept() -> None:
    with chat_server(lambda body: "hi there") as (address, asked):
        reply = open_chat(address).reply(MESSAGE, most_tokens=5, seed=3)
    assert (reply.text, reply.finished, reply.prompt_tokens, reply.tokens) == ("hi there", True, 7, 2)
    assert asked[0] == {
        "model": "stub", "messages": MESSAGE, "max_tokens": 5, "temperature": 0.0, "seed": 3,
    }  # fmt: skip


def test_the_only_model_of_a_server_need_not_be_named() -> None:
    with chat_server(lambda body: "hi") as (address, asked):
        assert open_chat(address.partition("#")[0]).reply(MESSAGE, most_tokens=5).text == "hi"
    assert asked[0]["model"] == "stub"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>Is it 4?</think>\n4", "4"),
        ("<think>I never come to an end", ""),
        ("the tag <think> in a text", "the tag <think> in a text"),
        (" 4 ", "4"),
    ],
)
def test_what_a_model_thinks_is_no_part_of_its_answer(text: str, answer: str) -> None:
    assert answer_of(text) == answer
    with chat_server(lambda body: completion(text, reasoning="because")) as (address, _):
        assert open_chat(address).reply(MESSAGE, most_tokens=9).text == answer


def test_a_model_that_never_stops_is_cut_and_told() -> None:
    with chat_server(lambda body: completion("a " * body["max_tokens"], finish="length")) as (address, _):
        reply = open_chat(address).reply(MESSAGE, most_tokens=50)
    assert not reply.finished and reply.tokens == 50


@pytest.mark.parametrize(
    ("said", "tells"),
    [
        (b'{"choices": [{"mess', "half"),
        ((200, b'{"choices": [{"mess'), "half"),
        ((200, b"<html>hello</html>"), "half"),
        ((200, b'{"choices": []}'), "half"),
        ((200, b"null"), "half"),
        ((500, b'{"error": {"message": "out of memory"}}'), "out of memory"),
        ((404, b"{}"), "has no model"),
        ((401, b"{}"), "refuses the key"),
        ((400, b'{"error": "too long"}'), "too long"),
    ],
)
def test_a_server_that_fails_is_told_in_one_sentence(said: Any, tells: str) -> None:
    with chat_server(lambda body: said) as (address, asked), pytest.raises(BackendError) as caught:
        open_chat(address).reply(MESSAGE, most_tokens=5)
    assert tells in str(caught.value) and "\n" not in str(caught.value)
    passing = isinstance(said, bytes) or said[0] in (200, 500)
    assert len(asked) == (3 if passing else 1), "what may pass is tried three times"


def test_a_server_that_answers_late_is_told() -> None:
    def late(body: Any) -> str:
        time.sleep(1.5)
        return "x"

    with chat_server(late) as (address, _), pytest.raises(BackendError, match=r"within 0\.2 s"):
        open_chat(address, timeout=0.2).reply(MESSAGE, most_tokens=5)


def test_no_server_and_no_model_are_told() -> None:
    for spec in ("http://127.0.0.1:9#x", "http://127.0.0.1:9"):
        with pytest.raises(BackendError, match="answer"):
            open_chat(spec).reply(MESSAGE, most_tokens=5)
    with pytest.raises(MasaError, match="card"):
        open_chat("examples/card.yaml")


@pytest.mark.model
def test_a_model_in_this_process_answers_by_its_template(smollm2: Path) -> None:
    model = open_chat(str(smollm2))
    try:
        reply = model.reply([{"role": "user", "content": "What is the capital of France?"}], most_tokens=24)
    finally:
        model.close()
        model.close()
    assert reply.text and "<|im_end|>" not in reply.text and reply.prompt_tokens == 37 and 0 < (reply.tokens or 0) <= 24


# --- what is kept -----------------------------------------------------------------------------------


def test_answers_are_kept_line_by_line_and_a_cut_line_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    log = AnswerLog(path, {"a": 1}, resume=False)
    log.add("one", Reply("1", True, 2, 3, 0.5))
    log.add("two", Reply("2", True, None, None, 0.5))
    log.close()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(MasaError, match="--resume"):
        AnswerLog(path, {"a": 1}, resume=False)
    with pytest.raises(MasaError, match=r"other settings \(a\)"):
        AnswerLog(path, {"a": 2}, resume=True)
    log = AnswerLog(path, {"a": 1}, resume=True)
    assert log.replies == {"one": Reply("1", True, 2, 3, 0.5)}
    log.add("two", Reply("2", True, None, None, 0.5))
    log.close()
    assert [json.loads(line).get("key") for line in path.read_text().splitlines()] == [None, "one", "two"]


@pytest.mark.parametrize("content", ["", "hello\n", "[]\n", '{"settings": {"a": 1}}\n{"key": 4}\n'])
def test_a_file_that_is_no_log_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(MasaError, match="no log of answers"):
        AnswerLog(path, {"a": 1}, resume=True)


# --- exercises --------------------------------------------------------------------------------------


def test_the_words_are_those_that_rewriters_were_trained_on(repository: Path) -> None:
    told = parse_yaml((repository / "training/masa_training/bootstrap/behaviours.yaml").read_text("utf-8"))
    weaknesses = {
        words
        for need in told["needs"].values()
        for one in need["behaviours"].values()
        for words in one.get("train", ())
    }
    strengths = {words for need in told["strengths"].values() for words in need["train"]}
    assert {trait.weakness for trait in (*WORDS.values(), REPEATING)} <= weaknesses | {""}
    assert {trait.strength for trait in WORDS.values()} <= strengths | {""}


def test_exercises_follow_from_the_seed_and_every_form_has_as_many() -> None:
    def plain(found: tuple[Exercise, ...]) -> list[tuple[str, str]]:
        return [(exercise.key, exercise.prompt) for exercise in found]

    assert plain(exercises(1)) == plain(exercises(1)) != plain(exercises(2))
    assert len({exercise.key for exercise in exercises()}) == len(exercises())
    assert {e.form for e in exercises() if e.trait == "condition"} == {"met", "unmet"}
    for trait, its in WORDS.items():
        forms = [exercise.form for exercise in exercises() if exercise.trait == trait]
        assert forms.count(its.form) == 8 and (not its.against or forms.count(its.against) == 8)


def perfect(exercise: Exercise) -> str:
    """The right answer, worked out from the question as a careful person would."""
    text = exercise.prompt
    words = re.findall(r"\b[a-z]+\b", text)
    if exercise.trait == "order" and exercise.form == "steps":
        return "\n".join(re.findall(r"\d\. Write (\w+)", text))
    if exercise.trait == "json":
        tool = next(word for word in words if word in ("take", "open", "close", "move", "clean", "fill"))
        found = re.search(r"item (?:is )?(\w+)", text.partition("}}")[2])
        number = int(re.search(r"\b\d\b", text)[0])  # type: ignore[index]
        return json.dumps({"tool": tool, "arguments": {"item": found[1] if found else "", "count": number}})
    if exercise.trait == "condition":
        rule, _, shown = text.rpartition(" is ")
        return "STOP" if shown.rstrip(".") in rule.partition("\n")[0] else "GO"
    if exercise.trait == "example":
        rule, told = text.partition(" is a line: ")[2].partition(" Write that")[0], text.splitlines()[-2]
        name = re.findall(r"\b[A-Z][a-z]+\b", told)[-1]
        item = re.search(r"(?:times|the|of) (\w+)", told)[1]  # type: ignore[index]
        digit = (re.findall(r"\d", told) or [""])[0]
        parts = {"the item in capital letters": item.upper(), "the number": digit, "the name": name, "a slash": "/"}
        parts |= {"an at sign": "@", "the name in small letters": name.lower(), "a colon": ":", "the item": item}
        parts |= {"an equals sign": "=", "the number in two digits": f"0{digit}", "a hash": "#"}
        parts |= {"the name in capital letters": name.upper()}
        return "".join(parts[part] for part in rule.rstrip(".").split(", "))
    if exercise.trait == "length":
        ask = next(
            re.finditer(
                r"word is? ?(\w+) and|one word: (\w+)|only with (\w+)|Write (\w+)\. Do not|word (\w+) and", text
            )
        )
        return next(group for group in ask.groups() if group)
    return ""


def test_right_answers_pass_and_wrong_ones_do_not() -> None:
    for exercise in exercises(5):
        right = perfect(exercise)
        if right:
            assert exercise.passes(right), (exercise.key, exercise.prompt, right)
        for wrong in ("", "I'm ready to help. What is the task?"):
            assert not exercise.passes(wrong) or exercise.trait == "brevity", (exercise.key, wrong)


@pytest.mark.parametrize(
    ("trait", "answer", "passes"),
    [
        ("command", "`{right}`", True),
        ("command", "```\n{right}\n```", True),
        ("command", "The command is {right}", False),
        ("stopping", "{right}.", True),
        ("stopping", "The colour is {right}.", False),
    ],
)
def test_fences_and_quotes_do_not_make_an_answer_wrong(trait: str, answer: str, passes: bool) -> None:
    exercise = next(one for one in exercises() if one.trait == trait)
    if trait == "command":
        item, number, place = re.search(r"item (\w+), number (\d) and place (\w+)", exercise.prompt).groups()  # type: ignore[union-attr]
        verb = re.search(r"`(\w+) ITEM", exercise.prompt)[1]  # type: ignore[index]
        right = f"{verb} {item}#{number} --to {place}"
    else:
        right = re.search(r"red|blue|green|yellow|purple|brown", exercise.prompt)[0]  # type: ignore[index]
    assert exercise.passes(answer.format(right=right)) is passes


def test_an_answer_that_repeats_itself_is_seen() -> None:
    assert repeats("go\ngo\ngo\ngo") and repeats("SHOP:SHOP:SHOP:SHOP:SHOP")
    assert not repeats("1. lamp\n2. river\n3. lamp") and not repeats("")


# --- the card ---------------------------------------------------------------------------------------


def rated(good: Callable[[Exercise], bool]) -> Any:
    """The probe of a backbone whose answers are right where `good` says so."""
    asked = exercises()
    judged = [
        Exercise(e.key, e.trait, e.form, e.key, (lambda ok: lambda text: ok)(good(e)), e.most_tokens) for e in asked
    ]
    return judge(judged, {e.key: Reply("x", True, 1, 1, 0.5) for e in judged})


def test_weaknesses_need_clear_failures_and_comparisons_a_better_form() -> None:
    assert rated(lambda e: True).weaknesses() == []
    assert set(rated(lambda e: True).strengths()) == {its.strength for its in WORDS.values() if its.strength}
    assert rated(lambda e: e.trait != "condition" or e.form == "met").weaknesses() == [WORDS["condition"].weakness]
    assert rated(lambda e: e.trait != "condition").weaknesses() == [], (
        "it fails both forms: the rule is not the trouble"
    )
    assert rated(lambda e: e.trait != "order" or e.key.endswith("0")).weaknesses() == [], "half right decides nothing"
    # What another form makes better comes first, the largest difference before others.
    shown = rated(lambda e: e.form != "told" and e.trait not in ("several", "command") and not
                  (e.form == "prose" and e.key[-3] != "1"))  # fmt: skip
    assert shown.weaknesses() == [WORDS["example"].weakness, WORDS["order"].weakness, WORDS["several"].weakness]
    assert rated(lambda e: e.trait != "order").weaknesses() == [], "numbering the steps would not help"
    assert len(rated(lambda e: False).weaknesses()) == 3 and rated(lambda e: False).strengths() == []


def test_the_card_keeps_what_is_known_and_takes_what_was_measured() -> None:
    card = ModelCard(family="F", weaknesses="old", strengths="kept", sources={"weaknesses": "a page"})
    made = with_probe(card, rated(lambda e: e.trait != "condition" or e.form == "met"), "masa profile F --probe")
    assert (made.family, made.weaknesses) == ("F", WORDS["condition"].weakness)
    assert made.sources["weaknesses"] == "masa profile F --probe" and "long input" in str(made.strengths)
    assert with_probe(card, rated(lambda e: e.form == "short"), "x").strengths == "kept"
    assert with_probe(card, rated(lambda e: True), "x").weaknesses is None


def test_intervals_are_wilsons() -> None:
    low, high = Rate(8, 10).interval
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert Rate(0, 0).interval == (0.0, 1.0) and Rate(0, 0).value is None


def test_a_probe_continues_after_a_failure_and_asks_nothing_twice(tmp_path: Path) -> None:
    broken = True

    def say(body: dict[str, Any]) -> Any:
        return (500, b"{}") if broken and len(asked) > 20 else "GO"

    with chat_server(say) as (address, asked):
        model = open_chat(address)
        with pytest.raises(BackendError, match="500"):
            probe(model, tmp_path, contents=1)
        broken, before = False, len(asked)
        found = probe(model, tmp_path, contents=1, resume=True)
    questions = len({exercise.prompt for exercise in exercises(contents=1)})
    assert found is not None and found.rates["condition", "unmet"].right == 4
    assert len(asked) - before == questions - 20


@pytest.mark.parametrize("model", ["Qwen3-4B", "examples/card.yaml", "no-such-model"])
def test_what_cannot_answer_is_refused_in_a_dry_run_as_well(model: str) -> None:
    for more in ([], ["--dry-run"]):
        result = CliRunner().invoke(root, ["profile", model, "--probe", *more])
        assert result.exit_code == 1 and "give a GGUF file" in result.output and result.output.count("\n") == 1


def test_the_command_writes_a_card_whose_figures_no_rewriter_reads(tmp_path: Path) -> None:
    with chat_server(lambda body: "GO") as (address, _):
        card = tmp_path / "mine.yaml"
        card.write_text("family: Mine\nweaknesses: skips steps\n")
        words = ["profile", address, "--probe", "--card", str(card), "-o", str(tmp_path / "p"), "--json"]
        result = CliRunner().invoke(root, words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    card = load_card(tmp_path / "p" / "card.yaml")
    assert card.family == "Mine" and card.weaknesses == "; ".join(told["weaknesses"])
    text = (tmp_path / "p" / "card.yaml").read_text()
    assert "8 of 8 (68 to 100 %)" in text and not any("of 8" in str(value) for value in card.fields().values())


def test_it_needs_nothing_but_the_runtime(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'openai', 'pydantic', 'scipy', 'rich', 'peft', 'llama_cpp', 'mcp'):\n"
        "    sys.modules[name] = None\n"
        "from masa.cli import main; main()"
    )
    with chat_server(lambda body: "GO") as (address, _):
        words = ["profile", address, "--probe", "-o", str(tmp_path / "p"), "-q"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, env=dict(os.environ), timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p" / "card.yaml").is_file()
