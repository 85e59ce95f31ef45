"""The embedded default environment: question answering over an invented world, light and pure Python."""

from masa_training.environments.lookup.environment import Lookup

__all__ = ["Lookup"]
