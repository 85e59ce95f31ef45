"""llama.cpp and transformers as models: one pass for all candidates is as one by one, and episodes are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from masa.backends import Backend
from masa.backends.llama import LlamaBackend
from masa.decoding import Job, decode
from masa.formats import load_bank
from masa_training import rollouts
from masa_training.agents import AgentConfig
from masa_training.environments.tool_calls import Call, problem_of, read_call
from masa_training.errors import TrainingError
from masa_training.instruments.config import BANKS
from masa_training.models import Message, Model, Reply, Request, open_model
from masa_training.models.choice import SCORINGS, plan
from masa_training.models.in_process import InProcessModel
from masa_training.models.llama import open_llama
from masa_training.models.transformers import open_checkpoint_model
from masa_training.models.transformers_engine import TransformersEngine
from masa_training.transformers_backend import open_checkpoint
from tests.tiny_gguf import write_tiny_gguf
from tests.training.tiny import windowed_model
from tests.training.tiny_checkpoint import tiny_base, tiny_checkpoint

ACTIONS = (
    "look",
    "inventory",
    "go to shelf 1",
    "go to shelf 10",
    "go to drawer 2",
    "open fridge 1",
    "take apple 1 from shelf 2",
    "take apple 2 from shelf 2",
    "move apple 1 to fridge 1",
)
SYSTEM = "You are in a room. Look into every place once. Take the thing, and bring it to the goal."


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def conversation(*turns: str, system: str = SYSTEM) -> tuple[Message, ...]:
    roles = ("user", "assistant") * len(turns)
    return (
        Message("system", system),
        *(Message(role, text) for role, text in zip(roles, turns, strict=False)),
    )


def replies(model: InProcessModel, requests: Sequence[Request]) -> list[Reply]:
    outcomes = model.reply(requests)
    assert all(isinstance(outcome, Reply) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Reply)]


def scores(model: InProcessModel, request: Request) -> np.ndarray:
    return np.array(replies(model, [request])[0].scores)


def one_by_one(model: InProcessModel, messages: tuple[Message, ...]) -> np.ndarray:
    return np.array([scores(model, Request(messages, (action,)))[0] for action in ACTIONS])


def apart(backend: Backend, model: InProcessModel, messages: tuple[Message, ...]) -> np.ndarray:
    """Log-likelihoods of the candidates and their end, each in a sequence of its own, by the runtime's backend."""
    found = []
    prompt = model.chat.encode(messages).tokens
    for action in ACTIONS:
        tokens = model.chat.answer(action)
        session = backend.session(slots=1, length=1024)
        first = session.begin(0, prompt).reshape(1, -1).copy()
        rows = np.concatenate([first, session.step([(0, tokens)], [len(tokens)])[0]]).astype(np.float64)
        session.close()
        rows -= rows.max(1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(1, keepdims=True))
        found.append(sum(row[token] for row, token in zip(rows, (*tokens, model.chat.ends[0]), strict=True)))
    return np.array(found)


# --- the tiny models ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def checkpoint(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "lora", base)


@pytest.fixture(scope="module")
def gguf(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(smollm2, tmp_path_factory.mktemp("tiny") / "tiny.gguf")


Opener = Callable[..., InProcessModel]


@pytest.fixture(params=["llama", "transformers"])
def opened(request: pytest.FixtureRequest) -> Iterator[Opener]:
    """Opens a tiny model with the options given, and closes it."""
    models: list[InProcessModel] = []

    def make(**options: Any) -> InProcessModel:
        if request.param == "llama":
            model = open_llama(str(request.getfixturevalue("gguf")), threads=1, **options)
        else:
            model = open_checkpoint_model(
                str(request.getfixturevalue("checkpoint")), dtype="float32", device="cpu", **options
            )
        models.append(model)
        return model

    yield make
    for model in models:
        model.close()


Pair = tuple[InProcessModel, Backend]


@pytest.fixture(params=["llama", "transformers"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A tiny model, and the same weights behind the runtime's own interface."""
    if request.param == "llama":
        path = str(request.getfixturevalue("gguf"))
        made: Pair = open_llama(path, threads=1, slots=2), LlamaBackend.load(path, threads=1)
    else:
        path = str(request.getfixturevalue("checkpoint"))
        made = (
            open_checkpoint_model(path, dtype="float32", device="cpu", slots=2, merge=False),
            open_checkpoint(path, dtype="float32", device="cpu"),
        )
    yield made
    for opened in made:
        opened.close()


def test_one_pass_scores_all_candidates_as_sequences_of_their_own(pair: Pair) -> None:
    model, backend = pair
    messages = conversation("Find the apple.", "look", "You see shelf 1, shelf 2, drawer 2 and fridge 1.")
    together = scores(model, Request(messages, ACTIONS))
    np.testing.assert_allclose(together, apart(backend, model, messages), atol=1e-3)
    assert together.std() > 0.05  # the candidates differ, so the agreement is no accident


@pytest.mark.parametrize("scoring", SCORINGS)
def test_candidates_score_together_as_asked_for_one_by_one(opened: Opener, scoring: str) -> None:
    messages = conversation("Find the apple.", "look", "You see shelf 1, shelf 2, drawer 2 and fridge 1.")
    together = scores(opened(slots=2, scoring=scoring), Request(messages, ACTIONS))
    if scoring == "constrained":
        assert np.exp(together).sum() == pytest.approx(1, abs=1e-5)
        return
    np.testing.assert_allclose(together, one_by_one(opened(slots=1, scoring=scoring), messages), atol=1e-3)


def test_a_constrained_choice_is_the_renormalised_likelihood(opened: Opener) -> None:
    """With two candidates that part at once, constrained scores are the softmax over their first tokens."""
    messages = conversation("Find the apple.")
    total = scores(opened(slots=1), Request(messages, ("look", "look")))
    assert total[0] == total[1]
    both = scores(opened(slots=1, scoring="constrained"), Request(messages, ("look", "look")))
    np.testing.assert_allclose(both, [0, 0], atol=1e-9)


def test_a_kept_conversation_scores_as_a_fresh_one(opened: Opener) -> None:
    turns = ["Find the apple."]
    model = opened(slots=2)
    for action, seen in (("look", "You see shelf 1."), ("go to shelf 1", "On it is apple 1."), ("look", "The same.")):
        request = Request(conversation(*turns), ACTIONS)
        kept = replies(model, [request, Request(conversation(f"Another task with {len(turns)}."), ACTIONS)])
        fresh = replies(opened(slots=1), [request])[0]
        # A prompt was computed beside a tree or without one: products of another height may round otherwise.
        np.testing.assert_allclose(np.array(kept[0].scores), np.array(fresh.scores), atol=1e-4)
        if len(turns) > 1:
            assert kept[0].cached_tokens > 0.5 * kept[0].prompt_tokens and fresh.cached_tokens == 0
        turns += [action, seen]


def test_episodes_side_by_side_score_as_alone_to_the_bit(opened: Opener) -> None:
    requests = [Request(conversation(f"Find thing {i}. " + "It is red. " * i), ACTIONS[: 3 + i]) for i in range(5)]
    together = replies(opened(slots=3), requests)
    for request, reply in zip(requests, together, strict=True):
        assert reply.scores == replies(opened(slots=1), [request])[0].scores
    # A system message that was computed for one is copied for the others.
    assert sum(reply.cached_tokens > 20 for reply in together) == 4


def test_system_messages_may_take_turns_in_a_slot(opened: Opener) -> None:
    """As with task types that are shown different skills: a prefix that was kept is put back over another."""
    systems = [SYSTEM, SYSTEM + " Be quick.", SYSTEM, SYSTEM + " Be quick.", SYSTEM]
    asked = [Request(conversation(f"Find thing {i}.", system=system), ACTIONS) for i, system in enumerate(systems)]
    model = opened(slots=1)
    found = [replies(model, [request])[0] for request in asked]
    assert [reply.scores for reply in found] == [replies(opened(slots=1), [request])[0].scores for request in asked]
    assert all(reply.cached_tokens > 20 for reply in found[2:])


def test_more_candidates_than_fit_one_pass(opened: Opener) -> None:
    many = tuple(f"go to place {i} and {i * i}" for i in range(90))
    messages = conversation("Where to?")
    model = opened(slots=1)
    found = scores(model, Request(messages, many))
    for i in (0, 62, 63, 89):
        assert found[i] == pytest.approx(scores(model, Request(messages, (many[i],)))[0], abs=1e-3)


def test_free_text_is_the_same_alone_and_side_by_side(opened: Opener) -> None:
    requests = [Request(conversation("Say " + "a lot " * i), max_tokens=12 + i) for i in range(5)]
    together = replies(opened(slots=3), requests)
    for i, (request, reply) in enumerate(zip(requests, together, strict=True)):
        alone = replies(opened(slots=1), [request])[0]
        assert (alone.text, alone.completion_tokens, alone.finish) == (
            reply.text,
            reply.completion_tokens,
            reply.finish,
        )
        assert reply.completion_tokens <= 12 + i


def test_free_text_goes_on_with_its_conversation(opened: Opener) -> None:
    model = opened(slots=2)
    turns = ["Say something."]
    for _ in range(3):
        request = Request(conversation(*turns), max_tokens=8)
        reply = replies(model, [request, Request(conversation(f"Or this {len(turns)}."), max_tokens=4)])[0]
        fresh = replies(opened(slots=1), [request])[0]
        assert (fresh.text, fresh.finish) == (reply.text, reply.finish)
        if len(turns) > 1:
            assert reply.cached_tokens > 0.5 * reply.prompt_tokens
        turns += [reply.text or "nothing", "And more."]


def test_greedy_text_is_that_of_the_runtimes_decoding_loop(pair: Pair) -> None:
    model, backend = pair
    asked = Request(conversation("Say something."), max_tokens=12)
    prompt = model.chat.encode(asked.messages)
    session = backend.session(slots=1, length=1024)
    (done,) = decode(session, (), [Job(0, prompt.tokens, 12)], stop=model.chat.ends)
    expected = backend.detokenize(done.tokens).decode("utf-8", "replace").strip()
    session.close()
    (reply,) = replies(model, [asked])
    assert (reply.text, reply.completion_tokens) == (expected, len(done.tokens))


def test_choices_and_texts_may_take_turns(opened: Opener) -> None:
    model = opened(slots=2)
    messages = conversation("Find the apple.")
    first = scores(model, Request(messages, ACTIONS))
    text = replies(model, [Request(messages, max_tokens=6)])[0].text
    assert scores(model, Request(messages, ACTIONS)).tolist() == first.tolist()
    assert replies(model, [Request(messages, max_tokens=6)])[0].text == text


def test_what_is_too_long_is_an_error_and_the_model_goes_on(opened: Opener) -> None:
    model = opened(slots=1, length=256)
    fine = Request(conversation("Find the apple."), ACTIONS)
    before = scores(model, fine)
    (outcome,) = model.reply([Request(conversation("word " * 400), ACTIONS)])
    assert "do not fit into 256" in str(outcome)
    assert scores(model, fine).tolist() == before.tolist()


def test_a_closed_model_frees_what_it_holds(opened: Opener) -> None:
    model = opened(slots=1)
    replies(model, [Request(conversation("Find it."), ACTIONS), Request(conversation("Find it."), max_tokens=3)])
    model.close()
    model.close()
    assert "closed" in str(model.reply([Request(conversation("Find it."), ACTIONS)])[0])


# --- transformers alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [1, 4])
def test_trees_see_through_a_sliding_window_as_plain_sequences_do(together: int) -> None:
    from masa_training.models.slots import Ask

    model = windowed_model()
    candidates = [(1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 9), (10, 11)]
    prompts = [[7 * i % 250 for i in range(n)] for n in (3, 9, 20)]
    expected = []
    for prompt in prompts:
        for candidate in candidates:
            with torch.inference_mode():
                tokens = torch.tensor([[*prompt, *candidate]])
                expected.append(model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 :].numpy())
    choice = plan(candidates, 257, "total")
    engine = TransformersEngine(model, slots=3, length=100, together=together)
    for slot, prompt in enumerate(prompts):
        if slot:
            engine.append(slot, prompt[: slot * 2])
    rows = engine.run([Ask(slot, prompt[slot * 2 :], choice.tree) for slot, prompt in enumerate(prompts)])
    place = {node: i for i, node in enumerate(choice.tree.rows)}
    for number, found in enumerate(rows):
        for c, moves in enumerate(choice.moves):
            got = np.stack([found[place[node]] for node, _ in moves])
            np.testing.assert_allclose(got, expected[number * len(candidates) + c], atol=1e-4)
    engine.close()
    assert model.config._attn_implementation != "masa_slots"


def test_a_merged_checkpoint_is_the_adapter_beside_its_base(checkpoint: Path) -> None:
    messages = conversation("Find the apple.")
    found = []
    for options in ({"merge": True}, {"merge": False}):
        model = open_checkpoint_model(str(checkpoint), dtype="float32", device="cpu", slots=1, **options)
        found.append(scores(model, Request(messages, ACTIONS)))
        model.close()
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


def test_models_are_opened_by_name(base: Path, checkpoint: Path) -> None:
    plain = open_model(f"transformers:{base}", dtype="float32", device="cpu", slots=1, template="chatml")
    tuned = open_model(f"checkpoint:{checkpoint}", dtype="float32", device="cpu", slots=1)
    request = Request(conversation("Find the apple."), ACTIONS)
    (first,), (second,) = plain.reply([request]), tuned.reply([request])
    assert isinstance(first, Reply) and isinstance(second, Reply) and first.scores != second.scores
    assert (plain.name, tuned.name) == (base.name, "lora")
    for model in (plain, tuned):
        model.close()
    with pytest.raises(TrainingError, match="unknown scoring 'best'"):
        open_model(f"transformers:{base}", scoring="best", template="chatml")
    with pytest.raises(TrainingError, match="context"):
        open_model(f"checkpoint:{checkpoint}", length=100_000)


# --- the real model -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(smollm2: Path) -> Iterator[InProcessModel]:
    model = open_llama(str(smollm2), slots=2, length=1024)
    yield model
    model.close()


@pytest.mark.model
def test_smollm2_reads_its_own_template(real: InProcessModel) -> None:
    tokens = real.chat.encode(conversation("Find the apple.")).tokens
    backend = real.chat._tokenizer
    assert [token for token in tokens if token in real.chat.ends] and backend.token_id("<|im_end|>") in real.chat.ends
    import llama_cpp

    text = (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nFind the apple.<|im_end|>\n<|im_start|>assistant\n"
    )
    whole = llama_cpp.Llama(str(backend._where), vocab_only=True, verbose=False)
    assert list(tokens) == whole.tokenize(text.encode(), add_bos=False, special=True)
    whole.close()


@pytest.mark.model
def test_smollm2_scores_candidates_in_one_pass_as_one_by_one(real: InProcessModel) -> None:
    """With quantized weights llama.cpp rounds activations to 8 bits, which turns a change in the last bit into one of
    a tenth of a nat; what can be asked is the same choice, and scores within that noise. See the next test."""
    messages = conversation("Find the apple.", "look", "You see shelf 1, shelf 2, drawer 2 and fridge 1.")
    together = scores(real, Request(messages, ACTIONS))
    alone = apart(real._tokenizer, real, messages)
    assert np.abs(together - alone).max() < 1.0
    assert together.argmax() == alone.argmax()
    assert scores(real, Request(messages, ACTIONS)).tolist() == together.tolist()


@pytest.mark.model
def test_smollm2_in_full_precision_scores_in_one_pass_exactly(smollm2: Path, tmp_path: Path) -> None:
    import ctypes

    import llama_cpp

    path = tmp_path / "f32.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = 0, True
    assert llama_cpp.llama_model_quantize(str(smollm2).encode(), str(path).encode(), ctypes.byref(params)) == 0
    model = open_llama(str(path), slots=1, length=512, batch=128, cache="f32")
    messages = conversation("Find the apple.", "look", "You see shelf 1, shelf 2, drawer 2 and fridge 1.")
    together, alone = scores(model, Request(messages, ACTIONS)), one_by_one(model, messages)
    model.close()
    path.unlink()
    np.testing.assert_allclose(together, alone, atol=1e-3)


@pytest.fixture(scope="module")
def server(smollm2: Path) -> Iterator[Model]:
    """The same weights behind llama.cpp's own server, and a client of it."""
    for module in ("uvicorn", "fastapi", "sse_starlette", "pydantic_settings", "starlette_context"):
        pytest.importorskip(module, reason=f"llama_cpp.server needs {module}, which is not installed")
    import socket
    import subprocess
    import sys
    import time

    from masa_training.models import ModelError

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "llama_cpp.server", "--model", str(smollm2), "--port", str(port), "--n_ctx", "2048"]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # This server punishes repetition unless told otherwise; greedy is greedy only without it.
        remote = open_model(f"http://127.0.0.1:{port}/v1#{smollm2}", extra_body={"repeat_penalty": 1.0})
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                remote.preflight()  # type: ignore[attr-defined]
                break
            except ModelError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.5)
        yield remote
        remote.close()
    finally:
        process.terminate()
        process.wait(20)


TOOL = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Sets the light of a room.",
        "parameters": {
            "type": "object",
            "properties": {"room": {"type": "string", "enum": ["den", "hall"]}, "level": {"type": "integer"}},
            "required": ["room", "level"],
        },
    },
}


@pytest.mark.model
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constrained_reply_is_a_call_whatever_the_weights_say(smollm2: Path, temperature: float) -> None:
    model = open_llama(str(smollm2), slots=2, length=512)
    asked = [conversation("Sing me a song."), conversation("Light in the hall!")]
    requests = [
        Request(messages, max_tokens=60, temperature=temperature, seed=3, tools=(TOOL,), constrain=True)
        for messages in asked
    ]
    for reply in replies(model, requests):
        found = read_call(reply.text)
        assert reply.finish == "stop" and found is not None
        assert found[0].text == reply.text and problem_of(found[0], [TOOL]) is None
    (free,) = replies(model, [Request(asked[0], max_tokens=8, tools=(TOOL,))])
    assert read_call(free.text) is None
    model.close()


@pytest.mark.model
def test_qwen_is_told_tools_by_its_own_template_and_calls_them(qwen: Path) -> None:
    model = open_llama(str(qwen), slots=1, length=1024)
    request = Request(conversation("Set the light in the hall to 40."), max_tokens=60, tools=(TOOL,))
    told = b"".join(model._tokenizer.detokenize([t]) for t in model.chat.encode(request.messages, (TOOL,)).tokens)
    assert b"<tools>" in told and json.dumps(TOOL).encode() in told
    found = read_call(replies(model, [request])[0].text)
    assert found is not None and found[0] == Call("set_light", {"room": "hall", "level": 40})
    model.close()


@pytest.mark.model
def test_smollm2_writes_the_same_behind_a_server(smollm2: Path, server: Model) -> None:
    local = open_llama(str(smollm2), slots=1, length=2048)
    for question in ("Name a colour.", "What is two plus two?"):
        request = Request(conversation(question), max_tokens=24)
        (there,) = server.reply([request])
        assert isinstance(there, Reply)
        assert there.text == replies(local, [request])[0].text
    local.close()


@pytest.mark.model
def test_episodes_are_the_same_behind_a_server(smollm2: Path, server: Model) -> None:
    spec = rollouts.WorkerSpec(
        environment="lookup",
        split="val",
        model="",
        options={"max_steps": 3},
        arms={"concise": rollouts.Arm(name="concise", bank=load_bank(BANKS / "lookup" / "concise.json"))},
        agent=AgentConfig(max_tokens=8),
        slots=1,
    )
    jobs = [rollouts.Job("concise", task, 0) for task in ("val-000-direct_retrieval", "val-003-comparison")]
    local = open_llama(str(smollm2), slots=1, length=2048)
    played = []
    for model in (local, server):
        with rollouts.opened(spec, model) as player:
            played.append([(e.outcome, e.reason, e.turns, e.completion_tokens) for e in player.play(jobs)])
    local.close()
    assert all(outcome == "finished" and turns for outcome, _, turns, _ in played[0])
    assert played[0] == played[1]
