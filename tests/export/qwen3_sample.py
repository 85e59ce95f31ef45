"""A randomly initialised Qwen3 of small width as a Hugging Face folder, with the tokenizer of SmolLM2.

The architecture is real (norms on q and k, heads wider than the model, an output layer that is the embedding); the
tokenizer is one that llama.cpp's converter knows, written from the GGUF's own lists.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD = 256, 512, 2, 4, 2, 96


def write_qwen3(folder: Path, smollm2: Path, *, shard: str = "10GB") -> Path:
    """The folder of a model; `shard` is the most that one of its weight files holds."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokens = write_tokenizer(folder, smollm2)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=tokens,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)
    return folder


def write_tokenizer(folder: Path, smollm2: Path) -> int:
    """The tokenizer's files; returns how many tokens it has."""
    import gguf
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    fields = gguf.GGUFReader(smollm2).fields
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    kinds: list[int] = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer: Any = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = gguf.TokenType.CONTROL
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token, kind in zip(tokens, kinds, strict=True) if kind == control]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "chat_template": fields["tokenizer.chat_template"].contents(),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return len(tokens)
