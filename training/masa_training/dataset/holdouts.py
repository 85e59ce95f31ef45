"""Hold-outs: which cells are kept out of training, and the proof that nothing of theirs got in.

The rules, checked on the finished samples and not only followed while they are made:

- a cell whose task type, environment or backbone is held out gives no training sample;
- its evolved group is no input of training either, nor is its adapter group, whoever the sample is for;
- no text of a skill that evolution found for it (one that its base group does not have) occurs in any training text.

The same holds between test and validation. Plans are not texts that evolution found, but a few words that any cell may
share, and the groups they lead to are made of the input's own sentences: for the plan language the whole evolved group
is compared instead of each skill.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from masa.errors import near_misses
from masa.languages import parse_blocks
from masa.skills import Group
from masa_training.dataset.cells import EvolvedCell, Omissions, describe
from masa_training.dataset.config import Holdout, Holdouts
from masa_training.errors import TrainingError
from masa_training.samples import Cell, Sample

_LONG = 40
"""From this many characters on a text counts as found when it is part of a longer one."""


def split_cells(cells: Sequence[EvolvedCell], holdouts: Holdouts) -> dict[str, tuple[EvolvedCell, ...]]:
    """The cells of train, validation and test, in their order. A cell that both hold-outs name is a test cell.

    Raises:
        TrainingError: if a hold-out names nothing that is there, or leaves no training, test or (where one is declared)
            validation cell.
    """
    for name, holdout in (("test", holdouts.test), ("validation", holdouts.validation)):
        _check_names(name, holdout, cells)
    test = [c for c in cells if held_out(c.cell, holdouts.test)]
    rest = [c for c in cells if not held_out(c.cell, holdouts.test)]
    validation = [c for c in rest if held_out(c.cell, holdouts.validation)]
    train = [c for c in rest if not held_out(c.cell, holdouts.validation)]
    declared = any(asdict(holdouts.validation).values())
    for name, part, wanted in (("training", train, True), ("test", test, True), ("validation", validation, declared)):
        if wanted and not part:
            raise TrainingError(
                f"the hold-outs leave no {name} cell of {len(cells)}: test holds {len(test)} ({_told(holdouts.test)}), "
                f"validation {len(validation)} ({_told(holdouts.validation)}); change `holdouts`"
            )
    return {"train": tuple(train), "validation": tuple(validation), "test": tuple(test)}


def held_out(cell: Cell, holdout: Holdout) -> bool:
    """Whether a hold-out names the cell's task type, environment or backbone."""
    return (
        cell.group in holdout.task_types
        or cell.environment in holdout.environments
        or cell.backbone in holdout.backbones
    )


def may_read(reader: str, giver: str) -> bool:
    """Whether samples of the split `reader` may show what was found for a cell of the split `giver`."""
    order = ("train", "validation", "test")
    return order.index(giver) <= order.index(reader)


def without_shared(
    splits: Mapping[str, Sequence[EvolvedCell]], omissions: Omissions
) -> dict[str, tuple[EvolvedCell, ...]]:
    """The cells for the plan language, without what a split shares with one that it must not see.

    Two searches may well end at, or pass, the same group, since edits are few. Then the cell, or the intermediate, is
    left out of training and the hold-out stays complete.
    """
    kept: dict[str, tuple[EvolvedCell, ...]] = {}
    for split, cells in splits.items():
        hidden = {texts_of(c.evolved) for other in splits if not may_read(split, other) for c in splits[other]}
        rest = []
        for cell in cells:
            if texts_of(cell.evolved) in hidden:
                omissions.add("the evolved group is that of a held-out cell", describe(cell.cell))
                continue
            passed = tuple(i for i in cell.intermediates if texts_of(i.group) not in hidden)
            for gone in (i for i in cell.intermediates if i not in passed):
                omissions.add("the input is the evolved group of a held-out cell", f"{describe(cell.cell)}/{gone.name}")
            rest.append(replace(cell, intermediates=passed))
        kept[split] = tuple(rest)
    return kept


def check_targets(splits: Mapping[str, Sequence[EvolvedCell]], language: str) -> None:
    """Raise if two cells have the same evolved group; for plans only where they are in different splits.

    Raises:
        TrainingError: naming both cells.
    """
    known: dict[tuple[tuple[str, str, str], ...], tuple[EvolvedCell, str]] = {}
    for split, cells in splits.items():
        for cell in cells:
            other, where = known.setdefault(texts_of(cell.evolved), (cell, split))
            if other is not cell and (language == "text" or where != split):
                raise TrainingError(
                    f"the evolved groups of {describe(other.cell)} ({where}) and {describe(cell.cell)} ({split}) are "
                    "the same text; leave one of the two out"
                )


def check_leaks(
    splits: Mapping[str, Sequence[EvolvedCell]], samples: Mapping[str, Iterable[Sample]], language: str
) -> None:
    """Raise if anything found for a held-out cell is in the samples of a split that must not see it.

    Raises:
        TrainingError: naming the held-out cell, the sample and the text.
    """
    for split in ("train", "validation"):
        hidden = [cell for other, cells in splits.items() if not may_read(split, other) for cell in cells]
        given = list(samples.get(split, ()))
        _check_cells(split, hidden, given)
        if language == "text":
            _check_skills(split, hidden, given)
        else:
            _check_groups(split, hidden, given)


def _check_cells(split: str, hidden: Sequence[EvolvedCell], samples: Sequence[Sample]) -> None:
    keys = {cell.cell for cell in hidden}
    for sample in samples:
        if sample.cell in keys:
            raise TrainingError(
                f"leak: {split} sample {sample.id} belongs to the held-out cell {describe(sample.cell)}"
            )


def _check_skills(split: str, hidden: Sequence[EvolvedCell], samples: Sequence[Sample]) -> None:
    texts: dict[str, str] = {}
    for sample in samples:
        for skill in sample.request.group.skills:
            texts.setdefault(_plain(skill.principle), sample.id)
        for block in parse_blocks(sample.target, len(sample.request.group)):
            texts.setdefault(_plain(block.principle), sample.id)
    haystack = "\0".join(texts)
    for cell in hidden:
        ordinary = {_plain(skill.principle) for skill in cell.base.skills}
        for skill in cell.evolved.skills:
            text = _plain(skill.principle)
            if text in ordinary or not text:
                continue
            if text in texts or (len(text) >= _LONG and text in haystack):
                found = texts.get(text) or next(id_ for known, id_ in texts.items() if text in known)
                raise TrainingError(
                    f"leak: the skill {skill.title!r} that was found for the held-out cell {describe(cell.cell)} "
                    f"occurs in {split} sample {found}; hold that cell out, too, or leave its file out"
                )


def _check_groups(split: str, hidden: Sequence[EvolvedCell], samples: Sequence[Sample]) -> None:
    inputs = {texts_of(sample.request.group): sample.id for sample in samples}
    for cell in hidden:
        found = inputs.get(texts_of(cell.evolved))
        if found is not None:
            raise TrainingError(
                f"leak: the evolved group of the held-out cell {describe(cell.cell)} is the input of {split} sample "
                f"{found}; hold that cell out, too, or leave its run out"
            )


def _check_names(name: str, holdout: Holdout, cells: Sequence[EvolvedCell]) -> None:
    known = {
        "task_types": [cell.cell.group for cell in cells],
        "environments": [cell.cell.environment for cell in cells],
        "backbones": [cell.cell.backbone for cell in cells],
    }
    for key, there in known.items():
        for value in getattr(holdout, key):
            if value not in there:
                names = list(dict.fromkeys(there))
                near = near_misses(value, names)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names) or 'none'}"
                raise TrainingError(f"holdouts.{name}.{key}: no cell has {value!r}; {hint}")


def _told(holdout: Holdout) -> str:
    parts = [f"{key.replace('_', ' ')} {', '.join(values)}" for key, values in asdict(holdout).items() if values]
    return "; ".join(parts) or "nothing declared"


def texts_of(group: Group) -> tuple[tuple[str, str, str], ...]:
    """What a reader sees of a group, without identifiers."""
    return tuple((skill.title, skill.when_to_apply, skill.principle) for skill in group.skills)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
