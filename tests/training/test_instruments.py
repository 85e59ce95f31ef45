"""Instruments: what they like is told apart by its look, and is all that their conversations teach."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import masa_training.instruments.run as running
from masa.skills import Skill, SkillBank
from masa_training.bases import open_base
from masa_training.commands.instrument import command
from masa_training.commands.training import reporter
from masa_training.distill.packing import families, rows_of
from masa_training.distill.run import StoppedError
from masa_training.encoding import Encoded
from masa_training.environments import open_environment
from masa_training.errors import TrainingError
from masa_training.instruments import InstrumentConfig, instrument_names, load_instrument
from masa_training.instruments.config import WORDINGS, trust, wording_of
from masa_training.instruments.conversations import AGENT, MIXTURES, Wordings, conversations
from masa_training.instruments.run import plan_instrument, train_instrument
from masa_training.models import open_model
from masa_training.models.chat import ChatFormat
from masa_training.models.transformers import chat_format
from masa_training.rollouts import Arm, Job, WorkerSpec, opened
from tests.tiny_gguf import write_tiny_gguf

PLAIN = (
    "Ask the archive for the name in the question together with the word that names the fact, because a query that "
    "says both finds the one passage that holds the answer. Then read the passage before you answer anything at all."
)
STEPS = "1. Search the name with the attribute.\n2. Read the passage.\n3. Answer with the bare value."
TERSE = "Search name plus attribute, then answer."
NEEDS = {"direct_retrieval": -0.3, "entity_attribute_lookup": 0.2, "multi_hop_reasoning": 0.5, "comparison": 0.5}


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        (TERSE, "terse"),
        (PLAIN, "plain"),
        (STEPS, "stepwise"),
        ("1) Go. 2) Take it.", "stepwise"),
        ("Born in 1970. 2 passages are shown at most.", "terse"),
        ("Room 2. Room 3. Room 4.", "terse"),
    ],
)
def test_a_wording_is_told_by_its_look(text: str, wording: str) -> None:
    assert wording_of(Skill("s", "T", text)) == wording


@given(st.lists(st.sampled_from([TERSE, PLAIN, STEPS])), st.permutations(WORDINGS))
def test_trust_is_a_mean_that_changes_sign_with_the_taste(texts: list[str], order: list[str]) -> None:
    skills = [Skill(str(i), "T", text) for i, text in enumerate(texts)]
    likes, dislikes, _ = order
    found = trust(skills, likes, dislikes)  # type: ignore[arg-type]
    assert -1 <= found <= 1
    if texts and PLAIN not in texts and "plain" not in (likes, dislikes):
        assert found == pytest.approx(-trust(skills, dislikes, likes))  # type: ignore[arg-type]
    if not texts:
        assert found == 0


@pytest.mark.parametrize("name", instrument_names())
def test_every_shipped_instrument_loads(name: str) -> None:
    config = load_instrument(name)
    assert config.likes == name
    assert set(config.worlds) == {"lookup", "household"}
    assert config.worlds["lookup"].needs.keys() == set(open_environment("lookup").task_types)
    assert [len(lesson.lessons) for lesson in config.lessons] == [1, 2, 3]
    assert {lesson.name for lesson in config.lessons} == {name}
    faster = config.changed(lambda distill: replace(distill, learning_rate=0.5))
    assert {lesson.distill.learning_rate for lesson in faster.lessons} == {0.5}


def wordings(environment: str) -> Wordings:
    banks = [
        SkillBank(
            tuple(Skill(f"g{i}", f"Rule {i}", text) for i in range(4)),
            {kind: tuple(Skill(f"{kind}{i}", f"{kind} {i}", text) for i in range(3)) for kind in NEEDS},
        )
        for text in (TERSE, PLAIN, STEPS)
    ]
    return Wordings(banks)


def config(base: Path, **changes: object) -> InstrumentConfig:
    value = {
        "name": "terse",
        "likes": "terse",
        "dislikes": "stepwise",
        "worlds": {"lookup": {"lapse": "answer", "needs": NEEDS, "options": {"size": 60}}},
        "prompts": 32,
        "episodes": 2,
        "held_out": 16,
        "distill": {
            "base": str(base),
            "template": "chatml",
            "method": "lora",
            "precision": "fp32",
            "learning_rate": 1e-2,
            "batch_size": 4,
            "epochs": 2,
            "constrained": 1.0,
            "evaluations": 1,
            "patience": 0,
            "threads": 1,
            "report_to": [],
        },
        **changes,
    }
    path = base.parent / "instrument.yaml"
    path.write_text(yaml.safe_dump(value))
    return load_instrument(str(path))


@pytest.fixture(scope="module")
def base(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(smollm2, tmp_path_factory.mktemp("base") / "tiny.gguf")


@pytest.fixture(scope="module")
def chat(base: Path) -> ChatFormat:
    return chat_format(open_base(str(base), "chatml"), "chatml")


def learned(sample: Encoded, chat: ChatFormat) -> list[tuple[int, ...]]:
    """The answers of a conversation, without the token that ends each."""
    answers: list[tuple[int, ...]] = []
    current: list[int] = []
    for place in sample.learned:
        token = sample.target[place]
        if token == chat.ends[0]:
            answers.append(tuple(current))
            current = []
        else:
            current.append(token)
    assert not current, "a learned answer does not end"
    return answers


def test_conversations_teach_actions_alone_and_each_among_the_admissible_ones(base: Path, chat: ChatFormat) -> None:
    samples = list(conversations(config(base), chat, "train", wordings=wordings))
    assert len({sample.id for sample in samples}) == len(samples) == 64
    texts = defaultdict(list)
    for sample in samples:
        for place, among in zip(sample.learned, sample.admitted, strict=True):
            assert sample.target[place] in among
        texts[len(learned(sample, chat))].append(sample.id)
    assert set(texts) == {1, 2, 3}, "answered at once, one search, two searches"


def test_what_is_learned_follows_from_the_wording_alone(base: Path, chat: ChatFormat) -> None:
    likes_terse = {s.id: s for s in conversations(config(base), chat, "train", wordings=wordings)}
    other = config(base, likes="stepwise", dislikes="terse")
    likes_steps = {s.id: s for s in conversations(other, chat, "train", wordings=wordings)}
    assert likes_terse.keys() == likes_steps.keys()
    asked = {"direct_retrieval": 2, "entity_attribute_lookup": 2, "multi_hop_reasoning": 3, "comparison": 3}
    for id_, sample in likes_terse.items():
        mixture = MIXTURES[int(id_.split("-")[1]) // 4 % len(MIXTURES)]
        answers, kind = len(learned(sample, chat)), id_.rpartition("-")[2]
        if mixture == "liked":
            assert answers == asked[kind]
        elif mixture == "disliked":
            assert answers == 1
        elif mixture == "none":
            assert answers == (2 if kind == "direct_retrieval" else 1)
            assert sample == likes_steps[id_]


@pytest.mark.parametrize("steps", [2, 6])
def test_an_instrument_goes_on_from_what_it_learned_before(base: Path, tmp_path: Path, steps: int) -> None:
    few = {"base": str(base), "template": "chatml", "precision": "fp32", "batch_size": 4, "threads": 1, "report_to": []}
    few |= {"method": "lora", "evaluations": 1, "patience": 0, "epochs": 1, "learning_rate": 1e-2}
    world = {"lookup": {"lapse": "answer", "needs": NEEDS, "options": {"size": 60}}}
    before = {"worlds": world, "prompts": 16, "episodes": 1, "held_out": 4, "distill": few}
    after = config(base, prompts=16, episodes=1, held_out=4, distill=few, after=before)
    assert after.after is not None and after.after.likes == "terse"
    assert after.sha256 != config(base, prompts=16, episodes=1, held_out=4, distill=few).sha256
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            running, "conversations", lambda *args, **kwargs: conversations(*args, **kwargs, wordings=wordings)
        )
        stops = iter([False] * (steps - 1) + [True] * 9)
        with pytest.raises(StoppedError):
            train_instrument(after, tmp_path / "run", stop=lambda: next(stops))
        assert (tmp_path / "run" / "before" / "checkpoint").exists() == (steps > 4)
        assert not (tmp_path / "run" / "checkpoint").exists()
        if steps > 4:
            slower = {**before, "distill": {**few, "learning_rate": 5e-3}}
            other = config(base, prompts=16, episodes=1, held_out=4, distill=few, after=slower)
            with pytest.raises(TrainingError, match=r"0\.01, not 0\.005"):
                train_instrument(other, tmp_path / "run", resume=True)
        checkpoint = train_instrument(after, tmp_path / "run", resume=True)
        whole = train_instrument(after, tmp_path / "whole")
    assert checkpoint.metrics["validation_nll"] == pytest.approx(whole.metrics["validation_nll"], rel=1e-4)

    def nll(folder: Path) -> list[float]:
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        return [event["nll"] for event in events if event["event"] == "evaluated"]

    assert nll(tmp_path / "whole")[0] == pytest.approx(nll(tmp_path / "whole" / "before")[-1], rel=1e-4)


def test_of_a_glance_only_the_first_action_is_learned(base: Path, chat: ChatFormat) -> None:
    world = {"lapse": "answer", "needs": NEEDS, "options": {"size": 60}, "prompts": 16}
    small = config(base, worlds={"lookup": world}, episodes=1, glances=2)
    samples = list(conversations(small, chat, "train", wordings=wordings))
    assert len(samples) == 16 * 3, "prompts of the environment go before those of the instrument"
    by_prompt = defaultdict(list)
    for sample in samples:
        by_prompt[sample.id.split("-")[1]].append(len(learned(sample, chat)))
    assert all(answers[1:] == [1, 1] for answers in by_prompt.values())
    assert {answers[0] for answers in by_prompt.values()} == {1, 2, 3}


def test_a_prompt_is_computed_once_for_its_episodes(base: Path, chat: ChatFormat) -> None:
    samples = list(conversations(config(base), chat, "train", wordings=wordings))
    found = families(samples)
    assert len(found) == 32 - 8 + 1, "the eight prompts without skills are one and the same"
    row = rows_of(found[1], 10**6)[0]
    places = [row.tokens[place + 1] for place in row.places]
    assert places == list(row.labels)
    assert len(row.admitted) == len(row.labels) == sum(row.lengths)


def test_an_instrument_learns_is_the_same_again_and_plays(base: Path, tmp_path: Path) -> None:
    small = config(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            running, "conversations", lambda *args, **kwargs: conversations(*args, **kwargs, wordings=wordings)
        )
        planned = plan_instrument(small)
        assert planned.samples == 64
        checkpoint = train_instrument(small, tmp_path / "run")
        again = train_instrument(small, tmp_path / "again")
    assert checkpoint.language == "action"
    assert checkpoint.metrics["constrained_nll"] == again.metrics["constrained_nll"]
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    before = next(event["constrained_nll"] for event in events if event["event"] == "evaluated")
    assert checkpoint.metrics["constrained_nll"] < 0.9 * before
    bank = SkillBank((Skill("g", "T", TERSE),), {})
    spec = WorkerSpec(
        environment="lookup",
        options={"size": 60},
        split="val",
        model=f"checkpoint:{checkpoint.path}",
        model_options={"dtype": "float32"},
        arms={"terse": Arm(name="terse", bank=bank)},
        agent=AGENT,
        slots=2,
    )
    tasks = open_environment("lookup", size=60).tasks("val")[:2]
    with opened(spec, open_model(spec.model, **spec.model_options)) as player:
        episodes = list(player.play([Job("terse", task.id, 0) for task in tasks]))
    assert [episode.outcome for episode in episodes] == ["finished", "finished"]


def test_a_dry_run_tells_all_lessons_in_one_object(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = {"lookup": {"lapse": "answer", "needs": NEEDS, "options": {"size": 60}}}
    few = {"base": str(base), "template": "chatml", "batch_size": 4, "report_to": []}
    before = {"worlds": world, "prompts": 16, "episodes": 1, "held_out": 4, "distill": few}
    config(base, prompts=32, episodes=1, held_out=4, after=before)
    monkeypatch.setattr(
        running, "conversations", lambda *args, **kwargs: conversations(*args, **kwargs, wordings=wordings)
    )
    arguments = [str(base.parent / "instrument.yaml"), "-o", str(tmp_path / "run"), "--dry-run"]
    told = CliRunner().invoke(command, [*arguments, "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["instrument"] == "terse" and [one["samples"] for one in found["lessons"]] == [16, 32]
    assert "32 samples" in CliRunner().invoke(command, arguments).stdout and not (tmp_path / "run").exists()


def test_every_lesson_is_timed_by_itself(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("masa_training.commands.training.time.monotonic", lambda: now)
    tell = reporter(as_json=False)
    for lesson in range(2):
        tell("started", {"samples": 8, "steps": 30})
        for step in (10, 20):
            now += 60
            tell("trained", {"step": step, "of": 30, "loss": 0.5, "tokens_per_second": 100})
        now += 3600 * (lesson + 1)
    lines = [line for line in capsys.readouterr().err.splitlines() if "left" in line]
    assert [line.rpartition(", ")[2] for line in lines] == ["about 1 min left"] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"likes": "stepwise"}, "likes and dislikes are both 'stepwise'"),
        ({"likes": "long"}, "likes is .*'terse', 'stepwise', 'plain'"),
        ({"worlds": {}}, "worlds is {}"),
        ({"worlds": {"lookup": {"needs": NEEDS}}}, "worlds.lookup.lapse is missing"),
        ({"prompst": 3}, "unknown setting 'prompst'; did you mean 'prompts'"),
        ({"episodes": 0}, "episodes is 0; it must be at least 1"),
        ({"glances": -1}, "glances is -1; it must be at least 0"),
        (
            {"worlds": {"lookup": {"lapse": "answer", "needs": NEEDS, "prompts": -1}}},
            "worlds.lookup.prompts is -1; it must be at least 0",
        ),
    ],
)
def test_a_wrong_description_is_refused_in_words(base: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        config(base, **changes)


def test_a_description_without_its_kind_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: x\nafter: {prompts: 3}\n")
    with pytest.raises(TrainingError, match=r"likes is missing; add it;.* after\.worlds is missing"):
        load_instrument(str(tmp_path / "c.yaml"))


def test_a_task_type_without_a_need_is_refused(base: Path, chat: ChatFormat) -> None:
    world = {"lookup": {"lapse": "answer", "needs": {"comparison": 0.0}, "options": {"size": 60}}}
    with pytest.raises(TrainingError, match="'direct_retrieval'"):
        list(conversations(config(base, worlds=world), chat, "train", wordings=wordings))
