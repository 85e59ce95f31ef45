"""Skills and interface facts that the corpus is made of: groups of published banks, facts of invented environments."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

from masa.facts import Facts, loads_facts
from masa.files import parse_yaml, read_text
from masa.formats import load_bank
from masa.skills import Group, SkillBank
from masa_training.bootstrap.behaviours import SPLITS
from masa_training.errors import TrainingError

_WORDS: Mapping[str, frozenset[str]] = {
    kind: frozenset(words.split())
    for kind, words in (
        ("household", "object objects receptacle container drawer fridge microwave sink carry room cabinet"),
        ("search", "question query queries evidence answer passage source search fact facts entity"),
        ("shopping", "product products price buy purchase item size color cart listing shopping options"),
    )
}


class SkillGroup(NamedTuple):
    """A group of a skill bank, the file it came from, and the kind of environment it is about."""

    origin: str
    environment: str
    group: Group


class KnownFacts(NamedTuple):
    """Interface facts of an invented environment, its kind, and the split that may show them."""

    kind: str
    split: str
    facts: Facts


def skill_groups(paths: Sequence[str | PathLike[str]]) -> list[SkillGroup]:
    """The groups of bank files, without empty ones; the kind is told from the words of the whole bank.

    Raises:
        FormatError: if a file is no skill bank.
    """
    result = []
    for path in paths:
        bank = load_bank(Path(path))
        kind = kind_of(bank)
        result += [SkillGroup(fspath(path), kind, group) for group in bank.groups() if group.skills]
    return result


def kind_of(bank: SkillBank) -> str:
    """Which kind of environment a bank speaks of ("household", "search", "shopping"), "" if of none."""
    words = re.findall(r"[a-z]+", " ".join(s.text for group in bank.groups() for s in group.skills).lower())
    counts = {kind: sum(word in known for word in words) for kind, known in _WORDS.items()}
    best = max(counts, key=lambda kind: counts[kind])
    return best if counts[best] else ""


def skill_key(text: str) -> str:
    """A skill's principle without case, punctuation and spacing: equal for texts that are the same skill."""
    return " ".join(re.findall(r"\w+", text.casefold()))


@functools.cache
def load_environments() -> tuple[KnownFacts, ...]:
    """The invented environments that come with masa.

    Raises:
        TrainingError: if the file names an unknown split or kind.
    """
    import json

    path = Path(__file__).with_name("environments.yaml")
    result = []
    for entry in parse_yaml(read_text(path)):
        if entry["split"] not in SPLITS or entry["kind"] not in _WORDS:
            raise TrainingError(f"{path}: unknown split or kind in {entry['facts']['environment']!r}; correct it")
        facts = loads_facts(json.dumps(entry["facts"]), str(path), as_json=True)
        result.append(KnownFacts(entry["kind"], entry["split"], facts))
    return tuple(result)
