"""A language model as the teacher: it says why episodes failed, then writes the group anew.

Two questions a rewrite. An answer that cannot be used goes back with the reason, a few times; then there is no rewrite,
which costs the search a round. Whatever a server does, nothing but `TeacherError` comes out.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeVar

from masa_training.models import Message, Model, ModelError, Reply, Request
from masa_training.teacher import asking
from masa_training.teacher.answers import AnswerError, Attribution, read_attribution, read_group, read_weaknesses, tidy
from masa_training.teacher.config import TeacherConfig
from masa_training.teacher.protocol import Asked, Rewrite, Summary, TeacherError, Watched

T = TypeVar("T")

_LETTERS_PER_TOKEN = 4
"""For servers that count no tokens: a budget that is never spent would be worse than an estimate."""


class LLMTeacher:
    """Asks a model. It keeps no state between questions, so it may be asked from several threads."""

    def __init__(self, model: Model, settings: TeacherConfig | None = None) -> None:
        """The model stays the caller's until `close`, which closes it too."""
        self._model = model
        self._settings = settings or TeacherConfig(model="openai:scripted")

    def preflight(self) -> None:
        """Find out whether the model can be asked at all, where it is behind a server.

        Raises:
            ModelError: if not: a wrong address, key or name would otherwise only show as one failed proposal after
                the other.
        """
        check = getattr(self._model, "preflight", None)
        if check is not None:
            check()

    def rewrite(self, asked: Asked) -> Rewrite:
        questions = _Questions(self._model, self._settings)
        shown = asking.failures(asked.seen, self._settings.episodes)
        found = Attribution()
        if shown:
            steps = {number: max(1, len(one.episode.turns)) for number, one in enumerate(shown, start=1)}
            found = questions.ask(
                "attribution",
                asking.attribution_question(asked, shown, self._settings),
                lambda text: read_attribution(text, steps, len(asked.group)),
            )
        group = questions.ask(
            "rewrite", asking.rewrite_question(asked, found, self._settings), lambda text: read_group(text, asked)
        )
        note = found.advice or "; ".join(cause.cause for cause in found.causes) or "no watched episode failed"
        return Rewrite(
            group=group,
            attribution=found.shares(),
            note=tidy(note, 300),
            tokens=questions.tokens,
            dollars=questions.dollars,
        )

    def summarize(self, watched: Watched) -> Summary:
        """As `Summarizer`; no question is asked where nothing failed."""
        shown = asking.failures(watched.seen, self._settings.episodes)
        if not shown:
            return Summary(weaknesses=None)
        questions = _Questions(self._model, self._settings)
        text = questions.ask("summary", asking.summary_question(watched, shown, self._settings), read_weaknesses)
        return Summary(weaknesses=text, tokens=questions.tokens, dollars=questions.dollars)

    def close(self) -> None:
        self._model.close()


class _Questions:
    """The questions of one rewrite and what they cost."""

    def __init__(self, model: Model, settings: TeacherConfig) -> None:
        self._model = model
        self._settings = settings
        self.tokens = 0
        self.dollars = 0.0

    def ask(self, what: str, question: tuple[Message, ...], read: Callable[[str], T]) -> T:
        """What `read` makes of the first answer that it accepts.

        Raises:
            TeacherError: if none of the answers can be used, or there is none.
        """
        messages, reason = question, ""
        for attempt in range(self._settings.attempts):
            request = Request(
                messages,
                max_tokens=self._settings.max_tokens,
                temperature=self._settings.temperature,
                seed=_seed(messages, attempt),
            )
            try:
                (outcome,) = self._model.reply([request])
            except Exception as error:  # a model's bug must not end a search of days
                raise self._failed(
                    f"the teacher's model broke ({type(error).__name__}: {tidy(str(error), 200)})"
                ) from error
            if isinstance(outcome, ModelError):
                raise self._failed(f"the teacher gave no {what}: {tidy(str(outcome), 300)}")
            self._count(request, outcome)
            try:
                if outcome.finish == "length":
                    raise AnswerError(f"it was cut off after {self._settings.max_tokens} tokens; be shorter")
                return read(outcome.text)
            except AnswerError as error:
                reason = tidy(str(error))
                messages = asking.again(question, outcome.text, reason)
            except Exception as error:
                raise self._failed(f"the teacher's {what} broke its reader ({type(error).__name__})") from error
        raise self._failed(f"the teacher's {what} cannot be used after {self._settings.attempts} answers: {reason}")

    def _count(self, request: Request, reply: Reply) -> None:
        read, written = reply.prompt_tokens, reply.completion_tokens
        if not read:
            read = sum(len(message.content) for message in request.messages) // _LETTERS_PER_TOKEN
            written = written or len(reply.text) // _LETTERS_PER_TOKEN
        self.tokens += read + written
        self.dollars += self._settings.dollars(read, written)

    def _failed(self, message: str) -> TeacherError:
        return TeacherError(message, tokens=self.tokens, dollars=self.dollars)


def _seed(messages: tuple[Message, ...], attempt: int) -> int:
    """The same question has the same seed, so that a recording answers it; a repeated one draws anew."""
    text = "\n".join(message.content for message in messages)
    return zlib.crc32(f"{attempt}\n{text}".encode("utf-8", "replace")) & 0x7FFFFFFF
