"""The corpus: trees of one group and several contrasting cards, and the plan that the rules give for each.

Its skills are groups of published banks, its facts those of invented environments. Its splits share no wording,
behaviour or skill, which is checked.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

from masa.edits import Plan, apply_plan
from masa.facts import Facts, loads_facts
from masa.files import parse_yaml, read_text
from masa.formats import load_bank
from masa.guard import check
from masa.languages import render_plan
from masa.prompt import INSTRUCTIONS, Request
from masa.skills import Group, SkillBank
from masa_training.bootstrap.behaviours import SPLITS, Vocabulary, check_vocabulary, load_vocabulary, wording_pattern
from masa_training.bootstrap.cards import TAKEN_BACK, GeneratedCard, Kind, make_card
from masa_training.bootstrap.rules import choices_of, needs_of, plan_for
from masa_training.errors import TrainingError
from masa_training.samples import Sample
from masa_training.settings import Count, Positive, Share, settings

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


Corpus = dict[str, list[Sample]]
"""Samples by split."""

_TRIES = 40
_PARTS = 3


@settings
class CorpusConfig:
    """How much to generate.

    Attributes:
        seed: everything random follows from it.
        train, validation, test: trees of each split.
        cards_per_group: samples of a tree.
        most_skills: skills of a group that is not taken whole. Few, so that most of what is learned from is cards.
        most_characters: text of a group, beyond which skills at its end are left out. It bounds the prompt.
        whole_share: share of the trees that take a group as it stands.
        facts_share: share of the trees that are given interface facts of the group's kind of environment.
        short_share: share of the cards that leave the architecture out, as a person would write one.
        taken_back: share of the profiled training cards with a strength that takes back what size or tuning may
            suggest.
        contradicted: share of the profiled training cards of tiny and small readers with strengths against what
            their size suggests. Validation and test are the same whatever these two are.
        profile_first: whether weaknesses that ask for an edit leave nothing to size or tuning, in all splits.

    Raises:
        TrainingError: if a value is out of range.
    """

    seed: Count = 0
    train: Count = 500
    validation: Count = 24
    test: Count = 40
    cards_per_group: Positive = 16
    most_skills: Positive = 3
    most_characters: Count = 3200
    whole_share: Share = 0.06
    facts_share: Share = 0.5
    short_share: Share = 0.75
    taken_back: Share = TAKEN_BACK
    contradicted: Share = 0.0
    profile_first: bool = False


def build(
    config: CorpusConfig,
    groups: Mapping[str, Sequence[SkillGroup]],
    facts: Sequence[KnownFacts] | None = None,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """Samples of the splits "train", "validation" and "test".

    Args:
        groups: skill groups of each split that has trees; no skill may be in two splits.
        facts: interface facts to give; by default those that come with masa.
        vocabulary: what cards say; by default the one that comes with masa.

    A plan that the guard would refuse is not taught: another card is drawn in its place.

    Raises:
        TrainingError: if a split has no groups, two splits share words, behaviours or skills, or no card is
            found whose plan passes the guard.
    """
    known = load_environments() if facts is None else facts
    words = vocabulary or load_vocabulary()
    check_groups({split: groups.get(split, ()) for split in SPLITS if getattr(config, split)})
    corpus: Corpus = {}
    for split in SPLITS:
        trees = getattr(config, split)
        if trees and not groups.get(split):
            raise TrainingError(f"bootstrap corpus: no skill groups for the {split} split; name banks or set it to 0")
        corpus[split] = [
            sample
            for tree in range(trees)
            for sample in _tree(config, split, tree, groups[split], [f for f in known if f.split == split], words)
        ]
    check_disjoint(corpus, words)
    return corpus


def edit_counts(samples: Iterable[Sample]) -> Counter[str]:
    """How often each edit and warning is asked for; an edit counts once a line, `+ warn KIND` a warning."""
    counts: Counter[str] = Counter()
    for sample in samples:
        for line in sample.target.split("\n"):
            number, *words = line.split(" ")
            counts.update(["+ " + " ".join(words)] if number == "+" else [w for w in words if w.isalpha() or "-" in w])
    return counts


def _tree(
    config: CorpusConfig,
    split: str,
    tree: int,
    groups: Sequence[SkillGroup],
    known: Sequence[KnownFacts],
    vocabulary: Vocabulary,
) -> list[Sample]:
    rng = random.Random(f"bootstrap/{config.seed}/{split}/{tree}")
    chosen = rng.choices(groups, [len(entry.group) for entry in groups])[0]
    fitting = [entry.facts for entry in known if entry.kind == chosen.environment]
    facts = rng.choice(fitting) if fitting and rng.random() < config.facts_share else None
    # The skills decide what a card can ask for, so of some parts the one is taken that admits most.
    group = max((_part(rng, chosen.group, config) for _ in range(_PARTS)), key=lambda part: choices_of(part, facts))
    name = f"{split}-{tree:04}"
    samples: list[Sample] = []
    for number, (kind, size) in enumerate(_kinds(rng, config.cards_per_group)):
        short = rng.random() < config.short_share
        taken = {sample.target for sample in samples}
        card, plan = _card(rng, config, vocabulary, split, kind, size, short, group, facts, taken)
        samples.append(
            Sample(
                id=f"bootstrap-{name}-{number}",
                request=Request(group, card.fields, facts=facts),
                language="plan",
                target=render_plan(plan),
                backbone=card.name,
                source="bootstrap",
                synthetic=True,
                origin=chosen.origin,
                tags=_tags(card, kind, split, name, needs_of(card.traits, profile_first=config.profile_first)),
            )
        )
    return samples


def _part(rng: random.Random, group: Group, config: CorpusConfig) -> Group:
    """The group as it stands, some neighbours, or some skills from all over it; never too much text."""
    skills = group.skills
    if len(skills) > 1 and rng.random() >= config.whole_share:
        count = rng.randint(1, min(config.most_skills, len(skills)))
        start = rng.randint(0, len(skills) - count)
        places = range(start, start + count) if rng.random() < 0.6 else sorted(rng.sample(range(len(skills)), count))
        skills = tuple(skills[place] for place in places)
    while len(skills) > 1 and sum(len(skill.text) for skill in skills) > config.most_characters:
        skills = skills[:-1]
    return Group(group.task_type, skills)


def _kinds(rng: random.Random, count: int) -> list[tuple[Kind, str]]:
    """The kinds and sizes of the cards of a tree: some without weaknesses, of different sizes, the others profiled."""
    plain: list[tuple[Kind, str]] = [("plain", "large"), ("plain", "tiny"), ("plain", "small"), ("strong", "")]
    wanted = [plain[i % len(plain)] for i in range(max(1, count // 4))]
    wanted += [("profiled", "")] * (count - len(wanted))
    rng.shuffle(wanted)
    return wanted


def _card(
    rng: random.Random,
    config: CorpusConfig,
    vocabulary: Vocabulary,
    split: str,
    kind: Kind,
    size: str,
    short: bool,
    group: Group,
    facts: Facts | None,
    taken: set[str],
) -> tuple[GeneratedCard, Plan]:
    """A card whose plan passes the guard, with a plan that no other card of the tree has if that can be found."""
    found: tuple[GeneratedCard, Plan] | None = None
    strengths = {"taken_back": config.taken_back, "contradicted": config.contradicted} if split == "train" else {}
    for _ in range(_TRIES):
        new = split == "test" and rng.random() < 0.4
        card = make_card(rng, vocabulary, split, kind, size=size, short=short, new_behaviours=new, **strengths)
        plan = plan_for(card.traits, group, facts, profile_first=config.profile_first)
        if render_plan(plan) in taken and found:
            continue
        planned = apply_plan(group, plan, facts)
        if not check(group, planned.group, facts=facts, prompt_text=INSTRUCTIONS["plan"], plan=planned):
            found = (card, plan)
            if render_plan(plan) not in taken:
                return found
    if found is None:
        raise TrainingError(
            f"bootstrap corpus: no generated card gives the {group.key} group a plan that the guard lets through; "
            "take its bank out"
        )
    return found


def _tags(card: GeneratedCard, kind: Kind, split: str, tree: str, needs: Sequence[str]) -> dict[str, str]:
    seen = "seen" if split == "train" else "unseen"
    words = bool({"strengths", "weaknesses"} & set(card.fields))
    shown = "none"
    if card.behaviours:
        shown = "seen" if all(behaviour.known for behaviour in card.behaviours) else "unseen"
    return {
        "tree": tree,
        "kind": kind,
        "size": card.traits.size,
        "needs": ",".join(needs),
        "wordings": seen if words else "none",
        "behaviours": shown,
        "said": ",".join(behaviour.name for behaviour in card.behaviours),
        "skills": seen,
    }
