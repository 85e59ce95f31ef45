"""Data sets for fine-tuning a rewriter: what `masa distill dataset` builds and `masa distill` reads."""

from __future__ import annotations

from masa_training.dataset.folder import Dataset, DatasetInfo, load_dataset, write_dataset

__all__ = ["Dataset", "DatasetInfo", "load_dataset", "write_dataset"]
