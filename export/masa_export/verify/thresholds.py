"""What an artifact may lose, by how coarsely it is quantized, and the verdicts on what was measured."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from masa.json_fields import did_you_mean
from masa_export.errors import ExportError


@dataclass(frozen=True, slots=True)
class Figure:
    """Something measured that a threshold may bound: from above where `most`, else from below."""

    name: str
    most: bool
    meaning: str


FIGURES: tuple[Figure, ...] = (
    Figure("load", True, "1 where a file is damaged or the model cannot be loaded"),
    Figure("tokens", True, "texts and special tokens with other token ids"),
    Figure("template", True, "differences in language, prompt version or chat template"),
    Figure("kl", True, "KL divergence from the checkpoint, nats per target token"),
    Figure("top1", False, "share of target tokens with the same best token"),
    Figure("valid_loss", True, "share of valid outputs, checkpoint − artifact"),
    Figure("guard_loss", True, "share of outputs that pass the guard, checkpoint − artifact"),
    Figure("distance", True, "edit distance to the checkpoint's outputs in words, 0–1"),
    Figure("nll_loss", True, "NLL of held-out targets, artifact − checkpoint, nats per token"),
    Figure("card_gap", False, "NLL gap wrong − right card, as a share of the checkpoint's"),
    Figure("size_mb", True, "all files, MB"),
    Figure("memory_mb", True, "peak memory of a rewrite, MB"),
    Figure("load_seconds", True, "loading, seconds"),
    Figure("bank_seconds", True, "rewriting the bank, seconds"),
    Figure("prompt_speed", False, "prompt tokens per second"),
    Figure("decode_speed", False, "written tokens per second"),
)
"""All figures, in the order of the report. Those of the device have no default threshold."""
_BY_NAME = {figure.name: figure for figure in FIGURES}

_STRICT = {"load": 0.0, "tokens": 0.0, "template": 0.0}
# class of type -> kl, top1, valid_loss, guard_loss, distance, nll_loss, card_gap. Those of 16 bits leave room for
# rounding; the others are set by judgement, between the types of docs/export.md that are of use and those that are not.
_LOSSES: Mapping[str, tuple[float, ...]] = {
    "16 bits": (0.01, 0.98, 0.0, 0.0, 0.05, 0.02, 0.97),
    "8 bits": (0.03, 0.95, 0.0, 0.02, 0.15, 0.05, 0.9),
    "5–6 bits": (0.1, 0.9, 0.0, 0.05, 0.25, 0.1, 0.8),
    "4 bits": (0.2, 0.85, 0.02, 0.05, 0.35, 0.15, 0.7),
    "below 4 bits": (0.4, 0.75, 0.05, 0.1, 0.5, 0.3, 0.5),
}
_NAMES = ("kl", "top1", "valid_loss", "guard_loss", "distance", "nll_loss", "card_gap")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure: measured value (None where it could not be), threshold (None for none), and whether it passes.

    `passed` is None where there is nothing to judge.
    """

    name: str
    value: float | None
    limit: float | None
    passed: bool | None


def class_of(quantization: str | None, *, untouched: bool = False) -> str:
    """The class of a type's name, such as "Q4_K_M", "int8" or "fp32": a key of the defaults.

    `untouched` says that the weights are the very file that was trained on: then only activations are rounded.
    """
    name = (quantization or "f32").upper()
    if untouched:
        return "8 bits"
    bits = re.search(r"\d+", name)
    width = int(bits[0]) if bits else 16
    if width >= 16:
        return "16 bits"
    if width >= 8:
        return "8 bits"
    if width >= 5:
        return "5–6 bits"
    return "4 bits" if width == 4 else "below 4 bits"


def default_thresholds(kind: str) -> dict[str, float]:
    """The thresholds of a class, by name of figure."""
    return {**_STRICT, **dict(zip(_NAMES, _LOSSES[kind], strict=True))}


def parse_thresholds(given: Sequence[str]) -> dict[str, float | None]:
    """Thresholds that a user gives as `NAME=VALUE`; None for `NAME=off`, which removes a default.

    Raises:
        ExportError: for an unknown name, and for what is no number.
    """
    found: dict[str, float | None] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in _BY_NAME:
            hint = did_you_mean(name, _BY_NAME) or f"; known: {', '.join(_BY_NAME)}"
            raise ExportError(f"--threshold {text}: no figure is called {name!r}{hint}")
        if value == "off":
            found[name] = None
            continue
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if math.isnan(limit):
            raise ExportError(f"--threshold {text}: {value!r} is not a number; write {name}=NUMBER, or {name}=off")
        found[name] = limit
    return found


def judge(
    figures: Mapping[str, float | None], defaults: Mapping[str, float], given: Mapping[str, float | None]
) -> tuple[Verdict, ...]:
    """A verdict on every figure that was measured or has a threshold, in the order of `FIGURES`.

    A value that is no number does not pass. What was not measured is not judged, unless its threshold is `given` by
    the user: then it does not pass.
    """
    limits: dict[str, float | None] = {**defaults, **given}
    verdicts = []
    for figure in FIGURES:
        if figure.name not in figures and limits.get(figure.name) is None:
            continue
        value, limit = figures.get(figure.name), limits.get(figure.name)
        passed = False if value is None and given.get(figure.name) is not None else None
        if value is not None and limit is not None:
            passed = value <= limit if figure.most else value >= limit
        verdicts.append(Verdict(figure.name, value, limit, passed))
    return tuple(verdicts)


def limits_told(kind: str, verdicts: Sequence[Verdict]) -> str:
    """By which thresholds these figures were judged: those of a class, and every one that was another.

    Such as "8 bits, but kl ≤ 0.5 and top1 without one".
    """
    defaults = default_thresholds(kind) if kind in _LOSSES else {}
    others = []
    for verdict in verdicts:
        default = defaults.get(verdict.name)
        if verdict.limit is None and default is not None:
            others.append(f"{verdict.name} without one")
        elif verdict.limit is not None and verdict.limit != default:
            others.append(f"{verdict.name} {'≤' if figure_of(verdict.name).most else '≥'} {verdict.limit:g}")
    told = f"{', '.join(others[:-1])} and {others[-1]}" if len(others) > 1 else "".join(others)
    return f"{kind}, but {told}" if told else kind


def figure_of(name: str) -> Figure:
    """The figure of this name."""
    return _BY_NAME[name]
