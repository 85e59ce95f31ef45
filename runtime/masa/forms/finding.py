"""Finding what `masa.forms.making` kept; imports nothing that a form needs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
from dataclasses import dataclass
from pathlib import Path

from masa import cpu
from masa.artifact import Artifact, load_artifact
from masa.errors import MasaError
from masa.files import parse_json, read_bytes
from masa.folders import cache_dir
from masa.manifest import MANIFEST_NAME

MAX_KL = 0.005
"""The most that the next token's distribution may differ from the merged weights' (mean, in nats)."""
MIN_SAME = 0.97
"""The least share of tokens whose best successor is the merged weights', near ties (`TIE`) aside."""
TIE = 0.1
"""Nats between two successors that any rounding may turn over."""

CHECKS_NAME = "form.json"

_VERSION = 6  # of what is written; another one is another folder
_TO_RUN, _TO_MAKE = ("onnxruntime", "tokenizers"), ("onnx", "gguf")


@dataclass(frozen=True, slots=True)
class Check:
    """How a form compares with the merged weights, and how many prompt tokens a second it reads here."""

    form: str
    kl: float
    same: float
    tokens: int
    speed: float

    @property
    def passed(self) -> bool:
        return self.kl <= MAX_KL and self.same >= MIN_SAME


def missing_packages(*, to_make: bool) -> tuple[str, ...]:
    """The packages that running (or also making) a form lacks here; none of them is imported."""
    names = (*_TO_RUN, *_TO_MAKE) if to_make else _TO_RUN
    return tuple(name for name in names if importlib.util.find_spec(name) is None)


def find_form(artifact: Artifact) -> Artifact | None:
    """The form of `artifact` that was made for this CPU; None if there is none, or it cannot be run here."""
    return choose_form(artifact)[0]


def choose_form(artifact: Artifact) -> tuple[Artifact | None, str]:
    """What `find_form` finds, and in a few words why that runs, or why the artifact runs as it was shipped."""
    if artifact.kind != "gguf":
        return None, f"it is {artifact.kind.upper()} already"
    if missing := missing_packages(to_make=False):
        return None, f"{' and '.join(missing)} not installed"
    folder, remedy = form_folder(artifact), f"`masa pull {artifact.name}` makes it"
    if not (folder / MANIFEST_NAME).is_file():
        return None, f"no form for this CPU yet, {remedy}"
    try:
        form = load_artifact(folder)
        check = form_checks(form)[-1]
    except (MasaError, ValueError, TypeError, LookupError):
        return None, f"its form for this CPU is damaged, {remedy} anew"
    return form, f"made for this CPU, KL {check.kl:.4f} from the weights"


def form_checks(form: Artifact) -> tuple[Check, ...]:
    """What was found when `form` was made, the form that was kept last."""
    return tuple(Check(**found) for found in parse_json(read_bytes(form.path / CHECKS_NAME)))


def form_folder(artifact: Artifact) -> Path:
    """Where the form for this CPU is: another rewriter, CPU, or version of the forms has another folder."""
    machine = cpu.detect()
    key = [_VERSION, artifact.fingerprint, platform.machine(), machine.model, sorted(machine.features or ())]
    return cache_dir() / "forms" / f"{artifact.name}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}"
