"""Several verifications of one checkpoint's artifacts, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from masa import __version__
from masa.files import make_folder, write_atomic
from masa_export.verify.report import Report, number

SUMMARY_NAME = "summary.md"

_QUALITY = (
    "artifact", "type", "MB", "KL, nats", "same best token", "valid", "through the guard", "equal outputs",
    "edit distance", "NLL, right card", "NLL, wrong cards", "card gap kept", "verdict",
)  # fmt: skip
_DEVICE = ("artifact", "load, s", "reads, tokens/s", "writes, tokens/s", "first group, s", "bank, s", "memory, MB")


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
        *_table(_QUALITY, [_quality(report) for report in reports], left=2),
        "",
        *_reference(reports),
    ]
    if any(report.resources is not None for report in reports):
        lines += ["", *_table(_DEVICE, [_device(report) for report in reports], left=1)]
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    rule = ["---" if index < left else "---:" for index in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
