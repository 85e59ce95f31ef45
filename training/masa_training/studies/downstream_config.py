"""The configuration of the downstream study: readers with their cards and searches, and rewriters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from masa_training.agents import AgentConfig
from masa_training.errors import TrainingError
from masa_training.models.keys import check_keyless
from masa_training.settings import check_known, overridden, read_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig:
    """A backbone, its card (fields or a file), and the folder of the run that searched for it, or a bank.

    Attributes:
        run: a finished run of `masa evolve`: the bank that it began with, and what it found.
        bank: a bank file, or a shipped one (`household/prose`), where nothing was searched.
        weaknesses: wordings of what the reader is bad at; each makes a card of its own, the card with these words in
            place of its weaknesses. Success with "the card" is then the mean over these.
        wrong: names of the readers whose cards are wrong for this one; empty for all with other cards.
    """

    name: str
    spec: str
    card: Mapping[str, Any] | str
    run: str = ""
    bank: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    weaknesses: Sequence[str] = ()
    wrong: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_keyless(self.spec, self.options, f"reader {self.name}")
        if bool(self.run) == bool(self.bank):
            raise TrainingError(f"reader {self.name}: it needs run (a folder of masa evolve) or bank, one of the two")
        if isinstance(self.weaknesses, str) or not all(isinstance(text, str) for text in self.weaknesses):
            raise TrainingError(f"reader {self.name}: weaknesses is {self.weaknesses!r}; it must be a list of texts")


@dataclass(frozen=True, slots=True, kw_only=True)
class DownstreamConfig:
    """A study. `rewriters` are artifacts by the name that the report gives them; paths begin at the study's file."""

    name: str
    environment: str
    readers: tuple[ReaderConfig, ...]
    rewriters: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    agent: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    tasks: int = 100
    notes: Sequence[str] = ()


def load_downstream(path: str, overrides: Sequence[str] = ()) -> tuple[DownstreamConfig, Path]:
    """The study in a YAML file, with `key=value` overrides, and the folder that its paths start at.

    Raises:
        TrainingError: for a missing file, an unknown key, a value that does not fit, or readers of one name.
    """
    where = Path(path)
    values = overridden(read_settings(where), overrides)
    check_known(values, [its.name for its in fields(DownstreamConfig)], path)
    readers = values.get("readers")
    if not isinstance(readers, list) or not all(isinstance(one, dict) for one in readers) or not readers:
        raise TrainingError(
            f"{path}: readers is a list of settings (name, spec, card, and run or bank); name at least one"
        )
    for one in readers:
        check_known(one, [its.name for its in fields(ReaderConfig)], f"{path}, readers")
    try:
        config = DownstreamConfig(**{**values, "readers": tuple(ReaderConfig(**one) for one in readers)})
        AgentConfig(**config.agent)
    except TypeError as error:
        raise TrainingError(f"{path}: {str(error).partition('__init__() ')[2] or error}; correct it") from None
    names = [reader.name for reader in config.readers]
    folders = [folder_name(name) for name in names]
    if doubled := [name for name, its in zip(names, folders, strict=True) if folders.count(its) > 1]:
        raise TrainingError(f"{path}: two readers are called {doubled[0]!r}, or have one folder; name them apart")
    for reader in config.readers:
        if unknown := sorted(set(reader.wrong) - set(names)):
            raise TrainingError(f"{path}: reader {reader.name}: wrong names {unknown[0]!r}, which is no reader")
    if not isinstance(config.rewriters, Mapping):
        raise TrainingError(f"{path}: rewriters is {config.rewriters!r}; artifacts by name belong there")
    return config, where.parent


def folder_name(text: str) -> str:
    """A reader's name as that of a folder."""
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in text).strip(".") or "reader"
