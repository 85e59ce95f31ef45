"""Trials: arms (banks and policies) × backbones × tasks × seeds, and what can be said of them."""
