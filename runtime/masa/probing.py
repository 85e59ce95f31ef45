"""`masa profile MODEL --probe`: what a backbone does wrong with instructions, measured by short exercises.

The card gets weaknesses and strengths in fixed words (`masa.exercises`). The figures behind them stand beside the card,
as comments of its file, where no rewriter reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from masa import __version__
from masa.cards import ModelCard, dump_card
from masa.chat import AnswerLog, Chat, Reply
from masa.exercises import REPEATING, VERSION, WORDS, Exercise, exercises, repeats
from masa.files import write_atomic

CARD, FIGURES, ANSWERS = "card.yaml", "probe.json", "answers.jsonl"
ORIGIN = "probe"
MOST_WEAKNESSES = 3
"""The cards that rewriters were trained on show one to three."""

_WEAK = 0.75
"""A weakness is named where the rate is surely below this: its interval's upper end."""
_CLEARLY = 0.5
"""By so much the other form must go better, where a weakness is one of comparison: four of eight are no chance."""
_STRONG = 0.65
"""A strength is named where the rate is surely above this: its interval's lower end."""
_REPEATING = 0.1
"""A share of answers that repeat themselves from which that is a weakness."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Right answers among those asked, with Wilson's interval at 95 % (Wilson, 1927)."""

    right: int
    asked: int

    @property
    def value(self) -> float | None:
        return self.right / self.asked if self.asked else None

    @property
    def interval(self) -> tuple[float, float]:
        if not self.asked:
            return 0.0, 1.0
        z, n, p = 1.96, self.asked, self.right / self.asked
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.right} of {self.asked} ({100 * low:.0f} to {100 * high:.0f} %)"


@dataclass(frozen=True, slots=True)
class Probe:
    """What the exercises showed.

    Attributes:
        rates: by trait and form.
        unfinished: answers that used up their tokens.
        repeating: answers that repeat themselves.
        seconds: that the answers took.
    """

    rates: Mapping[tuple[str, str], Rate]
    unfinished: int
    repeating: Rate
    seconds: float

    def weaknesses(self) -> list[str]:
        """In a card's words; at most `MOST_WEAKNESSES`.

        Repeating comes first, then what another form makes better, since a rewrite can choose the form, the largest
        difference first; then the rest, the surest first.
        """
        found: dict[str, tuple[float, float]] = {}
        for trait, its in WORDS.items():
            rate = self.rates.get((trait, its.form))
            if not its.weakness or rate is None or rate.interval[1] >= _WEAK:
                continue
            other = self.rates.get((trait, its.against)) if its.against else None
            better = 0.0 if other is None else (other.value or 0.0) - (rate.value or 0.0)
            if other is not None and better < _CLEARLY:
                continue
            key = (-better, rate.interval[1])
            found[its.weakness] = min(key, found.get(its.weakness, key))
        if (self.repeating.value or 0.0) >= _REPEATING:
            found[REPEATING.weakness] = (-2.0, 0.0)
        return sorted(found, key=lambda words: found[words])[:MOST_WEAKNESSES]

    def strengths(self) -> list[str]:
        """In a card's words."""
        rates = {trait: self.rates.get((trait, its.form)) for trait, its in WORDS.items()}
        return [
            its.strength
            for trait, its in WORDS.items()
            if its.strength and (rate := rates[trait]) is not None and rate.interval[0] > _STRONG
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "exercises": VERSION,
            "weaknesses": self.weaknesses(),
            "strengths": self.strengths(),
            "rates": [
                {
                    "trait": trait,
                    "form": form,
                    "right": rate.right,
                    "asked": rate.asked,
                    "interval": [round(x, 3) for x in rate.interval],
                }
                for (trait, form), rate in self.rates.items()
            ],
            "unfinished": self.unfinished,
            "repeating": self.repeating.right,
            "seconds": round(self.seconds, 1),
        }


def probe(
    chat: Chat,
    folder: Path,
    *,
    seed: int = 0,
    wordings: int = 4,
    contents: int = 2,
    resume: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancel: Callable[[], bool] = lambda: False,
) -> Probe | None:
    """Ask every exercise and judge the answers. They are kept in `folder` as they come; None if cancelled.

    Raises:
        MasaError: if the backbone gives no answer, or `folder` has answers that are not to be continued.
    """
    asked = exercises(seed, wordings=wordings, contents=contents)
    prompts = list(dict.fromkeys((exercise.prompt, exercise.most_tokens) for exercise in asked))
    settings = {"probe": VERSION, "backbone": chat.name, "seed": seed}
    log = AnswerLog(folder / ANSWERS, settings, resume=resume)
    try:
        for number, (prompt, most) in enumerate(prompts):
            progress(number, len(prompts))
            if cancel():
                return None
            if prompt not in log.replies:
                log.add(prompt, chat.reply([{"role": "user", "content": prompt}], most_tokens=most))
        progress(len(prompts), len(prompts))
    finally:
        log.close()
    return judge(asked, log.replies)


def judge(asked: Sequence[Exercise], replies: Mapping[str, Reply]) -> Probe:
    """What answers, by their prompt, show; an exercise without one does not count."""
    counts: dict[tuple[str, str], list[bool]] = {}
    for exercise in asked:
        if exercise.prompt in replies:
            right = exercise.passes(replies[exercise.prompt].text)
            counts.setdefault((exercise.trait, exercise.form), []).append(right)
    told = [replies[prompt] for prompt in dict.fromkeys(e.prompt for e in asked) if prompt in replies]
    return Probe(
        {key: Rate(sum(results), len(results)) for key, results in counts.items()},
        sum(not reply.finished for reply in told),
        Rate(sum(repeats(reply.text) for reply in told), len(told)),
        sum(reply.seconds for reply in told),
    )


def with_probe(card: ModelCard, found: Probe, source: str) -> ModelCard:
    """The card with what was measured in place of any weaknesses, and of strengths where some were found."""
    values = {"weaknesses": "; ".join(found.weaknesses()) or None}
    if found.strengths():
        values["strengths"] = "; ".join(found.strengths())
    kept = {name for name in card.fields() if name not in values}
    told = [name for name, value in values.items() if value]
    return replace(
        card,
        **values,  # type: ignore[arg-type]
        origins={name: card.origins[name] for name in kept if name in card.origins} | dict.fromkeys(told, ORIGIN),
        sources={name: card.sources[name] for name in kept if name in card.sources} | dict.fromkeys(told, source),
    )


def write_card(card: ModelCard, found: Probe, folder: Path, command: str) -> Path:
    """Write the card, the figures as comments below it, and the figures as JSON. Returns the card's path."""
    import json

    lines = [f"# {command}", f"# masa {__version__}, exercises {VERSION}, {found.seconds:.0f} s. Right answers:"]
    lines += [
        f"#   {WORDS[trait].about}, {form}: {rate}" if form != "plain" else f"#   {WORDS[trait].about}: {rate}"
        for (trait, form), rate in found.rates.items()
    ]
    lines.append(f"# {found.repeating.right} answers repeat themselves; {found.unfinished} were cut.")
    write_atomic(folder / CARD, (dump_card(card) + "\n" + "\n".join(lines) + "\n").encode("utf-8"))
    write_atomic(folder / FIGURES, (json.dumps(found.to_json(), indent=1) + "\n").encode("utf-8"))
    return folder / CARD
