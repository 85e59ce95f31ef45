"""What stages to come will need and what is not there or will be refused: told before hours are spent before them.

The settings of each stage are checked where they are read, as far as they stand alone; here is what depends on files,
and on lists of the export side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from masa.errors import MasaError
from masa.languages import numbered, render_blocks
from masa.prompt import PROMPT_VERSION, Request
from masa.skills import Group, Skill
from masa_training.dataset.config import RUN
from masa_training.dataset.folder import Dataset, DatasetInfo
from masa_training.errors import TrainingError
from masa_training.evolution.run import check_evolve
from masa_training.pipeline.process import run_masa
from masa_training.pipeline.stages import Work
from masa_training.profiling import check_profile
from masa_training.samples import Sample


def missing(work: Work, stages: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each file, folder or base model that one of these stages would not find, or would refuse.

    The environment is not among them: the first stage opens it before it plays.
    """
    found: list[str] = []
    for stage in stages:
        if stage == "profile":
            found += _refused(lambda: check_profile(work.config.profiling()))
        elif stage == "evolve":
            found += _refused(lambda: check_evolve(work.config.evolve))
        elif stage == "dataset":
            found += _of_dataset(work)
        elif stage == "distill":
            found += _of_distill(work)
        elif stage == "export":
            found += _of_export(work)
        elif stage == "verify":
            found += _of_verify(work)
    return tuple(dict.fromkeys(found))


def _refused(check: Callable[[], None]) -> list[str]:
    try:
        check()
    except MasaError as error:
        return [str(error)]
    return []


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
    from masa_training.distill.schedule import plan

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
    if not found:
        try:
            plan(config, _stand_in(work.config.dataset.language))
        except MasaError as error:
            found.append(f"distill: {error}")
    return found


def _stand_in(language: str) -> Dataset:
    """A data set of one sample: training is planned with it, or refused, as it will be with the real one."""
    group = Group(None, (Skill("gen_001", "Read first", "Read the task before you act.", ""),))
    target = "1 keep" if language == "plan" else render_blocks(numbered(group))
    sample = Sample("stand-in", Request(group, {}), language, target, backbone="")
    info = DatasetInfo("stand-in", language, PROMPT_VERSION, 0, True, 0, "", "")
    return Dataset(info, (sample,), (), ())


def _of_export(work: Work) -> list[str]:
    export, found = work.config.export, []
    for name in ("base", "converter"):
        path = getattr(export, name)
        if path and not Path(path).expanduser().exists():
            found.append(f"export.{name}: {path}: no such file; get it, or correct the path")
    # Of a Hugging Face folder nothing can be made that the runtime loads, unless there is a GGUF or a converter.
    folder = Path(work.config.distill.base).expanduser().is_dir() and not export.base
    if folder and export.kind == "adapter":
        found.append(f"export.base: an artifact needs {work.config.distill.base} as GGUF; name that file")
    if export.kind == "gguf":
        try:
            if folder:
                _asked("converter", *filter(None, [export.converter]))
        except TrainingError as error:
            found.append(f"export.converter: {error}")
        try:
            types = _asked("quantization", export.quantization)
        except TrainingError as error:
            return [*found, f"export.quantization: {str(error).removeprefix('--quant ')}"]
        # The artifact's folder is called after it.
        if types != export.quantization.upper():
            found.append(
                f"export.quantization: {export.quantization}: is not one type by llama.cpp's name; write "
                f"{types.split(',')[0]}"
            )
    return found


def _of_verify(work: Work) -> list[str]:
    verify = work.config.verify
    if verify.thresholds:
        try:
            _asked("threshold", *verify.threshold_options())
        except TrainingError as error:
            return [f"verify.thresholds: {str(error).removeprefix('--threshold ')}"]
    return []


def _asked(setting: str, *values: str) -> str:
    """What `masa export` makes of a setting.

    Raises:
        TrainingError: if it refuses it, in its own words.
    """
    return run_masa(["export", "check", setting, "--", *values], say=lambda line: None).strip()
