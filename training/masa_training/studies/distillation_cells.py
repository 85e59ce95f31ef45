"""The result of a cell of a distillation study: one JSON file, small enough to be committed.

It holds the configuration with checksums, the table of this cell, sums by cluster so that seeds can be pooled later,
the loss curve, and on what it ran. It holds no text of the data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from masa.files import make_folder, parse_json, read_text, write_atomic
from masa_training.distill.config import DistillConfig
from masa_training.errors import TrainingError
from masa_training.studies.distillation_config import Study

FORMAT = 1
FOLDER = "cells"

CellResult = Mapping[str, Any]

_KEYS: Mapping[str, type] = {
    "study": str,
    "cell": str,
    "row": str,
    "seed": int,
    "finished": str,
    "configuration": dict,
    "dataset": dict,
    "base": dict,
    "models": dict,
    "clusters": list,
    "curve": list,
    "training": dict,
    "minutes": dict,
    "versions": dict,
    "host": dict,
}


def cell_path(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.json"


def write_cell(folder: Path, result: CellResult) -> Path:
    """Write the file of a finished cell, completely or not at all; an older one is replaced."""
    path = cell_path(folder, result["cell"])
    make_folder(path.parent)
    lines = ",\n".join(f"{json.dumps(key)}: {_lines(value)}" for key, value in {"format": FORMAT, **result}.items())
    write_atomic(path, f"{{\n{lines}\n}}\n".encode())
    return path


def _lines(value: Any) -> str:
    """JSON with an entry of a list or mapping on each line, so that a change shows where it is."""

    def dumped(part: Any) -> str:
        return json.dumps(part, ensure_ascii=False, allow_nan=False)

    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f" {dumped(part)}" for part in value) + "\n]"
    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f" {dumped(key)}: {dumped(part)}" for key, part in value.items()) + "\n}"
    return dumped(value)


def read_cell(path: Path) -> CellResult | None:
    """The result in a file; None if there is no file.

    Raises:
        TrainingError: if it is no result of a cell, or of another format.
        FormatError: if it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        value = parse_json(read_text(path))
        version = value.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TrainingError(
            f"{path}: not a result of a study; restore it, or delete it to run the cell again"
        ) from None
    if version != FORMAT:
        raise TrainingError(f"{path}: format {version!r}, this masa reads {FORMAT}; upgrade masa or delete the file")
    for key, kind in _KEYS.items():
        if not isinstance(value.get(key), kind):
            raise TrainingError(
                f"{path}: {key!r} is missing or damaged; restore the file, or delete it to run the cell again"
            )
    if value["cell"] != path.stem:
        raise TrainingError(f"{path}: holds the cell {value['cell']}; a result belongs into a file of its cell's name")
    return dict(value)


def read_cells(folder: Path, study: Study) -> dict[str, CellResult]:
    """The results of a study's cells by name, as far as there are files."""
    found = {cell.name: read_cell(cell_path(folder, cell.name)) for cell in study.cells}
    return {name: result for name, result in found.items() if result is not None}


def differences(result: CellResult, wanted: Mapping[str, Any]) -> list[str]:
    """In which settings a result was made otherwise than is wanted now, as `epochs was 5, is 3`.

    A setting that did not exist when the result was made had what is now its default.
    """
    found = result["configuration"]
    defaults = DistillConfig().to_dict()
    told = []
    for key, value in wanted.items():
        before = found.get(key, defaults.get(key))
        if before != value:
            told.append(f"{key} was {_shown(before)}, is {_shown(value)}")
    return told


def fingerprint(configuration: Mapping[str, Any]) -> str:
    """A name for a configuration. Settings at their defaults do not count, so that new ones change no old name."""
    defaults = DistillConfig().to_dict()
    counted = {key: value for key, value in configuration.items() if key not in defaults or value != defaults[key]}
    text = json.dumps(counted, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def outdated(name: str, told: Iterable[str]) -> str:
    """The sentence about a cell whose file is of another configuration."""
    listed = list(told)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{name}: its result is of another configuration ({'; '.join(listed[:3])}{more}); it has to be run again"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"{text[:12]}…" if isinstance(value, str) and len(value) == 64 else text
