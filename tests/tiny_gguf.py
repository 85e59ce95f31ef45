"""A tiny base model as a GGUF file: random weights behind the real vocabulary and chat template of SmolLM2.

Everything real can run on it in a second: llama.cpp, transformers' de-quantization, fine-tuning, export. Byte-pair
encoding learns its tokens one by one, so the first tokens with the merges that make them are a vocabulary of their own;
reading all 49,152 is most of what transformers would do otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

HIDDEN, FEED, LAYERS, HEADS, KV_HEADS = 64, 96, 2, 4, 2
VOCABULARY = 2048


def write_tiny_gguf(source: Path, path: Path, *, seed: int = 0, architecture: str = "llama") -> Path:
    """Write a model of two layers, of seven for "gemma3", with the tokenizer of the GGUF `source`."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("tokenizer."):
            continue
        kind, *inner = field.types
        if kind == gguf.GGUFValueType.ARRAY:
            count = VOCABULARY if name != "tokenizer.ggml.merges" else _merges(reader)
            writer.add_key_value(name, field.contents(slice(0, count)), kind, inner[0])
        else:
            writer.add_key_value(name, field.contents(), kind)
    vocabulary = VOCABULARY
    writer.add_name("tiny")
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    layers = 7 if architecture == "gemma3" else LAYERS
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    if architecture == "gemma3":
        writer.add_sliding_window(8)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(0)
    rng = np.random.default_rng(seed)
    kv = HIDDEN * KV_HEADS // HEADS
    shapes = {"token_embd": (vocabulary, HIDDEN)}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_q": (HIDDEN, HIDDEN),
            f"blk.{layer}.attn_k": (kv, HIDDEN),
            f"blk.{layer}.attn_v": (kv, HIDDEN),
            f"blk.{layer}.attn_output": (HIDDEN, HIDDEN),
            f"blk.{layer}.ffn_gate": (FEED, HIDDEN),
            f"blk.{layer}.ffn_up": (FEED, HIDDEN),
            f"blk.{layer}.ffn_down": (HIDDEN, FEED),
        }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.08, shape).astype(np.float32))
    if architecture == "qwen2":
        for layer in range(LAYERS):
            for side, width in (("q", HIDDEN), ("k", kv), ("v", kv)):
                bias = rng.normal(0, 0.3, width).astype(np.float32)
                writer.add_tensor(f"blk.{layer}.attn_{side}.bias", bias)
    norms = {"output_norm": HIDDEN}
    for layer in range(layers):
        norms |= {f"blk.{layer}.{kind}": HIDDEN for kind in ("attn_norm", "ffn_norm")}
        if architecture in ("qwen3", "gemma3"):
            norms |= {f"blk.{layer}.{kind}": HIDDEN // HEADS for kind in ("attn_q_norm", "attn_k_norm")}
        if architecture == "gemma3":
            norms |= {f"blk.{layer}.{kind}": HIDDEN for kind in ("post_attention_norm", "post_ffw_norm")}
    for name, width in norms.items():
        odd = rng.uniform(0.5, 1.5, width) if name.startswith("blk") and architecture != "llama" else np.ones(width)
        writer.add_tensor(f"{name}.weight", odd.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _merges(reader: object) -> int:
    """How many merges make tokens that are kept."""
    fields = reader.fields  # type: ignore[attr-defined]
    kept = set(fields["tokenizer.ggml.tokens"].contents(slice(0, VOCABULARY)))
    merges = fields["tokenizer.ggml.merges"].contents(slice(0, VOCABULARY))
    count = next(i for i, merge in enumerate(merges) if "".join(merge.split(" ")) not in kept)
    assert all(part in kept for merge in merges[:count] for part in merge.split(" "))
    return count


def write_vocabulary(path: Path, tokens: Mapping[str, int], *, eos: str) -> Path:
    """A GGUF without weights: 256 byte tokens, `ab`, then `tokens`, each with its type (gguf's TokenType)."""
    import gguf

    spelled = [*_BYTES, "ab", *tokens]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(spelled)
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType(kind) for kind in tokens.values()])
    writer.add_token_merges(["a b"])  # llama.cpp loads no vocabulary without one
    writer.add_eos_token_id(spelled.index(eos))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _byte_spellings() -> list[str]:
    """How byte-level vocabularies spell each byte: itself where it can be printed, else a letter above 255."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_BYTES = _byte_spellings()
