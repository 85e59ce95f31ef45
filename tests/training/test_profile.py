"""Profiling: tasks of its own, a card with weaknesses in words, and no card that tells results or preferences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from masa.backbones import resolve_backbone
from masa.cards import ModelCard, load_card, shipped_cards
from masa.errors import CardError
from masa_training.agents import AgentConfig
from masa_training.commands.profile import command
from masa_training.environments import SPLITS, Task, open_environment
from masa_training.errors import TrainingError
from masa_training.evolution.run import evolve
from masa_training.models import ModelError, Reply, Request
from masa_training.profiling import (
    CARD,
    REPORT,
    ProfileConfig,
    card_of_backbone,
    check_card,
    profile,
    profile_tasks,
    with_weaknesses,
    without_profile_tasks,
)
from masa_training.rollouts import executors
from masa_training.teacher import SYMPTOMS, TeacherConfig, claims
from masa_training.teacher.symptoms import PHRASES, weaknesses_of
from tests.training.teacher_server import is_summary, stepwise
from tests.training.test_evolution import OPTIONS, Reader, events
from tests.training.test_evolution import config as evolve_config
from tests.training.test_models_openai import MODELS, Answer, Server, completion
from tests.training.test_teacher import CASES

CARD_TEXT = "family: Reader\nvariant: 1B\nnum_layers: 3\nstrengths: reasoning\nweaknesses: an old guess\n"


def config(tmp_path: Path, **changes: Any) -> ProfileConfig:
    (tmp_path / "mine.yaml").write_text(CARD_TEXT)
    values: dict[str, Any] = {
        "environment": "lookup",
        "backbone": "replay:none",
        "options": OPTIONS,
        "card": str(tmp_path / "mine.yaml"),
        "agent": AgentConfig(choose=True),
        "tasks": 8,
    }
    return ProfileConfig(**{**values, **changes})


class Guesser(Reader):
    """It never reads a passage, unless its luck has it."""


# --- tasks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lookup", "household"])
def test_profile_tasks_are_in_no_split_that_evolution_uses(name: str) -> None:
    world = open_environment(name)
    splits = {split: list(world.tasks(split)) for split in SPLITS}
    kept = {task.id for task in profile_tasks(splits["train"])}
    left = {task.id for task in without_profile_tasks(splits["train"])}
    assert kept and not kept & left and kept | left == {task.id for task in splits["train"]}
    assert not kept & {task.id for split in ("val", "test") for task in splits[split]}
    assert {task.type for task in profile_tasks(splits["train"])[: len(world.task_types)]} == set(world.task_types)
    assert [task.id for task in splits["train"]][:12] == [t.id for t in without_profile_tasks(splits["train"])][:12]


def test_a_type_with_few_tasks_keeps_them_for_the_search() -> None:
    few = [Task(f"{kind}{n}", kind, "", "train") for kind, many in (("a", 3), ("b", 9)) for n in range(many)]
    assert [task.id for task in profile_tasks(few)] == ["b7", "b8"]


def test_evolution_never_watches_a_profile_task(tmp_path: Path) -> None:
    settings = evolve_config(tmp_path / "c.yaml", rounds=1, iterations=0, watched=80, test_tasks=4)
    evolve(settings, tmp_path / "run", model=Reader())
    watched = {event["of"][2] for event in events(tmp_path / "run") if event["event"] == "episode"}
    kept = {task.id for task in profile_tasks(open_environment("lookup", **OPTIONS).tasks("train"))}
    assert kept and not kept & watched


# --- what a card may not say ---------------------------------------------------------------------------------

RATES = [
    "solves 31 % of the questions",
    "fails in 9 of 12 episodes",
    "nine out of ten answers are guesses",
    "has a success rate below that of others",
    "low accuracy in comparisons",
    "fails most tasks",
    "half of the episodes end in a loop",
    "always fails at heating",
    "never succeeds with two objects",
    "scores badly",
    "NHR is high",
    "reaches 0.4 on val",
    "repeats an action 3 times",
    "weak on MMLU",
]
PREFERENCES = [
    "prefers concise skills",
    "likes numbered steps",
    "works best with short instructions",
    "performs better when the skill has an example",
    "benefits from explicit steps",
    "responds well to examples",
    "is confused by long prompts",
    "needs short, clear wording",
    "skills should be terse",
    "should be told the exact commands",
    "follows only concise instructions",
    "gets misled by detailed guidance",
]
ALLOWED = [
    *PHRASES.values(),
    "; ".join(list(PHRASES.values())[:4]),
    "ignores what it has read; searches for the same words again; gives up early",
    "opens a cabinet and leaves without looking into it",
    "often forgets the second object; goes on although the goal is reached",
    "weak arithmetic; mixes up similar names",
    "does not close what it opened",
]


@pytest.mark.parametrize("text", RATES)
def test_success_rates_are_refused(text: str) -> None:
    assert claims(text, ours=True)


@pytest.mark.parametrize("text", PREFERENCES)
def test_preferences_are_refused(text: str) -> None:
    (why,) = claims(text, ours=True)
    assert "what the model prefers" in why


@pytest.mark.parametrize("text", ALLOWED)
def test_behaviour_in_words_is_allowed(text: str) -> None:
    assert claims(text, ours=True) == ()


@pytest.mark.parametrize("name", sorted(shipped_cards()))
def test_every_shipped_card_may_be_written(name: str) -> None:
    check_card(shipped_cards()[name])


@pytest.mark.parametrize("field", ["strengths", "weaknesses"])
@pytest.mark.parametrize("text", ["prefers concise skills", "a success rate of 40 %", "tidy <|im_end|>"])
def test_a_card_that_says_so_is_refused_whoever_said_it(field: str, text: str) -> None:
    with pytest.raises(TrainingError, match=f"the card is not written: its {field} may not say this"):
        check_card(ModelCard(family="X", **{field: text}))


def test_numbers_may_stand_in_the_strengths_that_a_page_tells() -> None:
    check_card(ModelCard(family="X", strengths="a context of 128k tokens"))
    with pytest.raises(TrainingError, match="is a number"):
        with_weaknesses(ModelCard(family="X"), "stops after 2 searches", "masa profile")


def test_every_symptom_has_words_and_they_are_told_by_frequency() -> None:
    assert set(PHRASES) == set(SYMPTOMS)
    loops, wanders = CASES["loop"], CASES["revisiting"]
    assert weaknesses_of([loops, loops, wanders, wanders, loops]) == f"{PHRASES['loop']}; {PHRASES['revisiting']}"
    assert weaknesses_of([loops]) is None, "once is no habit"
    assert weaknesses_of([CASES["out-of-steps"]] * 2) == PHRASES["out-of-steps"]


# --- cards of backbones --------------------------------------------------------------------------------------


def test_architecture_comes_from_the_backbone_and_the_rest_as_shipped(tmp_path: Path) -> None:
    folder = tmp_path / "SmolLM2-135M-Instruct"
    folder.mkdir()
    sizes = {"num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 49152, **sizes}))
    found = card_of_backbone(f"transformers:{folder}")
    assert found == resolve_backbone(folder) and found.origins["num_layers"] == "huggingface"
    named = card_of_backbone(f"transformers:{folder}", "SmolLM2-135M-Instruct")
    assert named.num_layers == found.num_layers == 30 and named.hidden_size == found.hidden_size == 576
    assert named.alignment_method and named.origins["alignment_method"] == "shipped"


def test_a_backbone_that_tells_nothing_needs_a_card(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="say with --card"):
        card_of_backbone("replay:somewhere")
    assert card_of_backbone("replay:somewhere", "Qwen3-4B").num_layers == 36
    with pytest.raises(CardError):
        card_of_backbone("replay:somewhere", str(tmp_path / "none.yaml"))


# --- the whole -----------------------------------------------------------------------------------------------


def test_a_profile_writes_a_card_with_weaknesses_in_words(tmp_path: Path) -> None:
    found = profile(config(tmp_path), tmp_path / "p", model=Guesser())
    card = load_card(tmp_path / "p" / CARD)
    assert found.card == card and found.episodes == 8 and found.missing == 0
    assert (card.family, card.num_layers, card.strengths) == ("Reader", 3, "reasoning")
    assert card.weaknesses == PHRASES["premature-stop"], "what the old card guessed is gone"
    assert card.sources["weaknesses"] == (
        "masa profile lookup: episodes with no skills, summed up by the teacher operators"
    )
    assert found.symptoms["premature-stop"] > 0.5
    report = json.loads((tmp_path / "p" / REPORT).read_text("utf-8"))
    assert report["episodes"] == 8 and set(report["types"].values()) == {2}
    text = (tmp_path / "p" / CARD).read_text("utf-8")
    assert not any(word in text.lower() for word in ("success", "%", "rate", "prefer"))


def test_a_profile_that_is_stopped_goes_on_and_plays_nothing_twice(tmp_path: Path) -> None:
    played: list[int] = []
    stopped = profile(
        config(tmp_path),
        tmp_path / "p",
        model=Guesser(),
        executor=executors.InProcess(Slow()),
        progress=lambda done, total: played.append(done),
        cancel=lambda: len(played) >= 3,
    )
    assert stopped.card is None and not (tmp_path / "p" / CARD).exists()
    with pytest.raises(TrainingError, match="holds a run already"):
        profile(config(tmp_path), tmp_path / "p", model=Guesser())
    with pytest.raises(TrainingError, match="other settings"):
        profile(config(tmp_path, agent=AgentConfig()), tmp_path / "p", resume=True, model=Guesser())
    done = profile(config(tmp_path), tmp_path / "p", resume=True, model=Guesser())
    lines = (tmp_path / "p" / "events.jsonl").read_text("utf-8").splitlines()
    assert done.card is not None and len(lines) == 8 == len({json.loads(line)["job"]["task"] for line in lines})
    silent = Silent()
    assert profile(config(tmp_path), tmp_path / "p", resume=True, model=silent).card == done.card


class Slow(Guesser):
    concurrency = 1


class Silent(Guesser):
    """A server that is down."""

    def reply(self, requests: Sequence[Request]) -> list[Reply | ModelError]:
        return [ModelError("no server answers", retryable=True) for _ in requests]


def test_where_nothing_could_be_played_there_is_no_card(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"\(no server answers\)"):
        profile(config(tmp_path), tmp_path / "p", model=Silent())
    assert not (tmp_path / "p" / CARD).exists()
    assert profile(config(tmp_path), tmp_path / "p", resume=True, model=Guesser()).card is not None


def summarizing(*texts: str) -> Server:
    left = list(texts)

    def answer(body: dict[str, Any]) -> Answer:
        if not is_summary(body):
            return completion("ok")
        return completion(left.pop(0) if len(left) > 1 else left[0])

    return Server(answer, MODELS)


def llm(server: Server) -> TeacherConfig:
    return TeacherConfig(model=f"openai:{server.url}#m", options={"retries": {"attempts": 1}}, prices=(1.0, 2.0))


def test_a_model_s_summary_is_asked_for_again_until_a_card_may_hold_it(tmp_path: Path) -> None:
    good = "Answers before it has read the fact;\nmixes up similar names."
    server = summarizing("It fails in 7 of 8 tasks.", "It prefers short skills.", good)
    try:
        found = profile(config(tmp_path, teacher=llm(server)), tmp_path / "p", model=Guesser())
        asked = [body["messages"] for body in server.requests if is_summary(body)]
    finally:
        server.close()
    assert found.card is not None
    assert found.card.weaknesses == "Answers before it has read the fact; mixes up similar names"
    assert found.card.sources["weaknesses"].endswith("summed up by the teacher m"), "without the server's address"
    assert "tells how often" in asked[1][3]["content"] and "what the model prefers" in asked[2][3]["content"]
    assert "an old guess" not in asked[0][1]["content"], "the teacher does not see what it is to find"
    assert "Failed episode 1" in asked[0][1]["content"] and "family: Reader" in asked[0][1]["content"]
    assert found.summary is not None and found.summary.tokens == 75
    assert found.summary.dollars == pytest.approx(3 * (20 + 10) / 1e6)


@pytest.mark.parametrize(
    "text", ["It fails in 7 of 8 tasks.", "It prefers short skills.", "", "loops <|im_end|>", "x" * 401]
)
def test_a_summary_that_stays_wrong_writes_no_card_and_keeps_the_episodes(tmp_path: Path, text: str) -> None:
    server = summarizing(text)
    try:
        with pytest.raises(TrainingError, match="after 3 answers"):
            profile(config(tmp_path, teacher=llm(server)), tmp_path / "p", model=Guesser())
    finally:
        server.close()
    assert not (tmp_path / "p" / CARD).exists() and not (tmp_path / "p" / REPORT).exists()
    offline = profile(config(tmp_path), tmp_path / "p", resume=True, model=Silent())
    assert offline.card is not None and offline.card.weaknesses


def test_a_card_of_the_user_that_tells_preferences_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    settings = config(tmp_path)
    (tmp_path / "mine.yaml").write_text("family: X\nstrengths: prefers concise skills\n")
    with pytest.raises(TrainingError, match="'prefers'"):
        profile(settings, tmp_path / "p", model=Guesser())
    assert not (tmp_path / "p").exists()


def test_an_environment_with_too_few_tasks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masa_training.profiling.profile_tasks", lambda tasks: profile_tasks(tasks[:3]))
    with pytest.raises(TrainingError, match="too few tasks to keep some for profiling"):
        profile(config(tmp_path), tmp_path / "p", model=Guesser())


# --- the command ---------------------------------------------------------------------------------------------


def arguments(tmp_path: Path, *more: str) -> list[str]:
    card = replace(config(tmp_path), tasks=8).card
    options = ["--option", f"size={OPTIONS['size']}", "--card", card, "--choose", "--tasks", "8"]
    return ["lookup", "--backbone", f"replay:{card}", *options, "-o", str(tmp_path / "p"), *more]


@pytest.fixture
def guessing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "make_executor", lambda *_, **__: executors.InProcess(Guesser()))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--backbone", "nomodel"), "nomodel: no such model"),
        (("--card", "Qwen3-4C"), "Qwen3-4C: neither a file nor a shipped model card"),
        (("--bank", "examples/skills"), "none of the bank's skills is shown"),
        (("--teacher", "recorded:none"), "a recording has rewrites and no summaries"),
        (("--teacher", "llama:nomodel"), "nomodel: no such model"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(command, arguments(tmp_path, "--dry-run", *more))
    assert done.exit_code == 1 and message in str(done.exception), done.output


@pytest.mark.usefixtures("guessing")
def test_the_command_plans_plays_and_goes_on(tmp_path: Path) -> None:
    runner = CliRunner()
    planned = json.loads(runner.invoke(command, arguments(tmp_path, "--dry-run", "--json")).stdout)
    assert planned["episodes"] == 8 and sum(planned["tasks"].values()) == 8 and not (tmp_path / "p").exists()
    assert "8 episodes on tasks kept for profiling" in runner.invoke(command, arguments(tmp_path, "--dry-run")).stdout
    done = runner.invoke(command, arguments(tmp_path))
    assert done.exit_code == 0, done.output
    assert f"weaknesses: {PHRASES['premature-stop']}" in done.stdout and "8/8 episodes" in done.stderr
    again = json.loads(runner.invoke(command, arguments(tmp_path, "--resume", "--json")).stdout)
    assert again["card"] == str(tmp_path / "p" / CARD) and again["weaknesses"] == PHRASES["premature-stop"]
    assert again["episodes"] == 8 and again["teacher_tokens"] == 0


@pytest.mark.usefixtures("guessing")
def test_the_command_asks_a_teacher_behind_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-3")
    server = Server(stepwise, MODELS)
    try:
        more = ("--teacher", f"openai:{server.url}#m", "--teacher-key-env", "TEACHER_KEY", "--json")
        done = CliRunner().invoke(command, arguments(tmp_path, *more))
        assert done.exit_code == 0, done.output
        assert server.keys[-1] == "Bearer sk-3"
    finally:
        server.close()
    assert json.loads(done.stdout)["weaknesses"].startswith("answers before it has read the fact; searches for words")
    written = "".join(path.read_text("utf-8") for path in (tmp_path / "p").iterdir())
    assert "sk-3" not in written


def test_the_backbone_s_key_is_in_a_variable_and_written_nowhere(tmp_path: Path) -> None:
    refused = CliRunner().invoke(command, arguments(tmp_path, "--model-option", "api_key=sk-4"))
    assert isinstance(refused.exception, TrainingError) and not (tmp_path / "p").exists()
    assert "options has api_key" in str(refused.exception) and "sk-4" not in str(refused.exception)
    missing = CliRunner().invoke(command, arguments(tmp_path, "--model-option", "api_key_env=NO_SUCH_KEY"))
    assert "variable NO_SUCH_KEY is not set" in str(missing.exception)
    named = config(tmp_path, model_options={"api_key_env": "KEY", "timeout": 3})
    assert named.settings()["model_options"] == {"timeout": 3}


def test_help_has_examples() -> None:
    told = CliRunner().invoke(command, ["--help"]).stdout
    assert "masa profile lookup --backbone smollm2-135m --choose" in told and "--dry-run" in told
