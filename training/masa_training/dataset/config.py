"""The configuration of a data set: a YAML file, or the name of one that ships with masa.

Every key is typed, an unknown one is an error that names the nearest, and the defaults are the paper's where the
paper gives a value. Paths may begin with `{data}` (the folder of `--data-dir` or `$MASA_DATA`) or `{examples}` (the
folder `examples` of a checkout); `{run}` is the run of the pipeline that builds the data set. Other relative paths
start at the configuration file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from masa_training.errors import TrainingError
from masa_training.settings import (
    CONFIGS,
    Count,
    Positive,
    Share,
    find_config,
    make,
    overridden,
    read_yaml,
    settings,
)

DATA_VARIABLE = "MASA_DATA"
"""Environment variable with the folder that `{data}` stands for."""

RUN = "{run}"
"""The run of the pipeline that builds the data set."""

CardVariant = Literal["full", "no hints", "short"]
"""`full`: every known field; `no hints`: without strengths and weaknesses; `short`: name, size and hints only."""

# What builds no part of a data set of some kind: there it must not be set, for who sets it relies on it.
_OF_CELLS = (
    *("sources.banks", "sources.runs", "sources.cards"),
    *("samples", "held_out_samples", "augmentation", "holdouts", "card_variants"),
)
_OF_CORPUS = (
    *("sources.train_skills", "sources.test_skills", "sources.validation_share", "sources.test_share"),
    *("sources.origin", "sources.licence", "bootstrap"),
)
_OF_REWORDINGS = ("rewordings",)
# Recorded plans lead from intermediates alone.
_OF_TEXT = (
    *(f"{counts}.{name}" for counts in ("samples", "held_out_samples") for name in ("other_backbone", "adapter")),
    *("samples.augmented", "held_out_samples.augmented", "augmentation"),
)

SHIPPED = CONFIGS / "datasets"


Inner = Annotated[float, Field(gt=0, lt=1)]


@settings
class Banks:
    """Published banks of one environment, a base bank and one adapter and one evolved bank per backbone.

    `adapter`, `evolved` and `card` are paths in which `{backbone}` stands for each of `backbones` in turn.
    `description` is what the prompt says of the environment (its name where empty), `task` of the task.
    """

    environment: str
    base: str
    evolved: str
    card: str
    backbones: tuple[str, ...]
    adapter: str = ""
    description: str = ""
    task: str = ""
    facts: str = ""
    origin: str = ""
    licence: str = "unknown"


@settings
class Sources:
    """Where groups come from: published banks, run folders, and for a bootstrap corpus banks of skills.

    `cards` are card files by backbone, for runs that recorded none or a poorer one.
    A bootstrap corpus holds out `validation_share` of the groups of `train_skills` for validation and, where there are
    no `test_skills`, `test_share` of them for the test. `origin` and `licence` are those of the banks of skills.
    """

    banks: tuple[Banks, ...] = ()
    runs: tuple[str, ...] = ()
    cards: Mapping[str, str] = field(default_factory=dict)
    train_skills: tuple[str, ...] = ()
    test_skills: tuple[str, ...] = ()
    validation_share: Inner = 0.08
    test_share: Inner = 0.25
    origin: str = ""
    licence: str = "unknown"


@settings
class Counts:
    """Most samples per cell from each source."""

    intermediate: Count = 1
    other_backbone: Count = 2
    adapter: Count = 2
    augmented: Count = 2


@settings
class Augmentation:
    """Strength of the augmented variants; `masa_training.dataset.pairs` says what each does."""

    noise: Share = 0.3
    keep: Annotated[float, Field(gt=0, le=1)] = 0.6
    verbose: bool = True


@settings
class Holdout:
    """Cells kept out of training: those of any task type, environment or backbone named here.

    A task type is the key of a group; `general_skills` is one, too.
    """

    task_types: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()


@settings
class Holdouts:
    """Which cells are for the final test and which for early stopping; a cell that is in both is a test cell."""

    test: Holdout = Holdout()
    validation: Holdout = Holdout()


@settings
class DatasetConfig:
    """Everything that determines a data set, beside the files it reads.

    Attributes:
        kind: where targets come from: `published` banks, `runs` of masa evolve, the `bootstrap` rules, or runs and
            these rules, `mixed`; or the corpus of `rewordings` that comes with masa.
        samples: most samples per training cell and source; `held_out_samples` the same for held-out cells.
        card_variants: each training sample is written once per variant; held-out ones have the full card.
        base, template: the base model that tokens are counted with, and its chat template if it has none.
        context_length: in tokens; a longer sample is an error.
        bootstrap: settings of `masa_training.bootstrap.CorpusConfig`, all but the seed.
        rewordings: settings of `masa_training.rewordings.RewordingsConfig`.
    """

    name: str
    language: Literal["text", "plan", "wording"]
    kind: Literal["published", "runs", "bootstrap", "mixed", "rewordings"]
    sources: Sources = Sources()
    samples: Counts = Counts()
    held_out_samples: Counts = Counts(intermediate=1, other_backbone=1, adapter=1, augmented=0)
    augmentation: Augmentation = Augmentation()
    holdouts: Holdouts = Holdouts()
    card_variants: Annotated[tuple[CardVariant, ...], Field(min_length=1)] = ("full",)
    seed: int = 0
    base: str = "smollm2-135m"
    template: str | None = None
    context_length: Positive = 4096
    bootstrap: Mapping[str, Any] = field(default_factory=dict)
    rewordings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values, paths as they were written."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Places:
    """What placeholders and relative paths in a configuration stand for; `run` is that of a pipeline."""

    config: Path
    data: Path | None
    run: Path | None = None

    def resolve(self, path: str) -> Path:
        """The file or folder that a path of the configuration means.

        Raises:
            TrainingError: if it needs the data folder or the run of a pipeline, and none was given.
        """
        if path == RUN:
            if self.run is None:
                raise TrainingError(
                    f"{path}: is the run of a pipeline; name a run folder, or build it with masa pipeline"
                )
            return self.run
        if path.startswith("{data}"):
            if self.data is None:
                raise TrainingError(f"{path}: {{data}} is not set; give the folder with --data-dir or {DATA_VARIABLE}")
            return self.data / path.removeprefix("{data}").lstrip("/")
        if path.startswith("{examples}"):
            return _examples() / path.removeprefix("{examples}").lstrip("/")
        return self.config / Path(path).expanduser()


def load_config(
    spec: str, *, data_dir: str | None = None, overrides: Sequence[str] = ()
) -> tuple[DatasetConfig, Places]:
    """The configuration in a YAML file, or the shipped one of that name, with overrides (`a.b=value`), and where its
    paths lead.

    Raises:
        TrainingError: if there is none, it cannot be read, a key is unknown or missing, a value does not fit or the
            settings contradict each other.
    """
    path = find_config(spec, SHIPPED, "data set")
    made = make(DatasetConfig, overridden(read_yaml(path), overrides), str(path))
    return made, Places(path.parent, data_folder(data_dir))


def data_folder(given: str | None = None) -> Path | None:
    """The folder of `--data-dir`, else of `$MASA_DATA`; None where neither is given.

    Raises:
        TrainingError: if it is not there.
    """
    folder = given or os.environ.get(DATA_VARIABLE) or None
    data = Path(folder).expanduser() if folder else None
    if data is not None and not data.is_dir():
        raise TrainingError(f"{data}: no such folder; correct --data-dir or {DATA_VARIABLE}")
    return data


def _check_used(config: DatasetConfig) -> None:
    """Raise if a setting is made that this kind or language of data set passes over."""
    unused: list[tuple[str, tuple[str, ...]]] = []
    if config.kind in ("bootstrap", "rewordings"):
        unused.append((f"kind: {config.kind}", _OF_CELLS))
    if config.kind not in ("bootstrap", "mixed"):
        unused.append((f"kind: {config.kind}", _OF_CORPUS))
    if config.kind != "rewordings":
        unused.append((f"kind: {config.kind}", _OF_REWORDINGS))
    if config.language == "plan":
        unused.append(("language: plan", _OF_TEXT))
    made = list(_made(config, ()))
    for what, names in unused:
        for setting in made:
            if any(f"{setting}.".startswith(f"{name}.") for name in names):
                instead = config.kind == "bootstrap" and setting.startswith("holdouts")
                hint = ", which holds out skills (sources.test_skills)" if instead else ""
                raise TrainingError(f"{setting} does nothing with {what}{hint}; leave it out")


def _made(value: Any, usual: Sequence[Any], name: str = "") -> Iterator[str]:
    """Names of the settings at or below `name` that have no usual value; a 0 wants nothing, so it is none."""
    if is_dataclass(value):
        for item in fields(value):
            # A section that is given in part has the rest from its class, one that is not given from its owner.
            default = item.default if item.default_factory is MISSING else item.default_factory()
            below = [*(getattr(one, item.name) for one in usual), default]
            yield from _made(getattr(value, item.name), below, f"{name}.{item.name}".lstrip("."))
    elif value not in usual and value != 0:
        yield name


def _check(config: DatasetConfig) -> None:
    """Raise unless the settings fit together."""
    sources = config.sources
    if config.kind == "published" and config.language == "plan":
        raise TrainingError(
            "published banks record no edits, so there are no plans to learn; "
            "set language: text, or kind: runs or bootstrap"
        )
    if config.kind in ("bootstrap", "mixed") and config.language == "text":
        raise TrainingError("the bootstrap corpus has plans only; set language: plan")
    if (config.kind == "rewordings") != (config.language == "wording"):
        raise TrainingError("rewordings are in the wording language, and nothing else is; set both or neither")
    needed = {
        "published": ("banks",),
        "runs": ("runs",),
        "bootstrap": ("train_skills",),
        "mixed": ("runs", "train_skills"),
        "rewordings": (),
    }
    for key in needed[config.kind]:
        if not getattr(sources, key):
            raise TrainingError(f"no data: kind {config.kind} needs sources.{key}; name at least one")
    _check_used(config)
    if not config.name.strip() or "/" in config.name:
        raise TrainingError(f"name is {config.name!r}; give the data set a name without slashes")
    for banks in sources.banks:
        for path in ("evolved", "card"):
            if "{backbone}" not in getattr(banks, path) and len(banks.backbones) > 1:
                raise TrainingError(
                    f"sources.banks of {banks.environment}: {path} is the same file for every backbone; "
                    "put {backbone} into its path"
                )


def _examples() -> Path:
    folder = Path(__file__).resolve().parents[3] / "examples"
    if not folder.is_dir():
        raise TrainingError(
            f"{folder}: this installation has no examples; run from a checkout of masa, or copy the configuration "
            "and name a bank of your own"
        )
    return folder
