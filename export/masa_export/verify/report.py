"""The report of a verification: what was measured, the verdicts, as JSON and as Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from masa import __version__
from masa.files import make_folder, write_atomic
from masa_export.likeness import Likeness
from masa_export.verify.awareness import Awareness
from masa_export.verify.outputs import Outputs
from masa_export.verify.resources import Resources
from masa_export.verify.template import Template
from masa_export.verify.thresholds import Verdict, figure_of, limits_told
from masa_export.verify.tokens import Tokens

JSON_NAME, MARKDOWN_NAME = "verify.json", "verify.md"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """What was verified against what.

    `fingerprint` is that of the artifact's manifest. `files` (sha256 by name) and `asking_sha256` are what the report
    is bound to: see `masa_export.verify.proof`. `bytes` is the size of these files.
    """

    artifact: str
    name: str
    kind: str
    quantization: str | None
    fingerprint: str
    files: Mapping[str, str]
    bytes: int
    asking_sha256: str
    checkpoint: str
    base: str
    dtype: str
    strictness: str
    samples: str
    samples_sha256: str
    chosen: int
    available: int
    seed: int


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome. A check that could not be made is None, and `problems` says why where that is a failure."""

    subject: Subject
    verdicts: tuple[Verdict, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    tokens: Tokens | None
    template: Template | None
    likeness: Likeness | None
    outputs: Outputs | None
    awareness: Awareness | None
    resources: Resources | None
    seconds: float

    @property
    def failed(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.passed is False)

    @property
    def passed(self) -> bool:
        return not self.failed and not self.problems

    @property
    def sentence(self) -> str:
        """What failed, in one sentence; empty where all passed."""
        if self.passed:
            return ""
        # That it does not load is told by a problem, which says why.
        what = [*self.problems, *(_words(verdict) for verdict in self.failed if verdict.name != "load")]
        return f"{self.subject.artifact}: is not what was trained: {'; '.join(what)}"


def to_json(report: Report) -> dict[str, Any]:
    """The report as a JSON object; values that are no numbers, which JSON cannot hold, are texts."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "masa": __version__,
        "passed": report.passed,
        "failed": [verdict.name for verdict in report.failed],
        **asdict(report),
    }
    return {key: _plain(value) for key, value in content.items()}


def to_markdown(report: Report) -> str:
    """The report for people."""
    subject = report.subject
    lines = [
        f"# {subject.name}: {'passes' if report.passed else 'FAILS'}",
        "",
        f"Artifact `{subject.artifact}` ({subject.kind}, {subject.quantization or 'not quantized'}, fingerprint "
        f"`{subject.fingerprint[:12]}`) against the checkpoint `{subject.checkpoint}` (base {subject.base}, "
        f"transformers, {subject.dtype}).",
        f"{subject.chosen} of {subject.available} samples of {subject.samples}, seed {subject.seed}; thresholds for "
        f"{limits_told(subject.strictness, report.verdicts)}; masa {__version__}.",
        "",
    ]
    if report.problems:
        lines += [*(f"- {problem}" for problem in report.problems), ""]
    lines += figures_table(report.verdicts)
    lines += ["", *(f"- {line}" for line in details(report))]
    lines += [*(f"- `{name}`: sha256 `{sha256}`" for name, sha256 in subject.files.items()), ""]
    return "\n".join(lines)


def figures_table(verdicts: Sequence[Verdict]) -> list[str]:
    """The verdicts as the lines of a Markdown table."""
    lines = ["| figure | measured | threshold | | meaning |", "| --- | ---: | ---: | --- | --- |"]
    for verdict in verdicts:
        figure = figure_of(verdict.name)
        limit = "" if verdict.limit is None else f"{'≤' if figure.most else '≥'} {verdict.limit:g}"
        lines.append(
            f"| {verdict.name} | {number(verdict.value)} | {limit} | {mark(verdict.passed)} | {figure.meaning} |"
        )
    return lines


def details(report: Report) -> list[str]:
    """What the figures rest on, a line each."""
    lines = []
    if report.tokens is not None:
        found = report.tokens
        lines.append(f"Tokens: {found.texts} texts and {found.controls} special tokens compared")
        if found.first:
            lines.append(f"First difference: {found.first}")
    if report.template is not None:
        kinds = "manifest and Jinja template" if report.template.jinja else "manifest"
        lines.append(f"Chat template ({kinds}): {report.template.conversations} conversations rendered")
        lines += [f"Chat template: {problem}" for problem in report.template.problems]
    if report.likeness is not None:
        like = report.likeness
        lines.append(
            f"Logits at {like.positions} target tokens: KL {like.divergence:.3g} on average, {like.worst:.3g} at most; "
            f"same best token at {like.equal:.1%}; difference {like.error:.3g} (rms), {like.difference:.3g} at most"
        )
    if report.outputs is not None:
        made = report.outputs
        lines.append(
            f"Greedy outputs of {made.groups} groups: {made.valid:.0%} valid, {made.guarded:.0%} pass the guard "
            f"(checkpoint {made.reference_valid:.0%}, {made.reference_guarded:.0%}); {made.same:.0%} equal the "
            f"checkpoint's, edit distance {made.distance:.2f}"
        )
        if made.margins:
            lines.append(
                f"Where outputs part, the checkpoint preferred its own token by {max(made.margins):.3g} nats at most, "
                f"{statistics.median(made.margins):.3g} in the median of {len(made.margins)}"
            )
        lines += [f"Refused: {reason}" for reason in made.reasons[:3]]
    if report.awareness is not None:
        aware = report.awareness
        lines.append(f"NLL with the right card {aware.right:.3f}, checkpoint {aware.reference_right:.3f}")
        if aware.wrong is not None and aware.reference_wrong is not None:
            lines.append(
                f"NLL with wrong cards {aware.wrong:.3f}, checkpoint {aware.reference_wrong:.3f} ({aware.compared} "
                "samples)"
            )
    if report.resources is not None:
        cost = report.resources
        lines.append(
            f"On this device: {cost.bytes / 1e6:.1f} MB of files, {cost.memory / 1e6:.0f} MB of memory, loads in "
            f"{cost.load_seconds:.2f} s, reads {cost.prompt_speed:.0f} and writes {cost.decode_speed:.0f} tokens/s, "
            f"{cost.groups} groups in {cost.bank_seconds:.1f} s (first after {cost.first_seconds:.1f} s)"
            + ("" if cost.load_average is None else f"; load average before: {cost.load_average:g}")
        )
    return [*lines, *report.notes]


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write both files into `folder`, each whole or not at all.

    Raises:
        WriteError: if the disk is full or the folder may not be written.
    """
    make_folder(folder)
    data, text = folder / JSON_NAME, folder / MARKDOWN_NAME
    content = json.dumps(to_json(report), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(data, (content + "\n").encode("utf-8", "replace"))
    write_atomic(text, to_markdown(report).encode("utf-8", "replace"))
    return data, text


def number(value: float | None) -> str:
    """A value for people; a dash for what was not measured."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def mark(passed: bool | None) -> str:
    """The word of a verdict."""
    return "" if passed is None else "passes" if passed else "FAILS"


def _words(verdict: Verdict) -> str:
    if verdict.value is None:
        return f"{verdict.name} has a threshold and could not be measured"
    side = "at most" if figure_of(verdict.name).most else "at least"
    limit = verdict.limit or 0.0
    return f"{verdict.name} is {number(verdict.value)}, {side} {limit:g} is allowed"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return str(value)
    return value
