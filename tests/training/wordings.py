"""What banks of an environment in several wordings share: every fact. They differ in wording alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from masa.formats import load_bank
from masa.formats.bank_json import dump_bank
from masa.skills import SkillBank
from masa_training.agents import GENERAL, SPECIFIC

NUMBERED = re.compile(r"^\d\. \S", re.MULTILINE)
NEAR = 160
"""Characters within which the words of a fact stand, in their order."""

Fact = tuple[str, ...]


@dataclass(frozen=True)
class Wordings:
    """The banks of an environment.

    Attributes:
        names: of the wordings.
        facts: by skill, what its text must state: words that stand close together, or single ones.
        read_as: what a text is compared as, where another text stands in it.
    """

    environment: str
    names: Sequence[str]
    facts: Mapping[str, Sequence[Fact]]
    read_as: Mapping[str, str]

    @property
    def root(self) -> resources.abc.Traversable:
        return resources.files("masa_training.configs") / "banks" / self.environment

    def bank(self, wording: str) -> SkillBank:
        with resources.as_file(self.root / f"{wording}.json") as path:
            return load_bank(path)

    def texts(self, wording: str) -> dict[str, str]:
        return {skill.skill_id: skill.principle for g in self.bank(wording).groups() for skill in g.skills}

    def missing(self, texts: Mapping[str, str]) -> list[tuple[str, Fact]]:
        """Facts that the text of their skill does not state, its words one after the other, each as a whole word."""
        return [
            (skill, fact) for skill, facts in self.facts.items() for fact in facts if not self._in(texts[skill], fact)
        ]

    def _in(self, text: str, fact: Fact) -> bool:
        text = text.lower()
        for old, new in self.read_as.items():
            text = text.replace(old, new)
        pattern = rf"[\s\S]{{0,{NEAR}}}?".join(rf"(?<![\w:]){re.escape(word.lower())}(?![\w:]\d)" for word in fact)
        return re.search(pattern, text) is not None

    def check(self, task_types: Sequence[str], concise: int, moderate: tuple[int, int]) -> None:
        """Every bank states every fact, they differ in wording alone, and each wording is what it is called.

        `concise` is the most words of a concise skill, `moderate` the least and the most of a moderate one.
        """
        told = {wording: self.texts(wording) for wording in self.names}
        for wording, texts in told.items():
            assert list(texts) == list(self.facts)
            assert self.missing(texts) == [], wording
            bank = self.bank(wording)
            assert dump_bank(bank) == (self.root / f"{wording}.json").read_bytes()
            assert set(bank.task_specific) == set(task_types)
            assert len(bank.general) <= GENERAL
            assert all(len(skills) <= SPECIFIC for skills in bank.task_specific.values())
            steps = [len(NUMBERED.findall(text)) for text in texts.values()]
            assert all(count == 3 for count in steps) if wording == "stepwise" else not any(steps)
            examples = ["Example: " in text for text in texts.values()]
            assert all(examples) if wording == "examples" else not any(examples)
        heads = {
            tuple((g.key, s.skill_id, s.title, s.when_to_apply) for g in self.bank(wording).groups() for s in g.skills)
            for wording in self.names
        }
        assert len(heads) == 1
        assert all(len(set(row)) == len(self.names) for row in zip(*(t.values() for t in told.values()), strict=True))
        words = {wording: [len(text.split()) for text in texts.values()] for wording, texts in told.items()}
        assert max(words["concise"]) <= concise
        assert min(words["moderate"]) >= moderate[0] and max(words["moderate"]) <= moderate[1]
