"""A base model of a few thousand random weights over bytes, as a Hugging Face folder, and checkpoints of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from masa.prompt import CHATML
from masa_training.bases import open_base
from masa_training.checkpoint import BaseNote, Checkpoint, DatasetNote, write_checkpoint

CONTEXT = 8192


def tiny_model(seed: int = 0) -> Any:
    """Two layers, grouped-query attention, vocabulary: 256 bytes and two special tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def tiny_base(folder: Path, *, seed: int = 0) -> Path:
    """The base as a folder that `open_base` reads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    tiny_model(seed).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def tiny_checkpoint(folder: Path, source: Path, *, kind: str = "lora", language: str = "plan", **changes: Any) -> Path:
    """A checkpoint whose weights differ from the base's; `changes` replace values of its record."""
    opened = open_base(str(source), "chatml")
    torch.manual_seed(1)
    if kind == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        get_peft_model(opened.model(torch.float32), config).save_pretrained(folder)
    else:
        tiny_model(seed=5).save_pretrained(folder)
    values: dict[str, Any] = {
        "path": folder,
        "kind": kind,
        "base": BaseNote(opened.name, str(source), str(source), "hf", opened.sha256),
        "language": language,
        "prompt_version": 1,
        "template": CHATML,
        "context_length": CONTEXT,
        "dataset": DatasetNote("tiny", "0" * 64, "nothing", synthetic=True, licence="none"),
        "training": {"learning_rate": 1e-3},
        "metrics": {},
    }
    write_checkpoint(Checkpoint(**{**values, **changes}))
    return folder
