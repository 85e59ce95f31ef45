"""Worlds in which a backbone acts, and whose episodes turn a skill bank into numbers."""

from masa_training.environments.protocol import SPLITS, Environment, Solvable, Split, Step, Task
from masa_training.environments.registry import environment_names, open_environment

__all__ = [
    "SPLITS",
    "Environment",
    "Solvable",
    "Split",
    "Step",
    "Task",
    "environment_names",
    "open_environment",
]
