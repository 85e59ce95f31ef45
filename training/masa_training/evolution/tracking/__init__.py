"""Following a run in MLflow or Weights & Biases: only where it is asked for, and never what a run depends on."""

from masa_training.evolution.tracking.following import TRACKERS, Tracking, open_trackers
from masa_training.evolution.tracking.protocol import Table, Tracker

__all__ = ["TRACKERS", "Table", "Tracker", "Tracking", "open_trackers"]
