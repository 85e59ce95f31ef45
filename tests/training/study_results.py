"""Results of cells of a study, made up, for tests that train nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masa_training.studies.distillation_config import Study, StudyCell, load_study

CHECKSUMS = {"dataset_sha256": "d" * 64, "base_sha256": "b" * 64, "prompt_version": 1}
STUDY = """
name: boxes
question: Does it read cards?
rows:
  - {name: one, label: First, dataset: text-published, distill: smollm2-135m-text, settings: {epochs: 3}}
  - {name: two, dataset: text-published, distill: smollm2-135m-text, part: remedies, settings: {card: short}}
cells: [one/0, one/1, two/0]
"""


def study(folder: Path, text: str = STUDY) -> Study:
    path = folder / "boxes.yaml"
    path.write_text(text, "utf-8")
    return load_study(str(path))


def wanted(study: Study) -> dict[str, Mapping[str, Any]]:
    return {cell.name: study.declared(cell) | CHECKSUMS for cell in study.cells}


def sums(name: str, tokens: float, trained: Mapping[str, float], base: Mapping[str, float]) -> dict[str, Any]:
    """The sums of a cluster from NLL by arm, in nats per token."""

    def model(levels: Mapping[str, float]) -> dict[str, Any]:
        right = levels["right"] * tokens
        nll = {arm: [level * tokens, right, tokens] for arm, level in levels.items()}
        return {"nll": nll, "cards": {"Other": nll["wrong"]}, "counts": {"below": [1.0, 2.0]}}

    return {"name": ["store", "Reader", name], "samples": 2, "trained": model(trained), "base": model(base)}


def clusters(differences: Sequence[float], *, wrong: float = 2.0) -> list[dict[str, Any]]:
    """A cluster per difference right − wrong, of different lengths."""
    before = {"right": 3.0, "wrong": 3.0, "none": 3.2, "bare": 3.1}
    return [
        sums(f"g{i}", 10.0 + i, {"right": wrong + d, "wrong": wrong, "none": wrong + 0.5, "bare": wrong + 0.2}, before)
        for i, d in enumerate(differences)
    ]


def result(study: Study, cell: StudyCell, differences: Sequence[float] = (-0.3, -0.2, -0.25), **changes: Any) -> Any:
    values: dict[str, Any] = {
        "study": study.config.name,
        "cell": cell.name,
        "row": cell.row.name,
        "seed": cell.seed,
        "finished": f"2026-01-0{1 + cell.seed}T10:00:00+00:00",
        "configuration": study.declared(cell) | CHECKSUMS,
        "dataset": {"name": "boxes", "synthetic": False, "samples": {"train": 9, "validation": 2, "test": 3}},
        "base": {"name": "tiny", "kind": "gguf"},
        "models": {"trained": {}, "base": {}},
        "clusters": clusters(differences),
        "curve": [{"step": 0, "epoch": 0.0, "validation_nll": 3.5, "training_loss": None}],
        "training": {"steps": 3, "planned_steps": 3, "validation_nll": 2.5, "resumed": 0},
        "minutes": {"training": 1.0, "measuring": 0.5},
        "versions": {"masa": "0"},
        "host": {"cpu": "none", "cores": 2, "threads": 1, "gpu": None, "system": "none"},
    }
    return {**values, **changes}
