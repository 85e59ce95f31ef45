"""A transformers model as an engine: conversations and their candidates in one row of tokens.

The row has no padding: linear layers see all its tokens at once, and attention, which is done here, looks for every
conversation at its own cache and its own tree only. Registered with transformers as the attention `masa_slots`.
Supported are decoder models whose attention is plain, grouped or with a sliding window (Llama, Qwen, Gemma 3, …).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from masa.errors import BackendError
from masa_training.models.choice import ROOT, Tree
from masa_training.models.slots import Ask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "masa_slots"
_PREFIXES = 16


@dataclass(slots=True)
class _Cache:
    """Keys and values of one conversation, per layer of shape (heads, places, width); `used` places hold it."""

    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    used: int = 0

    def put(
        self, layer: int, start: int, key: torch.Tensor, value: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write states of shape (heads, tokens, width) from place `start`; all up to their end."""
        end = start + key.shape[1]
        while len(self.keys) <= layer:
            self.keys.append(key.new_empty((key.shape[0], length, key.shape[2])))
            self.values.append(value.new_empty((value.shape[0], length, value.shape[2])))
        if end > self.keys[layer].shape[1]:  # a tree lies behind the conversation for the time of a pass
            for states in (self.keys, self.values):
                room = states[layer].new_empty((states[layer].shape[0], end, states[layer].shape[2]))
                room[:, :start] = states[layer][:, :start]
                states[layer] = room
        self.keys[layer][:, start:end] = key
        self.values[layer][:, start:end] = value
        return self.keys[layer][:, :end], self.values[layer][:, :end]


@dataclass(slots=True)
class _Part:
    """One conversation's piece of a row: `seen` tells which places each token sees, `distance` how far back."""

    rows: slice
    cache: _Cache
    start: int
    length: int
    seen: torch.Tensor | None
    distance: torch.Tensor
    biases: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def bias(self, window: int | None, repeats: int, query: torch.Tensor) -> torch.Tensor | None:
        """0 where a token sees a place and minus infinity elsewhere, its rows `repeats` times over; made once a pass.

        None stands for plain causal sight from an empty cache.
        """
        if window not in self.biases:
            seen = self.seen
            if window is not None:
                near = self.distance < window
                seen = (self.distance >= 0) & near if seen is None else seen & near
            made = None
            if seen is not None:
                hidden = ~seen.to(query.device).repeat(repeats, 1)
                made = query.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
            self.biases[window] = made
        return self.biases[window]


class TransformersEngine:
    """An `Engine` over a transformers model, which is put into evaluation mode."""

    exact = True

    def __init__(self, model: Any, *, slots: int, length: int, together: int = 1) -> None:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface

        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, _no_mask)
        self.slots = slots
        self.length = length
        self._model = model.eval()
        self._before = model.config._attn_implementation
        model.set_attn_implementation(NAME)
        self._together = max(together, 1)
        self._caches = [_Cache() for _ in range(slots)]
        self._prefixes: OrderedDict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = OrderedDict()

    def start(self, slot: int, prefix: Sequence[int]) -> bool:
        cache, key = self._caches[slot], tuple(prefix)
        if key not in self._prefixes:
            return False
        self._prefixes.move_to_end(key)
        with torch.inference_mode():  # what was computed in this mode can be written to in no other
            for layer, (keys, values) in enumerate(self._prefixes[key]):
                cache.put(layer, 0, keys, values, self.length)
        cache.used = len(key)
        return True

    def keep(self, slot: int, prefix: Sequence[int]) -> None:
        cache, key = self._caches[slot], tuple(prefix)
        self._prefixes[key] = [
            (keys[:, : len(key)].clone(), values[:, : len(key)].clone())
            for keys, values in zip(cache.keys, cache.values, strict=True)
        ]
        if len(self._prefixes) > _PREFIXES:
            self._prefixes.popitem(last=False)

    def cut(self, slot: int, tokens: int) -> None:
        self._caches[slot].used = tokens

    def append(self, slot: int, tokens: Sequence[int]) -> None:
        self._pass([Ask(slot, tokens, Tree(rows=()))])

    def run(self, asks: Sequence[Ask]) -> Iterator[NDArray[np.float32]]:
        for first in range(0, len(asks), self._together):
            yield from self._pass(asks[first : first + self._together])

    def close(self) -> None:
        if self._model is not None:
            self._model.set_attn_implementation(self._before)
        self._model = None
        self._caches = []
        self._prefixes.clear()

    def _pass(self, asks: Sequence[Ask]) -> list[NDArray[np.float32]]:
        if self._model is None:
            raise BackendError("the model was closed in the middle of a request")
        device = self._model.device
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        parts: list[_Part] = []
        for ask in asks:
            cache, offset, count = self._caches[ask.slot], len(ids), len(ask.tokens)
            ids += [*ask.tokens, *ask.tree.tokens]
            own = [*range(cache.used, cache.used + count), *(cache.used + count - 1 + d for d in ask.tree.depths)]
            positions += own
            wanted += [offset + count + node if node != ROOT else offset + count - 1 for node in ask.tree.rows]
            seen, distance = _sight(cache.used, own, count, ask.tree)
            parts.append(_Part(slice(offset, len(ids)), cache, cache.used, self.length, seen, distance))
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(wanted or [0], device=device),
                parts=parts,
            ).logits[0]
            rows = logits.float().cpu().numpy()
        results, start = [], 0
        for ask, part in zip(asks, parts, strict=True):
            part.cache.used = part.start + len(ask.tokens)
            results.append(rows[start : start + len(ask.tree.rows)])
            start += len(ask.tree.rows)
        return results


def _sight(used: int, positions: Sequence[int], count: int, tree: Tree) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Which places a conversation's new tokens see, as (tokens, places), and how far back each place is.

    None stands for plain causal sight from an empty cache.
    """
    total = len(positions)
    places = torch.tensor([*range(used), *positions])
    distance = torch.tensor(positions)[:, None] - places
    if not tree.tokens:
        return (None if used == 0 else distance >= 0), distance
    seen = torch.zeros(total, used + total, dtype=torch.bool)
    seen[:, :used] = True
    seen[:count, used : used + count] = torch.ones(count, count, dtype=torch.bool).tril()
    seen[count:, used : used + count] = True
    for node, parent in enumerate(tree.parents):
        row = count + node
        if parent != ROOT:
            seen[row, used + count :] = seen[count + parent, used + count :]
        seen[row, used + row] = True
    return seen, distance


def _no_mask(*_: Any, **__: Any) -> None:
    """Who sees whom follows from the parts; there is no mask to build."""
    return


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    parts: Sequence[_Part] = (),
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' form: query (1, heads, tokens, width). Returns (1, tokens, heads, width)."""
    if others.get("softcap") or others.get("s_aux") is not None:
        raise BackendError("this architecture's attention (soft-capping or sinks) is not supported; serve it with vLLM")
    layer: Any = module.layer_idx
    _, heads, tokens, _ = query.shape
    shared = key.shape[1]
    mixed = query.new_empty((heads, tokens, value.shape[3]))
    for part in parts:
        keys, values = part.cache.put(layer, part.start, key[0, :, part.rows], value[0, :, part.rows], part.length)
        asked = query[0, :, part.rows]
        count = asked.shape[1]
        bias = part.bias(sliding_window, heads // shared, query)
        if bias is None:
            asked = asked.reshape(shared, heads // shared, count, -1)
            keys, values = (states[:, None].expand(-1, heads // shared, -1, -1) for states in (keys, values))
            found = scaled_dot_product_attention(asked, keys, values, is_causal=True, scale=scaling)
        else:
            # Query heads that share keys are further rows of one product, which copies no keys.
            asked = asked.reshape(1, shared, heads // shared * count, -1)
            found = scaled_dot_product_attention(asked, keys[None], values[None], attn_mask=bias, scale=scaling)
        mixed[:, part.rows] = found.reshape(heads, count, -1)
    return mixed.transpose(0, 1)[None].contiguous(), None
