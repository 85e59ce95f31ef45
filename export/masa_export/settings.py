"""What every export of artifacts may be told, and who is told how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ArtifactSettings:
    """Which types of weights, where the artifacts go, and what their manifests say; see `masa export gguf --help`."""

    quantizations: tuple[str, ...]
    output: Path | None = None
    name: str | None = None
    version: str = "0.1.0"
    licence: str | None = None
    base: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told: `stage` of every new step, `step` of how far it is (what, done, total)."""

    stage: Callable[[str], None] = lambda text: None
    step: Callable[[str, int, int], None] = lambda text, done, total: None
