"""The default environment: a device's assistant whose user has ways of doing things that stand in its skills alone."""

from masa_training.environments.assistant.environment import Assistant

__all__ = ["Assistant"]
