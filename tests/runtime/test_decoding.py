"""The decoding loop on a scripted backend: order, refilling, constraint, drafts, limits, cancelling."""

from __future__ import annotations

import itertools
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import STOP, ScriptedBackend, byte_tokenizer

from masa.constraint import Constraint
from masa.decoding import Completion, Job, Tick, decode, look_up, repeats
from masa.sampling import Sampling

LETTERS = string.ascii_letters


def run(
    backend: ScriptedBackend, prompts: list[str], sampling: Sampling, *, most: int = 200, regex: str = "", **options
) -> tuple[list[Completion], list[str]]:
    constraint = (lambda: Constraint(byte_tokenizer(), regex, regex=True)) if regex else None
    jobs = [Job(i, prompt.encode(), most, constraint) for i, prompt in enumerate(prompts)]
    session = backend.session(slots=min(sampling.parallel or len(jobs), len(jobs)), length=2000)
    done = list(decode(session, b"shared|", jobs, stop=[STOP], sampling=sampling, **options))
    texts = [backend.detokenize(c.tokens).decode("utf-8", "replace") for c in sorted(done, key=lambda c: c.number)]
    return done, texts


def echo(prompt: str) -> str:
    return "answer to " + prompt.removeprefix("shared|")


def test_every_sequence_gets_its_own_answer_whatever_the_number_of_slots() -> None:
    prompts = ["a", "bbbbbbbbbbbb", "cc", "ddddddddddddddddddddd", "e"]
    for slots in (1, 2, 5, 9):
        backend = ScriptedBackend(echo)
        done, texts = run(backend, prompts, Sampling(parallel=slots))
        assert texts == [f"answer to {p}" for p in prompts]
        assert {c.reason for c in done} == {"stop"}
        assert backend.sessions[0].widest == min(slots, len(prompts))


def test_a_finished_sequences_place_is_refilled_at_once() -> None:
    backend = ScriptedBackend(lambda prompt: LETTERS[: 40 if prompt.endswith("long") else 2])
    done, _ = run(backend, ["long", "s", "s", "s", "s", "s", "s"], Sampling(parallel=2))
    assert done[-1].number == 0, "the short ones passed beside the long one"
    assert backend.sessions[0].steps == 40


def test_the_constraint_overrules_the_model() -> None:
    backend = ScriptedBackend(lambda prompt: "hello", noise=1.0)
    _, texts = run(backend, ["p"], Sampling(), regex="[0-9]{3}(-[0-9]{2})?")
    assert len(texts[0]) in (3, 6) and texts[0].replace("-", "").isdigit()


def test_a_model_that_wants_to_stop_early_is_made_to_finish() -> None:
    _, texts = run(ScriptedBackend(lambda prompt: ""), ["p"], Sampling(), regex="begin [ab] end")
    assert texts[0] in ("begin a end", "begin b end")


def test_forced_tokens_save_steps_and_change_nothing() -> None:
    outcomes = {}
    for forced in (True, False):
        backend = ScriptedBackend(lambda prompt: "1 b\n2 a")
        _, texts = run(backend, ["p"], Sampling(forced=forced), regex="1 [ab]\n2 [ab]")
        outcomes[forced] = (texts, backend.sessions[0].steps)
    assert outcomes[True][0] == outcomes[False][0] == ["1 b\n2 a"]
    assert outcomes[True][1] < outcomes[False][1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("ab \n", min_size=1, max_size=40), min_size=1, max_size=5),
    st.text("ab \n", max_size=60),
    st.integers(1, 8),
    st.integers(1, 4),
    st.booleans(),
)
def test_drafts_change_speed_only(prompts: list[str], tail: str, draft: int, slots: int, constrained: bool) -> None:
    def script(prompt: str) -> str:
        return prompt.removeprefix("shared|") + tail + prompt[::-1]

    regex = r"[ab \n|derhs]*" if constrained else ""
    plain = run(ScriptedBackend(script), prompts, Sampling(parallel=slots), most=90, regex=regex)
    drafted = run(ScriptedBackend(script), prompts, Sampling(parallel=slots, draft=draft), most=90, regex=regex)
    assert drafted[1] == plain[1]
    assert sorted((c.number, c.reason) for c in drafted[0]) == sorted((c.number, c.reason) for c in plain[0])


def test_a_copy_is_drafted_in_fewer_steps() -> None:
    text = "Open every closed container before you judge that it is empty, then go on to the next one."
    backend = ScriptedBackend(lambda prompt: text)
    run(backend, [text], Sampling(draft=8))
    assert backend.sessions[0].steps < len(text) / 3


def test_the_limit_cuts_and_says_so() -> None:
    done, texts = run(ScriptedBackend(lambda p: "abcdefghij"), ["p"], Sampling(), most=4)
    assert (done[0].reason, texts) == ("length", ["abcd"])


def test_a_loop_is_cut_before_the_limit() -> None:
    done, _ = run(ScriptedBackend(lambda p: "go to the fridge. " * 50), ["p"], Sampling(), most=900)
    assert done[0].reason == "loop"
    assert len(done[0].tokens) < 200


def test_sampling_depends_on_the_seed_and_not_on_the_neighbours() -> None:
    def sampled(prompts: list[str], seed: int, slots: int) -> list[str]:
        backend = ScriptedBackend(lambda p: "a" * 30, noise=6.0)
        return run(backend, prompts, Sampling(temperature=1.0, seed=seed, parallel=slots), regex="[a-z]{20}")[1]

    prompts = ["p", "qq", "rrr", "ssss"]
    assert sampled(prompts, 1, 4) == sampled(prompts, 1, 1)
    assert sampled(prompts, 1, 4) != sampled(prompts, 2, 4)
    assert sampled(prompts[:1], 1, 1) == sampled(prompts, 1, 4)[:1]


def test_cancelling_keeps_what_is_finished() -> None:
    ticks: list[Tick] = []
    backend = ScriptedBackend(lambda prompt: LETTERS[: 50 if prompt.endswith("long") else 3])
    done, texts = run(
        backend,
        ["short", "long", "never"],
        Sampling(parallel=2),
        on_tick=ticks.append,
        cancelled=lambda: bool(ticks) and ticks[-1].done >= 1,
    )
    assert (done[0].number, done[0].reason) == (0, "stop")
    assert {c.number: c.reason for c in done} == {0: "stop", 1: "cancelled", 2: "cancelled"}
    assert texts[0] == LETTERS[:3]
    assert not backend.sessions[0].sequences, "every slot was given back"


def test_progress_counts_up_to_the_end() -> None:
    ticks: list[Tick] = []
    done, _ = run(ScriptedBackend(echo), ["a", "b", "c"], Sampling(parallel=2), on_tick=ticks.append)
    assert ticks[-1].done == 3 and ticks[-1].running == 0
    assert ticks[-1].tokens == sum(len(c.tokens) for c in done)
    assert ticks[-1].prompt_tokens == len("shared|") + 3
    for before, after in itertools.pairwise(ticks):
        assert after.tokens >= before.tokens and after.prompt_tokens >= before.prompt_tokens


def test_no_jobs_need_no_model() -> None:
    backend = ScriptedBackend(echo)
    assert list(decode(backend.session(slots=1, length=10), b"s", [], stop=[STOP])) == []


@pytest.mark.parametrize("bad", [{"temperature": -0.1}, {"parallel": 0}, {"draft": -1}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)  # type: ignore[arg-type]


def test_look_up_prefers_the_longest_and_latest_match() -> None:
    assert look_up([1, 2, 3, 9, 1, 2, 3, 8, 7, 1, 2, 3], 2) == [8, 7]
    assert look_up([5, 1, 2, 6, 9, 2, 1, 2], 3) == [6, 9, 2]
    assert look_up([1, 2, 3], 4) == []


def test_repeats_sees_loops_and_spares_lists() -> None:
    assert repeats([1, 2, 3] * 8)
    assert repeats([7] * 24)
    assert not repeats([7] * 12), "a rule in Markdown is no loop"
    assert not repeats(list(range(200)))
    assert not repeats([n for i in range(20) for n in (1, 2, i)]), "numbered items differ"
