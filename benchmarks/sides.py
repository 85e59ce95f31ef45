"""The contestants of `rewrite.py`. Each does one whole bank per `run` and says how long it took.

The shipped weights are untrained, so what they would write differs from side to side. Where two sides are compared
on text, both are made to write *the same skills word for word*: masa by a constraint that admits exactly one text,
llama-cpp-python by a JSON schema of `const` strings, transformers by a logits processor. Every token still costs a real
forward pass on every side. Loading is outside the clock everywhere; grammars, contexts and prompts are inside.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from masa import decoding
from masa.artifact import Artifact, load_artifact
from masa.backends import Backend, open_backend
from masa.backends.llama import LlamaBackend
from masa.cache import RewriteCache
from masa.cards import ModelCard
from masa.constraint import Constraint
from masa.decoding import Job, decode, decode_apart
from masa.group_rewrite import TEXT_GROWTH, Work, prepare
from masa.languages import PARALLEL, numbered, render_blocks
from masa.prompt import Request, render_prompt
from masa.rewriter import Rewriter
from masa.sampling import Sampling
from masa.skills import Group, SkillBank

TASK = "put things where they belong"
ENVIRONMENT = "household"


@dataclass(frozen=True, slots=True)
class Setting:
    """What every side gets: weights, threads, the groups, and what is known about the reader."""

    weights: Path
    threads: int
    bank: SkillBank
    groups: tuple[Group, ...]
    card: ModelCard

    def request(self, group: Group) -> Request:
        return Request(group, self.card.fields(), TASK, ENVIRONMENT)


@dataclass(slots=True)
class Run:
    """One pass over the bank: wall time, tokens read and written, forward passes, and what was written."""

    seconds: float
    prompt_tokens: int
    tokens: int
    steps: int
    outputs: list[list[int]] = field(default_factory=list, repr=False)

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


class Side(ABC):
    """A contestant. `load` once, `run` often, `close` once."""

    name = ""

    def load(self) -> None:  # noqa: B027 - a side may have nothing to load
        """Load weights; not timed."""

    @abstractmethod
    def run(self) -> Run:
        """Rewrite the whole bank once."""

    def close(self) -> None:  # noqa: B027 - nor to free
        """Free everything."""


class TextLoop(Side):
    """masa's backend and decoding loop in the text language, made to write the source groups word for word."""

    def __init__(self, setting: Setting, name: str, *, sampling: Sampling | None = None) -> None:
        self.name, self._setting = name, setting
        # Nothing is fast-forwarded: `forced` would write a text that has only one form without asking the model.
        self._sampling = sampling or Sampling(forced=False)
        self._template = load_artifact("smollm2-135m", verify=False).chat_template
        self.backend: LlamaBackend | None = None

    def load(self) -> None:
        self.backend = LlamaBackend.load(self._setting.weights, threads=self._setting.threads)
        self.backend.grammar_tokenizer()

    def run(self) -> Run:
        assert self.backend is not None
        backend = self.backend
        begun = time.perf_counter()
        jobs, shared, needed = [], [], 0
        for number, group in enumerate(self._setting.groups):
            prompt = render_prompt(self._setting.request(group), "text", self._template)
            shared, own = backend.tokenize(prompt.shared), backend.tokenize(prompt.own)
            jobs.append(self._job(backend, number, group, own))
            # As much memory as Rewriter would take, whatever is written.
            needed = max(needed, len(own) + int(len(own) * TEXT_GROWTH) + 64)
        session = backend.session(
            slots=min(self._sampling.parallel or len(jobs), len(jobs)), length=len(shared) + needed
        )
        outputs: list[list[int]] = [[] for _ in jobs]
        steps = prompt_tokens = 0
        try:
            with self._never_looping():
                for completion in decode(session, shared, jobs, stop=_stop(backend), sampling=self._sampling):
                    outputs[completion.number] = list(completion.tokens)
                    steps += completion.steps
                    prompt_tokens += completion.prompt_tokens
        finally:
            session.close()
        seconds = time.perf_counter() - begun
        for group, output in zip(self._setting.groups, outputs, strict=True):
            if backend.detokenize(output).decode() != same_text(group):
                raise RuntimeError(f"{self.name}: the group {group.key} came out otherwise than it was given")
        return Run(seconds, len(shared) + prompt_tokens, sum(map(len, outputs)), steps, outputs)

    def _job(self, backend: LlamaBackend, number: int, group: Group, own: list[int]) -> Job:
        text = same_text(group)
        tokenizer, grammar = backend.grammar_tokenizer(), f"start: {json.dumps(text, ensure_ascii=False)}"
        return Job(number, own, len(text.encode()) + 1, lambda: Constraint(tokenizer, grammar))

    @contextlib.contextmanager
    def _never_looping(self) -> Iterator[None]:
        """Untrained weights loop. Looking for loops stays in the clock, stopping at one does not."""
        look = decoding.repeats
        with mock.patch.object(decoding, "repeats", lambda tokens: look(tokens) and False):
            yield

    def close(self) -> None:
        if self.backend is not None:
            self.backend.close()


class PlanLoop(Side):
    """The decoding loop on an artifact's plans: prompts, grammars and passes, without guard and cache.

    With `like`, a side of the same artifact, the model is that side's; `free` then writes what that side wrote without
    a constraint: a pass for every token, none refused and none forced.
    """

    def __init__(
        self,
        setting: Setting,
        name: str,
        artifact: Artifact,
        *,
        like: PlanLoop | None = None,
        free: bool = False,
        sampling: Sampling | None = None,
    ) -> None:
        self.name, self._setting, self._artifact = name, setting, artifact
        self._like, self._free, self._sampling = like, free, sampling or Sampling()
        self.backend: Backend | None = None
        self.written: list[list[int]] = []

    def load(self) -> None:
        self.backend = self._like.backend if self._like else open_backend(self._artifact, threads=self._setting.threads)
        assert self.backend is not None
        self.backend.grammar_tokenizer()

    def run(self) -> Run:
        assert self.backend is not None
        backend, steps, read = self.backend, 0, 0
        begun = time.perf_counter()
        jobs, shared = [], []
        for number, group in enumerate(self._setting.groups):
            work = prepare(self._setting.request(group), frozenset(), "plan")
            prompt = render_prompt(
                work.request, "plan", self._artifact.chat_template, version=self._artifact.prompt_version
            )
            shared, own = backend.tokenize(prompt.shared), backend.tokenize(prompt.own)
            jobs.append(self._job(backend, number, work, own))
        length = len(shared) + max(len(job.prompt) + job.max_tokens for job in jobs)
        outputs: list[list[int]] = [[] for _ in jobs]
        sessions = backend.side_by_side(slots=min(PARALLEL["plan"], len(jobs)), length=length)
        try:
            with self._replaying():
                for done in decode_apart(sessions, shared, jobs, stop=_stop(backend), sampling=self._sampling):
                    outputs[done.number] = list(done.tokens)
                    steps, read = steps + done.steps, read + done.prompt_tokens
        finally:
            for session in sessions:
                session.close()
        seconds = time.perf_counter() - begun
        self.written = outputs
        return Run(seconds, len(shared) + read, sum(map(len, outputs)), steps, outputs)

    def _job(self, backend: Backend, number: int, work: Work, own: list[int]) -> Job:
        if self._free:
            assert self._like is not None
            return Job(number, own, len(self._like.written[number]))
        tokenizer, (grammar, regex) = backend.grammar_tokenizer(), work.grammar()
        return Job(number, own, work.most_tokens(len(own)), lambda: Constraint(tokenizer, grammar, regex=regex))

    @contextlib.contextmanager
    def _replaying(self) -> Iterator[None]:
        """Every token is looked for in its logits; a free side then takes the one that was written."""
        if not self._free:
            yield
            return
        assert self._like is not None
        written = self._like.written

        def pick(sequence: Any, logits: Any) -> int:
            logits.argmax()
            return written[sequence.job.number][len(sequence.output)]

        with mock.patch.object(decoding._Sequence, "_pick", pick):
            yield

    def close(self) -> None:
        if self.backend is not None and self._like is None:
            self.backend.close()


def _stop(backend: Backend) -> list[int]:
    template = load_artifact("smollm2-135m", verify=False).chat_template
    return [token for text in template.stop if (token := backend.token_id(text)) is not None]


class PlanRewrite(Side):
    """`Rewriter.rewrite` in the plan language, as a user calls it: no cache, guard and everything else included."""

    def __init__(self, setting: Setting, name: str, *, cache: RewriteCache | None = None) -> None:
        self.name, self._setting, self._cache = name, setting, cache

    def load(self) -> None:
        self._rewriter = rewriter(self._setting, cache=self._cache)
        # Touch the model, so that the first run does not pay for loading it.
        self._rewriter.estimate(self._setting.bank, self._setting.card, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        keys = [group.key for group in self._setting.groups]
        return {"task": TASK, "environment": ENVIRONMENT, "only": keys}

    def run(self) -> Run:
        begun = time.perf_counter()
        result = self._rewriter.rewrite(self._setting.bank, self._setting.card, **self._options)
        seconds = time.perf_counter() - begun
        read = sum(group.prompt_tokens for group in result.groups)
        return Run(seconds, read, result.tokens, sum(group.steps for group in result.groups))

    def close(self) -> None:
        self._rewriter.close()


class ChatCompletion(Side):
    """llama-cpp-python as its documentation shows it: one chat completion a group, JSON schema, greedy."""

    name = "llama-cpp-python"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def load(self) -> None:
        from llama_cpp import Llama

        self._llama = Llama(
            str(self._setting.weights),
            n_ctx=8192,
            n_threads=self._setting.threads,
            n_threads_batch=self._setting.threads,
            n_gpu_layers=0,
            verbose=False,
        )

    def run(self) -> Run:
        begun = time.perf_counter()
        read = tokens = 0
        for group in self._setting.groups:
            answer: Any = self._llama.create_chat_completion(
                chat_messages(self._setting.request(group)),
                temperature=0.0,
                response_format={"type": "json_object", "schema": const_schema(group)},
            )
            if json.loads(answer["choices"][0]["message"]["content"]) != as_json(group):
                raise RuntimeError(f"{self.name}: the group {group.key} came out otherwise than the schema says")
            read += answer["usage"]["prompt_tokens"]
            tokens += answer["usage"]["completion_tokens"]
        return Run(time.perf_counter() - begun, read, tokens, tokens)

    def close(self) -> None:
        self._llama.close()


class Transformers(Side):
    """transformers `generate` in bf16, one group after the other, made to write the ids that masa wrote.

    The prompt's ids are llama.cpp's: the tokenizer that transformers builds from this GGUF is not right.
    """

    name = "transformers"
    install = "pip install torch==2.13.0 transformers==4.57.6 gguf==0.19.0 accelerate (the CPU build of torch)"

    def __init__(self, setting: Setting, text: TextLoop) -> None:
        self._setting, self._text = setting, text
        self.targets: list[list[int]] = []

    @staticmethod
    def available() -> bool:
        try:
            import torch
            import transformers  # noqa: F401
        except ImportError:
            return False
        return bool(torch.__version__)

    def load(self) -> None:
        os.environ.setdefault("TQDM_DISABLE", "1")
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(self._setting.threads)
        path = self._setting.weights
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=torch.bfloat16
        )
        self._model.eval()
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0

    def run(self) -> Run:
        import torch
        from transformers import LogitsProcessorList

        assert self._text.backend is not None
        backend = self._text.backend
        begun = time.perf_counter()
        read = tokens = 0
        for group, ids in zip(self._setting.groups, self.targets, strict=True):
            prompt = render_prompt(self._setting.request(group), "text")
            source = backend.tokenize((*prompt.shared, *prompt.own))
            with torch.inference_mode():
                made = self._model.generate(
                    torch.tensor([source]),
                    attention_mask=torch.ones(1, len(source), dtype=torch.long),
                    do_sample=False,
                    max_new_tokens=len(ids),
                    logits_processor=LogitsProcessorList([_force(len(source), ids)]),
                )
            if made[0, len(source) :].tolist() != ids:
                raise RuntimeError(f"{self.name}: the group {group.key} came out otherwise than it was given")
            read += len(source)
            tokens += len(ids)
        return Run(time.perf_counter() - begun, read, tokens, tokens)

    def close(self) -> None:
        self._model = None


def _force(start: int, ids: Sequence[int]) -> Any:
    """A logits processor that leaves one token: the next of `ids`. It costs one small tensor a step."""
    from transformers import LogitsProcessor

    class Force(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            token = ids[input_ids.shape[1] - start]
            scores = scores.new_full(scores.shape, float("-inf"))
            scores[:, token] = 0.0
            return scores

    return Force()


# --- what is written ------------------------------------------------------------------------------------------


def same_text(group: Group) -> str:
    """The content that every side writes: the group itself, in the text language."""
    return render_blocks(numbered(group))


def as_json(group: Group) -> dict[str, object]:
    """The same content as somebody would ask a chat completion for it."""
    return {
        "skills": [
            {
                "sources": [number],
                "title": skill.title,
                "when_to_apply": skill.when_to_apply,
                "principle": skill.principle,
            }
            for number, skill in enumerate(group.skills, start=1)
        ]
    }


def const_schema(group: Group) -> dict[str, object]:
    """A JSON schema that admits `as_json(group)` only."""

    def of(value: object) -> dict[str, object]:
        if isinstance(value, dict):
            return {
                "type": "object",
                "properties": {key: of(item) for key, item in value.items()},
                "required": list(value),
            }
        if isinstance(value, list):
            return {"type": "array", "prefixItems": [of(item) for item in value], "minItems": len(value)}
        return {"const": value}

    return of(as_json(group))


def chat_messages(request: Request) -> list[dict[str, str]]:
    """The same instruction, setting, group and card, the group as JSON and the output described as JSON."""
    segments = [segment.text for segment in render_prompt(request, "text").shared if not segment.control]
    instruction = next(text for text in segments if text.startswith("You adapt")).partition(" Write each skill")[0]
    instruction += (
        ' Answer in JSON: {"skills": [{"sources": [1], "title": "...", "when_to_apply": "...", "principle": "..."}]}, '
        "where sources are the numbers of the skills it comes from."
    )
    group = request.group
    head = "General skills" if group.task_type is None else f"Skills for the task type {group.task_type}"
    card = "\n".join(f"{key}: {value}" for key, value in request.card.items())
    user = (
        f"Environment: {request.environment}\nTask: {request.task}\n\n{head}:\n\n"
        f"{json.dumps(as_json(group), ensure_ascii=False)}\n\nReader:\n{card}\n\nWrite the group for this reader."
    )
    return [{"role": "system", "content": instruction}, {"role": "user", "content": user}]


# --- weights and rewriter -----------------------------------------------------------------------------------------


def rewriter(setting: Setting, *, language: str = "plan", cache: RewriteCache | None = None) -> Rewriter:
    """The shipped artifact's rewriter on the given weights, which may be another quantization of it."""
    artifact = load_artifact("smollm2-135m", verify=False)

    def open_backend() -> LlamaBackend:
        return LlamaBackend.load(setting.weights, threads=setting.threads)

    return Rewriter(artifact, open_backend, language=language, cache=cache)


def requantize(source: Path, target: Path, *, threads: int) -> None:
    """Write `source` as Q8_0. Raises RuntimeError if llama.cpp refuses."""
    import ctypes

    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    params.allow_requantize = True
    params.nthread = threads
    before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    try:
        code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    finally:
        llama_cpp.llama_log_set(before, data)
    if code:
        raise RuntimeError(f"{source}: llama.cpp could not requantize this file (code {code})")
