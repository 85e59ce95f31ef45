"""Building a data set: read, split, make samples, check, deduplicate, measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from random import Random
from typing import Any

from masa.cards import load_card
from masa.prompt import PROMPT_VERSION
from masa_training.dataset.cells import EvolvedCell, Found, Omissions, describe
from masa_training.dataset.config import RUN, DatasetConfig, Holdout, Places
from masa_training.dataset.folder import SPLITS, Dataset, DatasetInfo, encoded_files
from masa_training.dataset.holdouts import check_leaks, check_targets, may_read, split_cells, texts_of, without_shared
from masa_training.dataset.measuring import Base, lengths, summarized
from masa_training.dataset.pairs import plan_samples, text_samples
from masa_training.dataset.published import read_published
from masa_training.dataset.runs import read_runs
from masa_training.errors import TrainingError
from masa_training.samples import Sample, messages

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
    if config.kind != "bootstrap":
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
        from masa_training.dataset.bootstrapping import bootstrap_samples, without_held_out

        say("Generating samples", 0, 0)
        generated = bootstrap_samples(config, places)
        used = dict.fromkeys(sample.origin for samples in generated.values() for sample in samples)
        origins |= dict.fromkeys([config.sources.origin] if config.sources.origin else used, config.sources.licence)
        found = without_held_out(splits, generated, omissions)
        splits = {split: (*found[split], *generated[split]) for split in SPLITS}
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
