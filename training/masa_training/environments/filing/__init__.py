"""An office that files papers by rules which stand in its skills alone, by commands written as text."""

from masa_training.environments.filing.environment import Filing

__all__ = ["Filing"]
