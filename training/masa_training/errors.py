"""The error of the workstation side."""

from __future__ import annotations

from masa.errors import MasaError


class TrainingError(MasaError):
    """A data set, a configuration, a base model or a run folder cannot be used; the message says what to do."""
