"""Episodes: every job once, infrastructure never scored, nothing lost by a kill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.skills import Skill, SkillBank
from masa_training.agents import AgentConfig
from masa_training.environments import Task
from masa_training.errors import TrainingError
from masa_training.models import ModelError, Request
from masa_training.rollouts import Arm, Episode, Job, Player, Record, WorkerSpec
from masa_training.rollouts.episodes import check_score, reward_of
from tests.training.corridor import ACTIONS, Corridor, Walker

BANK = SkillBank((Skill("g1", "Right", "Walk to the right until you arrive."),), {"short": (), "long": ()})


def spec(**changes: object) -> WorkerSpec:
    values: dict[str, object] = {
        "environment": "corridor",
        "split": "val",
        "model": "",
        "arms": {"none": Arm(name="none"), "bank": Arm(name="bank", bank=BANK), "any": Arm(name="any", random=True)},
        "agent": AgentConfig(choose=True),
    }
    return WorkerSpec(**{**values, **changes})  # type: ignore[arg-type]


def right(request: Request) -> str:
    return "go right"


def player(
    decide: Callable[[Request], str | ModelError] = right,
    *,
    lose: Callable[[Task], bool] = lambda task: False,
    **changes: object,
) -> Player:
    return Player(spec(**changes), model=Walker(decide), make_environment=lambda: Corridor(lose))


def jobs(arm: str = "none", seeds: int = 2) -> list[Job]:
    return [Job(arm, task.id, seed) for seed in range(seeds) for task in Corridor().tasks("val")]


def test_every_job_is_played_once_and_counted_right() -> None:
    episodes = list(player().play(jobs()))
    assert sorted(e.job for e in episodes) == sorted(jobs())
    for episode in episodes:
        assert episode.outcome == "finished" and episode.success and episode.reward == 1.0
        assert episode.steps == {"short": 2, "long": 3}[episode.task_type]
        assert (episode.unchanged, episode.invalid) == (0, 0)
        assert episode.prompt_tokens == 10 * episode.steps
        assert [turn.action for turn in episode.turns] == ["go right"] * episode.steps


def test_episodes_run_side_by_side_up_to_what_the_model_takes() -> None:
    walker = Walker(right, concurrency=3)
    made: list[Corridor] = []

    def make() -> Corridor:
        made.append(Corridor())
        return made[-1]

    one = Player(spec(), model=walker, make_environment=make)
    list(one.play(jobs()))
    assert max(walker.batches) == 3 and len(made) == 3
    one.close()
    assert all(world.closed for world in made)
    assert not walker.closed, "the model is its owner's"


def test_an_agent_that_talks_nonsense_uses_up_its_steps_and_fails() -> None:
    (episode,) = player(lambda request: "hm", agent=AgentConfig()).play([Job("none", "short-0", 0)])
    assert episode.outcome == "finished" and not episode.success
    assert episode.steps == episode.unchanged == episode.invalid == Corridor.max_steps
    assert reward_of(episode, 0.5) == -0.5


def test_a_reward_is_of_success_or_of_what_the_environment_gives() -> None:
    episode = Episode(job=Job("a", "t", 0), task_type="x", outcome="finished", reward=0.75, steps=4, unchanged=1)
    assert reward_of(episode, 0.5) == -0.125
    assert reward_of(episode, 0.5, "reward") == 0.625
    with pytest.raises(TrainingError, match="one of success, reward"):
        check_score("graded")


def test_a_server_that_fails_for_a_while_costs_a_second_beginning() -> None:
    failures = iter([True, True] + [False] * 1000)

    def decide(request: Request) -> str | ModelError:
        return ModelError("the server is down", retryable=True) if next(failures) else "go right"

    episodes = list(player(decide).play(jobs()))
    assert all(e.outcome == "finished" and e.success for e in episodes)
    assert Counter(e.attempts for e in episodes) == {1: len(episodes) - 2, 2: 2}


def test_a_server_that_is_gone_is_missing_coverage_and_no_failure() -> None:
    episodes = list(player(lambda request: ModelError("the server is down", retryable=True)).play(jobs()))
    assert {(e.outcome, e.reason) for e in episodes} == {("missing", "the server is down")}
    assert {reward_of(e, 0.0) for e in episodes} == {None}
    assert sorted(e.job for e in episodes) == sorted(jobs())


def test_what_would_fail_for_ever_ends_the_run() -> None:
    with pytest.raises(TrainingError, match="no such model"):
        list(player(lambda request: ModelError("no such model", retryable=False)).play(jobs()))


def test_a_lost_world_is_replaced_and_the_others_go_on() -> None:
    lost: Counter[str] = Counter()

    def lose(task: Task) -> bool:
        lost[task.id] += 1
        return task.id == "short-1" and lost[task.id] <= 1

    episodes = {e.job: e for e in player(lose=lose).play(jobs(seeds=1))}
    assert all(e.success for e in episodes.values())
    assert episodes[Job("none", "short-1", 0)].attempts == 2

    episodes = {e.job: e for e in player(lose=lambda task: task.id == "long-2").play(jobs(seeds=1))}
    gone = episodes.pop(Job("none", "long-2", 0))
    assert (gone.outcome, gone.reason, gone.task_type) == ("missing", "the corridor is gone", "long")
    assert all(e.success for e in episodes.values())


def test_the_random_policy_asks_no_model_and_follows_from_the_seed() -> None:
    def played() -> list[Episode]:
        return sorted(Player(spec(), model=None, make_environment=Corridor).play(jobs("any")), key=lambda e: e.job)

    with pytest.raises(TrainingError, match="no model is given"):
        played()
    only = {"arms": {"any": Arm(name="any", random=True)}}
    first, second = (
        sorted(Player(spec(**only), model=None, make_environment=Corridor).play(jobs("any")), key=lambda e: e.job)
        for _ in range(2)
    )
    assert [e.turns for e in first] == [e.turns for e in second]
    assert {turn.action for e in first for turn in e.turns} == set(ACTIONS)


def test_skills_are_in_the_prompt_and_recorded() -> None:
    walker = Walker(right)
    one = Player(spec(), model=walker, make_environment=Corridor)
    (episode,) = one.play([Job("bank", "short-0", 0)])
    assert episode.skills == ("g1",)
    assert all("Walk to the right" in request.messages[0].content for request in walker.asked)
    (without,) = one.play([Job("none", "short-0", 0)])
    assert without.skills == () and "Walk to the right" not in walker.asked[-1].messages[0].content


def test_a_bank_that_shows_nothing_is_an_error() -> None:
    other = SkillBank((), {"elsewhere": (Skill("e1", "E", "Text."),)})
    arms = {"bank": Arm(name="bank", bank=other)}
    with pytest.raises(TrainingError, match="task type 'short'"):
        list(player(arms=arms).play([Job("bank", "short-0", 0)]))


def test_a_dialogue_only_grows_at_its_end() -> None:
    walker = Walker(lambda request: "wait", concurrency=1)
    list(Player(spec(), model=walker, make_environment=Corridor).play([Job("none", "short-0", 0)]))
    for before, after in zip(walker.asked, walker.asked[1:], strict=False):
        assert after.messages[: len(before.messages)] == before.messages


def test_what_changed_nothing_is_not_offered_again_until_something_does() -> None:
    def decide(request: Request) -> str:
        assert request.candidates is not None
        return "wait" if "wait" in request.candidates else "go right"

    for drop, waits in ((True, 1), (False, None)):
        walker = Walker(decide, concurrency=1)
        agent = AgentConfig(choose=True, drop_idle=drop)
        made = Player(spec(agent=agent), model=walker, make_environment=Corridor)
        (episode,) = made.play([Job("none", "short-0", 0)])
        actions = [turn.action for turn in episode.turns]
        # After a step that changed something the idle action is offered again.
        assert actions == ["wait", "go right"] * (len(actions) // 2) if waits else set(actions) == {"wait"}
        assert episode.success is bool(waits)


def test_a_window_keeps_the_goal_in_sight() -> None:
    walker = Walker(lambda request: "wait", concurrency=1)
    config = AgentConfig(choose=True, window=2)
    list(Player(spec(agent=config), model=walker, make_environment=Corridor).play([Job("none", "short-0", 0)]))
    last = walker.asked[-1].messages
    assert [m.role for m in last] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert last[1].content.startswith("Task: Reach the last room.")


def test_unknown_tasks_and_arms_are_told_in_words() -> None:
    with pytest.raises(TrainingError, match="no task 'x'"):
        list(player().play([Job("none", "x", 0)]))
    with pytest.raises(TrainingError, match="is called 'x'"):
        list(player().play([Job("x", "short-0", 0)]))


@given(st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_cancelling_counts_no_half_episode(after: int) -> None:
    asked = iter(range(10**6))
    found = list(player().play(jobs(), cancel=lambda: next(asked) >= after))
    assert all(e.outcome == "finished" and e.success for e in found)
    assert len({e.job for e in found}) == len(found) <= len(jobs())


def test_a_record_survives_a_torn_line_and_counts_nothing_twice(tmp_path: Path) -> None:
    record = Record(tmp_path / "run", {"a": 1})
    episodes = list(player().play(jobs()))
    for episode in episodes[:5]:
        record.add(episode)
        record.add(episode)
    events = tmp_path / "run" / "events.jsonl"
    assert len(events.read_text().splitlines()) == 5
    events.write_bytes(events.read_bytes() + b'{"event": "episode", "job"')
    again = Record(tmp_path / "run", {"a": 1}, resume=True)
    assert list(again.episodes.values()) == episodes[:5]
    again.add(episodes[5])
    assert list(Record(tmp_path / "run", {"a": 1}, resume=True).episodes.values()) == episodes[:6]


def test_a_missing_episode_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    job = Job("none", "short-0", 0)
    record = Record(tmp_path / "run", {})
    record.add(Episode(job=job, task_type="short", outcome="missing", reason="gone"))
    again = Record(tmp_path / "run", {}, resume=True)
    assert not again.finished(job)
    again.add(Episode(job=job, task_type="short", outcome="finished", success=True))
    assert Record(tmp_path / "run", {}, resume=True).episodes[job].success


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: Record(f, {"a": 1}), "holds a run already; add --resume"),
        (lambda f: Record(f, {"a": 2}), r"holds a run already"),
        (lambda f: (f.mkdir(), (f / "x").write_text("")), "is not empty and holds no run"),
    ],
)
def test_folders_of_others_are_left_alone(tmp_path: Path, prepare: Callable[[Path], object], message: str) -> None:
    prepare(tmp_path / "run")
    with pytest.raises(TrainingError, match=message):
        Record(tmp_path / "run", {"a": 1})


def test_other_settings_and_damaged_lines_are_told_in_words(tmp_path: Path) -> None:
    Record(tmp_path / "run", {"a": 1})
    with pytest.raises(TrainingError, match=r"other settings \(differing: a\)"):
        Record(tmp_path / "run", {"a": 2}, resume=True)
    (tmp_path / "run" / "events.jsonl").write_text("nonsense\n")
    with pytest.raises(TrainingError, match="line 1 is"):
        Record(tmp_path / "run", {"a": 1}, resume=True)
