"""Studies of evolution: the same experiment under several conditions, a run folder each, and one table.

Two conditions are studied: the teacher is told another card than the backbone's, and some outcomes are told wrongly. A
cell of the study is an experiment under a condition, once. Its folder is one of `masa evolve`, so it resumes as that
does; whatever is told of a study is computed from these folders alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from masa.cards import FIELDS, shipped_cards
from masa.errors import FormatError
from masa.files import make_folder, parse_json, parse_yaml, read_text, write_atomic
from masa_training.errors import TrainingError
from masa_training.evolution import EvolveConfig
from masa_training.evolution.config import card_fields, card_of
from masa_training.evolution.run_log import CONFIG, EVENTS, Run, differences, read_run
from masa_training.studies.running import Budget

RECORD = "study.json"
FORMAT = 1

State = Literal["to do", "goes on", "finished"]


@dataclass(frozen=True, slots=True)
class EvolutionCell:
    """One run of a study.

    Attributes:
        experiment: the name of its configuration.
        condition: the row of the table that it belongs to.
        number: counts the runs of a condition.
    """

    experiment: str
    condition: str
    number: int
    config: EvolveConfig

    @property
    def name(self) -> str:
        """Its folder in the study's."""
        return f"{self.experiment}/{self.condition}-{self.number}"


@dataclass(frozen=True, slots=True)
class EvolutionStudy:
    """What is compared.

    Attributes:
        kind: the command's name.
        conditions: the rows of the table, in order; the first is what the others are compared with.
        about: by experiment and condition, facts for the report.
    """

    kind: str
    conditions: tuple[str, ...]
    cells: tuple[EvolutionCell, ...]
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def experiments(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.experiment for cell in self.cells))


Perform = Callable[[EvolutionCell, Path, bool], str]
"""Runs a cell in a folder, or goes on there if the last argument says so. Returns why it ended before its time."""


def claim(study: EvolutionStudy, folder: Path, *, resume: bool) -> None:
    """Make the folder this study's, or go on with it. More conditions and runs may be added.

    Raises:
        TrainingError: if it holds a study and `resume` is off, another study, or something else.
    """
    record = folder / RECORD
    if record.is_file():
        _check(study, record)
        if not resume:
            raise TrainingError(f"{folder}: holds a study already; add --resume to continue, or give another folder")
    elif folder.is_dir() and any(folder.iterdir()):
        raise TrainingError(f"{folder}: is not empty and holds no study; give another folder")
    make_folder(folder)
    write_atomic(record, (json.dumps({"format": FORMAT, "study": study.kind}) + "\n").encode())


def run_cells(
    study: EvolutionStudy, folder: Path, perform: Perform, *, budget: Budget, say: Callable[[str], None]
) -> dict[str, str]:
    """Run the cells that are not finished, in order; returns those that are not complete then, each with the reason.

    A cell whose own budget is spent is left for another day, and the next one is begun.

    Raises:
        TrainingError: as `standing`, and if a cell cannot be run at all; the others are kept.
    """
    left: dict[str, str] = {}
    for number, cell in enumerate(study.cells, start=1):
        state = standing(cell, folder)
        if state == "finished":
            say(f"{cell.name}: finished before")
            continue
        if budget.over():
            left[cell.name] = "not begun" if state == "to do" else "stopped"
            continue
        say(f"{cell.name}: cell {number} of {len(study.cells)}{', goes on' if state == 'goes on' else ''}")
        make_folder((folder / cell.name).parent)
        ended = perform(cell, folder / cell.name, state == "goes on")
        if ended:
            left[cell.name] = ended
            say(f"{cell.name}: stopped, {ended}")
    return left


def standing(cell: EvolutionCell, folder: Path) -> State:
    """How far a cell is.

    Raises:
        TrainingError: if its folder holds the run of another configuration, or one that is damaged.
    """

    where = folder / cell.name
    if not (where / CONFIG).is_file():
        return "to do"
    try:
        before = parse_yaml(read_text(where / CONFIG))
        other = differences(before, json.loads(json.dumps(cell.config.to_dict())))
    except (ValueError, FormatError, AttributeError, TypeError):
        raise TrainingError(f"{where / CONFIG}: damaged; delete the folder {where} to run the cell again") from None
    if other:
        raise TrainingError(
            f"{where}: its run has another {', '.join(other)}; give the settings that the study was begun with, or "
            "another folder"
        )
    return "finished" if (where / EVENTS).is_file() and read_run(where).finished else "goes on"


def stories(study: EvolutionStudy, folder: Path) -> dict[str, Run]:
    """By name what the cells that were begun tell.

    Raises:
        TrainingError: if the folder holds no such study, or a run in it is damaged.
    """
    if not (folder / RECORD).is_file():
        raise TrainingError(f"{folder}: holds no study; give the folder that its results are in")
    _check(study, folder / RECORD)
    begun = [cell for cell in study.cells if (folder / cell.name / EVENTS).is_file()]
    for cell in begun:
        standing(cell, folder)
    return {cell.name: read_run(folder / cell.name) for cell in begun}


def named_apart(configs: Sequence[EvolveConfig]) -> None:
    """Refuse two experiments of one name, whose folders would be one.

    Raises:
        TrainingError: naming it.
    """
    names = [config.name for config in configs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise TrainingError(f"two of the experiments are called {twice!r}; give one of them another name in its file")
    for name in names:
        if not name or set(name) & set("/\\") or name.startswith("."):
            raise TrainingError(f"the name {name!r} of an experiment becomes a folder's; leave / and \\ out of it")


def _check(study: EvolutionStudy, record: Path) -> None:
    try:
        found = parse_json(read_text(record))
        kind, version = found["study"], found["format"]
    except (ValueError, KeyError, TypeError, FormatError):
        raise TrainingError(f"{record}: damaged; give another folder") from None
    if kind != study.kind:
        raise TrainingError(f"{record.parent}: holds the study {kind}, not {study.kind}; give another folder")
    if version != FORMAT:
        raise TrainingError(f"{record}: format {version!r}, this masa reads {FORMAT}; upgrade masa")


CARD_GIVEN = "card"
TRUE, PERTURBED, EMPTY, OTHER = "true", "perturbed", "empty", "other"
CARDS = (TRUE, PERTURBED, EMPTY, OTHER)

Fields = Mapping[str, Any]


def card_study(
    configs: Sequence[EvolveConfig], *, other: str = "", share: float = 0.5, runs: int = 1
) -> EvolutionStudy:
    """Every experiment with the true card, a perturbed one, none and another model's, `runs` times each.

    Only what the teacher is told differs; every run has a perturbed card of its own.

    Args:
        other: the other model's card, as `masa card` takes it; by default the shipped one that differs in most fields.
        share: of the known fields that are wrong in a perturbed card.

    Raises:
        TrainingError: if a backbone has no card, a teacher reads none, or experiments cannot be told apart.
        CardError: if a card cannot be found or read.
    """
    named_apart(configs)
    if not 0 < share <= 1:
        raise TrainingError(f"the share of wrong fields is {share:g}; give one above 0 and at most 1")
    cells, about = [], {}
    for config in configs:
        truth = card_of(config)
        if not truth:
            raise TrainingError(
                f"{config.name}: its backbone has no card, so there is none to compare with; add --set "
                "backbone.card=FILE, which masa profile writes"
            )
        if config.teacher_config().local:
            raise TrainingError(
                f"{config.name}: the teacher {config.teacher_config().model} reads no card, so all runs would be the "
                "same; name a language model with --teacher openai:URL#MODEL"
            )
        foreign = card_fields(other) if other else most_unlike(truth)
        told: dict[str, dict[str, Any]] = {name: {"wrong_fields": []} for name in CARDS}
        for number in range(runs):
            given = {TRUE: truth, PERTURBED: perturbed(truth, share, number), EMPTY: {}, OTHER: foreign}
            for name, card in given.items():
                changed = replace(config, name=f"{config.name}, {name} card", teacher_card=dict(card))
                cells.append(EvolutionCell(config.name, name, number, changed))
                told[name]["wrong_fields"].append(unlike(truth, card))
                told[name]["model"] = _model(card)
        about[config.name] = told
    return EvolutionStudy(CARD_GIVEN, CARDS, tuple(cells), about)


def perturbed(card: Fields, share: float, seed: int) -> dict[str, Any]:
    """The card with wrong values in `share` of its known fields, at least one: what shipped cards say there.

    Values are drawn for each field on its own, so that the whole need not fit any model. The same seed gives the same.
    """
    drawn = random.Random(f"card/{seed}")
    foreign = {name: _others(name, value) for name, value in card.items()}
    possible = [name for name in card if foreign[name]]
    chosen = set(drawn.sample(possible, max(1, min(len(possible), round(share * len(card)))))) if possible else set()
    return {name: drawn.choice(foreign[name]) if name in chosen else value for name, value in card.items()}


def most_unlike(card: Fields) -> dict[str, Any]:
    """The fields of the shipped card that differs from this one in most fields, the first of equals by name."""
    cards = list(shipped_cards().values())
    found = max(cards, key=lambda shipped: len(unlike(card, shipped.fields())))
    return dict(found.fields())


def unlike(card: Fields, other: Fields) -> list[str]:
    """The fields known in either card that are not the same in both, in canonical order."""
    order = [*FIELDS, *(name for name in {**card, **other} if name not in FIELDS)]
    return [name for name in order if card.get(name) != other.get(name)]


def _others(name: str, value: Any) -> list[Any]:
    """What shipped cards say of a field, other than this."""
    if name not in FIELDS:
        return []
    said = {getattr(card, name) for card in shipped_cards().values()}
    return sorted((its for its in said if its is not None and its != value), key=str)


def _model(card: Fields) -> str:
    parts = [str(card[name]) for name in ("family", "variant") if card.get(name)]
    return "-".join(parts) or "no model"


NOISE = "feedback-noise"
LEVELS = (0.0, 0.1, 0.2, 0.3)


def noise_study(configs: Sequence[EvolveConfig], levels: Sequence[float] = LEVELS, *, runs: int = 1) -> EvolutionStudy:
    """Every experiment at every level of noise, `runs` times with other outcomes flipped and everything else equal.

    Without noise nothing is drawn, so one run is enough where the teacher is local; the first level is what the
    others are compared with.

    Raises:
        TrainingError: if a level is no probability or comes twice, or experiments cannot be told apart.
    """
    named_apart(configs)
    if len(set(map(condition, levels))) < len(levels):  # as folders are called
        raise TrainingError(f"the levels of noise are {', '.join(map(condition, levels))}; give each of them once")
    for level in levels:
        if not 0 <= level <= 1:
            raise TrainingError(f"the level of noise {level:g} is no probability; give one between 0 and 1")
    cells = [
        EvolutionCell(
            config.name,
            condition(level),
            number,
            replace(config, name=f"{config.name}, {condition(level)}", feedback_noise=level, noise_seed=number),
        )
        for config in configs
        for number in range(runs)
        for level in levels
        if level or not number or not config.teacher_config().local
    ]
    about = {condition(level): {"feedback_noise": level} for level in levels}
    return EvolutionStudy(NOISE, tuple(map(condition, levels)), tuple(cells), {c.name: about for c in configs})


def condition(level: float) -> str:
    """The row of a level."""
    return f"noise-{level:g}"
