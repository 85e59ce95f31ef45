"""Both searches: they find what is planted, keep their rules whatever comes, and can be resumed."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.errors import TrainingError
from masa_training.search import (
    Evaluation,
    Event,
    Failure,
    FixedPaired,
    Proposal,
    SearchStopped,
    SequentialPaired,
    Situation,
    Strict,
    Trace,
    Verdict,
    best_nodes,
    branches,
    event_from_json,
    event_to_json,
    hill_climb,
    replay,
    tree_search,
    ucb1,
)
from masa_training.search.simulated import simulated_backbone, simulated_teacher

Search = Callable[..., Trace[Any]]
SEARCHES: list[Search] = [hill_climb, tree_search]
seeds = st.integers(0, 10_000)
searches = st.sampled_from(SEARCHES)


class Toy:
    """A world of numbers: a rewrite is a new one, its reward a hash; some proposals fail, some episodes are missing."""

    def __init__(self, seed: int, *, failing: float = 0.25, missing: float = 0.1) -> None:
        self.seed, self.failing, self.missing = seed, failing, missing
        self.asked: list[Situation[int]] = []
        self.played: list[tuple[int, int]] = []

    def _chance(self, *key: int) -> float:
        return hash((self.seed, *key)) % 9973 / 9973

    def propose(self, situation: Situation[int]) -> int | Failure:
        self.asked.append(situation)
        if self._chance(situation.round, 1) < self.failing:
            return Failure(f"timeout in round {situation.round}")
        return situation.round * 7 + 1

    def evaluate(self, candidate: int, first: int, count: int) -> list[float | None]:
        self.played += [(candidate, i) for i in range(first, first + count)]
        better = self._chance(candidate, 2)
        return [
            None if self._chance(candidate, i, 3) < self.missing else float(self._chance(candidate, i, 4) < better)
            for i in range(first, first + count)
        ]

    def run(self, search: Search, **options: Any) -> Trace[int]:
        given: dict[str, Any] = {
            "propose": self.propose,
            "evaluate": self.evaluate,
            "accept": SequentialPaired(most=40),
        }
        return search(0, **(given | options))


@pytest.mark.parametrize("search", SEARCHES)
def test_a_planted_best_group_is_found_through_noise(search: Search) -> None:
    found = []
    for seed in range(10):
        backbone = simulated_backbone(seed, skills=3, wordings=3, ease=-3, gain=2)
        length = {"rounds": 60, "patience": 60} if search is hill_climb else {"iterations": 60}
        trace = search(
            backbone.start,
            propose=simulated_teacher(backbone),
            evaluate=backbone.evaluate,
            accept=SequentialPaired(),
            **length,
        )
        found.append(trace.winner == backbone.planted)
        assert backbone.true_reward(trace.winner) > backbone.true_reward(backbone.start) + 0.2
    assert sum(found) >= 9


@given(seeds, searches)
@settings(max_examples=50, deadline=None)
def test_a_trace_tells_everything_once_and_in_order(seed: int, search: Search) -> None:
    toy = Toy(seed)
    trace = toy.run(search)
    assert len(set(toy.played)) == len(toy.played) == trace.episodes, "no episode is played twice"
    rewards: dict[int, list[float | None]] = {}
    incumbent, rounds = 0, []
    for event in trace.events:
        if isinstance(event, Proposal):
            rounds.append(event.round)
            assert (event.node is None) == (event.problem is not None) == (event.candidate is None)
            if event.node is not None:
                assert event.node == len(rewards) and (event.parent is None or event.parent in rewards)
                rewards[event.node] = []
        elif isinstance(event, Evaluation):
            assert event.first == len(rewards[event.node])
            rewards[event.node] += event.rewards
        else:
            assert event.incumbent == incumbent != event.node
            assert not event.decision.open
            length = min(len(rewards[event.node]), len(rewards[incumbent]))
            pairs = zip(rewards[event.node][:length], rewards[incumbent][:length], strict=True)
            assert event.decision.pairs == sum(None not in pair for pair in pairs)
            if event.decision.verdict is True:
                incumbent = event.node
    assert rounds == list(range(len(rounds)))
    assert trace.best == incumbent
    assert [list(node.rewards) for node in trace.nodes] == list(rewards.values())
    assert sum(isinstance(event, Verdict) for event in trace.events) == len(trace.nodes) - 1


@given(seeds, searches)
@settings(max_examples=30, deadline=None)
def test_the_same_answers_give_the_same_trace_and_it_goes_through_json(seed: int, search: Search) -> None:
    trace = Toy(seed).run(search)
    assert Toy(seed).run(search) == trace
    told: list[Event[int]] = []
    assert Toy(seed).run(search, observe=told.append) == trace
    assert tuple(told) == trace.events
    written = json.loads(json.dumps(trace.to_json(str), allow_nan=False))
    assert tuple(event_from_json(event, int) for event in written["events"]) == trace.events


@given(seeds, searches, st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_a_stopped_search_keeps_the_beginning_and_resumes_to_the_same_trace(
    seed: int, search: Search, allowed: int
) -> None:
    whole = Toy(seed).run(search)
    asked = itertools.count()
    cut = Toy(seed).run(search, stop=lambda: "the budget is spent" if next(asked) >= allowed else None)
    assert cut.events == whole.events[: len(cut.events)]
    assert cut == whole or cut.ended == "the budget is spent"
    written = [json.loads(json.dumps(event_to_json(event, str))) for event in cut.events]
    toy = Toy(seed)
    propose, evaluate = replay([event_from_json(line, int) for line in written], toy.propose, toy.evaluate)
    assert toy.run(search, propose=propose, evaluate=evaluate) == whole
    assert len(toy.played) == whole.episodes - cut.episodes, "nothing that was recorded is played again"


@pytest.mark.parametrize("search", SEARCHES)
def test_an_evaluation_that_runs_out_of_budget_ends_the_search_cleanly(search: Search) -> None:
    toy = Toy(1)

    def evaluate(candidate: int, first: int, count: int) -> list[float | None]:
        if len(toy.played) > 50:
            raise SearchStopped("200 episodes are spent")
        return toy.evaluate(candidate, first, count)

    trace = toy.run(search, evaluate=evaluate)
    assert trace.ended == "200 episodes are spent" and trace.episodes == len(toy.played) > 50


def test_a_record_of_other_settings_is_refused() -> None:
    trace = Toy(4).run(hill_climb)
    toy = Toy(4)
    propose, evaluate = replay(trace.events, toy.propose, toy.evaluate)
    with pytest.raises(TrainingError, match="0 to 99"):
        toy.run(hill_climb, propose=propose, evaluate=evaluate, accept=Strict())


@given(seeds, st.integers(1, 4), st.integers(1, 15))
@settings(max_examples=50, deadline=None)
def test_hill_climbing_rewrites_the_incumbent_and_loses_patience(seed: int, patience: int, rounds: int) -> None:
    toy = Toy(seed)
    trace = toy.run(hill_climb, rounds=rounds, patience=patience)
    verdicts = [event.decision.verdict for event in trace.events if isinstance(event, Verdict)]
    runs = [len(list(group)) for accepted, group in itertools.groupby(verdicts, lambda it: it is True) if not accepted]
    out_of_patience = bool(runs) and verdicts[-1] is not True and runs[-1] == patience
    assert all(run < patience for run in runs[:-1]) and (not runs or runs[-1] <= patience)
    assert out_of_patience or len(toy.asked) == rounds
    incumbent = 0
    for situation in toy.asked:
        assert situation.node.number == incumbent
        later = [event for event in trace.events if isinstance(event, Verdict) and event.round == situation.round]
        incumbent = next((event.node for event in later if event.decision.verdict is True), incumbent)


@given(seeds, searches, st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_a_proposer_is_shown_the_best_groups_sorted_and_what_was_refused(seed: int, search: Search, shown: int) -> None:
    toy = Toy(seed)
    trace = toy.run(search, shown=shown)
    for situation in toy.asked:
        means = [node.mean for node in situation.best]
        assert len(means) <= shown and None not in means
        assert means == sorted((mean for mean in means if mean is not None), reverse=True)
        before = [event for event in trace.events if event.round < situation.round]
        refused = [event.node for event in before if isinstance(event, Verdict) and event.decision.verdict is not True]
        assert [node.number for node in situation.refused] == refused
        failed = [event.problem for event in before if isinstance(event, Proposal) and event.problem]
        assert list(situation.problems) == failed
    assert best_nodes(trace.nodes, 99)[:shown] == best_nodes(trace.nodes, shown)


@given(seeds, st.integers(1, 4), st.integers(1, 20), st.sampled_from([0.0, 0.25, 1.0]))
@settings(max_examples=50, deadline=None)
def test_visits_and_episodes_add_up_and_unvisited_children_come_first(
    seed: int, width: int, iterations: int, failing: float
) -> None:
    toy = Toy(seed, failing=failing)
    trace = toy.run(tree_search, width=width, iterations=iterations)
    assert len(toy.asked) == iterations, "a proposer that fails never ends the search"
    found = branches(trace)
    assert found[0].visits == 1 + iterations
    assert found[0].episodes == sum(len(node.known) for node in trace.nodes)
    for node, branch in zip(trace.nodes, found, strict=True):
        below = [found[child] for child in branch.children]
        assert branch.visits == 1 + branch.failures + sum(child.visits for child in below)
        assert branch.episodes == len(node.known) + sum(child.episodes for child in below)
        assert branch.total == pytest.approx(sum(node.known) + sum(child.total for child in below))
        assert len(branch.children) <= width
        # It went below a node only when the node had no room left.
        if any(found[child].visits > 1 for child in branch.children):
            assert len(branch.children) + branch.failures >= width


def test_the_child_of_highest_ucb1_is_followed() -> None:
    """Three children of known rewards, room for three: the fourth iteration must go to the best of them."""
    rewards = {0: 0.5, 8: 0.2, 15: 0.9, 22: 0.4}
    asked: list[int] = []

    def propose(situation: Situation[int]) -> int:
        asked.append(situation.node.candidate)
        return situation.round * 7 + 1

    def evaluate(candidate: int, first: int, count: int) -> list[float]:
        return [rewards.get(candidate, 0.1)] * count

    trace = tree_search(0, propose=propose, evaluate=evaluate, accept=Strict(10), iterations=5, width=3)
    assert asked[:4] == [0, 0, 0, 15]
    # By hand: the best child has 20 episodes of mean 0.5 and 2 visits, the others 1 visit each, their parent 5.
    by_hand = {8: 0.2 + 1.4 * math.sqrt(math.log(5)), 15: 0.5 + 1.4 * math.sqrt(math.log(5) / 2)}
    by_hand[22] = 0.4 + 1.4 * math.sqrt(math.log(5))
    assert asked[4] == max(by_hand, key=lambda it: by_hand[it]) == 22
    assert trace.nodes[trace.best].candidate == 15
    assert ucb1(branches(trace)[2], 5, 1.4) == pytest.approx(by_hand[15])


@pytest.mark.parametrize("search", SEARCHES)
def test_a_repeated_candidate_is_a_failed_proposal_and_not_played_again(search: Search) -> None:
    toy = Toy(0)
    trace = toy.run(search, propose=lambda situation: 0 if situation.round % 2 else 5)
    assert [node.candidate for node in trace.nodes] == [0, 5]
    problems = [event.problem for event in trace.events if isinstance(event, Proposal) and event.node is None]
    assert set(problems) == {"the same as node 0", "the same as node 1"}


def test_only_better_candidates_replace_the_incumbent_and_undefined_is_none() -> None:
    lost = Toy(3, failing=0, missing=1)
    for rule in (Strict(10), FixedPaired(10), SequentialPaired(most=20)):
        trace = lost.run(hill_climb, accept=rule)
        verdicts = [event for event in trace.events if isinstance(event, Verdict)]
        assert trace.best == 0 and all(it.decision.verdict is it.decision.difference is None for it in verdicts)
        assert all(node.mean is None for node in trace.nodes) and not best_nodes(trace.nodes, 5)


@pytest.mark.parametrize("search", SEARCHES)
def test_wrong_arguments_are_named(search: Search) -> None:
    with pytest.raises(ValueError, match="shown 0"):
        Toy(0).run(search, shown=0)
    with pytest.raises(ValueError, match="3 rewards for"):
        Toy(0, failing=0).run(search, evaluate=lambda candidate, first, count: [1.0] * 3)
    with pytest.raises(ValueError, match="0 pairs"):
        Strict(0)
    with pytest.raises(ValueError, match="kind 'guess'"):
        event_from_json({"event": "guess"}, int)
