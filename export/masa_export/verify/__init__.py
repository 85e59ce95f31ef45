"""The gate between a checkpoint and the device: is an artifact still the rewriter that was trained?

Every check is a module with a result type of its own; `run.verify` puts them together, `thresholds` judges.
"""
