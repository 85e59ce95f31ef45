"""Checkpoints: the folder that `masa distill` leaves, as weights and a record of what they are.

`masa.json` tells base, output language, prompt version and chat template, so that nobody can run the weights with
another prompt than they were trained with. `masa export adapter` reads the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from masa.files import parse_json, write_atomic
from masa.prompt import SUPPORTED_VERSIONS, ChatTemplate, Segment
from masa_training.errors import TrainingError

RECORD = "masa.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `masa.json` says.

    Attributes:
        kind: "lora" (peft's adapter files) or "full" (a transformers model).
        base: name, spec, path, kind and sha256 of the base model.
        dataset: name, sha256, summary, synthetic and licence of the data set.
        training: the hyper-parameters.
        metrics: what was measured at the end.
    """

    path: Path
    kind: str
    base: Mapping[str, str]
    language: str
    prompt_version: int
    template: ChatTemplate
    context_length: int
    dataset: Mapping[str, Any]
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]


def write_checkpoint(checkpoint: Checkpoint) -> None:
    """Write `masa.json` into the checkpoint's folder, atomically; the weights must be there already."""
    template = checkpoint.template
    pieces = {
        name: [[segment.text, segment.control] for segment in getattr(template, name)]
        for name in ("before_system", "before_user", "before_assistant")
    }
    value = {
        "format": FORMAT,
        "kind": checkpoint.kind,
        "base": dict(checkpoint.base),
        "language": checkpoint.language,
        "prompt_version": checkpoint.prompt_version,
        "chat_template": {**pieces, "stop": list(template.stop)},
        "context_length": checkpoint.context_length,
        "dataset": dict(checkpoint.dataset),
        "training": dict(checkpoint.training),
        "metrics": dict(checkpoint.metrics),
    }
    write_atomic(checkpoint.path / RECORD, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))


def read_checkpoint(folder: str | PathLike[str]) -> Checkpoint:
    """The record in a checkpoint folder.

    Raises:
        TrainingError: if there is none, it is damaged, or of a newer format or another prompt version.
    """
    path = Path(folder)
    record = path / RECORD
    if not record.is_file():
        raise TrainingError(f"{path}: no {RECORD} in it, so it is no checkpoint; give one that masa distill made")
    try:
        value = parse_json(record.read_text("utf-8"))
        if value["format"] > FORMAT:
            raise TrainingError(f"{record}: format {value['format']}, this masa reads {FORMAT}; upgrade masa")
        if value["prompt_version"] not in SUPPORTED_VERSIONS:
            raise TrainingError(
                f"{record}: prompt version {value['prompt_version']}, this masa knows "
                f"{', '.join(map(str, SUPPORTED_VERSIONS))}; upgrade masa or train again"
            )
        pieces = value["chat_template"]
        before_system, before_user, before_assistant = (
            tuple(Segment(str(text), bool(control)) for text, control in pieces[name])
            for name in ("before_system", "before_user", "before_assistant")
        )
        stop = tuple(map(str, pieces["stop"]))
        template = ChatTemplate(before_system, before_user, before_assistant, stop)
        return Checkpoint(
            path=path,
            kind=value["kind"],
            base=value["base"],
            language=value["language"],
            prompt_version=value["prompt_version"],
            template=template,
            context_length=value["context_length"],
            dataset=value["dataset"],
            training=value["training"],
            metrics=value["metrics"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{record}: not a checkpoint record ({error!r}); train again or restore the file") from None
