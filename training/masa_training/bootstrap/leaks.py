"""Whether the splits of a bootstrap corpus are what they claim: no shared wording, behaviour or skill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from masa_training.bootstrap.behaviours import SPLITS, Vocabulary, check_vocabulary, load_vocabulary, wording_pattern
from masa_training.bootstrap.environments import SkillGroup, skill_key
from masa_training.errors import TrainingError
from masa_training.samples import Sample


def check_disjoint(corpus: Mapping[str, Sequence[Sample]], vocabulary: Vocabulary | None = None) -> None:
    """Check the samples themselves, whatever made them.

    A split's cards may say only wordings of that split; a behaviour that is for the test split is in no other,
    and behaviours tagged as unseen are in no training sample; a skill (by its principle), a card's family and the
    facts of an environment are in one split only.

    Raises:
        TrainingError: naming the first thing that is in two splits, and the samples.
    """
    words = vocabulary or load_vocabulary()
    check_vocabulary(words)
    _check_owners(corpus)
    _check_behaviours(corpus, words)
    _check_wordings(corpus, words)


def check_groups(groups: Mapping[str, Sequence[SkillGroup]]) -> None:
    """Check that no skill is in the groups of two splits, before anything is made of them.

    Raises:
        TrainingError: naming the skill and the two files.
    """
    owners: dict[str, tuple[str, str]] = {}
    for split, entries in groups.items():
        for origin, _, group in entries:
            for skill in group.skills:
                owner, first = owners.setdefault(skill_key(skill.principle), (split, origin))
                if owner != split:
                    raise TrainingError(
                        f"bootstrap corpus: the skill {skill.title!r} is in {owner} ({first}) and in {split} "
                        f"({origin}); give the splits different banks"
                    )


def _check_owners(corpus: Mapping[str, Sequence[Sample]]) -> None:
    owners: dict[tuple[str, str], tuple[str, str]] = {}
    for split, samples in corpus.items():
        for sample in samples:
            facts = sample.request.facts
            things = {("skill", skill_key(skill.principle)) for skill in sample.request.group.skills}
            things.add(("family", str(sample.request.card.get("family", sample.backbone))))
            things |= {("environment", facts.environment)} if facts else set()
            for thing in things:
                owner, first = owners.setdefault(thing, (split, sample.id))
                if owner != split:
                    kind, text = thing
                    raise TrainingError(
                        f"bootstrap corpus: the {kind} {text[:60]!r} is in {owner} ({first}) and in {split} "
                        f"({sample.id}); give the splits different banks"
                    )


def _check_behaviours(corpus: Mapping[str, Sequence[Sample]], vocabulary: Vocabulary) -> None:
    known = {b.name for behaviours in vocabulary.behaviours.values() for b in behaviours if b.known}
    said = {
        split: {name: s for s in samples for name in s.tags.get("said", "").split(",") if name}
        for split, samples in corpus.items()
    }
    for split, shown in said.items():
        for name, sample in shown.items():
            if split != "test" and name not in known:
                raise TrainingError(
                    f"bootstrap corpus: the behaviour {name} of the test split is in {split} ({sample.id}); "
                    "build the corpus again"
                )
            if split == "test" and sample.tags.get("behaviours") == "unseen" and name in said.get("train", {}):
                raise TrainingError(
                    f"bootstrap corpus: the behaviour {name} of {sample.id} is tagged as unseen and is in train; "
                    "build the corpus again"
                )


def _check_wordings(corpus: Mapping[str, Sequence[Sample]], vocabulary: Vocabulary) -> None:
    patterns = {split: [(w, wording_pattern(w)) for w in vocabulary.wordings(split)] for split in SPLITS}
    for split, samples in corpus.items():
        texts: dict[str, str] = {}
        for sample in samples:
            for field in ("strengths", "weaknesses"):
                texts.setdefault(str(sample.request.card.get(field, "")), sample.id)
        everything = "\n".join(texts)
        for other in SPLITS:
            if other == split:
                continue
            for wording, pattern in patterns[other]:
                if pattern.search(everything):
                    where = next((i for text, i in texts.items() if pattern.search(text)), "")
                    raise TrainingError(
                        f"bootstrap corpus: the wording {wording!r} of the {other} split is in {split} ({where}); "
                        "build the corpus again"
                    )
