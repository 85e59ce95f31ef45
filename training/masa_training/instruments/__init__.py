"""Instruments: small backbones that were fine-tuned to have a known preference, for measuring only.

An instrument acts well as far as the skills it was shown are worded as it likes, and lapses where they are worded as it
dislikes. What evolution, a teacher or a rewriter should find for it is therefore known beforehand. Nothing about it is
evidence on how real backbones read skills.
"""

from masa_training.instruments.config import InstrumentConfig, instrument_names, load_instrument

__all__ = ["InstrumentConfig", "instrument_names", "load_instrument"]
