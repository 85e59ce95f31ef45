"""What symptoms are in words, for the weaknesses of a model card: what a backbone does, never how often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from masa_training.teacher.protocol import Seen
from masa_training.teacher.symptoms import SYMPTOMS, symptoms_of

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
