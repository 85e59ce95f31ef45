"""The instruments that lie in a checkout, trained: `models/instruments`. A wheel has none of them."""

from __future__ import annotations

from pathlib import Path

from masa.folders import models_dir
from masa.json_fields import did_you_mean
from masa_training.checkpoint import RECORD
from masa_training.errors import TrainingError


def shipped_instruments() -> dict[str, Path]:
    """Name -> checkpoint folder of every trained instrument that is here."""
    found = sorted((models_dir() / "instruments").glob(f"*/{RECORD}"))
    return {record.parent.name: record.parent for record in found}


def find_instrument(name: str) -> Path:
    """The checkpoint of the trained instrument `name`.

    Raises:
        TrainingError: if there is none of this name here.
    """
    known = shipped_instruments()
    if name in known:
        return known[name]
    if not known:
        raise TrainingError(
            f"instrument:{name}: trained instruments lie in a checkout of masa, not in an installed package; make it "
            f"with masa evaluate instrument {name} -o runs/{name}, then give checkpoint:runs/{name}/checkpoint"
        )
    raise TrainingError(
        f"instrument:{name}: no such trained instrument{did_you_mean(name, known)} (here are {', '.join(known)}); "
        "one that you made is checkpoint:FOLDER"
    )
