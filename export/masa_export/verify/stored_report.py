"""The report in an artifact's folder, read again: is it about exactly these files, and did they pass?

A report is bound to the sha256 of every file and of what the manifest says on how the model is asked. What else the
manifest says (name, version, licence, where a file lies) may change without making the report stale.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.codec import template_to_json
from masa.errors import MasaError
from masa.files import parse_json, read_text
from masa.manifest import Manifest
from masa_export.errors import ExportError
from masa_export.verify.report import JSON_NAME, MARKDOWN_NAME
from masa_export.verify.thresholds import FIGURES, Verdict


@dataclass(frozen=True, slots=True)
class StoredReport:
    """What a report says of the files it is about.

    Attributes:
        divergence: the KL divergence from the checkpoint; None where logits were not compared.
        failed: what did not pass, names and sentences; empty where it passed.
        base: what the checkpoint was trained from, by name.
        strictness: whose thresholds were taken ("8 bits").
        chosen: how many samples it rests on; `samples` says of what.
    """

    passed: bool
    divergence: float | None
    failed: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    checkpoint: str = ""
    base: str = ""
    strictness: str = ""
    samples: str = ""
    chosen: int = 0


def files_of(manifest: Manifest) -> dict[str, str]:
    """The sha256 of every file that the manifest names, wherever it lies."""
    return {name: entry.sha256 for name, entry in sorted(manifest.entries.items())}


def asking_sha256(manifest: Manifest) -> str:
    """The sha256 of what decides how the files are loaded and asked."""
    template = template_to_json(manifest.chat_template)
    told = [
        manifest.kind,
        manifest.weights,
        manifest.adapter,
        manifest.language,
        manifest.prompt_version,
        [template[piece] for piece in ("before_system", "before_user", "before_assistant")],
        template["stop"],
        manifest.context_length,
        manifest.trained,
    ]
    return hashlib.sha256(json.dumps(told, separators=(",", ":")).encode("ascii")).hexdigest()


def read_report(folder: Path, manifest: Manifest) -> StoredReport | None:
    """What the report in an artifact's folder says; None where there is none, or it is about other files."""
    content = _load(folder)
    return _parsed(content) if content is not None and _about(content, manifest) else None


def require_report(folder: Path, manifest: Manifest) -> StoredReport:
    """The report in an artifact's folder, if it is about these files, they passed, and logits were compared.

    Raises:
        ExportError: else, with the command that makes one.
    """
    content = _load(folder)
    report = None if content is None else _parsed(content)
    against = "CHECKPOINT" if report is None else report.checkpoint or "CHECKPOINT"
    command = f"masa export verify {folder} --against {against} -o {folder}"
    if content is None or report is None or not (folder / MARKDOWN_NAME).is_file():
        raise ExportError(f"{folder}: holds no parity report, and nothing is packaged without one; run: {command}")
    if not _about(content, manifest):
        raise ExportError(f"{folder / JSON_NAME}: is about other files than those beside it; run: {command}")
    if not report.passed:
        raise ExportError(
            f"{folder / JSON_NAME}: says that the artifact failed ({', '.join(report.failed) or 'no reason given'}); "
            f"export another type, then run: {command}"
        )
    if report.divergence is None or not math.isfinite(report.divergence):
        raise ExportError(
            f"{folder / JSON_NAME}: does not tell how far logits are from the checkpoint's, so it proves no parity; "
            f"mend what kept them from being compared, then run: {command}"
        )
    return report


def _load(folder: Path) -> Any:
    try:
        return parse_json(read_text(folder / JSON_NAME))
    except (MasaError, ValueError):
        return None


def _about(content: Any, manifest: Manifest) -> bool:
    try:
        subject = content["subject"]
        if subject["fingerprint"] == manifest.fingerprint:
            return True  # the whole manifest is the same, checksums included
        return bool(subject["files"] == files_of(manifest) and subject["asking_sha256"] == asking_sha256(manifest))
    except (KeyError, TypeError):
        return False


def _parsed(content: Any) -> StoredReport | None:
    """None for what `masa_export.verify.report` did not write."""
    names = {figure.name for figure in FIGURES}
    try:
        subject, likeness = content["subject"], content["likeness"]
        verdicts = tuple(
            Verdict(v["name"], _number(v["value"]), _number(v["limit"]), v["passed"]) for v in content["verdicts"]
        )
        if any(verdict.name not in names for verdict in verdicts):
            return None
        return StoredReport(
            passed=content["passed"] is True,
            divergence=None if likeness is None else _number(likeness["divergence"]),
            failed=(*map(str, content["failed"]), *map(str, content["problems"])),
            verdicts=verdicts,
            checkpoint=str(subject["checkpoint"]),
            base=str(subject["base"]),
            strictness=str(subject["strictness"]),
            samples=str(subject["samples"]),
            chosen=int(subject["chosen"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _number(value: Any) -> float | None:
    """Values that JSON has no number for are texts in a report."""
    return None if value is None else float(value)
