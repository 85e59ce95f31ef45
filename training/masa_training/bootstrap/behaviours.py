"""What generated cards say: needs and the behaviours that show them, strengths, and distractors, by split.

The words are in `behaviours.yaml`. A *need* is what the rules act on; a *behaviour* is one way in which it shows;
a *wording* says that behaviour. Wordings are disjoint between splits, and every need has a behaviour that only
the test split speaks of.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.files import parse_yaml, read_text
from masa_training.errors import TrainingError

SPLITS = ("train", "validation", "test")
CANCELLABLE = ("brevity", "order", "demonstration")
"""Needs that follow from size or missing alignment, and that a strength can take back."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One way in which a need shows.

    Attributes:
        name: unique, such as "loop/cycles".
        need: what it shows.
        wordings: texts by split; a behaviour without "train" occurs in the test split only. `{n}`, `{m}` and
            `{p}` stand for a count, a larger count and a percentage.
    """

    name: str
    need: str
    wordings: Mapping[str, tuple[str, ...]]

    @property
    def known(self) -> bool:
        """Whether training speaks of it."""
        return "train" in self.wordings


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All that generated cards can say.

    Attributes:
        behaviours: by need.
        strengths: wordings by need that they take back, then by split.
        distractors: wordings that imply nothing, by field ("strengths", "weaknesses"), then by split.
    """

    behaviours: Mapping[str, tuple[Behaviour, ...]]
    strengths: Mapping[str, Mapping[str, tuple[str, ...]]]
    distractors: Mapping[str, Mapping[str, tuple[str, ...]]]

    def wordings(self, split: str) -> Iterator[str]:
        """Every wording of a split."""
        for behaviours in self.behaviours.values():
            for behaviour in behaviours:
                yield from behaviour.wordings.get(split, ())
        for by_split in (*self.strengths.values(), *self.distractors.values()):
            yield from by_split.get(split, ())


def load_vocabulary(path: Path | None = None) -> Vocabulary:
    """Read a vocabulary; by default the one that comes with masa.

    Raises:
        TrainingError: if the file is no vocabulary, or a wording occurs in two splits.
    """
    return _shipped() if path is None else _load(path)


@functools.cache
def _shipped() -> Vocabulary:
    return _load(Path(__file__).with_name("behaviours.yaml"))


def _load(path: Path) -> Vocabulary:

    try:
        value = parse_yaml(read_text(path))
        behaviours = {
            need: tuple(
                Behaviour(f"{need}/{name}", need, _by_split(wordings)) for name, wordings in entry["behaviours"].items()
            )
            for need, entry in value["needs"].items()
        }
        strengths = {need: _by_split(entry) for need, entry in value["strengths"].items()}
        distractors = {field: _by_split(entry) for field, entry in value["distractors"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"{path}: not a vocabulary of behaviours ({reason}); compare behaviours.yaml") from None
    vocabulary = Vocabulary(behaviours, strengths, distractors)
    check_vocabulary(vocabulary, str(path))
    return vocabulary


def _by_split(entry: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {split: tuple(str(text) for text in entry[split]) for split in SPLITS if split in entry}


def check_vocabulary(vocabulary: Vocabulary, where: str = "the vocabulary") -> None:
    """Check that the splits share no wording, not even as a part of a longer one.

    Raises:
        TrainingError: naming the wording and the two splits.
    """
    texts = {split: [_plain(text) for text in vocabulary.wordings(split)] for split in SPLITS}
    for one in SPLITS:
        for other in SPLITS:
            if one == other:
                continue
            longer = " \n ".join(texts[other])
            for text in texts[one]:
                if f" {text} " in f" {longer} ":
                    raise TrainingError(
                        f"{where}: the wording {text!r} of the {one} split occurs in the {other} split; word one anew"
                    )


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w{}']+", text.casefold()))


@functools.cache
def wording_pattern(wording: str) -> re.Pattern[str]:
    """Matches the wording in a card, with its numbers filled in and its first letter in either case."""
    parts = re.split(r"\{\w+\}", wording)
    return re.compile(r"(?<!\w)" + r"\d+".join(map(re.escape, parts)) + r"(?!\w)", re.IGNORECASE)
