"""The model to train: a base with tree attention, whole or behind a LoRA.

In a row of trees a branch sees its prefix and itself, and nothing else; the result is the one that every sample would
have alone. The attention is registered with transformers as `masa_tree`. Nothing is spent on what may not be seen,
which a dense mask over the row would compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from masa_training.bases import Base
from masa_training.distill.config import DistillConfig
from masa_training.errors import TrainingError

NAME = "masa_tree"

Layout = Sequence[Sequence[int]]
"""For every tree of a row: the length of its prefix, then of each branch."""


class Tree(NamedTuple):
    """One tree of a row: a prefix of so many tokens, then branches of so many each, in transformers' form."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    prefix: int
    branches: Sequence[int]
    scaling: float | None
    window: int


_BLOCK = 128
"""Queries of which the scores are computed at once on a CPU: few enough to stay in its cache with the keys of a row."""


def register() -> None:
    """Make `attn_implementation="masa_tree"` known to transformers. Calling it twice is allowed."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, tree_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    """Who sees whom follows from the layout; there is no mask to build."""
    return


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' form: query (1, heads, tokens, width), key and value with fewer heads.

    Without a layout the row is one causal sequence. `sliding_window` counts positions, as in the model.
    Returns (1, tokens, heads, width).
    """
    window = sliding_window or 0
    parts = []
    offset = 0
    for prefix, *branches in layout or ((query.shape[2],),):
        stem = slice(offset, offset + prefix)
        if prefix:
            parts.append(_stem(query[:, :, stem], key[:, :, stem], value[:, :, stem], scaling, window))
        if branches:
            tree = slice(offset, offset + prefix + sum(branches))
            its = Tree(query[:, :, tree], key[:, :, tree], value[:, :, tree], prefix, branches, scaling, window)
            parts.append(_way(query.device.type, max(branches))(its))
        offset += prefix + sum(branches)
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _way(device: str, longest: int) -> Callable[[Tree], torch.Tensor]:
    """How branches are best computed: on a CPU the fused kernel's backward pass is slower than plain products are.

    On a GPU the kernel keeps no scores in memory, which long branches need.
    """
    if device != "cpu":
        return _branches_by_kernel
    return _branches_by_products if longest <= _BLOCK else _branches_by_blocks


def _branches_by_kernel(tree: Tree) -> torch.Tensor:
    """One fused call for each branch of one tree. Returns (1, heads, tokens of all branches, width)."""
    query, key, value, prefix, branches, scaling, window = tree
    parts = []
    offset = prefix
    for length in branches:
        own = slice(offset, offset + length)
        seen_key = torch.cat((key[:, :, :prefix], key[:, :, own]), dim=2)
        seen_value = torch.cat((value[:, :, :prefix], value[:, :, own]), dim=2)
        parts.append(_attend(query[:, :, own], seen_key, seen_value, scaling, window))
        offset += length
    return torch.cat(parts, dim=2)


def _branches_by_products(tree: Tree) -> torch.Tensor:
    """All branches of one tree at once, padded to the longest. Returns (1, heads, tokens of all branches, width).

    Heads that share a key are rows of one product, so that nothing is repeated; keys of the prefix are, once a branch,
    because scores are far larger than keys and are best written only once.
    """
    query, key, value, prefix, branches, scaling, window = tree
    groups, width = key.shape[1], key.shape[3]
    shared = query.shape[1] // groups
    count, longest = len(branches), max(branches)
    starts = [prefix + sum(branches[:i]) for i in range(count)]
    # A padded place repeats the branch's last token: it comes later than all real ones, so none of these sees it.
    places = torch.tensor(
        [start + min(i, length - 1) for start, length in zip(starts, branches, strict=True) for i in range(longest)]
    )
    real = torch.tensor([i * longest + j for i, length in enumerate(branches) for j in range(length)])

    def seen(states: torch.Tensor) -> torch.Tensor:
        stem = states[0, :, None, :prefix].expand(groups, count, prefix, width)
        own = states[0].index_select(1, places).view(groups, count, longest, width)
        return torch.cat((stem, own), dim=2).view(groups * count, prefix + longest, width)

    asked = (
        query[0]
        .index_select(1, places)
        .view(groups, shared, count, longest, width)
        .transpose(1, 2)
        .reshape(groups * count, shared * longest, width)
    )
    steps = torch.arange(longest)
    bias = _bias(prefix + steps[:, None] - torch.arange(prefix + longest), window, query.dtype)
    scores = torch.baddbmm(
        bias.repeat(shared, 1).expand(groups * count, shared * longest, prefix + longest),
        asked,
        seen(key).transpose(1, 2),
        alpha=scaling if scaling is not None else width**-0.5,
    )
    mixed = scores.softmax(dim=-1) @ seen(value)
    return (
        mixed.view(groups, count, shared, longest, width)
        .transpose(1, 2)
        .reshape(groups * shared, count * longest, width)
        .index_select(1, real)[None]
    )


def _branches_by_blocks(tree: Tree) -> torch.Tensor:
    """As `_branches_by_products`, for long ones: each alone, `_BLOCK` queries at a time over the keys up to them."""
    query, key, value, prefix, branches, scaling, window = tree
    groups, width = key.shape[1], key.shape[3]
    shared = query.shape[1] // groups
    scaled = query[0] * (scaling if scaling is not None else width**-0.5)
    parts = []
    offset = prefix
    for length in branches:
        own = slice(offset, offset + length)
        keys = torch.cat((key[0, :, :prefix], key[0, :, own]), dim=1).transpose(1, 2)
        values = torch.cat((value[0, :, :prefix], value[0, :, own]), dim=1)
        for start in range(0, length, _BLOCK):
            end = min(length, start + _BLOCK)
            asked = scaled[:, offset + start : offset + end].reshape(groups, shared * (end - start), width)
            scores = torch.bmm(asked, keys[:, :, : prefix + end])
            # Without a window only a block's own positions may lie ahead of a query.
            first = 0 if window else prefix + start
            distance = torch.arange(prefix + start, prefix + end)[:, None] - torch.arange(first, prefix + end)
            seen = scores.view(groups, shared, end - start, prefix + end)[..., first:]
            seen.masked_fill_(_hidden(distance, window), float("-inf"))
            mixed = scores.softmax(dim=-1) @ values[:, : prefix + end]
            parts.append(mixed.view(groups * shared, end - start, width))
        offset += length
    return torch.cat(parts, dim=1)[None]


def _hidden(distance: torch.Tensor, window: int) -> torch.Tensor:
    """Where a position at this distance back may not be seen."""
    return (distance < 0) | (distance >= window) if window else distance < 0


def _bias(distance: torch.Tensor, window: int, dtype: torch.dtype) -> torch.Tensor:
    """0 where a position at this distance back may be seen, minus infinity elsewhere."""
    return torch.zeros(distance.shape, dtype=dtype).masked_fill_(_hidden(distance, window), float("-inf"))


def _stem(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int
) -> torch.Tensor:
    """A prefix is a tree of one branch."""
    if query.device.type == "cpu":
        length = query.shape[2]
        return _way("cpu", length)(Tree(query, key, value, 0, (length,), scaling, window))
    return _attend(query, key, value, scaling, window)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int
) -> torch.Tensor:
    """Causal attention of the last `query` positions over all `key` positions."""
    asked, seen = query.shape[2], key.shape[2]
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    if asked == seen and (not window or seen <= window):
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    distance = torch.arange(seen - asked, seen, device=query.device)[:, None] - torch.arange(seen, device=query.device)
    return scaled_dot_product_attention(query, key, value, attn_mask=~_hidden(distance, window), scale=scaling)


ADAPTER = "adapter_model.safetensors"


def in_bf16(config: DistillConfig) -> bool:
    """Whether training computes in bf16: where it is asked for, but on a CPU that has none and emulates it."""
    if config.precision != "bf16" or torch.cuda.is_available():
        return config.precision == "bf16"
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is None or bool(supported())


def trainable(base: Base, config: DistillConfig) -> Any:
    """The base ready for training, on the CPU: all weights in fp32, or frozen weights behind a LoRA in fp32."""
    register()
    frozen = torch.bfloat16 if in_bf16(config) else torch.float32
    model = base.model(frozen if config.method == "lora" else torch.float32)
    model.set_attn_implementation(NAME)
    model.config.use_cache = False
    if config.gradient_checkpointing:
        # Its name in transformers 5; in 4 only the other one is there.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if config.method == "full":
        return model
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
    adapted = _adapted(model, base, config)
    if config.start:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(adapted, load_file(Path(config.start) / ADAPTER))
    return adapted


def check_targets(base: Base, config: DistillConfig) -> None:
    """Put the LoRA on the base's shapes alone, for its weights may take minutes to load.

    Raises:
        TrainingError: if `targets` names a layer that the base does not have, or that cannot be adapted.
    """
    if config.method != "lora" or config.targets == "all-linear":
        return
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, extra = (base.path.parent, {"gguf_file": base.path.name}) if base.kind == "gguf" else (base.path, {})
    try:
        shapes = AutoConfig.from_pretrained(folder, **extra)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(shapes)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError):
        return  # that it cannot be loaded is told by `Base.model`
    _adapted(model, base, config)


def _adapted(model: Any, base: Base, config: DistillConfig) -> Any:
    """The model behind a LoRA.

    Raises:
        TrainingError: as `check_targets`.
    """
    from peft import LoraConfig, get_peft_model

    targets: Any = config.targets if config.targets == "all-linear" else config.targets.split(",")
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    named = dict(model.named_modules())
    # peft is content with one that it finds.
    wrong = [] if targets == "all-linear" else [one for one in targets if not _ends(named, one)]
    try:
        if not wrong:
            return get_peft_model(model, lora)
    except ValueError:  # there is such a module, of a kind that peft cannot adapt
        wrong = targets
    linear = {name.rpartition(".")[2] for name, module in named.items() if isinstance(module, torch.nn.Linear)}
    raise TrainingError(
        f"targets is {config.targets!r}, but {base.name} has no layer {','.join(wrong)!r} that a LoRA can adapt; name "
        f"some of {', '.join(sorted(linear))}, or all-linear"
    )


def _ends(named: Iterable[str], target: str) -> bool:
    """Whether a module's path ends with the target, which is how peft finds it."""
    return any(name == target or name.endswith(f".{target}") for name in named)
