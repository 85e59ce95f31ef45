"""Requests and replies, chat formats, trees of candidates, kept conversations, scripted and recorded models."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.errors import TrainingError
from masa_training.models import Message, ModelError, Reply, Request, open_model
from masa_training.models.chat import CHATML, GEMMA, ChatFormat
from masa_training.models.choice import EMPTY, ROOT, SCORINGS, Scoring, pick, plan, score
from masa_training.models.in_process import InProcessModel
from masa_training.models.protocol import Meter
from masa_training.models.scripted import RecordingModel, ScriptedModel, replay_model
from masa_training.models.slots import Ask
from masa_training.models.texts import match, without_reasoning
from tests.support import STOP, VOCABULARY, ScriptedBackend

TOKENIZER = ScriptedBackend(lambda _: "")
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


def talk(*turns: str) -> tuple[Message, ...]:
    """A system message, then user and assistant in turn."""
    roles = (SYSTEM, *((USER, ASSISTANT) * len(turns)))
    return tuple(Message(role, text) for role, text in zip(roles, turns, strict=False))


def chatml(**options: object) -> ChatFormat:
    return ChatFormat(TOKENIZER, CHATML, eos="<|im_end|>", **options)


# --- texts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("go", "go"),
        ("<think>\nhm\n</think>\n\ngo", "go"),
        ("hm, so\n</think>\ngo", "go"),
        ("<think>never ends", ""),
        ("<think>a</think>go<think>cut", "go"),
        (" kept as it is ", " kept as it is "),
    ],
)
def test_reasoning_is_taken_out(text: str, left: str) -> None:
    assert without_reasoning(text) == left


def test_free_text_matches_the_candidate_that_it_spells() -> None:
    candidates = ("go to shelf 1", "go to shelf 10", "Look", "look around", "search[x]")
    assert match("go to shelf 1", candidates) == "go to shelf 1"
    assert match("  Go to  shelf 1. ", candidates) == "go to shelf 1"
    assert match("<action>go to shelf 10</action>", candidates) == "go to shelf 10"
    assert match("Action: `look around`", candidates) == "look around"
    assert match("SEARCH[X]", candidates) == "search[x]"
    assert match("go to shelf", candidates) is None
    assert match("", candidates) is None
    assert match("LOOK", ("Look", "look")) is None
    assert match("look", ("Look", "look")) == "look"


# --- trees of candidates -----------------------------------------------------------------------------


def log_probabilities(context: Sequence[int]) -> np.ndarray:
    row = logits_of(context).astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def logits_of(context: Sequence[int]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(repr(list(context)).encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(0, 2, VOCABULARY).astype(np.float32)


words = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple)


@settings(max_examples=40, deadline=None)
@given(candidates=st.lists(words, min_size=1, max_size=6), scoring=st.sampled_from(SCORINGS))
def test_scores_of_a_tree_are_those_of_each_candidate_alone(
    candidates: list[tuple[int, ...]], scoring: Scoring
) -> None:
    choice = plan(candidates, STOP, scoring)
    tree = choice.tree

    def context(node: int) -> list[int]:
        return [7, *(tree.tokens[n] for n in tree.path(node))] if node != ROOT else [7]

    found = score(choice, np.stack([logits_of(context(node)) for node in tree.rows]), scoring)
    for candidate, got in zip(candidates, found, strict=True):
        total = 0.0
        for i, token in enumerate((*candidate, STOP)):
            row = log_probabilities([7, *candidate[:i]])
            if scoring == "constrained":
                after = {(*c, STOP)[i] for c in candidates if c[:i] == candidate[:i]}
                row = row - np.log(np.exp([row[t] for t in after]).sum())
            total += row[token]
        expected = total / (len(candidate) + 1) if scoring == "mean" else total
        assert got == pytest.approx(expected, abs=1e-4)
    if scoring == "constrained":
        distinct = dict(zip(candidates, found, strict=True))
        assert sum(math.exp(s) for s in distinct.values()) == pytest.approx(1, abs=1e-6)
    # Every token is computed once, whoever shares it.
    assert len(tree.tokens) <= len({c[: i + 1] for c in candidates for i in range(len(c))})


def test_a_constrained_choice_computes_only_up_to_where_candidates_part() -> None:
    tree = plan([(1, 2, 3, 4), (1, 2, 5, 6)], STOP, "constrained").tree
    assert tree.tokens == (1, 2) and tree.rows == (ROOT, 1)
    assert plan([(1, 2)], STOP, "constrained").tree == EMPTY


def test_no_candidates_and_empty_ones_are_refused() -> None:
    for candidates in ([], [(1,), ()]):
        with pytest.raises(ValueError, match="none of them empty"):
            plan(candidates, STOP, "total")


def test_a_choice_with_temperature_draws_by_the_softmax_of_the_scores() -> None:
    draws = np.random.default_rng(0)
    scores = (math.log(0.2), math.log(0.8))
    assert pick(scores, 0.0, draws) == 1
    share = sum(pick(scores, 1.0, draws) for _ in range(2000)) / 2000
    assert share == pytest.approx(0.8, abs=0.03)


# --- chat formats ------------------------------------------------------------------------------------


def spelled(tokens: Sequence[int]) -> str:
    names = {256: "<|im_start|>", STOP: "<|im_end|>"}
    return b"".join(names[t].encode() if t in names else bytes([t]) for t in tokens).decode()


def test_a_conversation_is_written_as_its_template_says() -> None:
    encoded = chatml().encode(talk("Rules", "Go", "left"))
    assert spelled(encoded.tokens) == (
        "<|im_start|>system\nRules<|im_end|>\n<|im_start|>user\nGo<|im_end|>\n"
        "<|im_start|>assistant\nleft<|im_end|>\n<|im_start|>assistant\n"
    )
    first, second, whole = encoded.borders
    assert spelled(encoded.tokens[:first]).endswith("<|im_start|>user\n")
    assert spelled(encoded.tokens[:second]).endswith("<|im_start|>assistant\n")
    assert whole == len(encoded.tokens)


def test_control_tokens_inside_a_text_stay_a_spelling() -> None:
    tokens = chatml().encode(talk("s", "x<|im_end|>y")).tokens
    assert tokens.count(STOP) == 2
    assert spelled(tokens).count("<|im_end|>") == 3


contents = st.text(st.sampled_from("ab \n\u2983\u2984x0<>"), max_size=8)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(contents, min_size=2, max_size=7))
def test_a_growing_conversation_keeps_its_tokens(texts: list[str]) -> None:
    chat = chatml()
    longest = chat.encode(talk(*texts))
    for count in range(2, len(texts), 2):
        shorter = chat.encode(talk(*texts[:count]))
        assert longest.tokens[: len(shorter.tokens)] == shorter.tokens
        assert set(shorter.borders) <= set(longest.borders)


def test_a_model_without_a_template_reads_lines() -> None:
    chat = ChatFormat(TOKENIZER, None)
    assert spelled(chat.encode(talk("Rules", "Go")).tokens) == "system: Rules\nuser: Go\nassistant:"
    assert spelled(chat.answer("left")) == " left"
    assert chat.stops == ("\n",) and chat.ends[0] == ord("\n")


def test_a_template_that_knows_no_system_message_gets_its_text_with_the_users() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    chat = ChatFormat(TOKENIZER, refusing, eos="<|im_end|>")
    assert spelled(chat.encode(talk("Rules", "Go")).tokens).startswith("<|im_start|>user\nRules\n\nGo<|im_end|>")


TOOL = {"type": "function", "function": {"name": "look", "description": "<b>'s", "parameters": {"type": "object"}}}
TELLING = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}"
    "{% for message in messages %}<|im_start|>{{ 'user' if message.role == 'tool' else message.role }}\n"
    "{{ '<answer>' ~ message.content if message.role == 'tool' else message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_tools_are_told_in_the_form_of_the_template() -> None:
    messages = [*talk("Rules", "Go", "look()"), Message("tool", "a door")]
    text = spelled(ChatFormat(TOKENIZER, TELLING, eos="<|im_end|>").encode(messages, [TOOL]).tokens)
    # As transformers writes JSON, not as Jinja does for HTML.
    assert text.startswith(f"<tools>{json.dumps(TOOL)}</tools><|im_start|>system\nRules<|im_end|>")
    assert "<|im_start|>user\n<answer>a door<|im_end|>" in text


@pytest.mark.parametrize("template", [CHATML, GEMMA, None])
def test_a_model_whose_template_knows_no_tools_reads_them_behind_the_rules(template: str | None) -> None:
    messages = [*talk("Rules", "Go", "look()"), Message("tool", "a door")]
    chat = ChatFormat(TOKENIZER, template, eos="<|im_end|>")
    text = spelled(chat.encode(messages, [TOOL]).tokens)
    assert text.index("Rules") < text.index(json.dumps(TOOL["function"])) < text.index("Go") < text.index("a door")
    assert "tool\n" not in text and "tool:" not in text
    # What was computed for a conversation stays when it grows.
    shorter = chat.encode(messages[:2], [TOOL]).tokens
    assert chat.encode(messages, [TOOL]).tokens[: len(shorter)] == shorter


def test_a_template_that_trims_trims_here_too() -> None:
    trimming = CHATML.replace("message.content", "(message.content | trim)")
    chat = ChatFormat(TOKENIZER, trimming, eos="<|im_end|>")
    assert "user\nGo<|im_end|>" in spelled(chat.encode(talk("s", "  Go \n")).tokens)
    assert "user\n  Go \n<|im_end|>" in spelled(chatml().encode(talk("s", "  Go \n")).tokens)


def test_gemma_writes_the_system_text_into_the_first_turn() -> None:
    chat = ChatFormat(TOKENIZER, GEMMA, eos="<|im_end|>")
    text = spelled(chat.encode(talk("Rules", "Go", "left", "On")).tokens)
    assert text == (
        "<start_of_turn>user\nRules\n\nGo<end_of_turn>\n<start_of_turn>model\nleft<end_of_turn>\n"
        "<start_of_turn>user\nOn<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_template_that_thinks_is_told_not_to() -> None:
    thinking = CHATML + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    chat = ChatFormat(TOKENIZER, thinking, eos="<|im_end|>")
    assert spelled(chat.encode(talk("s", "Go")).tokens).endswith("assistant\n<think>\n\n</think>\n\n")
    awake = ChatFormat(TOKENIZER, thinking, eos="<|im_end|>", options={"enable_thinking": True})
    assert spelled(awake.encode(talk("s", "Go")).tokens).endswith("assistant\n")


@pytest.mark.parametrize(
    "source",
    [
        # SmolLM3, Phi-4-reasoning: marks for trainers around what the assistant says
        CHATML.replace("{{ message.content }}", "{% generation %}{{ message.content }}{% endgeneration %}"),
        CHATML.replace("{{ message.content }}", "{% generation -%}\n  {{ message.content }}\n{%- endgeneration %}"),
        "{% for message in messages %}{% generation %}"
        + CHATML.split("%}", 1)[1].replace(
            "{% endfor %}", "{% endgeneration %}{% if loop.last %}{% break %}{% endif %}{% continue %}{% endfor %}"
        ),
        "{% if tools %}{{ tools | tojson(indent=2, ensure_ascii=False) }}{% endif %}" + CHATML,
        "{% set day = strftime_now('%d %b %Y') %}{% if not day %}{{ raise_exception('no day') }}{% endif %}" + CHATML,
    ],
)
def test_templates_in_the_dialect_of_hugging_face_play(source: str) -> None:
    chat = ChatFormat(TOKENIZER, source, eos="<|im_end|>")
    conversation = talk("Rules", "Go", "left", "On")
    assert spelled(chat.encode(conversation).tokens) == spelled(chatml().encode(conversation).tokens)
    assert chat.ends == (STOP,)


def test_broken_and_refusing_templates_are_one_sentence() -> None:
    with pytest.raises(TrainingError, match="chat template is broken"):
        ChatFormat(TOKENIZER, "{% for %}")
    with pytest.raises(TrainingError, match="no special token"):
        ChatFormat(TOKENIZER, "{% for message in messages %}{{ message.content }}{% endfor %}")
    refusing = "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}" + CHATML
    with pytest.raises(TrainingError, match=r"\(too long\)"):
        ChatFormat(TOKENIZER, refusing).encode(talk("", "a", "b", "c", "d")[1:])


# --- kept conversations ------------------------------------------------------------------------------


class ListEngine:
    """Keeps tokens in lists, counts what it computes, and fails a test that breaks the protocol."""

    exact = True

    def __init__(self, slots: int, length: int = 4000) -> None:
        self.slots, self.length = slots, length
        self.sequences: list[list[int]] = [[] for _ in range(slots)]
        self.prefixes: set[tuple[int, ...]] = set()
        self.computed = 0
        self.closed = 0
        self.failing = False

    def start(self, slot: int, prefix: Sequence[int]) -> bool:
        kept = tuple(prefix) in self.prefixes
        if kept:
            self.sequences[slot] = list(prefix)
        return kept

    def keep(self, slot: int, prefix: Sequence[int]) -> None:
        assert self.sequences[slot] == list(prefix)
        self.prefixes.add(tuple(prefix))

    def cut(self, slot: int, tokens: int) -> None:
        assert 0 <= tokens <= len(self.sequences[slot])
        del self.sequences[slot][tokens:]

    def append(self, slot: int, tokens: Sequence[int]) -> None:
        assert len(tokens) > 0
        self.sequences[slot] += tokens
        self.computed += len(tokens)

    def run(self, asks: Sequence[Ask]) -> Iterator[np.ndarray]:
        assert len({ask.slot for ask in asks}) == len(asks) <= self.slots
        for ask in asks:
            if self.failing:
                raise RuntimeError("the machine is on fire")
            assert len(ask.tokens) > 0
            self.append(ask.slot, ask.tokens)
            before, tree = self.sequences[ask.slot], ask.tree
            assert len(before) + max(tree.depths, default=0) <= self.length
            yield np.stack(
                [logits_of([*before, *(tree.tokens[n] for n in tree.path(node))]) for node in tree.rows]
                if tree.rows
                else []
            )

    def close(self) -> None:
        self.closed += 1


def listed(slots: int, length: int = 4000, scoring: Scoring = "total") -> tuple[InProcessModel, ListEngine]:
    engine = ListEngine(slots, length)
    return InProcessModel("listed", chatml(), TOKENIZER, lambda: engine, slots=slots, scoring=scoring), engine


ACTIONS = ("look", "go left", "go lefter", "go right")


@settings(max_examples=20, deadline=None)
@given(data=st.data(), slots=st.integers(1, 3))
def test_replies_do_not_depend_on_slots_neighbours_or_history(data: st.DataObject, slots: int) -> None:
    model, _ = listed(slots)
    episodes = [["rules", f"start {i}"] for i in range(data.draw(st.integers(1, 4)))]
    for _ in range(3):
        order = data.draw(st.permutations(range(len(episodes))))
        free = data.draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)))
        requests = [
            Request(talk(*episodes[i]), None if text else ACTIONS, max_tokens=3)
            for i, text in zip(order, free, strict=True)
        ]
        for i, request, reply in zip(order, requests, model.reply(requests), strict=True):
            fresh, _ = listed(1)
            (alone,) = fresh.reply([request])
            assert isinstance(reply, Reply) and isinstance(alone, Reply)
            assert (reply.text, reply.scores, reply.finish) == (alone.text, alone.scores, alone.finish)
            episodes[i] += [reply.text or "nothing", f"seen {len(episodes[i])}"]


def test_an_episode_computes_only_what_is_new() -> None:
    model, engine = listed(2)
    turns = ["long rules " * 20, "start"]
    model.reply([Request(talk(*turns), ACTIONS)])
    computed = engine.computed
    turns += ["look", "you see a box"]
    (reply,) = model.reply([Request(talk(*turns), ACTIONS)])
    assert isinstance(reply, Reply)
    assert engine.computed - computed == reply.prompt_tokens - reply.cached_tokens < 90
    # Another episode finds the rules computed.
    (other,) = model.reply([Request(talk(turns[0], "start elsewhere"), ACTIONS)])
    assert isinstance(other, Reply) and other.cached_tokens > 200


def test_what_conversations_share_in_their_first_turn_is_computed_once() -> None:
    model, _ = listed(2)
    skills = "always look left first " * 10

    def first(rules: str, task: str) -> Request:
        return Request((Message("system", rules), Message("user", skills + task, shared=len(skills))), ACTIONS)

    model.reply([first("rules", "start")])
    (other,) = model.reply([first("rules", "another start")])
    assert isinstance(other, Reply) and other.cached_tokens > len(skills)
    # Other skills behind the same rules: the rules stay.
    (bare,) = model.reply([Request(talk("rules", "start"), ACTIONS)])
    assert isinstance(bare, Reply) and 0 < bare.cached_tokens < len(skills)
    fresh, _ = listed(1)
    (alone,) = fresh.reply([first("rules", "another start")])
    assert isinstance(alone, Reply) and alone.scores == other.scores


def test_a_slot_goes_on_with_the_next_request_as_soon_as_it_is_free() -> None:
    class Counting(ListEngine):
        """Writes as many letters as the last message has, then ends; keeps how many sequences each pass had."""

        passes: ClassVar[list[int]] = []

        def run(self, asks: Sequence[Ask]) -> Iterator[np.ndarray]:
            self.passes.append(len(asks))
            for ask, _ in zip(asks, super().run(asks), strict=True):
                text = spelled(self.sequences[ask.slot])
                wish = text.rpartition("user\n")[2].partition("<|im_end|>")[0]
                row = np.zeros((1, VOCABULARY), np.float32)
                row[0, STOP if len(text.rpartition("assistant\n")[2]) == len(wish) else ord("x")] = 9
                yield row

    engine = Counting(2)
    model = InProcessModel("counting", chatml(), TOKENIZER, lambda: engine, slots=2)
    stream = model.stream()
    for name in ("a" * 9, "b" * 2, "c" * 3, "d"):
        stream.put(name, Request(talk("rules", name)))
    found: list[str] = []
    while len(found) < 4:
        found += [key for key, _ in stream.ready()]
    assert stream.ready() == []
    assert found == ["bb", "ccc", "d", "a" * 9]
    assert engine.passes == [2] * 9 + [1]


def test_a_stream_that_is_given_up_frees_its_slots() -> None:
    model, _ = listed(1)
    stream = model.stream()
    stream.put(1, Request(talk("rules", "start"), max_tokens=1))
    stream.put(2, Request(talk("rules", "more"), max_tokens=50))
    assert [key for key, _ in stream.ready()] == [1]
    stream.close()
    (reply,) = model.reply([Request(talk("rules", "start"), max_tokens=1)])
    assert isinstance(reply, Reply)


def test_conversations_keep_their_slots_when_given_in_another_order() -> None:
    model, _ = listed(3)
    episodes = [["rules", f"start {i}"] for i in range(3)]
    model.reply([Request(talk(*turns), ACTIONS) for turns in episodes])
    longer = [Request(talk(*turns, "look", "on"), ACTIONS) for turns in reversed(episodes)]
    for reply in model.reply(longer):
        assert isinstance(reply, Reply) and reply.cached_tokens > reply.prompt_tokens // 2


def test_free_text_ends_at_a_stop_text_a_limit_or_the_end_token() -> None:
    wish = "go left\nthen right"

    class Wishing(ListEngine):
        def run(self, asks: Sequence[Ask]) -> Iterator[np.ndarray]:
            for ask, _ in zip(asks, super().run(asks), strict=True):
                done = spelled(self.sequences[ask.slot]).rpartition("assistant\n")[2]
                rest = wish[len(done) :]
                row = np.zeros((1, VOCABULARY), np.float32)
                row[0, ord(rest[0]) if rest else STOP] = 9
                yield row

    engine = Wishing(4)
    model = InProcessModel("wishing", chatml(), TOKENIZER, lambda: engine, slots=4)
    messages = talk("rules", "start")
    whole, stopped, cut, sampled = model.reply(
        [
            Request(messages),
            Request(messages, stop=("\n", "right")),
            Request(messages, max_tokens=5),
            Request(messages, max_tokens=5, temperature=0.01, seed=3),
        ]
    )
    assert isinstance(whole, Reply) and (whole.text, whole.finish) == (wish, "stop")
    assert whole.completion_tokens == len(wish) and whole.scores is None
    assert isinstance(stopped, Reply) and (stopped.text, stopped.finish) == ("go left", "stop")
    assert isinstance(cut, Reply) and (cut.text, cut.finish) == ("go le", "length")
    assert isinstance(sampled, Reply) and sampled.text == "go le"


def test_sampling_repeats_with_its_seed() -> None:
    model, _ = listed(2)
    messages = talk("rules", "start")

    def texts(seed: int | None) -> list[str]:
        requests = [Request(messages, None, 12, 2.0, seed), Request(messages, ACTIONS, 12, 50.0, seed)]
        return [reply.text for reply in model.reply(requests) if isinstance(reply, Reply)]

    assert texts(1) == texts(1)
    assert len({tuple(texts(seed)) for seed in range(8)}) > 2


def test_one_bad_request_does_not_harm_the_others() -> None:
    model, _ = listed(2, length=200)
    good = Request(talk("rules", "start"), ACTIONS)
    outcomes = model.reply(
        [good, Request(talk("rules", "x" * 300), ACTIONS), Request(talk("r", "s"), ()), Request((), None), good]
    )
    assert [isinstance(outcome, Reply) for outcome in outcomes] == [True, False, False, False, True]
    long, none, empty = outcomes[1:4]
    assert isinstance(long, ModelError) and "do not fit into 200" in str(long) and not long.retryable
    assert isinstance(none, ModelError) and "at least one" in str(none)
    assert isinstance(empty, ModelError) and "without messages" in str(empty)
    assert model.usage.requests == 5 and model.usage.errors == 3


def test_after_a_failure_in_the_middle_nothing_cached_is_believed() -> None:
    model, engine = listed(1)
    request = Request(talk("rules", "start"), ACTIONS)
    (before,) = model.reply([request])
    engine.failing = True
    longer = Request(talk("rules", "start", "look", "on"), ACTIONS)
    (failed,) = model.reply([longer])
    assert isinstance(failed, ModelError) and failed.retryable and "on fire" in str(failed)
    engine.failing = False
    engine.sequences[0] = [1, 2, 3]  # whatever the failure left
    (after,) = model.reply([request])
    assert isinstance(before, Reply) and isinstance(after, Reply) and after.scores == before.scores


def test_a_closed_model_says_so() -> None:
    model, engine = listed(1)
    request = Request(talk("rules", "start"), ACTIONS)
    model.reply([request])
    model.close()
    model.close()
    (outcome,) = model.reply([request])
    assert engine.closed == 1
    assert isinstance(outcome, ModelError) and "closed" in str(outcome) and not outcome.retryable


# --- scripted and recorded models, usage, names ---------------------------------------------------------


def test_a_scripted_model_answers_what_it_is_told() -> None:
    model = ScriptedModel(lambda request: "LOOK." if request.candidates else "free")
    choice, free = model.reply([Request(talk("r", "s"), ACTIONS), Request(talk("r", "s"))])
    assert isinstance(choice, Reply) and choice.text == "look"
    assert isinstance(free, Reply) and free.text == "free"
    assert len(model.seen) == 2 and model.usage.requests == 2
    lost = ScriptedModel(lambda _: "dance")
    lost.reply([Request(talk("r", "s"), ACTIONS)])
    assert lost.usage.unmatched == 1


def test_a_recording_is_replayed_in_order_and_nothing_else(tmp_path: Path) -> None:
    answers = iter(["one", "two", "other \u2028 line"])
    path = tmp_path / "recorded.jsonl"
    recorder = RecordingModel(ScriptedModel(lambda _: next(answers)), path)
    again, other = Request(talk("r", "s")), Request(talk("r", "\u2028t"))
    recorder.reply([again, again, other])
    model = replay_model(path)
    texts = [reply.text for reply in model.reply([other, again, again, again]) if isinstance(reply, Reply)]
    assert texts == ["other \u2028 line", "one", "two", "two"]
    (unknown,) = model.reply([Request(talk("r", "unknown"))])
    assert isinstance(unknown, ModelError) and "record again" in str(unknown) and not unknown.retryable
    path.write_text(path.read_text("utf-8") + "{}\n", "utf-8")
    with pytest.raises(TrainingError, match=r"recorded\.jsonl:4"):
        open_model(f"replay:{path}")


def test_tokens_are_priced() -> None:
    meter = Meter((2.0, 10.0))
    request = Request(talk("r", "s"))
    meter.add(request, Reply("x", 1_000_000, 500_000, 10, 1.5))
    meter.add(request, ModelError("down", retryable=True))
    total = meter.total
    assert total.dollars == pytest.approx(7.0) and (total.requests, total.errors) == (2, 1)
    assert (total.prompt_tokens, total.completion_tokens, total.cached_tokens) == (1_000_000, 500_000, 10)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("gpt:4", {}, "unknown kind of model 'gpt'"),
        ("llama:", {}, "no model is named"),
        ("no-such-artifact", {}, "no-such-artifact: no such model; give a GGUF file"),
        ("llama:x.gguf", {"temperature": 3}, "no option 'temperature'"),
        ("openai:http://localhost:1/v1", {}, "name the model behind the address"),
        ("openai:http://localhost:1/v1#m", {"key": "x"}, "no option 'key'"),
        ("openai:localhost#m", {}, "not a server's address"),
        ("http://me:secret@localhost:1/v1#m", {}, "carries a user name"),
        ("checkpoint:/nowhere", {}, "checkpoint folder"),
        ("replay:/nowhere.jsonl", {}, "no recording can be read"),
    ],
)
def test_what_names_no_model_is_one_sentence(spec: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message) as raised:
        open_model(spec, **options)
    assert "secret" not in str(raised.value)
