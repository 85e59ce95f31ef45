"""`masa export tune` as a function: measure variants on this device, and choose among them.

The best quantization is a property of the device, not of a table. Variants are measured in turn, round by round, so
that what else the machine does falls on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from masa.artifact import Artifact, load_artifact
from masa.errors import MasaError
from masa.formats import load_bank
from masa.manifest import MANIFEST_NAME
from masa_export.errors import ExportError
from masa_export.verify.device_cost import Resources, measure_once, summarize
from masa_export.verify.samples import EXAMPLES
from masa_export.verify.stored_report import StoredReport, read_report

ORDERS: Mapping[str, str] = {
    "speed": "fastest",
    "memory": "smallest in memory",
    "size": "smallest on the disk",
    "likeness": "most like the checkpoint",
}
"""What "best" can mean, and its word."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device allows: bytes of files, bytes of memory, seconds for the bank; None for no limit."""

    size: float | None = None
    memory: float | None = None
    seconds: float | None = None

    def exceeded(self, found: Resources) -> tuple[str, ...]:
        """Which limits a measured variant exceeds, a phrase each."""
        pairs = (
            (self.size, found.bytes, "MB of files", 1e6),
            (self.memory, found.memory, "MB of memory", 1e6),
            (self.seconds, found.bank_seconds, "s for the bank", 1.0),
        )
        return tuple(
            f"{value / unit:.1f} {words}, at most {limit / unit:g} are allowed"
            for limit, value, words, unit in pairs
            if limit is not None and value > limit
        )


@dataclass(frozen=True, slots=True)
class Variant:
    """One artifact. `problem` says why it was not measured; `report` is None where it was never verified."""

    path: Path
    name: str
    kind: str
    quantization: str | None
    resources: Resources | None
    exceeded: tuple[str, ...]
    report: StoredReport | None
    problem: str

    @property
    def fits(self) -> bool:
        """Whether it may be chosen: measured, within the limits, and not refused by its verification."""
        return self.resources is not None and not self.exceeded and (self.report is None or self.report.passed)


@dataclass(frozen=True, slots=True)
class Choice:
    """All variants, the best first among those that fit, and the best one; None where none fits."""

    variants: tuple[Variant, ...]
    best: Variant | None


def find_variants(given: Sequence[str]) -> list[str]:
    """Artifacts by name or folder; a folder that holds artifacts stands for all of them.

    Raises:
        ExportError: if a folder holds none, or nothing is given.
    """
    found: list[str] = []
    for text in given:
        folder = Path(text)
        if folder.is_dir() and not (folder / MANIFEST_NAME).is_file():
            inner = sorted(path.parent for path in folder.glob(f"*/{MANIFEST_NAME}"))
            if not inner:
                raise ExportError(f"{folder}: neither an artifact nor a folder of artifacts; give one of masa export")
            found += map(str, inner)
        else:
            found.append(text)
    if not found:
        raise ExportError("no artifact was given; name some, or the folder that masa export wrote")
    return list(dict.fromkeys(found))


def tune(
    given: Sequence[str],
    limits: Limits,
    *,
    by: str = "speed",
    bank: Path | None = None,
    runs: int = 3,
    threads: int | None = None,
    step: Callable[[str, int, int], None] = lambda text, done, total: None,
    measure: Callable[..., Resources] = measure_once,
) -> Choice:
    """Measure every artifact `runs` times on the bank and choose by one of `ORDERS`.

    Bank and artifacts are read before anything is measured. One of a folder of artifacts that cannot be loaded is a
    variant with a problem, not an error, and so is what cannot be measured. `step` is told which one is measured, how
    many measurements are done and how many there will be.

    Raises:
        MasaError: if there is no artifact or no bank, one that is given by itself cannot be loaded, the bank cannot be
            read, or `by` is "likeness" and none was verified.
    """
    bank = bank or EXAMPLES / "banks" / "household.json"
    if not bank.is_file():
        raise ExportError(f"{bank}: no such skill bank; give one to measure with --bank")
    load_bank(bank)
    artifacts: dict[str, Artifact] = {}
    problems: dict[str, str] = {}
    names = find_variants(given)
    for name in names:
        try:
            artifacts[name] = load_artifact(name)
        except MasaError as error:
            if name in given:
                raise
            problems[name] = str(error)
    measured: dict[str, list[Resources]] = {name: [] for name in artifacts}
    for turn in range(runs):
        for number, (name, artifact) in enumerate(artifacts.items()):
            if name in problems:
                continue
            step(artifact.name, turn * len(artifacts) + number, runs * len(artifacts))
            try:
                measured[name].append(measure(artifact, bank, threads=threads))
            except MasaError as error:
                problems[name] = str(error)
    variants = [_variant(name, artifacts.get(name), measured.get(name, []), problems, limits) for name in names]
    return choose(variants, by)


def choose(variants: Sequence[Variant], by: str) -> Choice:
    """Order the variants by one of `ORDERS`, those that fit first; the first of them is the best.

    Raises:
        ExportError: if `by` is "likeness" and no variant that fits was verified.
    """
    if by == "likeness" and any(v.fits for v in variants) and not any(v.fits and _known(v) for v in variants):
        raise ExportError(
            "--by likeness needs the report of masa export verify in the artifacts' folders; write it there with "
            "masa export verify ARTIFACT --against CHECKPOINT -o ARTIFACT"
        )

    def key(variant: Variant) -> tuple[bool, float]:
        found = variant.resources
        if found is None:
            return True, 0.0
        divergence = variant.report.divergence if variant.report is not None else None
        values = {
            "speed": found.bank_seconds,
            "memory": float(found.memory),
            "size": float(found.bytes),
            "likeness": float("inf") if divergence is None else divergence,
        }
        return not variant.fits, values[by]

    ordered = tuple(sorted(variants, key=key))
    return Choice(ordered, ordered[0] if ordered and ordered[0].fits else None)


def _variant(
    name: str,
    artifact: Artifact | None,
    measured: list[Resources],
    problems: Mapping[str, str],
    limits: Limits,
) -> Variant:
    if artifact is None:
        return Variant(Path(name), name, "", None, None, (), None, problems[name])
    problem = problems.get(name, "")
    resources = None if problem else summarize(measured)
    return Variant(
        path=artifact.path,
        name=artifact.name,
        kind=artifact.kind,
        quantization=artifact.quantization,
        resources=resources,
        exceeded=() if resources is None else limits.exceeded(resources),
        report=read_report(artifact.path, artifact),
        problem=problem,
    )


def _known(variant: Variant) -> bool:
    return variant.report is not None and variant.report.divergence is not None
