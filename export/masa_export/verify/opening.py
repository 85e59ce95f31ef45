"""An artifact's model behind the runtime's protocol, whatever its kind."""

from __future__ import annotations

from masa.artifact import Artifact
from masa.backends import Backend
from masa.engine import Engine
from masa.rewriter import Rewriter


def open_artifact(artifact: Artifact, *, threads: int | None = None) -> Backend:
    """The loaded model with its adapter attached, opened as `masa rewrite` opens it; the caller closes it.

    Raises:
        MasaError: if the kind has no backend here, or the backend refuses a file.
    """
    # The rewriter knows which backend a kind needs; it has no other way to hand the model out.
    engine: Engine = Rewriter.load(artifact, cache=False, verify=False, threads=threads)._engine
    return engine.backend()
