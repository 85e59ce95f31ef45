"""The corpus: trees of one group and several contrasting cards, and the plan that the rules give for each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from masa.edits import Plan, apply_plan
from masa.facts import Facts
from masa.guard import check
from masa.languages import render_plan
from masa.prompt import INSTRUCTIONS, Request
from masa.skills import Group
from masa_training.bootstrap.behaviours import SPLITS, Vocabulary, load_vocabulary
from masa_training.bootstrap.cards import TAKEN_BACK, GeneratedCard, Kind, make_card
from masa_training.bootstrap.environments import KnownFacts, SkillGroup, load_environments
from masa_training.bootstrap.leaks import check_disjoint, check_groups
from masa_training.bootstrap.rules import choices_of, needs_of, plan_for
from masa_training.errors import TrainingError
from masa_training.samples import Sample
from masa_training.settings import Count, Positive, Share, settings

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
