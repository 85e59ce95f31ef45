"""The model behind a rewriter: opened on first need, with its adapter and its working memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.artifact import Artifact
from masa.errors import BackendError, MasaError
from masa.group_rewrite import Work, accept, halves, joined, refuse
from masa.languages import PARALLEL
from masa.progress import Tracker
from masa.prompt import render_prompt
from masa.provenance import GroupResult
from masa.sampling import Sampling

if TYPE_CHECKING:
    from masa.backends import Backend, Session
    from masa.constraint import Constraint
    from masa.decoding import Completion, Job


_PART = 0.25
"""Share of the context that a part of a group may take: three side by side, as plans are, take less than it all."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of work, the tokens of its own part of the prompt, and why it cannot be done, if so."""

    work: Work
    own: list[int]
    problem: str


def _whole(work: Work, parts: Sequence[GroupResult | None]) -> GroupResult | None:
    """The result of a group once all of its parts are there."""
    done = [part for part in parts if part is not None]
    if len(done) < len(parts):
        return None
    return done[0] if len(done) == 1 else joined(work, done)


class Engine:
    """Turns pieces of work into results, side by side. Not thread-safe: the rewriter sees to that."""

    def __init__(
        self, artifact: Artifact, open_backend: Callable[[], Backend], language: str, *, keep_warm: bool
    ) -> None:
        self._artifact = artifact
        self._open_backend = open_backend
        self._language = language
        self._keep_warm = keep_warm
        self._template = artifact.chat_template
        self._backend: Backend | None = None
        self._sessions: Sequence[Session] = ()
        self._room = (0, 0)  # slots and length that they were asked for
        self._adapter = artifact.adapter_path
        self._scale = 1.0

    def backend(self) -> Backend:
        """The backend, opened now if it was not."""
        if self._backend is None:
            backend = self._open_backend()
            try:
                backend.set_adapter(str(self._adapter) if self._adapter else None, scale=self._scale)
            except MasaError:
                backend.close()
                raise
            self._backend = backend
        return self._backend

    def parts(self, work: Work) -> tuple[list[int], list[Part]]:
        """The shared prompt tokens, and the work in as many parts as it takes to fit the context: mostly one.

        A group that does not fit is halved until its parts take `_PART` of the context, so that memory does not grow
        with the group. A single skill that does not fit is a part with a `problem`.
        """
        shared, own, needed = self._measure(work)
        context = min(self.backend().context_length, self._artifact.context_length)
        if needed <= context:
            return shared, [Part(work, own, "")]
        found = []
        waiting = [work]
        while waiting:
            part = waiting.pop()
            own, needed = self._measure(part)[1:]
            two = halves(part) if needed > context * _PART else None
            if two is not None:
                waiting += reversed(two)
                continue
            what = f"{part.whole.skills[0].title!r} " if len(work.whole) > 1 else ""
            problem = f"{what}needs {needed} tokens, the rewriter's context is {context}; it stays as it was"
            found.append(Part(part, own, problem if needed > context else ""))
        return shared, found

    def _measure(self, work: Work) -> tuple[list[int], list[int], int]:
        """Shared and own prompt tokens of a piece of work, and the tokens that it needs in all."""
        backend = self.backend()
        prompt = render_prompt(work.request, self._language, self._template, version=self._artifact.prompt_version)
        shared, own = backend.tokenize(prompt.shared), backend.tokenize(prompt.own)
        return shared, own, len(shared) + len(own) + work.most_tokens(len(own))

    def run(
        self,
        works: Sequence[Work],
        sampling: Sampling,
        tracker: Tracker,
        cancel: Callable[[], bool],
        *,
        known: Callable[[Work], GroupResult | None] = lambda work: None,
        finished: Callable[[Work, GroupResult], None] = lambda work, result: None,
    ) -> Generator[tuple[int, GroupResult], None, None]:
        """Yield (index into `works`, result) as groups finish; what is cancelled or does not fit too.

        The works are asked in one setting (environment, task, facts), which is read once for all of them.
        Where a group takes several parts, `known` may have the result of one from an earlier run, and `finished` gets
        each when it is there.
        """
        if not works:
            return
        if cancel():
            for index, work in enumerate(works):
                yield index, refuse(work, "cancelled before it was reached", "cancelled")
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as beside:
            opened = beside.submit(self.backend)
            works[0].grammar()  # what finds out which edits a skill admits is imported while the weights are opened
            backend = opened.result()
            # Constraints need it after the shared prefix is read, and wait for it there.
            beside.submit(backend.grammar_tokenizer)
            yield from self._run(works, sampling, tracker, cancel, known, finished)

    def _run(
        self,
        works: Sequence[Work],
        sampling: Sampling,
        tracker: Tracker,
        cancel: Callable[[], bool],
        known: Callable[[Work], GroupResult | None],
        finished: Callable[[Work, GroupResult], None],
    ) -> Generator[tuple[int, GroupResult], None, None]:
        """`run`, with the model open."""
        from masa.decoding import Job, decode_apart  # a rewrite that the cache answers never pays for it

        shared: list[int] = []
        jobs: list[Job] = []
        pieces: list[tuple[int, int, Part]] = []  # (index into `works`, place among its parts, part) by job
        results: list[list[GroupResult | None]] = []
        for index, work in enumerate(works):
            before = shared
            shared, parts = self.parts(work)
            if before not in ([], shared):
                raise ValueError(f"{work.whole.key}: works of one run have their setting in common")
            results.append([None] * len(parts))
            for place, part in enumerate(parts):
                if part.problem:
                    results[index][place] = refuse(part.work, part.problem)
                elif len(parts) > 1 and (done := known(part.work)) is not None:
                    results[index][place] = done
                elif not part.work.request.group.skills:
                    results[index][place] = refuse(part.work, "", "kept")  # every skill of it is pinned
                else:
                    # Not the index: what is drawn for a group must not depend on which others came from the cache.
                    salt = zlib.crc32(f"{place or ''}{work.whole.key}".encode("utf-8", "replace"))
                    limit = part.work.most_tokens(len(part.own))
                    jobs.append(Job(len(pieces), part.own, limit, self._constraint(part.work), salt))
                    pieces.append((index, place, part))
            if (done := _whole(work, results[index])) is not None:
                yield index, done
        if not jobs:
            return
        tracker.expect(len(shared) + sum(len(job.prompt) for job in jobs))
        length = len(shared) + max(len(job.prompt) + job.max_tokens for job in jobs)
        sessions = self._acquire(min(sampling.parallel or PARALLEL[self._language], len(jobs)), length)
        backend = self.backend()
        stop = [token for text in self._template.stop if (token := backend.token_id(text)) is not None]
        completions = decode_apart(
            sessions, shared, jobs, stop=stop, sampling=sampling, on_tick=tracker.tick, cancelled=cancel
        )
        whole = False
        try:
            for completion in completions:
                index, place, part = pieces[completion.number]
                result = self._finish(part.work, completion)
                results[index][place] = result
                if len(results[index]) > 1:
                    finished(part.work, result)
                if (done := _whole(works[index], results[index])) is not None:
                    yield index, done
            whole = True
        finally:
            completions.close()
            # A session that was left in the middle still holds sequences.
            if not (self._keep_warm and whole):
                self._drop_sessions()

    def use_adapter(self, path: Path | None, scale: float) -> None:
        """Swap the adapter; the base stays loaded.

        Raises:
            BackendError: if the file is no adapter for this base. The old one then stays.
        """
        if self._backend is not None:
            self._backend.set_adapter(str(path) if path else None, scale=scale)
        self._drop_sessions()
        self._adapter, self._scale = path, scale

    def close(self) -> None:
        self._drop_sessions()
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def _acquire(self, slots: int, length: int) -> Sequence[Session]:
        if self._sessions and (self._room[0] < slots or self._room[1] < length):
            self._drop_sessions()
        if not self._sessions:
            self._sessions = self.backend().side_by_side(slots=slots, length=length)
            self._room = slots, length
        return self._sessions

    def _drop_sessions(self) -> None:
        for session in self._sessions:
            session.close()
        self._sessions = ()

    def _constraint(self, work: Work) -> Callable[[], Constraint]:
        from masa.constraint import Constraint

        backend = self.backend()
        grammar, regex = work.grammar()
        return lambda: Constraint(backend.grammar_tokenizer(), grammar, regex=regex)

    def _finish(self, work: Work, completion: Completion) -> GroupResult:
        raw = self.backend().detokenize(completion.tokens).decode("utf-8", "replace")
        figures: Mapping[str, Any] = {
            "raw": raw,
            "prompt_tokens": completion.prompt_tokens,
            "tokens": len(completion.tokens),
            "steps": completion.steps,
            "seconds": completion.seconds,
        }
        if completion.reason == "cancelled":
            return replace(refuse(work, "cancelled while it was being written", "cancelled"), **figures)
        if completion.reason == "length":
            reason = f"the output was not finished after {len(completion.tokens)} tokens"
            return replace(refuse(work, reason), **figures)
        if completion.reason == "loop":
            return replace(refuse(work, "the output had begun to repeat itself"), **figures)
        return replace(accept(work, raw, self._template.controls), **figures)


def check_lent(artifact: Artifact, llama: Any) -> None:
    """Make sure that the model which the host lends is the artifact's base model.

    Raises:
        BackendError: if its file is another one, or cannot be found to compare.
    """
    from masa.checksums import verified_sha256

    entry = artifact.entries[artifact.weights]
    path = Path(str(getattr(llama, "model_path", "")))
    if not path.is_file():
        raise BackendError(
            f"the lent model's file {str(path)!r} is not there to be compared with {artifact.name}'s weights;"
            " verify=False lends it unchecked and without the cache"
        )
    if verified_sha256(path, entry.sha256) != entry.sha256:
        raise BackendError(
            f"{path}: the lent model is not {artifact.name}'s base model ({artifact.base_model}); lend that one,"
            " or load the rewriter without llama="
        )


def check_options(artifact: Artifact, *, gpu_layers: int, provider: str | None, lent: bool) -> None:
    """Make sure that what was asked for is something that the artifact's library can do.

    Raises:
        BackendError: for llama.cpp's options with an ONNX artifact, and the other way round.
    """
    where = f"{artifact.path}: an artifact of kind {artifact.kind}"
    if artifact.kind == "gguf" and provider is not None:
        raise BackendError(f"{where} runs in llama.cpp, which has no providers; use gpu_layers for a GPU")
    if artifact.kind == "onnx" and gpu_layers:
        raise BackendError(f"{where} runs in ONNX Runtime, which takes no gpu_layers; use provider for a GPU")
    if artifact.kind == "onnx" and lent:
        raise BackendError(f"{where} runs in ONNX Runtime; lend a llama_cpp.Llama to a GGUF artifact only")
