"""What stages to come will need and what is not there: told before hours are spent on those before them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from masa.errors import MasaError
from masa_training.dataset.config import RUN
from masa_training.pipeline.stages import Work


def missing(work: Work, stages: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each file, folder or base model that one of these stages would not find.

    Backbone, environment and teacher are not among them: the first stage opens these before it plays.
    """
    found: list[str] = []
    for stage in stages:
        if stage == "dataset":
            found += _of_dataset(work)
        elif stage == "distill":
            found += _of_distill(work)
        elif stage == "export":
            export = work.config.export
            for name in ("base", "converter"):
                path = getattr(export, name)
                if path and not Path(path).expanduser().exists():
                    found.append(f"export.{name}: {path}: no such file; get it, or correct the path")
    return tuple(dict.fromkeys(found))


def _of_dataset(work: Work) -> list[str]:
    sources, found = work.config.dataset.sources, []
    places = work.places()
    for name in ("runs", "train_skills", "test_skills"):
        for path in getattr(sources, name):
            try:
                if path != RUN and not places.resolve(path).exists():
                    found.append(f"dataset.sources.{name}: {places.resolve(path)}: not there; correct the path")
            except MasaError as error:
                found.append(f"dataset.sources.{name}: {error}")
    return found


def _of_distill(work: Work) -> list[str]:
    from masa_training.bases import open_base

    config, found = work.config.distill, []
    for name, spec in (("base", config.base), ("reference", config.reference)):
        if not spec:
            continue
        try:
            base = open_base(spec, config.template)
        except MasaError as error:
            found.append(f"distill.{name}: {error}")
            continue
        if name == "base" and config.context_length > base.context_length:
            found.append(
                f"distill.context_length: {config.context_length} is more than the {base.context_length} tokens that "
                f"{base.name} was made for; lower it"
            )
    if config.start and not Path(config.start).expanduser().is_dir():
        found.append(f"distill.start: {config.start}: no such folder; correct the path")
    return found
