"""Profiling: what a backbone does in an environment before any search, summed up in its model card."""

from masa_training.profiling.config import ProfileConfig
from masa_training.profiling.run import Profile, profile

__all__ = ["Profile", "ProfileConfig", "profile"]
