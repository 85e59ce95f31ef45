"""Judging a rewriter without a GPU farm: what it makes likely, what it writes, and whether the card matters to it."""

from __future__ import annotations
