"""Building a data set: read, split, make samples, check, deduplicate, measure with the tokenizer of the base model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import fspath
from random import Random
from typing import Any, Protocol

from masa.backends.tokenizing import Tokenizer
from masa.cards import load_card
from masa.prompt import PROMPT_VERSION, ChatTemplate
from masa.skills import Group
from masa_training.bootstrap import CorpusConfig, SkillGroup, build, skill_groups
from masa_training.bootstrap.corpus import skill_key
from masa_training.dataset.cells import EvolvedCell, Found, Omissions, describe, read_published
from masa_training.dataset.config import RUN, DatasetConfig, Holdout, Places
from masa_training.dataset.folder import SPLITS, Dataset, DatasetInfo, encoded_files
from masa_training.dataset.holdouts import check_leaks, check_targets, may_read, split_cells, texts_of, without_shared
from masa_training.dataset.pairs import plan_samples, text_samples
from masa_training.dataset.runs import read_runs
from masa_training.encoding import encode
from masa_training.errors import TrainingError
from masa_training.rewordings import RewordingsConfig, rewording_samples
from masa_training.samples import Sample, messages
from masa_training.settings import make

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and of how much."""


def build_dataset(config: DatasetConfig, places: Places, base: Base, *, progress: Progress | None = None) -> Dataset:
    """The data set that the configuration describes; the same configuration and files give the same one.

    `base` is the model that tokens are counted with.

    Raises:
        TrainingError: for missing data, a hold-out that leaves nothing or leaks, a sample longer than the context.
        FormatError: if a bank or run cannot be read.
    """
    say: Progress = progress or _silent
    omissions = Omissions()
    cards: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    splits: dict[str, tuple[Sample, ...]] = dict.fromkeys(SPLITS, ())
    if config.kind not in ("bootstrap", "rewordings"):
        cells = _read(config, places, omissions, say)
        cards = {cell.cell.backbone: dict(cell.card) for cell in cells}
        origins = {cell.origin: cell.licence for cell in cells}
        by_split = _split(config, cells)
        if config.language == "plan":
            by_split = without_shared(by_split, omissions)
        check_targets(by_split, config.language)
        for split in SPLITS:
            splits[split] = tuple(_samples(config, split, by_split, omissions, say))
        check_leaks(by_split, splits, config.language)
    if config.kind in ("bootstrap", "mixed"):
        say("Generating samples", 0, 0)
        generated = bootstrap_samples(config, places)
        used = dict.fromkeys(sample.origin for samples in generated.values() for sample in samples)
        origins |= dict.fromkeys([config.sources.origin] if config.sources.origin else used, config.sources.licence)
        found = without_held_out(splits, generated, omissions)
        splits = {split: (*found[split], *generated[split]) for split in SPLITS}
    if config.kind == "rewordings":
        splits |= rewording_samples(make(RewordingsConfig, config.rewordings, "rewordings"), config.seed)
        origins |= {sample.origin: "Apache-2.0" for split in SPLITS for sample in splits[split]}
    final = {split: _ordered(_deduplicated(samples, omissions), config.seed) for split, samples in splits.items()}
    _check_whole(final)
    for split, name in (("train", "training"), ("test", "test")):
        if not final[split]:
            raise TrainingError(f"no {name} samples are left; see what was left out: {_told(omissions)}")
    tokens = _tokens(final, base, config.context_length, say)
    samples = [sample for split in SPLITS for sample in final[split]]
    synthetic = any(sample.synthetic for sample in samples)
    info = DatasetInfo(
        name=config.name,
        language=config.language,
        prompt_version=PROMPT_VERSION,
        seed=config.seed,
        synthetic=synthetic,
        context_length=config.context_length,
        summary=_summary(config, final, synthetic),
        licence="; ".join(dict.fromkeys(origins.values())) or "unknown",
        origins=origins,
        config=_plain(config.to_json()),
        holdouts=_holdouts(config),
        files=encoded_files(final)[1],
        cards=cards,
        tokens=tokens,
        left_out={reason: list(names) for reason, names in omissions.as_mapping().items()},
    )
    return Dataset(info, final["train"], final["validation"], final["test"])


def _split(config: DatasetConfig, cells: Sequence[EvolvedCell]) -> dict[str, tuple[EvolvedCell, ...]]:
    """As `split_cells`; beside a bootstrap corpus, which has a test of its own, nothing has to be held out."""
    if config.kind == "mixed" and not any(any(asdict(part).values()) for part in _parts(config)):
        return {**dict.fromkeys(SPLITS, ()), "train": tuple(cells)}
    return split_cells(cells, config.holdouts)


def _parts(config: DatasetConfig) -> tuple[Holdout, Holdout]:
    return config.holdouts.test, config.holdouts.validation


def _silent(doing: str, done: int, total: int) -> None:
    pass


def _read(config: DatasetConfig, places: Places, omissions: Omissions, say: Progress) -> list[EvolvedCell]:
    """All cells of all sources; every environment, backbone, group and start once."""
    cells: list[EvolvedCell] = []
    total = len(config.sources.banks) + len(config.sources.runs)
    cards = {name: load_card(places.resolve(path)).fields() for name, path in config.sources.cards.items()}
    readers: list[Callable[[], Found]] = [partial(read_published, banks, places) for banks in config.sources.banks]
    readers += [
        partial(
            read_runs,
            places.resolve(run),
            f"the run of masa evolve in {config.name}" if run == RUN else run,
            # As texts, two readers' unchanged groups would be one target.
            kept=config.language == "plan",
            cards=cards,
        )
        for run in config.sources.runs
    ]
    for number, read in enumerate(readers):
        say("Reading", number, total)
        found = read()
        cells += found.cells
        omissions.merge(found.left_out)
    if unknown := cards.keys() - {cell.cell.backbone for cell in cells}:
        raise TrainingError(f"sources.cards names {', '.join(sorted(unknown))}, for which there is no cell; correct it")
    known: dict[Any, list[EvolvedCell]] = {}
    for place, cell in enumerate(cells):
        starts = known.setdefault(cell.cell, [])
        for other in starts:
            if texts_of(other.base) == texts_of(cell.base):
                raise TrainingError(
                    f"{describe(cell.cell)} is in two sources, {other.origin} and {cell.origin}; leave one of them out"
                )
        starts.append(cell)
        cells[place] = replace(cell, start=len(starts))
    if not cells and config.kind != "mixed":
        raise TrainingError(f"no data: the sources have no evolved group; left out: {_told(omissions)}")
    return cells


def _samples(
    config: DatasetConfig,
    split: str,
    by_split: Mapping[str, Sequence[EvolvedCell]],
    omissions: Omissions,
    say: Progress,
) -> list[Sample]:
    """The samples of one split, cell by cell."""
    training = split == "train"
    counts = config.samples if training else config.held_out_samples
    card_variants = config.card_variants if training else ("full",)
    visible = [cell for giver, cells in by_split.items() if may_read(split, giver) for cell in cells]
    samples: list[Sample] = []
    for number, cell in enumerate(by_split[split]):
        say(f"Making {split} samples", number, len(by_split[split]))
        if config.language == "plan":
            samples += plan_samples(cell, counts, seed=config.seed, card_variants=card_variants, omissions=omissions)
            continue
        others = [o for o in visible if o.cell.environment == cell.cell.environment and o.cell.group == cell.cell.group]
        samples += text_samples(
            cell,
            others,
            counts,
            config.augmentation,
            seed=config.seed,
            card_variants=card_variants,
            omissions=omissions,
        )
    return samples


def _deduplicated(samples: Sequence[Sample], omissions: Omissions) -> list[Sample]:
    """Without those whose rendered conversation, prompt and target, an earlier one has."""
    kept: dict[str, Sample] = {}
    for sample in samples:
        if kept.setdefault(_rendered(sample), sample) is not sample:
            omissions.add("the same prompt and target as another sample", sample.id)
    return list(kept.values())


def _ordered(samples: list[Sample], seed: int) -> tuple[Sample, ...]:
    Random(f"{seed}/order").shuffle(samples)
    return tuple(samples)


def _check_whole(splits: Mapping[str, Sequence[Sample]]) -> None:
    """No two samples have one id, and no conversation is in two splits."""
    ids: set[str] = set()
    conversations: dict[str, tuple[str, Sample]] = {}
    for split, samples in splits.items():
        for sample in samples:
            try:
                conversation = _rendered(sample)
                conversation.encode("utf-8")
            except UnicodeEncodeError:
                raise TrainingError(
                    f"sample {sample.id}: half of a surrogate pair in its text, which no file can hold; "
                    f"correct it in {sample.origin}"
                ) from None
            if sample.id in ids:
                raise TrainingError(f"two samples are called {sample.id}; give the sources different names")
            ids.add(sample.id)
            where, other = conversations.setdefault(conversation, (split, sample))
            if other is not sample:
                raise TrainingError(
                    f"leak: samples {other.id} ({where}) and {sample.id} ({split}) have the same prompt and target; "
                    "leave one of their sources out"
                )


def _rendered(sample: Sample) -> str:
    return json.dumps(messages(sample), ensure_ascii=False)


def _tokens(splits: Mapping[str, Sequence[Sample]], base: Base, context_length: int, say: Progress) -> dict[str, Any]:
    everything = [sample for split in SPLITS for sample in splits[split]]
    measured = lengths(everything, base, context_length, lambda done: say("Counting tokens", done, len(everything)))
    told: dict[str, Any] = {"base": base.name, "spec": base.spec}
    place = 0
    for split in SPLITS:
        told[split] = dict(summarized(measured[place : place + len(splits[split])]))
        place += len(splits[split])
    return told


def _summary(config: DatasetConfig, splits: Mapping[str, Sequence[Sample]], synthetic: bool) -> str:
    """One sentence for a manifest."""
    train = splits["train"]
    if config.kind == "bootstrap":
        return (
            f"{len(train)} synthetic samples of the bootstrap corpus {config.name}: generated model cards, real skill "
            "texts, and plans that follow from the cards by stated rules, not from results in an environment."
        )
    found = [sample for sample in train if not sample.synthetic] if config.kind == "mixed" else train
    if config.kind == "rewordings":
        held = ", ".join(sorted({sample.tags["field"] for sample in splits["test"]}))
        return (
            f"{len(train)} rewordings of skills, written by hand, of the data set {config.name}; the fields of work "
            f"{held} are held out."
        )
    environments = ", ".join(sorted({sample.environment for sample in found}))
    backbones = ", ".join(sorted({sample.backbone for sample in found}))
    if config.kind == "mixed":
        of = f" (environments {environments}; backbones {backbones})" if found else ""
        return (
            f"{len(train)} plan samples of the data set {config.name}: {len(found)} from recorded searches{of}, "
            f"{len(train) - len(found)} synthetic ones of a bootstrap corpus, whose cards are generated and whose "
            "plans follow from these by stated rules, not from results in an environment."
        )
    where = "published banks" if config.kind == "published" else "recorded searches"
    marked = " (synthetic in part)" if synthetic else ""
    return (
        f"{len(train)} {config.language} samples{marked} of the data set {config.name} from {where}: environments "
        f"{environments}; backbones {backbones}."
    )


def _holdouts(config: DatasetConfig) -> dict[str, Any]:
    """What is held out, as JSON values: cells, or the skills of a bootstrap corpus."""
    declared = dict(_plain(asdict(config.holdouts)))
    if config.kind == "rewordings":
        chosen = make(RewordingsConfig, config.rewordings, "rewordings")
        return {"test": {"fields": list(chosen.test)}, "validation": {"fields": list(chosen.validation)}}
    if config.kind not in ("bootstrap", "mixed"):
        return declared
    sources = config.sources
    shares = {"test": sources.test_share, "validation": sources.validation_share}
    told = {split: {"skills": [f"{share:.0%} of the groups of training's banks"]} for split, share in shares.items()}
    if sources.test_skills:
        told["test"] = {"skills": list(sources.test_skills)}
    return {split: {**declared[split], **its} for split, its in told.items()} if config.kind == "mixed" else told


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    return json.loads(json.dumps(value, ensure_ascii=False))


def _told(omissions: Omissions) -> str:
    reasons = [f"{reason} ({len(names)})" for reason, names in omissions.as_mapping().items()]
    return "; ".join(reasons) or "nothing"


class Base(Protocol):
    """What is needed of `masa_training.bases.Base`."""

    @property
    def spec(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def context_length(self) -> int: ...

    @property
    def template(self) -> ChatTemplate: ...

    def tokenizer(self) -> Tokenizer: ...


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of one sample: of its prompt, and of its target with the token that ends it."""

    id: str
    prompt: int
    target: int

    @property
    def total(self) -> int:
        return self.prompt + self.target


def lengths(
    samples: Iterable[Sample], base: Base, context_length: int, progress: Callable[[int], None] | None = None
) -> list[Length]:
    """The length of every sample, in order. `progress` gets the number of samples that were counted.

    Raises:
        TrainingError: if the base has a shorter context, or samples do not fit: it names the longest one with both
            numbers. Nothing is ever cut.
    """
    if base.context_length < context_length:
        raise TrainingError(
            f"context_length is {context_length}, but {base.name} was made for {base.context_length} tokens; "
            "lower it or choose another base"
        )
    tokenizer = base.tokenizer()
    measured = []
    for number, sample in enumerate(samples, start=1):
        encoded = encode(sample, tokenizer, base.template)
        measured.append(Length(sample.id, len(encoded.prompt), len(encoded.target)))
        if progress is not None:
            progress(number)
    too_long = [length for length in measured if length.total > context_length]
    if too_long:
        worst = max(too_long, key=lambda length: length.total)
        raise TrainingError(
            f"sample {worst.id} has {worst.total} tokens ({worst.prompt} of the prompt, {worst.target} of the target), "
            f"context_length is {context_length}, and {len(too_long)} of {len(measured)} samples do not fit; "
            f"raise context_length to {worst.total} or lower the numbers of samples"
        )
    return measured


def summarized(measured: Sequence[Length]) -> Mapping[str, Any]:
    """p50, p95 (nearest rank) and maximum of prompt, target and both, and the id of the longest sample."""
    if not measured:
        return {}
    told: dict[str, Any] = {}
    for name in ("prompt", "target", "total"):
        values = sorted(int(getattr(length, name)) for length in measured)
        told[name] = {"p50": _rank(values, 50), "p95": _rank(values, 95), "max": values[-1], "sum": sum(values)}
    told["longest"] = max(measured, key=lambda length: length.total).id
    return told


def _rank(values: Sequence[int], percent: int) -> int:
    """The nearest-rank percentile of sorted values."""
    return values[max(0, -(-percent * len(values) // 100) - 1)]


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
