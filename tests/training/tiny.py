"""A random Llama of two layers with SmolLM2's vocabulary: trains in seconds, as a real Hugging Face folder or base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from masa_training.bases import Base, open_base


def tiny_model(vocabulary: int, *, seed: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


class TinyBase(Base):
    """The tokenizer and template of a real base, with a tiny model in place of its weights."""

    def model(self, dtype: torch.dtype) -> Any:
        return tiny_model(self.tokenizer().vocabulary).to(dtype)  # type: ignore[attr-defined]


def tiny_base(weights: Path) -> TinyBase:
    found = open_base(str(weights))
    return TinyBase(found.spec, found.kind, found.path, found.context_length, found.template)
