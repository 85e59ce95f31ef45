"""The environment `search_qa`, its data sets, and how answers are matched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.environments import SPLITS
from masa_training.environments.answer_matching import Match, match
from masa_training.environments.passage_search import PassageSearch
from masa_training.environments.search_qa import SearchQa
from masa_training.environments.search_qa_data import load_data_set, split_of
from masa_training.errors import TrainingError

HERBS = ("basil", "chervil", "dill", "fennel", "lovage", "marjoram", "oregano", "parsley", "sage", "thyme")


def write(folder: Path, questions: list[Any], corpus: list[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("questions", questions), ("corpus", corpus)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty questions about where herbs are sold."""
    questions = [
        {"id": f"q{n}", "question": f"Who sells {herb} in street {n}?", "answers": [f"Mr {n}", f"the {herb} man"]}
        | {"answer_in_own_passages": n % 2 == 0, "type": "comparison" if n % 4 == 0 else "bridge"}
        for n, herb in ((n, HERBS[n % len(HERBS)]) for n in range(40))
    ]
    corpus = [
        {"id": f"p{n}", "title": f"Street {n}", "text": f"In street {n} Mr {n} sells {HERBS[n % len(HERBS)]}."}
        for n in range(40)
    ]
    write(tmp_path / "searchqa" / "herbs", questions, corpus)
    return tmp_path


def opened(data: Path, **options: Any) -> SearchQa:
    return SearchQa(data_set="herbs", data_dir=str(data), **options)


@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        ("The Cat!", ["cat"], Match(1.0, 1.0, 1.0)),
        ("black cat", ["cat", "dog"], Match(0.0, 2 / 3, 1.0)),
        # shared words count with repetitions: 2 of 3 given, 2 of 2 wanted
        ("new new york", ["new york"], Match(0.0, 0.8, 1.0)),
        ("it was 1970", ["7"], Match(0.0, 0.0, 0.0)),
        ("York New", ["new york"], Match(0.0, 1.0, 0.0)),
        ("yes it is", ["yes"], Match(0.0, 0.0, 1.0)),
        ("U.S.A.", ["usa"], Match(1.0, 1.0, 1.0)),
        ("cat", ["The"], Match(0.0, 0.0, 0.0)),
        ("cat", [], Match(0.0, 0.0, 0.0)),
    ],
)
def test_answers_are_matched_by_hand_computed_scores(answer: str, right: list[str], expected: Match) -> None:
    found = match(answer, right)
    assert (found.exact, found.cover) == (expected.exact, expected.cover)
    assert found.f1 == pytest.approx(expected.f1)


@given(st.text(max_size=30), st.lists(st.text(max_size=20), max_size=3))
@settings(max_examples=50, deadline=None)
def test_an_exact_match_is_the_best_by_every_score(answer: str, right: list[str]) -> None:
    found = match(answer, right)
    assert 0 <= found.exact <= min(found.f1, found.cover) and max(found.f1, found.cover) <= 1
    assert match(answer, [*right, answer]).exact == 1.0


def test_search_ranks_by_rarity_and_keeps_the_order_of_equals() -> None:
    search = PassageSearch(["red apple", "red pear", "red pear", "blue plum"])
    assert search.best("a pear that is red", 5) == (1, 2, 0)
    assert search.best("pear", 1) == (1,)
    assert search.best("the nothing", 5) == search.best("", 5) == ()
    assert PassageSearch([""]).best("red", 1) == ()


def test_splits_are_disjoint_stable_and_of_the_stated_size(data: Path) -> None:
    assert [split_of(f"q{n}") for n in range(5)] == ["train", "train", "train", "train", "train"]
    shares = [split_of(str(n)) for n in range(5000)]
    assert [round(shares.count(split) / 5000, 1) for split in SPLITS] == [0.6, 0.2, 0.2]
    tasks = [task for split in SPLITS for task in opened(data).tasks(split)]
    assert len(tasks) == len({task.id for task in tasks}) == 40
    assert all(split_of(task.id.removeprefix("herbs/")) == task.split for task in tasks)


def test_task_types_are_those_of_skill_banks(data: Path) -> None:
    write(data / "searchqa" / "hotpotqa", *(_read(data / "searchqa/herbs", n) for n in ("questions", "corpus")))
    hotpot = SearchQa(data_set="hotpotqa", data_dir=str(data))
    tasks = [task for split in SPLITS for task in hotpot.tasks(split)]
    assert hotpot.task_types == ("multi_hop_reasoning", "comparison")
    assert [sum(task.type == type_ for task in tasks) for type_ in hotpot.task_types] == [30, 10]
    assert SearchQa(data_set="nq").task_types == ("direct_retrieval",)


def _read(folder: Path, name: str) -> list[Any]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_only_questions_with_an_answer_in_reach_on_request(data: Path) -> None:
    tasks = [task for split in SPLITS for task in opened(data, in_own_passages=True).tasks(split)]
    assert sorted(int(task.id.removeprefix("herbs/q")) for task in tasks) == list(range(0, 40, 2))
    questions = [{"id": "1", "question": "Why?", "answers": ["so"]}]
    write(data / "searchqa" / "unflagged", questions, [{"text": "so"}])
    with pytest.raises(TrainingError, match="unflagged does not say whether an answer is in reach"):
        SearchQa(data_set="unflagged", data_dir=str(data), in_own_passages=True).tasks("train")


def test_an_episode_searches_and_answers(data: Path) -> None:
    env = opened(data, passages=2)
    task = env.tasks("train")[0]
    number = task.id.removeprefix("herbs/q")
    start = env.reset(task, 0)
    assert start.admissible is None and not start.done
    found = env.step(f"search sells street {number}")
    assert found.changed and f"Street {number}: In street {number}" in found.observation
    assert found.observation.count("\n\n") == 1
    again = env.step(f"search sells street {number}")
    assert not again.changed and again.observation == f"Nothing new.\n\n{found.observation}"
    assert not env.step("search qqq").changed
    assert not env.step("dance").valid
    end = env.step(f"answer mr {number}!")
    assert (end.done, end.success, end.reward) == (True, True, 1.0)
    after = env.step("answer nobody")
    assert (after.success, after.changed, after.reward) == (True, False, 1.0)


def test_the_metric_decides_about_success_and_f1_is_the_reward_of_a_miss(data: Path) -> None:
    task = opened(data).tasks("train")[0]
    said = f"answer I believe it is {task.payload['answers'][0]}"
    steps = []
    for metric in ("exact", "cover"):
        env = opened(data, metric=metric)
        env.reset(task, 0)
        steps.append(env.step(said))
    assert [step.success for step in steps] == [False, True]
    assert steps[0].reward == pytest.approx(2 * 2 / (6 + 2)) and steps[1].reward == 1.0


def test_solutions_succeed(data: Path) -> None:
    env = opened(data)
    for task in env.tasks("val"):
        env.reset(task, 0)
        assert [env.step(action) for action in env.solution(task, 0)][-1].success


def test_the_index_is_built_once_and_again_when_a_file_changes(data: Path) -> None:
    folder = data / "searchqa" / "herbs"
    first = load_data_set(folder)
    assert load_data_set(folder) is first
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    assert len(load_data_set(folder).passages) == 41


def test_missing_data_say_what_brings_them(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASA_DATA", raising=False)
    with pytest.raises(TrainingError, match=r"nothing says where .* set MASA_DATA to a folder that holds searchqa/nq"):
        SearchQa().tasks("train")
    monkeypatch.setenv("MASA_DATA", str(data))
    with pytest.raises(TrainingError, match=r"nq/questions.jsonl"):
        SearchQa().tasks("train")
    monkeypatch.setenv("MASA_DATA", str(data / "elsewhere"))
    with pytest.raises(TrainingError, match="official releases"):
        SearchQa().tasks("train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"questions.jsonl:2: not JSON"),
        ("[1]", r"questions.jsonl:2: found '\[1\]' where a JSON object belongs"),
        ('{"id": "x", "question": "Why?", "answers": []}', r"questions.jsonl:2: 'answers' is no list"),
        ('{"id": "x", "question": " ", "answers": ["a"]}', r"questions.jsonl:2: 'question' is no text"),
        ('{"id": "1", "question": "Why?", "answers": ["a"]}', r"questions.jsonl:2: the id 1 occurs twice"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path, [{"id": "1", "question": "Why?", "answers": ["so"]}], [{"text": "so"}])
    with (tmp_path / "questions.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(TrainingError, match=message):
        load_data_set(tmp_path)


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, [{"id": "1", "question": "Why?", "answers": ["so"]}], [])
    with pytest.raises(TrainingError, match=r"corpus.jsonl"):
        load_data_set(tmp_path)


@pytest.mark.parametrize("options", [{"metric": "f1"}, {"passages": 0}, {"max_steps": "5"}, {"data_set": "../nq"}])
def test_an_option_out_of_its_range_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="search_qa: "):
        SearchQa(**options)


def test_the_published_questions_are_read(shared_data: Path) -> None:
    """Its twin on a generated data set is `test_an_episode_searches_and_answers`."""
    env = SearchQa(data_set="bamboogle", data_dir=str(shared_data))
    tasks = [task for split in SPLITS for task in env.tasks(split)]
    assert len(tasks) == 125
    env.reset(tasks[0], 0)
    search, answer = env.solution(tasks[0], 0)
    assert env.step(search).changed and env.step(answer).success
