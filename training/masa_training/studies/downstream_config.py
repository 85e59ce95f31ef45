"""The configuration of the downstream study: readers with their cards and searches, and rewriters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from masa.cards import FIELDS, ModelCard
from masa.errors import CardError
from masa_training.agents import AgentConfig
from masa_training.dataset.config import read_settings as typed
from masa_training.environments import Split
from masa_training.errors import TrainingError
from masa_training.models.keys import check_keyless
from masa_training.settings import check_known, overridden, read_settings
from masa_training.trials.running import file_name


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
    weaknesses: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_keyless(self.spec, self.options, f"reader {self.name}")
        if bool(self.run) == bool(self.bank):
            raise TrainingError(f"reader {self.name}: it needs run (a folder of masa evolve) or bank, one of the two")


@dataclass(frozen=True, slots=True, kw_only=True)
class DownstreamConfig:
    """A study. `rewriters` are artifacts by the name that the report gives them; paths begin at the study's file."""

    name: str
    environment: str
    readers: tuple[ReaderConfig, ...]
    rewriters: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    agent: Mapping[str, Any] = field(default_factory=dict)
    split: Split = "test"
    tasks: int = 100
    notes: tuple[str, ...] = ()


def load_downstream(path: str, overrides: Sequence[str] = ()) -> tuple[DownstreamConfig, Path]:
    """The study in a YAML file, with `key=value` overrides, and the folder that its paths start at.

    Raises:
        TrainingError: for a missing file, an unknown key, a value that does not fit, or readers of one name.
    """
    where = Path(path)
    values = overridden(read_settings(where), overrides)
    readers = values.get("readers")
    if not isinstance(readers, list) or not readers:
        raise TrainingError(
            f"{path}: readers is a list of settings (name, spec, card, and run or bank); name at least one"
        )
    config: DownstreamConfig = typed(DownstreamConfig, {**values, "readers": []}, path)
    config = replace(config, readers=tuple(_reader(one, f"{path}: readers[{at}]") for at, one in enumerate(readers)))
    _check(config, path)
    return config, where.parent


def _reader(value: Any, where: str) -> ReaderConfig:
    # The typed reader knows no setting of two types: a card's fields it reads, a card's name is put in afterwards.
    named = isinstance(value, dict) and isinstance(value.get("card"), str)
    reader: ReaderConfig = typed(ReaderConfig, {**value, "card": {}} if named else value, where)
    if named:
        return replace(reader, card=value["card"])
    if not isinstance(reader.card, Mapping):
        raise TrainingError(f"{where}: card is {reader.card!r}; fields of a card, or the name of one, belong there")
    check_known(reader.card, FIELDS, f"{where}: card")
    try:
        ModelCard(**reader.card)
    except CardError as error:
        raise TrainingError(f"{where}: card: {error}; correct it") from None
    return reader


def _check(config: DownstreamConfig, where: str) -> None:
    """Raise unless the settings fit together."""
    if config.tasks < 0:
        raise TrainingError(f"{where}: tasks is {config.tasks}; it must be at least 0, which takes all")
    typed(AgentConfig, dict(config.agent), f"{where}: agent")
    for text in (text for pair in config.rewriters.items() for text in pair):
        if not isinstance(text, str):
            raise TrainingError(f"{where}: rewriters has {text!r}; it gives names their artifacts, both are texts")
    for whose, options in [("", config.options), *((f"reader {its.name}: ", its.options) for its in config.readers)]:
        for key in options:
            if not isinstance(key, str):
                raise TrainingError(f"{where}: {whose}options has the key {key!r}; the name of an option is a text")
    names = [reader.name for reader in config.readers]
    folders = [folder_name(name) for name in names]
    if doubled := [name for name, its in zip(names, folders, strict=True) if folders.count(its) > 1]:
        raise TrainingError(f"{where}: two readers are called {doubled[0]!r}, or have one folder; name them apart")
    for reader in config.readers:
        if unknown := sorted(set(reader.wrong) - set(names)):
            raise TrainingError(f"{where}: reader {reader.name}: wrong names {unknown[0]!r}, which is no reader")


def folder_name(text: str) -> str:
    """A reader's name as that of a folder, as a trial calls the folder of a backbone."""
    return file_name(text) or "reader"
