"""The error of the build side."""

from __future__ import annotations

from masa.errors import MasaError


class ExportError(MasaError):
    """A checkpoint cannot be exported, or its export is not equal to it; one sentence says why and what to do."""
