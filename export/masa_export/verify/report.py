"""The report of a verification: what was measured and the verdicts, as JSON and Markdown, and several side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from masa import __version__
from masa.files import make_folder, write_atomic
from masa_export.logits import Likeness
from masa_export.verify.device_cost import Resources
from masa_export.verify.outputs import Outputs
from masa_export.verify.scoring import Awareness
from masa_export.verify.template import Template
from masa_export.verify.thresholds import Verdict, figure_of, limits_told
from masa_export.verify.tokens import Tokens

JSON_NAME, MARKDOWN_NAME, SUMMARY_NAME = "verify.json", "verify.md", "summary.md"
FORMAT = 1
COLUMNS = ("figure", "measured", "threshold", "", "meaning")

_QUALITY = (
    "artifact", "type", "MB", "KL, nats", "same best token", "valid", "through the guard", "equal outputs",
    "edit distance", "NLL, right card", "NLL, wrong cards", "card gap kept", "verdict",
)  # fmt: skip
_DEVICE = ("artifact", "load, s", "reads, tokens/s", "writes, tokens/s", "first group, s", "bank, s", "memory, MB")


@dataclass(frozen=True, slots=True)
class Subject:
    """What was verified against what.

    `fingerprint` is that of the artifact's manifest. `files` (sha256 by name) and `asking_sha256` are what the report
    is bound to: see `masa_export.verify.stored_report`. `bytes` is the size of these files.
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


@dataclass(slots=True)
class Report:
    """The outcome, filled check by check.

    A check that could not be made is None. `problems` are failures that no figure tells, `notes` what a reader must
    know, a sentence each.
    """

    subject: Subject
    verdicts: tuple[Verdict, ...] = ()
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tokens: Tokens | None = None
    template: Template | None = None
    likeness: Likeness | None = None
    outputs: Outputs | None = None
    awareness: Awareness | None = None
    resources: Resources | None = None
    seconds: float = 0.0

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

    def figures(self) -> dict[str, float | None]:
        """Values by name of figure, see `masa_export.verify.thresholds`; of checks that were made."""
        # Tokens are compared first, wherever there is a model at all.
        found: dict[str, float | None] = {"load": float(self.tokens is None)}
        if self.tokens is not None:
            found["tokens"] = float(self.tokens.mismatches)
        if self.template is not None:
            found["template"] = float(len(self.template.problems))
        if self.likeness is not None:
            found |= {"kl": self.likeness.divergence, "top1": self.likeness.equal}
        if self.outputs is not None:
            made = self.outputs
            found |= {"valid_loss": made.valid_loss, "guard_loss": made.guard_loss, "distance": made.distance}
        if self.awareness is not None:
            found |= {"nll_loss": self.awareness.loss, "card_gap": self.awareness.kept}
        if self.resources is not None:
            cost = self.resources
            found |= {"size_mb": cost.bytes / 1e6, "memory_mb": cost.memory / 1e6}
            for name in ("load_seconds", "bank_seconds", "prompt_speed", "decode_speed"):
                found[name] = getattr(cost, name)
        return found


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
    return _table(COLUMNS, figure_rows(verdicts), right=(1, 2))


def figure_rows(verdicts: Sequence[Verdict]) -> Sequence[Sequence[str]]:
    """The verdicts as rows under `COLUMNS`."""
    rows = []
    for verdict in verdicts:
        figure = figure_of(verdict.name)
        limit = "" if verdict.limit is None else f"{'≤' if figure.most else '≥'} {verdict.limit:g}"
        passed = "" if verdict.passed is None else "passes" if verdict.passed else "FAILS"
        rows.append((verdict.name, number(verdict.value), limit, passed, figure.meaning))
    return rows


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
                f"{median(made.margins):.3g} in the median of {len(made.margins)}"
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


def summarize(reports: Sequence[Report]) -> str:
    """The reports as two Markdown tables, what they lose and what they cost, with what failed below.

    All are of one checkpoint, samples and seed, as `verify_all` makes them; at least one.
    """
    subject = reports[0].subject
    lines = [
        f"# Artifacts of {subject.checkpoint}",
        "",
        f"{subject.chosen} of {subject.available} samples of {subject.samples} (sha256 "
        f"`{subject.samples_sha256[:12]}`), seed {subject.seed}; the checkpoint (base {subject.base}) in transformers, "
        f"{subject.dtype}; masa {__version__}.",
        "",
        *_table(_QUALITY, [_quality(report) for report in reports], right=range(2, len(_QUALITY))),
        "",
        *_reference(reports),
    ]
    if any(report.resources is not None for report in reports):
        lines += ["", *_table(_DEVICE, [_device(report) for report in reports], right=range(1, len(_DEVICE)))]
        loads = [r.resources.load_average for r in reports if r.resources is not None and r.resources.load_average]
        if loads:
            lines += ["", f"Load average before these measurements: {min(loads):g} to {max(loads):g}."]
    lines += ["", *(f"- **{report.subject.name}**: {line}" for report in reports for line in _remarks(report)), ""]
    return "\n".join(lines)


def write_summary(reports: Sequence[Report], folder: Path) -> Path:
    """Write `summarize` into `folder`, whole or not at all.

    Raises:
        WriteError: if the disk is full or the folder may not be written.
    """
    make_folder(folder)
    write_atomic(folder / SUMMARY_NAME, summarize(reports).encode("utf-8", "replace"))
    return folder / SUMMARY_NAME


def _quality(report: Report) -> list[str]:
    made, aware, like = report.outputs, report.awareness, report.likeness
    return [
        report.subject.name,
        report.subject.quantization or "–",
        f"{report.subject.bytes / 1e6:.1f}",
        number(None if like is None else like.divergence),
        "–" if like is None else f"{like.equal:.1%}",
        "–" if made is None else f"{made.valid:.0%}",
        "–" if made is None else f"{made.guarded:.0%}",
        "–" if made is None else f"{round(made.same * made.groups)} of {made.groups}",
        "–" if made is None else f"{made.distance:.2f}",
        "–" if aware is None else f"{aware.right:.3f}",
        "–" if aware is None or aware.wrong is None else f"{aware.wrong:.3f}",
        "–" if aware is None or aware.kept is None else f"{aware.kept:.0%}",
        "passes" if report.passed else "**fails**",
    ]


def _reference(reports: Sequence[Report]) -> list[str]:
    """The checkpoint's own figures, which are the same in every report that has them."""
    made = next((report.outputs for report in reports if report.outputs is not None), None)
    aware = next((report.awareness for report in reports if report.awareness is not None), None)
    told = []
    if made is not None:
        told.append(f"{made.reference_valid:.0%} valid, {made.reference_guarded:.0%} through the guard")
    if aware is not None:
        wrong = "" if aware.reference_wrong is None else f", {aware.reference_wrong:.3f} with wrong cards"
        told.append(f"NLL {aware.reference_right:.3f} with the right card{wrong}")
    return [f"The checkpoint: {'; '.join(told)}."] if told else []


def _device(report: Report) -> list[str]:
    cost = report.resources
    if cost is None:
        return [report.subject.name, *["–"] * (len(_DEVICE) - 1)]
    return [
        report.subject.name,
        f"{cost.load_seconds:.2f}",
        f"{cost.prompt_speed:.0f}",
        f"{cost.decode_speed:.0f}",
        f"{cost.first_seconds:.1f}",
        f"{cost.bank_seconds:.1f}",
        f"{cost.memory / 1e6:.0f}",
    ]


def _remarks(report: Report) -> list[str]:
    """What failed, and by how much the checkpoint preferred its own where outputs part."""
    lines = [*report.problems]
    lines += [f"{v.name} {number(v.value)}, allowed {number(v.limit)}" for v in report.failed]
    if report.outputs is not None and report.outputs.margins:
        gaps = report.outputs.margins
        lines.append(
            f"{len(gaps)} outputs part from the checkpoint's, which preferred its own token by {number(max(gaps))} "
            f"nats at most, {number(median(gaps))} in the median"
        )
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    rule = ["---:" if index in right else "---" for index in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def number(value: float | None) -> str:
    """A value for people; a dash for what was not measured."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


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
