"""The folder of a data set: written completely or not at all, verified when it is read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any

from masa.files import (
    TEMPORARY_PREFIX,
    WriteError,
    make_folder,
    parse_json,
    read_bytes,
    read_text,
    reason,
    write_atomic,
)
from masa.prompt import PROMPT_VERSION
from masa_training.errors import TrainingError
from masa_training.samples import Sample, dump_samples, read_samples

FORMAT = 1
RECORD = "dataset.json"
CARD = "README.md"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What `dataset.json` says.

    Attributes:
        synthetic: whether any target follows from stated rules and not from a result in an environment.
        config: the configuration it was built with.
        holdouts: for `test` and `validation` what is held out.
        files: by file name its sha256 and number of samples.
        cards: by backbone the fields of its model card; empty where cards were generated.
        origins: by source of groups and targets its licence.
        tokens: the base they were counted with, and by split p50, p95 and maximum of prompt, target and both.
        summary: one sentence, for the manifest of what is trained on it.
        left_out: by reason the names of cells or samples that were left out.
    """

    name: str
    language: str
    prompt_version: int
    seed: int
    synthetic: bool
    context_length: int
    summary: str
    licence: str
    config: Mapping[str, Any] = field(default_factory=dict)
    holdouts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """One checksum of all samples: of the names and checksums of the files, sorted by name."""
        sums = "".join(f"{name} {self.files[name]['sha256']}\n" for name in sorted(self.files))
        return hashlib.sha256(sums.encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set in memory. `validation` is for early stopping, `test` is touched once, at the end."""

    info: DatasetInfo
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]

    def split(self, name: str) -> tuple[Sample, ...]:
        """The samples of one of `SPLITS`."""
        samples: tuple[Sample, ...] = getattr(self, name)
        return samples


def file_name(split: str) -> str:
    return f"{split}.jsonl"


def encoded_files(splits: Mapping[str, Sequence[Sample]]) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """The content of every JSONL file, and what `dataset.json` says of it."""
    contents = {file_name(split): dump_samples(splits[split]) for split in SPLITS}
    told = {
        file_name(split): {
            "sha256": hashlib.sha256(contents[file_name(split)]).hexdigest(),
            "samples": len(splits[split]),
        }
        for split in SPLITS
    }
    return contents, told


def check_output(folder: str | PathLike[str], *, force: bool = False) -> None:
    """Raise unless a data set can be written there: nothing is there yet, or with `force` a data set.

    Raises:
        TrainingError: if the folder exists and may not be replaced.
    """
    target = Path(folder)
    if not os.path.lexists(target):
        return
    if not force:
        raise TrainingError(f"{target}: exists already; give another folder, or --force to replace that data set")
    if target.is_symlink() or not (target / RECORD).is_file():
        raise TrainingError(f"{target}: is no data set (no {RECORD} in it), so --force does not replace it")


def write_dataset(folder: str | PathLike[str], dataset: Dataset, card: str, *, force: bool = False) -> DatasetInfo:
    """Write the data set and its card (Markdown) as a new folder, completely or not at all.

    The files go to a temporary folder beside it that is renamed at the end; a data set that `force` replaces stays
    until then. `dataset.info.files` is filled in from the samples; the info as written is returned.

    Raises:
        TrainingError: if the folder exists and `force` is off, or what is there is no data set.
        WriteError: if it cannot be written; what was there stays.
    """
    target = Path(folder)
    check_output(target, force=force)
    contents, files = encoded_files({split: dataset.split(split) for split in SPLITS})
    values = {item.name: getattr(dataset.info, item.name) for item in fields(DatasetInfo)}
    info = DatasetInfo(**{**values, "files": files})
    record = {"format": FORMAT, **values, "files": files}
    contents[RECORD] = (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode("utf-8")
    contents[CARD] = card.encode("utf-8")
    make_folder(target.parent)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp")
    try:
        make_folder(temporary)
        for name, content in contents.items():
            write_atomic(temporary / name, content)
        _swap(temporary, target)
    except WriteError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WriteError(
                f"{target}: no space left to write the data set; free some disk space", error.errno
            ) from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return info


def load_dataset(folder: str | PathLike[str]) -> Dataset:
    """The data set in a folder, every file verified against its checksum.

    Raises:
        TrainingError: if it is no data set, incomplete, changed, or of another format or prompt version.
        FormatError: if a file cannot be read or a line is no sample; the message names the line.
    """
    path = Path(folder)
    info = read_info(path)
    splits: dict[str, tuple[Sample, ...]] = {}
    for split in SPLITS:
        file = path / file_name(split)
        told = info.files[file.name]
        if hashlib.sha256(read_bytes(file)).hexdigest() != told["sha256"]:
            raise TrainingError(
                f"{file}: its sha256 is not what {RECORD} says, so it was changed or damaged; build the data set again"
            )
        samples = tuple(read_samples(file))
        if len(samples) != told["samples"]:
            raise TrainingError(
                f"{file}: {len(samples)} samples, {RECORD} says {told['samples']}; build the data set again"
            )
        splits[split] = samples
    known: set[str] = set()
    for sample in (sample for split in SPLITS for sample in splits[split]):
        if sample.id in known:
            raise TrainingError(f"{path}: two samples are called {sample.id}; build the data set again")
        if sample.language != info.language:
            raise TrainingError(f"{path}: sample {sample.id} is in the {sample.language} language, not {info.language}")
        known.add(sample.id)
    return Dataset(info, **splits)


def read_info(folder: str | PathLike[str]) -> DatasetInfo:
    """What `dataset.json` says, without reading the samples.

    Raises:
        TrainingError: as `load_dataset`.
        FormatError: if the file cannot be read.
    """
    path = Path(folder)
    record = path / RECORD
    if not record.is_file():
        raise TrainingError(f"{path}: no {RECORD} in it, so it is no data set; build one with: masa distill dataset")
    try:
        value = parse_json(read_text(record))
        version = value.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TrainingError(f"{record}: not a record of a data set; build the data set again") from None
    if version != FORMAT:
        raise TrainingError(f"{record}: format {version!r}, this masa reads {FORMAT}; build the data set again")
    try:
        info = DatasetInfo(**value)
        for split in SPLITS:
            told = info.files[file_name(split)]
            if not isinstance(told["sha256"], str) or not isinstance(told["samples"], int):
                raise TypeError("a file without checksum or number of samples")
    except (TypeError, KeyError) as error:
        text = f"missing {error}" if isinstance(error, KeyError) else str(error).replace("DatasetInfo.__init__() ", "")
        raise TrainingError(f"{record}: not a record of a data set ({text}); build the data set again") from None
    if info.prompt_version != PROMPT_VERSION:
        raise TrainingError(
            f"{record}: prompt version {info.prompt_version!r}, this masa writes {PROMPT_VERSION}; "
            "build the data set again"
        )
    return info


def _swap(temporary: Path, target: Path) -> None:
    """Put the finished folder into its place; a replaced one goes only when the new one stands there."""
    former: Path | None = None
    try:
        if target.exists():
            former = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp")
            target.rename(former)
        temporary.rename(target)
    except OSError as error:
        if former is not None and not target.exists():
            with contextlib.suppress(OSError):
                former.rename(target)
        raise WriteError(f"{target}: cannot be written ({reason(error)}); choose another place", error.errno) from None
    if former is not None:
        shutil.rmtree(former, ignore_errors=True)
