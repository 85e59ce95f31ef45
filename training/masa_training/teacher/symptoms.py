"""What went wrong in an episode, as far as it shows in the turns: the kinds of trouble that skills can warn of.

The names are those of the warnings of `masa.edits` and one more, `out-of-steps`; in words they are weaknesses
of a model card. Nothing here knows the right answer or asks a model. A symptom is a hint; many failures have none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from masa.edits import WARN_KINDS
from masa_training.environments import Task
from masa_training.environments.tool_calls import read_call
from masa_training.rollouts import Turn
from masa_training.teacher.protocol import Seen

SYMPTOMS: Final = (*WARN_KINDS, "out-of-steps")

_TAKING = ("take", "pick", "grab", "get")
_DELIVERING = ("put", "move", "place", "drop", "insert", "give")
_ANSWERING = ("answer", "finish", "submit")
_WORD = re.compile(r"[\w'-]+")

_LOOP = 3
"""The same action so often in a row is a loop."""
_AGAIN = 2
"""So many useless returns are a habit."""
_LONG_ANSWER = 6
"""Words from which an answer is a sentence and not an answer."""
_VERBOSE = 120
"""Written tokens a step from which an agent talks too much."""


def symptoms_of(seen: Seen) -> frozenset[str]:
    """The symptoms of one episode; none if it succeeded or is missing."""
    episode, task = seen.episode, seen.task
    if episode.outcome != "finished" or episode.success or not episode.turns:
        return frozenset()
    turns = episode.turns
    last = _words(turns[-1].action)
    answered = bool(last) and last[0] in _ANSWERING
    found = {
        "loop": _longest_run([turn.action for turn in turns]) >= _LOOP or 2 * episode.unchanged > len(turns) > 2,
        "invalid-action": 4 * episode.invalid >= len(turns),
        "revisiting": sum(many - 1 for many in _repeated(turns).values()) >= _AGAIN,
        "undelivered-object": _holding(turns),
        "answer-form": answered and len(last) - 1 >= _LONG_ANSWER,
        "wrong-object": _took_another(turns, task),
        "premature-stop": answered and not _was_read(last[1:], turns[:-1], task),
        "verbosity": episode.completion_tokens > _VERBOSE * len(turns),
        "out-of-steps": not answered and not _ended(turns[-1]),
    }
    return frozenset(name for name, shows in found.items() if shows)


def _ended(last: Turn) -> bool:
    """Whether the environment ended the episode with this turn: a won game, or a call that spent its changes."""
    return last.observation.lower().startswith("you won") or (last.changed and read_call(last.action) is not None)


def attribute(seen: Iterable[Seen]) -> dict[str, float]:
    """The share of failed episodes that show each symptom, most frequent first; empty if none failed."""
    failed = [one for one in seen if one.episode.outcome == "finished" and not one.episode.success]
    counts = Counter(name for one in failed for name in symptoms_of(one))
    ranked = sorted(counts, key=lambda name: (-counts[name], SYMPTOMS.index(name)))
    return {name: counts[name] / len(failed) for name in ranked}


def _longest_run(actions: list[str]) -> int:
    longest = run = 0
    for before, action in zip([None, *actions], actions, strict=False):
        run = run + 1 if action == before else 1
        longest = max(longest, run)
    return longest


def _repeated(turns: tuple[Turn, ...]) -> Counter[tuple[str, str]]:
    """Actions that were taken again, not in a row, and showed what they had shown before."""
    apart = [turn for before, turn in zip([None, *turns], turns, strict=False) if before is None or before != turn]
    counts = Counter((turn.action, turn.observation) for turn in apart)
    return Counter({key: count for key, count in counts.items() if count > 1})


def _holding(turns: tuple[Turn, ...]) -> bool:
    """Whether the last object that was taken was never put down."""
    held = False
    for turn in turns:
        verb = (_words(turn.action) or [""])[0]
        if turn.valid and turn.changed:
            held = verb in _TAKING or (held and verb not in _DELIVERING)
    return held


def _took_another(turns: tuple[Turn, ...], task: Task) -> bool:
    """Whether the goal names none of the objects that were taken."""
    goal = set(_words(task.goal))
    taken = [_words(turn.action)[1] for turn in turns if turn.changed and _is_taking(turn.action)]
    return bool(taken) and not any(name in goal for name in taken)


def _is_taking(action: str) -> bool:
    words = _words(action)
    return len(words) > 1 and words[0] in _TAKING


def _was_read(answer: list[str], turns: tuple[Turn, ...], task: Task) -> bool:
    """Whether the answer's words occur together in anything that was read, or are a choice that the goal offers."""
    text = " ".join(answer)
    if text and turns and text in " ".join(_words(task.goal)):
        return True
    return any(text in " ".join(_words(turn.observation)) for turn in turns)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


PHRASES: Mapping[str, str] = {
    "loop": "repeats an action that changed nothing",
    "invalid-action": "writes commands that the environment does not understand",
    "revisiting": "goes back to places that it has already searched",
    "undelivered-object": "takes an object and does not deliver it",
    "answer-form": "answers with a sentence where a bare value is asked for",
    "wrong-object": "takes objects that the goal does not name",
    "premature-stop": "answers before it has read the fact",
    "verbosity": "writes long texts before it acts",
    "out-of-steps": "runs out of steps without an end in sight",
}
"""One for each symptom."""

LEAST = 2
"""Episodes that have to show a symptom before it is a habit."""
SHARE = 0.2
"""Share of the failed episodes that have to show it as well."""
MOST = 4
"""Symptoms that are told, the most frequent."""


def weaknesses_of(seen: Iterable[Seen]) -> str | None:
    """The symptoms that failed episodes share, in words, the most frequent first; None if there is no such habit.

    Running out of steps is told only where nothing else shows: it follows from most others.
    """
    found = [symptoms_of(one) for one in seen if one.episode.outcome == "finished" and not one.episode.success]
    counts = {name: sum(name in symptoms for symptoms in found) for name in SYMPTOMS}
    habits = [name for name, count in counts.items() if count >= max(LEAST, SHARE * len(found))]
    ranked = sorted(habits, key=lambda name: (-counts[name], SYMPTOMS.index(name)))
    telling = [name for name in ranked if name != "out-of-steps"] or ranked
    return "; ".join(PHRASES[name] for name in telling[:MOST]) or None
