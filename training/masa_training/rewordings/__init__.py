"""The corpus of rewordings: skills written for it by hand, what each operation makes of them, and a check of both.

One YAML file a field of work. An entry is a skill (`text`, and `when` it applies), the `facts` that every rewording
has to say, and one text for each operation that suits it. `facts` are a checklist: alternatives after `|`, looked for
as they are, without regard to case. `wrong` holds counter-examples: one operation with a fluent text that loses or
invents one thing. `merge` joins the skill with an earlier one.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.files import parse_yaml, read_text
from masa.guard import check
from masa.languages import ParseError
from masa.rewording import wording_request
from masa.skills import Group, Skill
from masa.wording import OPERATIONS, SEPARATOR, Operation, losses, most_words, parse_wording
from masa_training.errors import TrainingError
from masa_training.samples import Sample
from masa_training.settings import Count, Share, settings

FOLDER = Path(__file__).parent
_TITLE = "Rule"
"""A skill needs one; it is not shown to the rewriter."""
_KEYS = frozenset({"id", "when", "text", "facts", "merge", "wrong", *OPERATIONS})


@dataclass(frozen=True, slots=True)
class Wrong:
    """A counter-example: an operation's text that is faulty in one thing, and which."""

    operation: str
    text: str
    fault: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One skill of the corpus.

    Attributes:
        field: of work, the name of its file.
        facts: the checklist; each fact is its alternative spellings.
        texts: by operation the answer, in the form of `masa.wording`.
        other: of `merge`, the skill that it is merged with.
    """

    id: str
    field: str
    when: str
    text: str
    facts: tuple[tuple[str, ...], ...]
    texts: Mapping[str, str]
    wrong: tuple[Wrong, ...] = ()
    other: Entry | None = dataclasses.field(default=None, repr=False)

    @property
    def skill(self) -> Skill:
        return Skill(self.id, _TITLE, self.text, self.when)

    def sources(self, operation: str) -> tuple[Entry, ...]:
        """The skills that an operation takes: this one, for `merge` the earlier one first."""
        return (self.other, self) if OPERATIONS[operation].sources == 2 and self.other is not None else (self,)


def fields() -> tuple[str, ...]:
    """The fields of work that come with masa."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_field(name: str) -> tuple[Entry, ...]:
    """The entries of one field.

    Raises:
        TrainingError: if there is no such field, or an entry is not of the form above.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise TrainingError(f"no field {name!r} in the corpus of rewordings; there are: {', '.join(fields())}")
    entries: dict[str, Entry] = {}
    for value in parse_yaml(read_text(path)):
        entry = _entry(value, name, entries, f"{path.name}, {value.get('id', 'an entry without id')}")
        entries[entry.id] = entry
    return tuple(entries.values())


def _entry(value: Mapping[str, Any], name: str, earlier: Mapping[str, Entry], where: str) -> Entry:
    if unknown := value.keys() - _KEYS:
        raise TrainingError(f"{where}: unknown key {sorted(unknown)[0]!r}; an entry has {', '.join(sorted(_KEYS))}")
    if value["id"] in earlier:
        raise TrainingError(f"{where}: another entry has this id")
    texts = {}
    for operation in OPERATIONS:
        if operation in value and operation != "merge":
            given = value[operation]
            texts[operation] = f"\n{SEPARATOR}\n".join(map(_tidy, given)) if isinstance(given, list) else _tidy(given)
    other = None
    if "merge" in value:
        other = earlier.get(value["merge"]["with"])
        if other is None:
            raise TrainingError(f"{where}: merge: no earlier entry {value['merge']['with']!r}")
        texts["merge"] = _tidy(value["merge"]["text"])
    wrong = []
    for item in value.get("wrong", ()):
        (operation,) = item.keys() - {"fault"}
        given = item[operation]
        text = f"\n{SEPARATOR}\n".join(map(_tidy, given)) if isinstance(given, list) else _tidy(given)
        wrong.append(Wrong(operation, text, item["fault"]))
    facts = tuple(tuple(part.strip() for part in str(fact).split("|") if part.strip()) for fact in value["facts"])
    return Entry(value["id"], name, value.get("when", ""), _tidy(value["text"]), facts, texts, tuple(wrong), other)


def _tidy(text: str) -> str:
    """Without blanks at line ends and at the edges, paragraphs one empty line apart."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.strip().split("\n")))


def missing_facts(entry: Entry, text: str) -> tuple[str, ...]:
    """The facts of an entry's checklist that a text does not state, each by its first spelling."""
    said = _plain(f"{text} {entry.when}")
    return tuple(fact[0] for fact in entry.facts if not any(_plain(one) in said for one in fact))


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("’", "'").split())


def faults(entry: Entry) -> Iterator[str]:
    """What is wrong with an entry, by the checklist, the contracts of the operations and the guard."""
    if missing := missing_facts(entry, entry.text):
        yield f"{entry.id}: its own text does not state {missing[0]!r}"
    for name, answer in entry.texts.items():
        operation, sources = OPERATIONS[name], entry.sources(name)
        texts = [source.text for source in sources]
        where = f"{entry.id}, {name}"
        try:
            parts = parse_wording(answer, operation)
        except ParseError as error:
            yield f"{where}: {error}"
            continue
        if len(answer.split()) > most_words(operation, texts):
            yield f"{where}: {len(answer.split())} words, at most {most_words(operation, texts)}"
        said = "\n\n".join((*texts, *parts)) if operation.appended else "\n\n".join(parts)
        if " ".join(said.split()) == " ".join(" ".join(texts).split()):
            yield f"{where}: nothing has changed"
        for source in sources:
            yield from (f"{where}: does not say {fact!r}" for fact in missing_facts(source, said))
        yield from (f"{where}: lost {span!r}" for span in losses(operation, texts, answer))
        before = Group(None, tuple(source.skill for source in sources))
        made = (said,) if operation.appended else parts
        after = Group(None, tuple(Skill(f"{entry.id}-{i}", _TITLE, part, entry.when) for i, part in enumerate(made)))
        yield from (f"{where}: {violation.rule}: {violation.message}" for violation in check(before, after))


@settings
class RewordingsConfig:
    """Which of the corpus becomes which split.

    Attributes:
        test, validation: fields of work held out; the others are for training.
        pairs: most pairs of training, chosen by the seed; 0 takes all.
        named: share of training pairs in which one or two facts are named as what must be kept, which is what a second
            attempt does with what the first one lost.
    """

    test: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    pairs: Count = 0
    named: Share = 0.25


def rewording_samples(config: RewordingsConfig, seed: int) -> dict[str, tuple[Sample, ...]]:
    """The samples by split: skill and operation, and the text to write.

    Raises:
        TrainingError: if a held-out field is unknown or in both.
    """
    held = {**dict.fromkeys(config.validation, "validation"), **dict.fromkeys(config.test, "test")}
    for name in held:
        load_field(name)
    if both := set(config.test) & set(config.validation):
        raise TrainingError(f"rewordings: the field {min(both)!r} is for test and for validation; choose one")
    found: dict[str, list[Sample]] = {"train": [], "validation": [], "test": []}
    for name in fields():
        split = held.get(name, "train")
        for entry in load_field(name):
            for operation, answer in entry.texts.items():
                draw = random.Random(f"{seed}/{entry.id}/{operation}")
                name_some = split == "train" and draw.random() < config.named
                found[split].append(_sample(entry, OPERATIONS[operation], answer, draw if name_some else None))
    if config.pairs:
        random.Random(f"{seed}/pairs").shuffle(found["train"])
        del found["train"][config.pairs :]
    return {split: tuple(samples) for split, samples in found.items()}


def _sample(entry: Entry, operation: Operation, answer: str, draw: random.Random | None) -> Sample:
    sources = entry.sources(operation.name)
    return Sample(
        id=f"{entry.id}/{operation.name}",
        request=wording_request([source.skill for source in sources], operation.name, _named(sources, answer, draw)),
        language="wording",
        target=answer,
        backbone="",
        source="rewordings",
        origin=f"rewordings/{entry.field}.yaml",
        tags={"operation": operation.name, "field": entry.field},
    )


def _named(sources: Sequence[Entry], answer: str, draw: random.Random | None) -> tuple[str, ...]:
    """One or two facts in words that the source and the answer share."""
    if draw is None:
        return ()
    facts = [one for source in sources for fact in source.facts for one in fact]
    shared = [one for one in facts if one in answer and any(one in source.text for source in sources)]
    return tuple(draw.sample(shared, min(len(shared), draw.choice((1, 2)))))
