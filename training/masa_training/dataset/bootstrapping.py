"""The bootstrap corpus as the samples of a data set: skills of banks, split so that no text is on two sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import fspath
from random import Random

from masa.skills import Group
from masa_training.bootstrap import CorpusConfig, SkillGroup, build, skill_groups
from masa_training.bootstrap.environments import skill_key
from masa_training.dataset.cells import Omissions
from masa_training.dataset.config import DatasetConfig, Places
from masa_training.errors import TrainingError
from masa_training.samples import Sample
from masa_training.settings import make


def bootstrap_samples(config: DatasetConfig, places: Places) -> dict[str, tuple[Sample, ...]]:
    """The samples by split. Skills are held out as `Sources` says; a sample's origin is its bank as configured.

    Raises:
        TrainingError: if a setting is wrong, a split is left without skills, or two splits share anything.
        FormatError: if a bank cannot be read.
    """
    if "seed" in config.bootstrap:
        raise TrainingError("bootstrap.seed: the data set has one seed; set `seed` instead")
    settings = make(CorpusConfig, {**config.bootstrap, "seed": config.seed}, "bootstrap")
    sources = config.sources
    training = _groups(sources.train_skills, places)
    if sources.test_skills:
        test = _groups(sources.test_skills, places)
    else:
        training, test = _hold_out(training, sources.test_share, f"{config.seed}/test")
    training, validation = _hold_out(training, sources.validation_share, f"{config.seed}/validation")
    corpus = build(settings, {"train": training, "validation": validation, "test": test})
    return {split: tuple(samples) for split, samples in corpus.items()}


def without_held_out(
    splits: Mapping[str, Sequence[Sample]], corpus: Mapping[str, Sequence[Sample]], omissions: Omissions
) -> dict[str, tuple[Sample, ...]]:
    """The samples of runs beside a corpus, without those that share a skill with what that corpus holds out."""
    order = ("train", "validation", "test")
    kept: dict[str, tuple[Sample, ...]] = {}
    for place, split in enumerate(order):
        hidden = {key for later in order[place + 1 :] for sample in corpus[later] for key in _skills(sample)}
        kept[split] = tuple(sample for sample in splits[split] if not hidden & _skills(sample))
        for sample in splits[split]:
            if hidden & _skills(sample):
                omissions.add("a skill that the bootstrap corpus holds out", sample.id)
    return kept


def _skills(sample: Sample) -> set[str]:
    return {skill_key(skill.principle) for skill in sample.request.group.skills}


def _hold_out(groups: Sequence[SkillGroup], share: float, seed: str) -> tuple[list[SkillGroup], list[SkillGroup]]:
    """What remains, and whole groups that were held out: about `share` of them, at least one.

    Whole ones, so that held-out prompts are as long as those of training. A skill of theirs that other groups repeat is
    taken out of those.
    """
    count = max(1, round(share * len(groups)))
    chosen = set(Random(seed).sample(range(len(groups)), min(count, len(groups))))
    held = [group for place, group in enumerate(groups) if place in chosen]
    texts = {skill_key(skill.principle) for entry in held for skill in entry.group.skills}
    rest = []
    for place, entry in enumerate(groups):
        skills = tuple(skill for skill in entry.group.skills if skill_key(skill.principle) not in texts)
        if place not in chosen and skills:
            rest.append(entry._replace(group=Group(entry.group.task_type, skills)))
    if not rest:
        raise TrainingError(f"holding out {share:.0%} of {len(groups)} groups of skills leaves none; give more banks")
    return rest, held


def _groups(paths: Sequence[str], places: Places) -> list[SkillGroup]:
    groups: list[SkillGroup] = []
    for path in paths:
        # The file as the configuration spells it: the same on every machine.
        groups += [group._replace(origin=path) for group in skill_groups([fspath(places.resolve(path))])]
    return groups
