"""The configuration of the downstream study: readers with their cards and searches, and rewriters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from masa.cards import FIELDS, ModelCard
from masa.errors import CardError
from masa_training.agents import AgentConfig
from masa_training.environments import Split
from masa_training.errors import TrainingError
from masa_training.evaluate.banks.running import file_name
from masa_training.models.keys import check_keyless
from masa_training.settings import Count, make, nearest, overridden, read_yaml, settings


@settings
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
        if not isinstance(self.card, str):
            if unknown := [key for key in self.card if key not in FIELDS]:
                hint = nearest(unknown[0], list(FIELDS), "its fields")
                raise TrainingError(f"reader {self.name}: card has no field {unknown[0]!r}; {hint}")
            try:
                ModelCard(**self.card)
            except CardError as error:
                raise TrainingError(f"reader {self.name}: card: {error}; correct it") from None


@settings
class DownstreamConfig:
    """A study. `rewriters` are artifacts by the name that the report gives them; paths begin at the study's file."""

    name: str
    environment: str
    readers: Annotated[tuple[ReaderConfig, ...], Field(min_length=1)]
    rewriters: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    agent: Mapping[str, Any] = field(default_factory=dict)
    split: Split = "test"
    tasks: Count = 100
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        make(AgentConfig, dict(self.agent), "agent")
        names = [reader.name for reader in self.readers]
        folders = [folder_name(name) for name in names]
        if doubled := [name for name, its in zip(names, folders, strict=True) if folders.count(its) > 1]:
            raise TrainingError(f"two readers are called {doubled[0]!r}, or have one folder; give them different names")
        for reader in self.readers:
            if unknown := sorted(set(reader.wrong) - set(names)):
                raise TrainingError(f"reader {reader.name}: wrong names {unknown[0]!r}, which is not a reader")


def load_downstream(path: str, overrides: Sequence[str] = ()) -> tuple[DownstreamConfig, Path]:
    """The study in a YAML file, with `key=value` overrides, and the folder that its paths start at.

    Raises:
        TrainingError: for a missing file, an unknown key, a value that does not fit, or readers of one name.
    """
    where = Path(path)
    return make(DownstreamConfig, overridden(read_yaml(where), overrides), path), where.parent


def folder_name(text: str) -> str:
    """A reader's name as that of a folder, as a trial calls the folder of a backbone."""
    return file_name(text) or "reader"
