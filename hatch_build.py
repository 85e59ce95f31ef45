"""Puts `models/` into the wheel as `masa/_models`, and into nothing else.

A static `force-include` would also copy the folder into editable installs, where the copy goes stale
the moment a card changes; there `masa.folders` finds `models/` beside the source instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SUFFIXES = frozenset({".yaml", ".json", ".md", ".txt"})


class ModelsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's custom build hook; see `[tool.hatch.build.targets.wheel.hooks.custom]`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        models = Path(self.root) / "models"
        for path in shipped(models):
            build_data["force_include"][str(path)] = f"masa/_models/{path.relative_to(models).as_posix()}"


def shipped(models: Path) -> list[Path]:
    """The files of `models` that a wheel carries: cards, backbones, manifests, notes, and what a manifest lists.

    Weights that lie there for an experiment but that no manifest names stay out, and so do the trained instruments,
    which are for measuring.
    """
    folders = (models / "cards", models / "backbones", models / "rewriters")
    files = {path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix in SUFFIXES}
    for manifest in models.glob("rewriters/*/manifest.json"):
        names = json.loads(manifest.read_text("utf-8")).get("files", {})
        missing = [name for name in names if not (manifest.parent / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{manifest}: lists {', '.join(missing)}, which is not in its folder")
        files.update(manifest.parent / name for name in names)
    return sorted(files)
