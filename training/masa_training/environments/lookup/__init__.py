"""Question answering over an invented world, light and pure Python."""

from masa_training.environments.lookup.environment import Lookup

__all__ = ["Lookup"]
