"""Evolution: searching, for one backbone, for the skill bank that serves it best in one environment."""

from masa_training.evolution.config import EvolveConfig, evolve_names, load_evolve

__all__ = ["EvolveConfig", "evolve_names", "load_evolve"]
