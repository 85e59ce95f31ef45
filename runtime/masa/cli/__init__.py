"""The command `masa`. Nothing else in the package imports it, and it imports click alone."""

from __future__ import annotations

from masa.cli.application import main, root

__all__ = ["main", "root"]
