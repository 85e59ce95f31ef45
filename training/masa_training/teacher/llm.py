"""A language model as the teacher: it says why episodes failed, then writes the group anew.

Two questions a rewrite; a third kind asks what a backbone gets wrong. Everything that a question shows is cut to the
characters that the settings allow, whole episodes and groups first. An answer that cannot be used goes back with the
reason, a few times; then there is no rewrite, which costs the search a round. Whatever a server does, nothing but
`TeacherError` comes out.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from masa.facts import Facts
from masa.languages import numbered, render_blocks
from masa.skills import Group
from masa_training.bank_groups import WHOLE
from masa_training.models import Message, Model, ModelError, Reply, Request
from masa_training.rollouts import Turn
from masa_training.teacher.answers import (
    KINDS,
    AnswerError,
    Attribution,
    read_attribution,
    read_group,
    read_weaknesses,
    tidy,
)
from masa_training.teacher.card_claims import LONGEST
from masa_training.teacher.config import TeacherConfig
from masa_training.teacher.protocol import Asked, Rewrite, Seen, Summary, TeacherError, Watched, words_of

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
        shown = failures(asked.seen, self._settings.episodes)
        found = Attribution()
        if shown:
            steps = {number: max(1, len(one.episode.turns)) for number, one in enumerate(shown, start=1)}
            found = questions.ask(
                "attribution",
                attribution_question(asked, shown, self._settings),
                lambda text: read_attribution(text, steps, len(asked.group)),
            )
        group = questions.ask(
            "rewrite", rewrite_question(asked, found, self._settings), lambda text: read_group(text, asked)
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
        shown = failures(watched.seen, self._settings.episodes)
        if not shown:
            return Summary(weaknesses=None)
        questions = _Questions(self._model, self._settings)
        text = questions.ask("summary", summary_question(watched, shown, self._settings), read_weaknesses)
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
                messages = again(question, outcome.text, reason)
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


_FIRST, _LAST = 6, 14
"""Steps of a long episode that are shown from its beginning and from its end."""
_OBSERVATION = 400
"""Characters of one observation."""
_REFUSED = 8
"""Refused groups that are shown, the latest."""

_ATTRIBUTE = """\
You find out why an agent failed. The agent is a language model with a frozen set of skills in its prompt. For every \
failed episode below, say what went wrong first: the step, the kind, the cause in one sentence, and the number of the \
skill that misled it or was not followed, or null.

Kinds: {kinds}.

Answer with one JSON object and nothing else:
{{"failures": [{{"episode": 1, "step": 3, "kind": "loop", "cause": "...", "skill": 2}}], \
"advice": "what a better set of skills has to bring about, in one or two sentences"}}"""

_REWRITE = """\
You rewrite an agent's skills so that the language model that reads them succeeds more often. Change wording, length, \
order and structure; merge, split, drop or add skills. Fit them to this reader, as its model card and its failures \
show it. Skills must hold for any task of the kind, so name no object, place or answer that only one episode had. Keep \
every command, placeholder, link and code as it is. Do not repeat a rewrite that was refused.

Answer with the whole new group and nothing else. Each skill is a heading with the numbers of the skills it comes from \
([+] for a new one), the condition under which it applies, and the text:

## [1] Title
When: condition
Text.

At most {words} words in all; the group at hand has {has}."""

_SUMMARIZE = """\
You describe how a language model behaves as an agent, for its model card. Read the failed episodes below and name the \
two to four most important things it does wrong, as short phrases separated by semicolons, such as: repeats an action \
that changed nothing; answers before it has read the fact.

Say only what the model does. Say nothing of how often it succeeds or fails, no numbers of any kind, and nothing of \
what it prefers or what would help it. At most {longest} characters, one line, and nothing else."""

_AGAIN = "That cannot be used: {reason}. Answer again, in full and in the form asked for."


def attribution_question(asked: Asked, shown: Sequence[Seen], settings: TeacherConfig) -> tuple[Message, ...]:
    """Why did these episodes fail? They are numbered from 1 in the order given."""
    parts = [
        _world(asked.environment, asked.facts),
        _card(asked.card),
        f"The skills ({_name(asked.group)}):\n\n{_blocks(asked.group)}",
        *_episodes(shown, settings.characters),
    ]
    return _question(_ATTRIBUTE.format(kinds=", ".join(KINDS)), parts)


def rewrite_question(asked: Asked, found: Attribution, settings: TeacherConfig) -> tuple[Message, ...]:
    """A better group, please."""
    parts = [
        _world(asked.environment, asked.facts),
        _card(asked.card),
        f"What went wrong with the group at hand:\n{_causes(found)}",
        *_earlier(asked, settings.characters),
        f"The group at hand ({_name(asked.group)}):\n\n{_blocks(asked.group)}",
    ]
    return _question(_REWRITE.format(words=asked.words, has=words_of(asked.group)), parts)


def summary_question(watched: Watched, shown: Sequence[Seen], settings: TeacherConfig) -> tuple[Message, ...]:
    """What does this backbone do wrong?"""
    parts = [_world(watched.environment, watched.facts), _card(watched.card), *_episodes(shown, settings.characters)]
    return _question(_SUMMARIZE.format(longest=LONGEST), parts)


def again(messages: Sequence[Message], answer: str, reason: str) -> tuple[Message, ...]:
    """The question, the answer that could not be used, and why: only the last such answer, so that it stays short."""
    told = Message("user", _AGAIN.format(reason=reason))
    return (*messages[:2], Message("assistant", answer or "(nothing)"), told)


def failures(seen: Iterable[Seen], most: int) -> list[Seen]:
    """Failed episodes to show, of as many tasks as there are, in their order."""
    failed = [one for one in seen if one.episode.outcome == "finished" and not one.episode.success]
    firsts: dict[str, Seen] = {}
    for one in failed:
        firsts.setdefault(one.task.id, one)
    chosen = list(firsts.values()) + [one for one in failed if firsts[one.task.id] is not one]
    return chosen[:most]


def _question(system: str, parts: Iterable[str]) -> tuple[Message, ...]:
    return Message("system", system), Message("user", "\n\n".join(part for part in parts if part))


def _world(environment: str, facts: Facts | None) -> str:
    lines = [f"Environment: {environment}"]
    if facts:
        for action in facts.actions:
            lines.append(f"Command: {action.form}" + (f" ({action.meaning})" if action.meaning else ""))
        lines += [f"Rule: {rule}" for rule in facts.rules]
    return "\n".join(lines)


def _card(card: Mapping[str, Any]) -> str:
    known = [f"{key}: {' '.join(str(value).split())}" for key, value in card.items() if value is not None]
    return "Model card of the reader:\n" + "\n".join(known) if known else "Model card of the reader: unknown"


def _name(group: Group) -> str:
    if group.task_type == WHOLE:
        return "all of the bank: the general ones, then those for each task type"
    return "general skills, for every task" if group.task_type is None else f"for the task type {group.task_type}"


def _blocks(group: Group) -> str:
    return render_blocks(numbered(group))


def _episodes(shown: Sequence[Seen], characters: int) -> list[str]:
    """Every episode gets an equal part of what is left, so that a short one leaves more to the others."""
    parts = []
    for number, one in enumerate(shown, start=1):
        text = _episode(number, one, max(200, characters // (len(shown) - number + 1)))
        characters -= len(text)
        parts.append(text)
    return parts


def _episode(number: int, one: Seen, characters: int) -> str:
    turns = one.episode.turns
    head = f"Failed episode {number} (task type {one.task.type}): {_clip(one.task.goal, 300)}"
    end = f"It ended after {one.episode.steps} steps without success."
    lines = [_turn(place, turn) for place, turn in enumerate(turns, start=1)]
    first, last = _FIRST, _LAST
    kept = lines
    while len(kept) > 1 and (len(kept) > first + last + 1 or sum(map(len, kept)) + len(kept) > characters):
        # Where an episode went wrong is mostly near its end.
        if len(lines) > first + last:
            left = f"… {len(lines) - first - last} steps left out …"
            kept = [*lines[:first], left, *lines[len(lines) - last :]]
        if first + last <= 1:
            break
        first, last = (first - 1, last) if first > last // 2 else (first, last - 1)
    return "\n".join([head, *(_clip(line, max(80, characters)) for line in kept), end])


def _turn(place: int, turn: Turn) -> str:
    marks = [
        mark for mark, shows in (("not understood", not turn.valid), ("nothing changed", not turn.changed)) if shows
    ]
    told = f" [{', '.join(marks)}]" if marks else ""
    return f"{place}. {_clip(turn.action, 200)}{told} → {_clip(turn.observation, _OBSERVATION)}"


def _causes(found: Attribution) -> str:
    if not found.causes:
        return "Nothing: no episode that was watched failed. Make the skills clearer and shorter."
    lines = []
    for cause in found.causes:
        where = "" if cause.step is None else f", step {cause.step}"
        skill = "" if cause.skill is None else f" (skill {cause.skill})"
        lines.append(f"- {cause.kind}{where}: {cause.cause}{skill}")
    return "\n".join([*lines, *([f"Advice: {found.advice}"] if found.advice else [])])


def _earlier(asked: Asked, characters: int) -> list[str]:
    """The best groups, then what was refused and why, the latest first, as far as there is room."""
    parts = []
    for group, reward in asked.best:
        if group.skills != asked.group.skills:
            parts.append(f"An earlier group, mean reward {reward:.2f}:\n\n{_blocks(group)}")
    for group, reason in reversed(asked.refused[-_REFUSED:]):
        parts.append(f"Refused ({_clip(reason, 200)}):\n\n{_changes(group, asked.group)}")
    kept = []
    for part in parts:
        characters -= len(part)
        if characters < 0:
            break
        kept.append(part)
    if asked.problems:
        kept.append("Answers that could not be used:\n" + "\n".join(f"- {_clip(p, 200)}" for p in asked.problems[-3:]))
    return kept


def _changes(group: Group, reference: Group) -> str:
    """The skills of a group that the reference does not have word for word."""
    known = {skill.text for skill in reference.skills}
    new = [block for block, skill in zip(numbered(group), group.skills, strict=True) if skill.text not in known]
    gone = len(reference) - sum(skill.text in known for skill in group.skills)
    return render_blocks(new) if new else f"({gone} of the skills left out, the others as they are)"


def _clip(text: str, longest: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
