"""Attention for rows of trees: a branch sees its prefix and itself, and nothing else.

Registered with transformers as the attention implementation `masa_tree`. Nothing is spent on what may not be seen,
which a dense mask over the row would compute. The result is the one that every sample would have alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "masa_tree"

Layout = Sequence[Sequence[int]]
"""For every tree of a row: the length of its prefix, then of each branch."""


_PRODUCTS = 1024
"""Tokens of a prefix up to which its scores are kept for the backward pass."""


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
            # On a CPU the fused kernel's backward pass is slower than plain products are for short branches; on a GPU
            # the kernel keeps no scores in memory, which long branches need.
            attend = _branches_by_products if query.device.type == "cpu" else _branches_by_kernel
            parts.append(
                attend(query[:, :, tree], key[:, :, tree], value[:, :, tree], prefix, branches, scaling, window)
            )
        offset += prefix + sum(branches)
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _branches_by_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix: int,
    branches: Sequence[int],
    scaling: float | None,
    window: int,
) -> torch.Tensor:
    """One fused call for each branch of one tree. Returns (1, heads, tokens of all branches, width)."""
    parts = []
    offset = prefix
    for length in branches:
        own = slice(offset, offset + length)
        seen_key = torch.cat((key[:, :, :prefix], key[:, :, own]), dim=2)
        seen_value = torch.cat((value[:, :, :prefix], value[:, :, own]), dim=2)
        parts.append(_attend(query[:, :, own], seen_key, seen_value, scaling, window))
        offset += length
    return torch.cat(parts, dim=2)


def _branches_by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix: int,
    branches: Sequence[int],
    scaling: float | None,
    window: int,
) -> torch.Tensor:
    """All branches of one tree at once, padded to the longest. Returns (1, heads, tokens of all branches, width).

    Heads that share a key are rows of one product, so that nothing is repeated; keys of the prefix are, once a branch,
    because scores are far larger than keys and are best written only once.
    """
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


def _bias(distance: torch.Tensor, window: int, dtype: torch.dtype) -> torch.Tensor:
    """0 where a position at this distance back may be seen, minus infinity elsewhere."""
    hidden = distance < 0
    if window:
        hidden |= distance >= window
    return torch.zeros(distance.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))


def _stem(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int
) -> torch.Tensor:
    """A prefix is a tree of one branch; its scores fit into memory as long as it is short."""
    if query.device.type == "cpu" and query.shape[2] <= _PRODUCTS:
        return _branches_by_products(query, key, value, 0, (query.shape[2],), scaling, window)
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
    mask = distance >= 0
    if window:
        mask &= distance < window
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
